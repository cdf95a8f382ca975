"""What steps make of single values, in the forms of documents. Pure; null stays null."""

# ruff: noqa: D103 - the names of conversions say what they do

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from math import isfinite
from typing import Any

from ..schema.model import INT_HIGH, INT_LOW

__all__ = [
    "bool_to_int", "bool_to_str", "date_to_timestamp", "decimal_to_int", "elements", "first",
    "float_to_int", "float_to_str", "int_to_bool", "int_to_decimal", "int_to_float", "int_to_str",
    "listed", "merge", "records", "split", "str_to_bool", "str_to_float", "str_to_int",
    "timestamp_to_date",
]  # fmt: skip

DIGITS_MAX = 100
"""Of a decimal number, before and behind the point."""


def split(value: str | None, sep: str, count: int) -> Sequence[str | None]:
    """A text in `count` parts, the last with the rest; empty ones where there are fewer."""
    if value is None:
        return [None] * count
    parts = value.split(sep, count - 1)
    return parts + [""] * (count - len(parts))


def merge(parts: Sequence[str | None], sep: str) -> str | None:
    """Texts as one; null if all are."""
    if all(part is None for part in parts):
        return None
    return sep.join([part or "" for part in parts])


def listed(value: Any, empty: Any) -> list[Any]:
    """A value as a list of it."""
    return [] if value == empty else [value]


def first(values: list[Any], empty: Any) -> Any:
    """The first of a list."""
    return values[0] if values else empty


def records(value: Any) -> Iterator[tuple[int | str, dict[str, Any]]]:
    """Elements of a list, or values of a map, that are records, with their places."""
    return ((at, one) for at, one in elements(value) if one.__class__ is dict)


def elements(value: Any) -> list[tuple[Any, Any]]:
    """Elements of a list, or values of a map, with their places."""
    if value.__class__ is dict:
        return list(value.items())
    return list(enumerate(value)) if value.__class__ is list else []


# ---- conversions; those that are not always possible take a default


def int_to_str(value: int | None) -> str | None:
    return None if value is None else str(value)


def str_to_int(value: str | None, default: Any) -> Any:
    if value is None:
        return None
    try:
        return _of_64_bits(int(value), default)
    except ValueError:
        return default


def float_to_str(value: float | None) -> str | None:
    return None if value is None else repr(value)


def str_to_float(value: str | None, default: Any) -> Any:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return default
    return number if isfinite(number) else default


def bool_to_str(value: bool | None) -> str | None:
    return None if value is None else "true" if value else "false"


def str_to_bool(value: str | None, default: Any) -> Any:
    return None if value is None else {"true": True, "false": False}.get(value, default)


def bool_to_int(value: bool | None) -> int | None:
    return None if value is None else int(value)


def int_to_bool(value: int | None) -> bool | None:
    return None if value is None else value != 0


def int_to_float(value: int | None) -> float | None:
    return None if value is None else float(value)


def float_to_int(value: float | None, default: Any) -> Any:
    return None if value is None else _of_64_bits(int(value), default)


def int_to_decimal(value: int | None, scale: int, default: Any = None, precision: int = 0) -> Any:
    if precision and value is not None and abs(value) >= 10**precision:
        return default
    return None if value is None else f"{Decimal(value).scaleb(-scale):f}"


def decimal_to_int(value: str | None, scale: int) -> int | None:
    return None if value is None else int(_decimal(value).scaleb(scale))


def date_to_timestamp(value: str | None) -> str | None:
    return None if value is None else f"{value}T00:00:00Z"


def timestamp_to_date(value: str | None) -> str | None:
    return None if value is None else value[:10]


def _of_64_bits(value: int, default: Any) -> Any:
    return value if INT_LOW <= value <= INT_HIGH else default


def _decimal(text: str) -> Decimal:
    """A decimal number that can be written out: "1e999999999" would fill the memory."""
    number = Decimal(text)
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or max(-exponent, number.adjusted()) > DIGITS_MAX:
        raise ValueError(f"{text[:40]!r} is no number of at most {DIGITS_MAX} digits")
    return number
