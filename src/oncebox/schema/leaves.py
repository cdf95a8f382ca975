"""Values without parts: a row each of how they look in the formats, and their texts in a document
as the numbers and bytes of other formats.

All raise ValueError for what is not a value of the kind. Times are microseconds since 1970 or
since midnight, dates days since 1970, decimals an integer beside a known scale.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import a2b_base64
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from math import isfinite
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from .model import (
    Bool,
    Bytes,
    Date,
    Decimal,
    Duration,
    Float,
    Int,
    Kind,
    Str,
    Time,
    Timestamp,
    Uuid,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_US = timedelta(microseconds=1)
_FIRST_US, _LAST_US = (
    (datetime.combine(day, at, UTC) - _EPOCH) // _US
    for day, at in ((date.min, time.min), (date.max, time.max))
)
_DAY_US = 24 * 3600 * 1_000_000
_DECIMAL = re.compile(r"(-?[0-9]{1,400})(?:\.([0-9]{1,400}))?(?:E([+-][0-9]{1,3}))?\Z")
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_is_uuid = re.compile(_UUID).fullmatch
_DURATION = msgspec.json.Decoder(timedelta)


def bytes_of(text: str) -> bytes:
    """The bytes of base64 with padding."""
    return a2b_base64(text.encode("ascii"), strict_mode=True)


def bytes_text(raw: bytes) -> str:
    """Base64 with padding."""
    return b64encode(raw).decode()


def unscaled_of(text: str, precision: int, scale: int) -> int:
    """A decimal as an integer: 1250 of "12.5" with scale 2, and 10000 of "1E+2", as Python writes
    some.
    """
    found = _DECIMAL.match(text)
    if found is None:
        raise ValueError(f"{text[:40]!r} is no decimal number")
    whole, fraction, exponent = found.groups("")  # as text: Decimal's context would round
    number, shift = int(whole + fraction), int(exponent or 0) - len(fraction) + scale
    by: int = 10 ** abs(shift)
    number, rest = (number * by, 0) if shift >= 0 else divmod(number, by)
    if rest or abs(number) >= 10**precision:
        raise ValueError(f"{text[:40]} has more than {precision} digits, {scale} behind the point")
    return number


def decimal_text(unscaled: int, precision: int, scale: int) -> str:
    """The decimal with all digits of its scale: "12.50" of 1250 with scale 2."""
    if abs(unscaled) >= 10**precision:
        raise ValueError(f"more than {precision} digits")
    digits = f"{abs(unscaled):0{scale + 1}d}"
    sign = "-" if unscaled < 0 else ""
    return f"{sign}{digits[:-scale]}.{digits[-scale:]}" if scale else sign + digits


def uuid_text(text: str) -> str:
    """A UUID in the one form that documents have."""
    return text if _is_uuid(text) else str(UUID(text))


def days_of(text: str) -> int:
    """Days since 1970-01-01."""
    return date.fromisoformat(text).toordinal() - _EPOCH_DAY


def date_text(days: int) -> str:
    """The date so many days after 1970-01-01."""
    return date.fromordinal(days + _EPOCH_DAY).isoformat()


def time_us_of(text: str) -> int:
    """Microseconds since midnight of a time without a zone."""
    at = time.fromisoformat(text)
    if at.tzinfo is not None:
        raise ValueError(f"{text[:40]!r} has a zone")
    return ((at.hour * 60 + at.minute) * 60 + at.second) * 1_000_000 + at.microsecond


def time_text(us: int) -> str:
    """The time so many microseconds after midnight."""
    if not 0 <= us < _DAY_US:
        raise ValueError(f"{us} µs are no time of a day")
    return (_EPOCH + timedelta(microseconds=us)).time().isoformat()


def timestamp_us_of(text: str) -> int:
    """Microseconds since 1970, UTC."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text[:40]!r} has no zone")
    us = (at - _EPOCH) // _US
    if not _FIRST_US <= us <= _LAST_US:  # by its zone: nobody could read it back
        raise ValueError(f"{text[:40]!r} is not in the years 1 to 9999 of UTC")
    return us


def timestamp_text(us: int) -> str:
    """The moment so many microseconds after 1970, with "Z"."""
    try:
        at = _EPOCH + timedelta(microseconds=us)
    except OverflowError:
        raise ValueError(f"{us} µs after 1970 are not in the years 1 to 9999") from None
    return at.isoformat().removesuffix("+00:00") + "Z"


def duration_us_of(text: str) -> int:
    """Microseconds of an ISO 8601 duration in days, hours, minutes, seconds."""
    try:
        return _DURATION.decode(msgspec.json.encode(text)) // _US
    except msgspec.DecodeError as error:
        raise ValueError(f"{text[:40]!r}: {error}") from None


def duration_text(us: int) -> str:
    """The duration of so many microseconds, as msgspec writes it."""
    try:
        text: str = msgspec.to_builtins(timedelta(microseconds=us))
    except OverflowError:
        raise ValueError(f"{us} µs are more than a timedelta holds") from None
    return text


def finite(number: float) -> float:
    """A number that JSON has a form for."""
    if not isfinite(number):
        raise ValueError(f"{number} has no form in JSON")
    return number


# ---- whether a value is one of a kind: what was expected, or ""


def _bool(_: Any, value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _int(type: Int, value: Any) -> str:
    fits = isinstance(value, int) and not isinstance(value, bool)
    fits = fits and type.low <= value <= type.high
    return "" if fits else f"a whole number, {type.low} to {type.high}"


def _float(_: Any, value: Any) -> str:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        fits = fits and isfinite(value)
    except OverflowError:
        fits = False
    return "" if fits else "a finite number of 64 bits"


def _str(_: Any, value: Any) -> str:
    return "" if in_unicode(value) else "a string of Unicode"


def in_unicode(value: Any) -> bool:
    """Whether it is a string that has a form in UTF-8."""
    if not isinstance(value, str):
        return False
    plain = value.isascii() or value.isprintable()
    return plain or not any("\ud800" <= character <= "\udfff" for character in value)


def _bytes(_: Any, value: Any) -> str:
    try:
        if isinstance(value, str):
            b64decode(value, validate=True)
            return ""
    except ValueError:
        pass
    return "a string in base64"


_WRITTEN = re.compile(r"-?(0|[1-9][0-9]*)(?:\.([0-9]+))?")


def _decimal(type: Decimal, value: Any) -> str:
    found = _WRITTEN.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        whole, fraction = len(found[1].lstrip("0")), len(found[2] or "")
        if whole <= type.precision - type.scale and fraction <= type.scale:
            return ""
    return (
        f"a string with a decimal number: at most {type.precision - type.scale} digits before "
        f"the point and {type.scale} behind it"
    )


def _by(pattern: str, read: Callable[[str], Any], expected: str) -> Callable[[Any, Any], str]:
    compiled = re.compile(pattern, re.ASCII)

    def check(_: Any, value: Any) -> str:
        if isinstance(value, str) and compiled.fullmatch(value):
            try:
                read(value)
            except ValueError:
                return expected
            return ""
        return expected

    return check


_FULL_DATE = r"\d{4}-\d\d-\d\d"
_PARTIAL_TIME = r"\d\d:\d\d:\d\d(\.\d{1,6})?"
_ISO_DURATION = (
    r"-?P(?=[0-9T])(\d{1,9}D)?(T(?=\d)(\d{1,15}H)?(\d{1,15}M)?(\d{1,15}(\.\d{1,6})?S)?)?"
)


# ---- a row each


class Looks(NamedTuple):
    """Values of a kind in a document: what is said to one that is none ("" to one that is), and the
    smallest; and its type in JSON Schema, Avro and Protobuf, which add bounds and digits.
    """

    expected: Callable[[Any, Any], str]
    smallest: Any
    json: dict[str, Any]
    avro: Any
    proto: str = "string"


DURATION = "duration-micros"
"""A logical type of ours, on a long in Avro."""


def _logical(of: str, name: str) -> dict[str, str]:
    return {"type": of, "logicalType": name}


def _text(**more: str) -> dict[str, str]:
    return {"type": "string", **more}


LOOKS: dict[type[Kind], Looks] = {
    Bool: Looks(_bool, False, {"type": "boolean"}, "boolean", "bool"),
    Int: Looks(_int, 0, {"type": "integer"}, "long", "int64"),
    Float: Looks(_float, 0.5, {"type": "number"}, "double", "double"),
    Str: Looks(_str, "", _text(), "string"),
    Bytes: Looks(_bytes, "", _text(contentEncoding="base64"), "bytes", "bytes"),
    Decimal: Looks(_decimal, "0", _text(), _logical("bytes", "decimal")),
    Uuid: Looks(
        _by(_UUID, str, "a UUID, lower case with hyphens"),
        "00000000-0000-4000-8000-000000000000", _text(format="uuid"), _logical("string", "uuid"),
    ),
    Date: Looks(
        _by(_FULL_DATE, date.fromisoformat, 'a date: "2026-01-31"'),
        "2026-01-01", _text(format="date"), _logical("int", "date"),
    ),
    Time: Looks(
        _by(_PARTIAL_TIME, time.fromisoformat, 'a time without a zone: "12:30:00"'),
        "00:00:00", _text(pattern=r"^[0-2]\d:[0-5]\d:[0-5]\d(\.\d{1,6})?$"),
        _logical("long", "time-micros"),
    ),
    Timestamp: Looks(
        _by(
            _FULL_DATE + "T" + _PARTIAL_TIME + r"(Z|[+-]\d\d:\d\d)", datetime.fromisoformat,
            'a time with a zone: "2026-01-31T12:30:00Z"',
        ),
        "2026-01-01T00:00:00Z", _text(format="date-time"), _logical("long", "timestamp-micros"),
        ".google.protobuf.Timestamp",
    ),
    Duration: Looks(
        _by(_ISO_DURATION, str, 'a duration of ISO 8601: "P1DT2.5S"'),
        "PT0S", _text(pattern=r"^-?P(\d+D)?(T(\d+H)?(\d+M)?(\d+(\.\d{1,6})?S)?)?$"),
        _logical("long", DURATION), ".google.protobuf.Duration",
    ),
}  # fmt: skip


# ---- texts as what other formats have instead


class Raw(NamedTuple):
    """What makes a number, or bytes, of a document's text, and the text of it."""

    of: Callable[[str], Any]
    text: Callable[[Any], str]


_RAW: dict[type[Kind], Raw] = {
    Bytes: Raw(bytes_of, bytes_text),
    Date: Raw(days_of, date_text),
    Time: Raw(time_us_of, time_text),
    Timestamp: Raw(timestamp_us_of, timestamp_text),
    Duration: Raw(duration_us_of, duration_text),
}


def raw_of(type: Kind) -> Raw | None:
    """Those of a type; None where its values are not texts, or stay them everywhere."""
    if isinstance(type, Decimal):
        digits = type.precision, type.scale
        return Raw(lambda text: unscaled_of(text, *digits), lambda raw: decimal_text(raw, *digits))
    return _RAW.get(type.__class__)
