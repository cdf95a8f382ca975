"""The keys of a consumer that wait: why, since when, and what would let each go on.

Programs over one session that change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from shlex import quote
from typing import Any, Literal, NamedTuple

from ..consumer.reading import Place, record_of
from ..envelope import read_envelope
from ..errors import BadRecord, ConfigurationError, NotFound, OnceboxError, Refused
from ..order import KeyState, Link, Park, gap
from ..program import Program, call
from .desk import Desk

PAGE_MAX = 200
"""Keys that are listed at once."""

RECORD_SHOWN_MAX = 64 * 1024
"""Bytes of a record that a page brings along; of a larger one, each is read by itself."""

START: Place = (-1, "")

Kind = Literal["poison", "fork", "gap", "waits", "next"]
"""`poison`: its handler fails. `fork`: its source forgot what was published. `gap`: an event has
not come. `waits`: for an event of another key. `next`: nothing is in its way any more.
"""


class Head(NamedTuple):
    """The lowest kept event of a key. `type` is "?" where its record cannot be read."""

    sequence: int
    stamp: int
    id: str
    type: str
    void: bool


class Awaited(NamedTuple):
    """The event of another key that has to take effect first."""

    source: str
    key: str
    stamp: int


class Waiting(NamedTuple):
    """A key that waits. `sequence`, `stamp`: the event last done (-1: none); `missing`: numbers
    that have not come, first and last; `since_ms`, `due_ms`: Unix ms, `due_ms` when a running
    consumer tries again by itself.
    """

    consumer: str
    place: Place
    source: str
    key: str
    kind: Kind
    reason: str | None
    head: Head | None
    missing: tuple[int, int] | None
    after: Awaited | None
    since_ms: int | None
    due_ms: int | None
    attempts: int
    kept: int
    sequence: int
    stamp: int

    def __str__(self) -> str:
        """What it waits for, in a few words."""
        if self.missing is not None:
            first, last = self.missing
            return f"#{first} " + ("has" if first == last else f"to #{last} have") + " not come"
        if self.after is not None:
            return f"waits for {self.after.key} of {self.after.source}"
        return self.reason or ""

    def release(self) -> list[str]:
        """What would let the key go on: commands, or sentences."""
        key = f"{self.consumer} --source {quote(self.source)} --key {quote(self.key)}"
        match self.kind:
            case "poison":
                return [f"oncebox redrive {key}", f"oncebox skip {key}"]
            case "fork":
                return [f"oncebox accept {key}"]
            case "gap":
                first, last = self.missing or (0, 0)
                source, name = quote(self.source), quote(self.key)
                return [
                    f"oncebox republish --source {source} --key {name} --from {first} --to {last}",
                    f"oncebox skip {key}",
                ]
            case "waits":
                assert self.after is not None, "this kind says so"
                return [f"event of {self.after.key} in {self.after.source}", f"oncebox skip {key}"]
            case "next":
                return [f"oncebox run: {self.consumer} goes on by itself"]


class Page(NamedTuple):
    """Some of what waits; `behind` is where the next page begins, None after the last one."""

    found: list[Waiting]
    behind: Place | None


def waiting(desk: Desk, where: Where, behind: Place = START) -> Program[Page]:
    """A page of the keys that wait, in the order of (subscription, key)."""
    parameters = (desk.consumer, *behind, where.source, where.key, PAGE_MAX, RECORD_SHOWN_MAX)
    rows = yield from call(desk.session.run, desk.sql["held_keys"], parameters)
    found = []
    for row in rows:
        one = yield from _waiting(desk, row)
        if where.matches(one):
            found.append(one)
    last = (rows[-1][0], rows[-1][3]) if len(rows) == PAGE_MAX else None
    return Page(found, last)


def pages(desk: Desk, where: Where, act: Callable[[list[Waiting]], Program[None]]) -> Program[None]:
    """Do something with all the keys that are meant, a page at a time."""
    behind: Place | None = START
    while behind is not None:
        found, behind = yield from waiting(desk, where, behind)
        yield from act(found)


def unfit(desk: Desk, key: str, source: str | None, seen: Waiting | None) -> Program[OnceboxError]:
    """Why the key that was named is none to act on: it waits as `seen`, or does not wait."""
    if seen is not None:
        return Refused(
            f"this cannot be done for a key that waits like this: {seen.kind}",
            source=seen.source, key=seen.key, hint="\n  ".join(seen.release()),
        )  # fmt: skip
    rows = yield from call(desk.session.run, desk.sql["known_key"], (desk.consumer, key, source))
    what = "does not wait" if rows else "is not known"
    return NotFound(f"key {key} {what}", hint=f"oncebox parked {desk.consumer}")


def _waiting(desk: Desk, row: tuple[Any, ...]) -> Program[Waiting]:
    subscription, source, floor, key, sequence, stamp, park, reason = row[:8]
    attempts, parked_ms, due_ms, kept = row[8:12]
    first, first_stamp, previous, id, void, after_source, after_key, after_stamp = row[12:20]
    since_ms, record = row[20:22]
    place = (subscription, key)
    head = missing = after = None
    kind: Kind = "next"
    if first is not None:
        if record is None:
            at = (*place, first, first_stamp, id)
            ((record,),) = yield from call(desk.session.run, desk.sql["kept_record"], at)
        head = Head(first, first_stamp, id, _type_of(record), bool(void))
        link = Link(first, first_stamp, previous, id)
        missing = gap(KeyState(sequence, stamp, kept=(link,)), floor) if park is None else None
    if park is not None:
        kind = "fork" if park == Park.FORK else "poison"
    elif missing is not None:
        kind = "gap"
    elif after_key is not None:
        kind, after = "waits", Awaited(after_source, after_key, after_stamp)
    return Waiting(
        desk.consumer, place, source, key, kind, reason, head, missing, after,
        parked_ms if park is not None else since_ms, due_ms, attempts, kept, sequence, stamp,
    )  # fmt: skip


def _type_of(stored: bytes) -> str:
    try:
        return read_envelope(record_of(stored)).type
    except BadRecord:
        return "?"


# ---- which of them


class Condition(NamedTuple):
    """`field=value` (equal) or `field~part` (contains)."""

    field: str
    contains: bool
    value: str


class Where(NamedTuple):
    """Which keys are meant. `source` and `key` are exact; all conditions have to hold."""

    source: str | None = None
    key: str | None = None
    conditions: tuple[Condition, ...] = ()

    def matches(self, one: Waiting) -> bool:
        values = {
            "source": one.source, "key": one.key, "kind": one.kind, "reason": one.reason or "",
            "type": one.head.type if one.head else "", "id": one.head.id if one.head else "",
        }  # fmt: skip
        for field, contains, value in self.conditions:
            found = values[field]
            if value not in found if contains else value != found:
                return False
        return True


FIELDS = ("source", "key", "kind", "reason", "type", "id")


def conditions(texts: Iterable[str]) -> tuple[Condition, ...]:
    """From `type=order.paid`, `reason~Timeout`. Raises ConfigurationError, with the fields."""
    found = []
    for text in texts:
        at = min((i for i in (text.find("="), text.find("~")) if i > 0), default=-1)
        field, value = text[:at], text[at + 1 :]
        if at < 0 or field not in FIELDS or not value:
            raise ConfigurationError(
                f"condition {text!r}",
                expected=f"FIELD=VALUE or FIELD~PART with one of {', '.join(FIELDS)}",
            )
        found.append(Condition(field, text[at] == "~", value))
    return tuple(found)
