"""Payloads: an event as JSON bytes, and back.

Dataclasses and msgspec Structs go through msgspec, pydantic's models and dataclasses through
pydantic. Size and depth are bounded before a decoder sees the bytes: a few of them could
otherwise overflow the C stack or fill the memory. No schema is ever fetched from anywhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..envelope import VALUE_BYTES_MAX
from ..errors import BadEvent, ConfigurationError, DecodeFailed
from . import bounds
from .bounds import check_json, is_deeper

T = TypeVar("T")

DEPTH_MAX = bounds.DEPTH_MAX

_EXPECTED = re.compile(r"Expected (.+), got (.+)", re.DOTALL)


class Codec(NamedTuple):
    """How one class becomes bytes and comes back; both raise the library's own errors."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    of: Callable[[Any], Any]
    """From JSON values, as `json.loads` gives them."""


def encode(event: object) -> bytes:
    """The payload of an event: UTF-8 JSON of at most VALUE_BYTES_MAX bytes that its class can read.

    Raises BadEvent, which names the class, the path of the value that cannot be written (also
    NaN and the infinities: JSON has none; and what the class would refuse) and what can.
    """
    cls = type(event)
    codec = _codecs.get(cls) or codec_of(cls)
    try:
        payload = codec.encode(event)
    except Exception as error:
        raise _unwritable(event, error) from error
    if len(payload) > VALUE_BYTES_MAX:
        raise BadEvent(
            f"{cls.__name__} is {len(payload)} bytes of JSON",
            expected=f"at most {VALUE_BYTES_MAX}",
            hint="store the large part elsewhere and emit where it is",
        )
    if is_deeper(payload, DEPTH_MAX):
        raise _too_deep(cls.__name__)
    try:
        back = codec.decode(payload)
    except Exception as error:
        _refuse_bad_values(event)
        path, what = _where_and_what(error)
        raise _no_json(f"{cls.__name__} at {path}: {what}") from error
    if b"null" in payload and back != event:  # what a NaN turns into, silently
        _refuse_bad_values(event)
    return payload


def decode(cls: type[T], payload: bytes) -> T:
    """An event of `cls` from its payload. Fields that `cls` does not know are left out.

    Raises DecodeFailed with the path (`$.lines[2].cents`) and what was expected there.
    """
    codec = _codecs.get(cls) or codec_of(cls)
    check_json(cls.__name__, payload)
    try:
        event: T = codec.decode(payload)
    except Exception as error:
        raise _unreadable(cls.__name__, error) from error
    return event


def document_of(name: str, payload: bytes) -> Any:
    """A payload as JSON values. `name`: what it is, for DecodeFailed."""
    check_json(name, payload)
    try:
        return _decode_any(payload)
    except Exception as error:
        raise _unreadable(name, error) from error


def event_of(cls: type[T], document: Any) -> T:
    """An event of `cls` from its JSON values; otherwise as `decode`."""
    codec = _codecs.get(cls) or codec_of(cls)
    try:
        event: T = codec.of(document)
    except Exception as error:
        raise _unreadable(cls.__name__, error) from error
    return event


_decode_any = msgspec.json.Decoder().decode


def codec_of(cls: type) -> Codec:
    """The codec of an event class, made once. Raises ConfigurationError when it has none."""
    codec = _codecs.get(cls)
    if codec is None:
        if hasattr(cls, "__pydantic_validator__"):
            codec = _pydantic_codec(cls)
        else:
            try:
                codec = _msgspec_codec(cls)
            except TypeError as error:
                raise ConfigurationError(
                    f"{cls.__name__} cannot be an event: {error}",
                    expected="a dataclass, msgspec Struct or pydantic model of JSON values",
                ) from error
        _codecs[cls] = codec
    return codec


_codecs: dict[type, Codec] = {}


def _msgspec_codec(cls: type) -> Codec:
    coder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(cls)
    decode, write = coder.decode, msgspec.json.Encoder().encode

    def of(document: Any) -> Any:
        return decode(write(document))  # quicker than msgspec.convert, and as strict as for JSON

    return Codec(write, decode, of)


def _pydantic_codec(cls: type) -> Codec:
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(cls)

    def encode(event: Any) -> bytes:
        return adapter.dump_json(event, by_alias=True, warnings="error")

    def of(document: Any) -> Any:
        return adapter.validate_json(msgspec.json.encode(document))  # as strict as for JSON

    return Codec(encode, adapter.validate_json, of)


# ---- what could not be written


def _unwritable(event: object, error: Exception) -> BadEvent:
    name = type(event).__name__
    if isinstance(error, RecursionError):
        return _too_deep(name)
    for path, what in _bad_values(event, "$", DEPTH_MAX):
        return _no_json(f"{name} at {path}: {what}")
    return _no_json(f"{name}: {error}")


def _refuse_bad_values(event: object) -> None:
    for path, what in _bad_values(event, "$", DEPTH_MAX):
        raise _no_json(f"{type(event).__name__} at {path}: {what}")


def _too_deep(name: str) -> BadEvent:
    return BadEvent(
        f"{name} is too deep", expected=f"at most {DEPTH_MAX} levels", hint="nest less in an event"
    )


def _no_json(what: str) -> BadEvent:
    return BadEvent(
        what, expected="JSON values", hint="nothing was written: mend it and emit again"
    )


def _bad_values(value: object, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """Paths to what JSON has no form for, with a reason: innermost, in order."""
    if value is None or isinstance(value, bool | int | bytes) or _is_absent(value):
        return
    if isinstance(value, str):
        if not value.isascii() and value != value.encode("utf-8", "ignore").decode():
            yield path, "text with a lone surrogate"
    elif isinstance(value, float):
        if not isfinite(value):
            yield path, f"{value}"
    elif depth > 0:
        parts = _parts(value)
        for step, part in parts if parts is not None else ():
            yield from _bad_values(part, path + step, depth - 1)
        if parts is None:
            try:
                msgspec.json.encode(value)
            except Exception:
                yield path, f"a {type(value).__name__}"


def _is_absent(value: object) -> bool:
    """Whether a field's value says that the field is left out."""
    if value is msgspec.UNSET:
        return True
    missing = getattr(sys.modules.get("pydantic"), "MISSING", None)
    return missing is not None and value is missing


def _parts(value: object) -> list[tuple[str, object]] | None:
    """The values inside a value with their path steps; None for what has none."""
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    for attribute in ("__struct_fields__", "__dataclass_fields__"):
        names = getattr(value, attribute, None)
        if names is not None:
            return [(f".{name}", getattr(value, name, None)) for name in names]
    names = getattr(type(value), "model_fields", None)
    if isinstance(names, Mapping):  # not by getattr: that warns of fields that are deprecated
        return [(f".{name}", vars(value).get(name)) for name in names]
    return None


# ---- what could not be read


def _unreadable(name: str, error: Exception) -> DecodeFailed:
    if isinstance(error, RecursionError):
        return DecodeFailed(f"{name}: too deep", expected=f"at most {DEPTH_MAX} levels")
    path, what = _where_and_what(error)
    expected = f"{name} as UTF-8 JSON"
    if match := _EXPECTED.fullmatch(what):
        expected, what = match[1], f"got {match[2]}"
    return DecodeFailed(f"{name} at {path}: {what}", expected=expected)


def _where_and_what(error: Exception) -> tuple[str, str]:
    if isinstance(error, msgspec.DecodeError):
        what, _, path = str(error).partition(" - at `")
        return (path.rstrip("`") or "$"), what
    details: Any = getattr(error, "errors", None)  # pydantic's ValidationError
    if details is not None:
        first: Any = details(include_url=False, include_input=False, include_context=False)[0]
        steps = (f"[{s}]" if isinstance(s, int) else f".{s}" for s in first["loc"])
        return "$" + "".join(steps), f"{first['msg']}"
    if isinstance(error, UnicodeDecodeError):
        return "$", "text that is not UTF-8"
    return "$", f"{type(error).__name__}: {error}"
