"""What a decoder may be asked to do: size, depth, elements. Checked before a library can recurse or
allocate: a few bytes could otherwise end the process or fill the memory.

No decoder here decompresses anything: what a log's client or an HTTP server has unpacked is
measured by its unpacked size.
"""

from __future__ import annotations

import re
from itertools import accumulate

from ..envelope import VALUE_BYTES_MAX
from ..errors import DecodeFailed

DEPTH_MAX = 100
"""Arrays and objects inside each other, at most; of Avro and Protobuf, as they would be in JSON."""

ELEMENTS_MAX = 1_000_000
"""Values in one event, at most."""

SHORT = min(VALUE_BYTES_MAX, 2 * ELEMENTS_MAX)
"""Bytes that are not too many, and cannot hold too many values."""

_STRINGS = re.compile(rb'"(?:[^"\\]+|\\.)*+"?', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")


def check_size(name: str, payload: bytes) -> None:
    """Raise DecodeFailed for more bytes than an event has."""
    if len(payload) > VALUE_BYTES_MAX:
        raise DecodeFailed(f"{name}: {len(payload)} bytes", expected=f"at most {VALUE_BYTES_MAX}")


def check_json(name: str, payload: bytes) -> None:
    """Raise DecodeFailed for JSON that is too large, too deep, or of too many values."""
    if len(payload) <= SHORT and payload.count(b"[") + payload.count(b"{") <= DEPTH_MAX:
        return  # nearly always
    check_size(name, payload)
    if is_deeper(payload, DEPTH_MAX):
        raise DecodeFailed(f"{name}: too deep", expected=f"at most {DEPTH_MAX} levels")
    if len(payload) > 2 * ELEMENTS_MAX and has_more(payload, ELEMENTS_MAX):
        raise DecodeFailed(f"{name}: too many values", expected=f"at most {ELEMENTS_MAX}")


def is_deeper(payload: bytes, limit: int) -> bool:
    """Whether brackets nest deeper than `limit`, in time linear in the payload.

    Counting openings decides nearly always. Otherwise strings are cut out, and each bracket left
    is a step up or down: "[" is 91 and "]" is 93.
    """
    if payload.count(b"[") + payload.count(b"{") <= limit:
        return False
    brackets = _STRINGS.sub(b"", payload).translate(_BRACKETS, _NO_BRACKET)
    return max(accumulate(map((92).__sub__, brackets)), default=0) > limit


def has_more(payload: bytes, limit: int) -> bool:
    """Whether JSON holds more values than `limit`: each but the first in its array or object stands
    behind a comma, each first one behind a bracket.
    """
    if payload.count(b",") + payload.count(b"[") + payload.count(b"{") <= limit:
        return False
    bare = _STRINGS.sub(b"", payload)
    return bare.count(b",") + bare.count(b"[") + bare.count(b"{") > limit
