"""Texts that a regular expression is likely to match: guesses, for the engine to check. Pure.

Patterns are read by Python's own reader of them, in what ECMA 262 has in common with it; lookaround
and back references are looked past.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from importlib import import_module
from random import Random
from typing import Any, Final

LENGTH_MAX: Final = 2_000
"""Characters of a guess."""
AFFIXED_MAX: Final = 2
"""Guesses that are tried with something around them, where the pattern has room for it."""
MORE_MAX: Final = 3
"""Repetitions beyond the fewest."""
PARSED_MAX: Final = 256
"""Patterns that are kept parsed."""
_ALPHABET = "aA0_ -.:/@é~!\t\n" + "".join(map(chr, range(33, 127)))
_parser: Any = import_module("re._parser")
_OURS = (("(?<", "(?P<"), ("(?P<=", "(?<="), ("(?P<!", "(?<!"))
_CLASSES: dict[str, Callable[[str], bool]] = {
    "DIGIT": lambda c: c in "0123456789",
    "WORD": lambda c: c == "_" or (c.isascii() and c.isalnum()),
    "SPACE": str.isspace,
}


class _Hopeless(Exception):
    """No character is known that fits, or the text is too long."""


def guesses(pattern: str, rng: Random | None = None, count: int = 4) -> Iterator[str]:
    """Texts to try: the shortest first, then at random."""
    source = rng or Random(pattern)
    try:
        tree = _tree(pattern)
        for at in range(count):
            text = _text(tree, source if at or rng else None)
            yield text
            for more in "ax" if at < AFFIXED_MAX else "":
                if not pattern.startswith("^"):
                    yield more + text
                if not pattern.endswith("$"):
                    yield text + more
    except (_Hopeless, re.error, RecursionError, OverflowError, ValueError):
        return


@lru_cache(PARSED_MAX)
def _tree(pattern: str) -> Any:
    for theirs, ours in _OURS:
        pattern = pattern.replace(theirs, ours)
    pattern = re.sub(r"\\([pP])\{(N?)\w*\}", _property, pattern)
    with warnings.catch_warnings(action="ignore"):
        return _parser.parse(pattern)


def _property(found: re.Match[str]) -> str:
    """Characters by a property, roughly: digits or letters."""
    sign = "d" if found[2] else "w"
    return "\\" + (sign if found[1] == "p" else sign.upper())


def _text(tree: Iterable[Any], rng: Random | None) -> str:
    """What a part of the pattern matches: the shortest, or by chance."""
    text = ""
    for sign, what in tree:
        match str(sign):
            case "LITERAL":
                text += chr(what)
            case "BRANCH":
                text += _text(what[1][0] if rng is None else rng.choice(what[1]), rng)
            case "SUBPATTERN":
                text += _text(what[-1], rng)
            case "ATOMIC_GROUP":
                text += _text(what, rng)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                low, high, part = what
                times = low if rng is None else rng.randint(low, min(high, low + MORE_MAX))
                for _ in range(times):
                    text += _text(part, rng)
                    if len(text) > LENGTH_MAX:
                        raise _Hopeless
            case "IN" | "NOT_LITERAL" | "ANY":
                text += _one_of(str(sign), what, rng)
    return text


def _one_of(sign: str, what: Any, rng: Random | None) -> str:
    if sign != "IN":
        what = [("NEGATE", None), ("LITERAL", ord("\n") if what is None else what)]
    own = "".join(chr(of if str(sort) == "LITERAL" else of[0]) for sort, of in what
                  if str(sort) in ("LITERAL", "RANGE"))  # fmt: skip
    negated = str(what[0][0]) == "NEGATE"
    fitting = [c for c in _ALPHABET + own if any(_is(c, each) for each in what) is not negated]
    if not fitting:
        raise _Hopeless
    return fitting[0] if rng is None else rng.choice(fitting)


def _is(char: str, member: tuple[Any, Any]) -> bool:
    sort, of = str(member[0]), member[1]
    if sort == "CATEGORY":
        *_, no, name = str(of).split("_")
        return _CLASSES[name](char) is (no != "NOT")
    low, high = of if sort == "RANGE" else (of, of)
    return sort != "NEGATE" and low <= ord(char) <= high
