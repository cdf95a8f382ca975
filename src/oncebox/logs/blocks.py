"""Blocks: runs of records of a partition as bytes, for logs that keep them themselves. Pure.

A block is msgpack: `[sizes, [[key, value, [[name, value] …], time_ms] …]]`, where `sizes` are the
records' packed sizes in bytes, so that a reader can keep within bounds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from ..ports import Outgoing, Record, Refusal

RECORD_BYTES_MAX = 10 * 1024 * 1024
"""A record with headers; above the envelope's bound, so that a good event always fits."""

BLOCK_RECORDS_MAX = 512
BLOCK_BYTES_MAX = 128 * 1024
"""A reader unpacks whole blocks, so this bounds what it holds per partition."""

Entry = tuple[int, bytes | None, int, bytes]
"""A record packed for its block: its index in the call, key, time in ms, bytes."""

Row = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]
"""An unpacked record: key, value, headers, time in ms."""

BadBlock = msgspec.MsgspecError

_BYTES = (bytes, type(None))

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[list[int], list[Row]]).decode


class Block(NamedTuple):
    """`length` records of `size` bytes together; `time_max` is their latest time in ms."""

    length: int
    size: int
    time_max: int
    data: bytes


def pack(records: Sequence[Outgoing], now_ms: int) -> tuple[dict[str, list[Entry]], list[Refusal]]:
    """Records as entries, by topic, and those that cannot be taken.

    A time ahead of `now_ms` is taken as now. Raises TypeError for what is not bytes or None.
    """
    packed: dict[str, list[Entry]] = {}
    refusals: list[Refusal] = []
    refused: set[tuple[str, bytes | None]] = set()
    entries: list[Entry] = []
    topic_before = None
    for index, (topic, key, value, headers, time_ms) in enumerate(records):
        if key.__class__ not in _BYTES or value.__class__ not in _BYTES:
            raise TypeError("a record's key and value are bytes or None")
        taken_ms = min(time_ms, now_ms)
        try:
            pairs = [(n, v.encode() if isinstance(v, str) else _raw(v)) for n, v in headers]
            raw = _encode((key, value, pairs, taken_ms))
        except UnicodeEncodeError as error:
            refusals.append(Refusal(index, f"a header that is no text: {error}", permanent=True))
            refused.add((topic, key))
            continue
        if len(raw) > RECORD_BYTES_MAX:
            reason = f"{len(raw)} bytes; the log takes up to {RECORD_BYTES_MAX}"
            refusals.append(Refusal(index, reason, permanent=True))
            refused.add((topic, key))
            continue
        if refused and key is not None and (topic, key) in refused:
            reason = "an earlier record of its key was refused"
            refusals.append(Refusal(index, reason, permanent=False))
            continue
        if topic is not topic_before:
            entries = packed.setdefault(topic, [])
            topic_before = topic
        entries.append((index, key, taken_ms, raw))
    return packed, refusals


def blocks(entries: list[Entry]) -> Iterator[Block]:
    """Entries of one partition as blocks within the bounds; a giant has a block of its own."""
    begin, size = 0, 0
    for at, entry in enumerate(entries):
        length = len(entry[3])
        if at > begin and (at - begin == BLOCK_RECORDS_MAX or size + length > BLOCK_BYTES_MAX):
            yield _block(entries[begin:at], size)
            begin, size = at, 0
        size += length
    yield _block(entries[begin:], size)


def unpack(data: bytes) -> tuple[list[int], list[Row]]:
    """The sizes and rows of a block. Raises BadBlock."""
    return _decode(data)


class Unpacked:
    """Where a reader stands in a partition, and what of the block there it has not delivered."""

    __slots__ = ("next", "number", "records", "sizes", "topic")

    def __init__(self, topic: str, number: int, offset: int) -> None:
        self.topic = topic
        self.number = number
        self.next = offset
        self.records: list[Record] = []
        self.sizes: list[int] = []

    def load(self, base: int, data: bytes) -> None:
        """Take in the block that holds the next offset, when nothing is left. Raises BadBlock."""
        sizes, rows = _decode(data)
        skipped = self.next - base
        if skipped:
            del sizes[:skipped], rows[:skipped]
        topic, number = self.topic, self.number
        self.sizes = sizes
        self.records = [
            Record(topic, number, offset, key, value, headers, time_ms)
            for offset, (key, value, headers, time_ms) in enumerate(rows, self.next)
        ]

    def take(self, count_max: int, bytes_max: int) -> tuple[list[Record], int]:
        """The next records within these bounds, and their bytes."""
        records, sizes = self.records, self.sizes
        fit, used = len(records), sum(sizes)
        if fit > count_max or used > bytes_max:
            sums = list(accumulate(sizes))
            fit = min(count_max, bisect_right(sums, bytes_max))
            used = sums[fit - 1] if fit else 0
        self.records, self.sizes = records[fit:], sizes[fit:]
        self.next += fit
        return records[:fit], used


def _block(entries: list[Entry], size: int) -> Block:
    sizes = [len(entry[3]) for entry in entries]
    times = [entry[2] for entry in entries]
    data = _encode((sizes, [msgspec.Raw(entry[3]) for entry in entries]))
    return Block(len(entries), size, max(times), data)


def _raw(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    raise TypeError(f"a header's value is text, bytes or None, not {type(value).__name__}")
