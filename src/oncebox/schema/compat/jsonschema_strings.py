"""Texts that a regular expression is likely to match: guesses, for the engine to check. Pure.

Reads what ECMA 262 and its cousins have in common; looks past lookaround and back references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

LENGTH_MAX: Final = 2_000
"""Characters of a guess."""
GROUPS_MAX: Final = 40
"""Groups inside each other."""
AFFIXED_MAX: Final = 2
"""Guesses that are tried with something around them, where the pattern has room for it."""
_ALPHABET = "aA0_ -.:/@é~!\t\n" + "".join(map(chr, range(33, 127)))
_CLASSES: dict[str, Callable[[str], bool]] = {
    "d": lambda c: c in "0123456789",
    "w": lambda c: c == "_" or (c.isascii() and c.isalnum()),
    "s": str.isspace,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}


class _Hopeless(Exception):
    """A pattern that is not read here, or whose texts are too long."""


def guesses(pattern: str, rng: Random | None = None, count: int = 4) -> Iterator[str]:
    """Texts to try: the shortest first, then at random."""
    source = rng or Random(pattern)
    try:
        tree = _Reader(pattern).alternatives(0)
        for at in range(count):
            pieces: list[str] = []
            tree(pieces, source if at or rng else None)
            text = "".join(pieces)
            yield text
            for more in "ax" if at < AFFIXED_MAX else "":
                if not pattern.startswith("^"):
                    yield more + text
                if not pattern.endswith("$"):
                    yield text + more
    except (_Hopeless, IndexError, ValueError, OverflowError):
        return


_Writer = Callable[[list[str], Random | None], None]


@dataclass
class _Reader:
    pattern: str
    at: int = 0

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self) -> str:
        self.at += 1
        return self.pattern[self.at - 1]

    def alternatives(self, depth: int) -> _Writer:
        if depth > GROUPS_MAX:
            raise _Hopeless
        branches = [self.sequence(depth)]
        while self.peek() == "|":
            self.take()
            branches.append(self.sequence(depth))

        def write(out: list[str], rng: Random | None) -> None:
            (branches[0] if rng is None else rng.choice(branches))(out, rng)

        return write

    def sequence(self, depth: int) -> _Writer:
        parts: list[_Writer] = []
        while self.peek() not in ("", "|", ")"):
            part = self.atom(depth)
            low, high = self.counts()
            parts.append(_repeated(part, low, high))

        def write(out: list[str], rng: Random | None) -> None:
            for part in parts:
                part(out, rng)

        return write

    def counts(self) -> tuple[int, int]:
        sign = self.peek()
        low, high = 1, 1
        if sign in ("*", "+", "?") and sign:
            self.take()
            low, high = {"*": (0, 3), "+": (1, 4), "?": (0, 1)}[sign]
        elif sign == "{":
            end = self.pattern.index("}", self.at)
            first, comma, last = self.pattern[self.at + 1 : end].partition(",")
            self.at = end + 1
            low = int(first)
            high = low if not comma else int(last) if last else low + 3
        else:
            return 1, 1
        if self.peek() in ("?", "+") and self.peek():
            self.take()
        return low, high

    def atom(self, depth: int) -> _Writer:  # noqa: PLR0911
        sign = self.take()
        if sign == "(":
            return self.group(depth)
        if sign == "[":
            return _one_of(self.klass())
        if sign == ".":
            return _one_of(lambda c: c != "\n")
        if sign in "^$":
            return _nothing
        if sign == "\\":
            if self.peek() in "bB" and self.peek():
                self.take()
                return _nothing
            return _one_of(self.escape())
        return _one_of(lambda c: c == sign, sign)

    def group(self, depth: int) -> _Writer:
        silent = False
        if self.peek() == "?":
            self.take()
            sign = self.take()
            if sign == "<" and self.peek() not in ("=", "!"):
                self.at = self.pattern.index(">", self.at) + 1
            elif sign != ":":
                silent = True
                self.at += sign == "<"
        inside = self.alternatives(depth + 1)
        if self.take() != ")":
            raise _Hopeless
        return _nothing if silent else inside

    def escape(self) -> Callable[[str], bool]:
        sign = self.take()
        lower = sign.lower()
        if lower in _CLASSES:
            known = _CLASSES[lower]
            return known if sign == lower else lambda c: not known(c)
        if lower == "p":
            end = self.pattern.index("}", self.at)
            name = self.pattern[self.at + 1 : end]
            self.at = end + 1
            tests = {"Lu": str.isupper, "Ll": str.islower, "L": str.isalpha}
            test = tests.get(name, str.isdigit if name.startswith("N") else str.isalpha)
            return test if sign == "p" else lambda c: not test(c)
        if sign in "xu":
            size = 2 if sign == "x" else 4
            char = chr(int(self.pattern[self.at : self.at + size], 16))
            self.at += size
        elif sign == "c":
            char = chr(ord(self.take()) % 32)
        else:
            char = _ESCAPES.get(sign, sign)
        return _Char(char)

    def klass(self) -> Callable[[str], bool]:
        negated = self.peek() == "^"
        self.at += negated
        tests: list[Callable[[str], bool]] = []
        while self.peek() != "]":
            first = self.member()
            if self.peek() == "-" and self.pattern[self.at + 1] != "]" and isinstance(first, _Char):
                self.take()
                last = self.member()
                if isinstance(last, _Char):
                    tests.append(_Char(first.first, last.first))
                    continue
            tests.append(first)
        self.take()
        return lambda c: any(test(c) for test in tests) is not negated

    def member(self) -> Callable[[str], bool]:
        if self.peek() == "\\":
            self.take()
            return self.escape()
        return _Char(self.take())


class _Char:
    """A range of characters."""

    def __init__(self, first: str, last: str | None = None) -> None:
        self.first, self.last = first, last or first

    def __call__(self, char: str) -> bool:
        return self.first <= char <= self.last


def _one_of(test: Callable[[str], bool], literal: str | None = None) -> _Writer:
    def write(out: list[str], rng: Random | None) -> None:
        if literal is not None:
            out.append(literal)
            return
        own = test.first if isinstance(test, _Char) else ""
        fitting = [char for char in _ALPHABET + own if test(char)]
        if not fitting:
            raise _Hopeless
        out.append(fitting[0] if rng is None else rng.choice(fitting))

    return write


def _repeated(part: _Writer, low: int, high: int) -> _Writer:
    def write(out: list[str], rng: Random | None) -> None:
        times = low if rng is None else rng.randint(low, max(low, min(high, low + 5)))
        for _ in range(times):
            part(out, rng)
            if len(out) > LENGTH_MAX:
                raise _Hopeless

    return write


def _nothing(_out: list[str], _rng: Random | None) -> None:
    return
