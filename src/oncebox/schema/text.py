"""Types as one word, as the lock and findings show them: `int(0..9)`, `list[OrderLine]`, `str?`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from ..errors import SchemaError
from .leaves import LOOKS
from .model import INT_HIGH, INT_LOW, Decimal, Int, List, Map, Named, Nullable, Set, Type

_PLAIN: dict[str, Any] = {
    kind.__name__.lower(): kind() for kind in LOOKS if kind is not Decimal
}  # fmt: skip
_OF: dict[str, type[List | Set | Map]] = {"list": List, "set": Set, "map": Map}
WORDS = frozenset((*_PLAIN, *_OF, "decimal"))
"""Names that no definition can have."""

DEPTH_MAX = 100

_INT = re.compile(r"int\((-?\d{1,19})?\.\.(-?\d{1,19})?\)")
_DECIMAL = re.compile(r"decimal\((\d{1,4}), ?(\d{1,4})\)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def type_text(type: Type) -> str:
    """A type as text."""
    match type:
        case Nullable():
            return type_text(type.of) + "?"
        case Int() if type != Int():
            low = "" if type.low == INT_LOW else type.low
            high = "" if type.high == INT_HIGH else type.high
            return f"int({low}..{high})"
        case Decimal():
            return f"decimal({type.precision}, {type.scale})"
        case List() | Set() | Map():
            return f"{type.__class__.__name__.lower()}[{type_text(type.of)}]"
        case Named():
            return type.name
        case _:
            return type.__class__.__name__.lower()


@lru_cache(maxsize=1024)
def read_type(text: str) -> Type:
    """A type from its text. Raises SchemaError."""
    return _read(text, text, DEPTH_MAX)


def _read(text: str, whole: str, depth: int) -> Type:
    if depth > 0:
        if text.endswith("?"):
            return Nullable(_read(text[:-1], whole, depth - 1))
        if text in _PLAIN:
            plain: Type = _PLAIN[text]
            return plain
        word, bracket, rest = text.partition("[")
        if bracket and word in _OF and rest.endswith("]"):
            return _OF[word](_read(rest[:-1], whole, depth - 1))
        if found := _INT.fullmatch(text):
            return Int(_number(found[1], INT_LOW), _number(found[2], INT_HIGH))
        if found := _DECIMAL.fullmatch(text):
            return Decimal(int(found[1]), int(found[2]))
        if _NAME.fullmatch(text) and text not in WORDS:
            return Named(text)
    raise SchemaError(
        f"{whole[:80]!r} is no type",
        expected=f"one of {', '.join(_PLAIN)}, int(0..9), decimal(12, 2), list[…], set[…], map[…], "
        "a definition's name, and ? behind what may be null",
    )


def _number(text: Any, default: int) -> int:
    return int(text) if text else default
