"""What a compatibility check finds: the rule, the place, who breaks, what to do, and a proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, Literal, TypeVar

from msgspec import Struct

S = TypeVar("S")

Format = Literal["avro", "protobuf", "json"]
Broken = Literal["new readers", "old readers"]
"""New readers cannot read what old writers wrote (BACKWARD), or the other way round (FORWARD)."""


class Mode(StrEnum):
    """Which readers must be able to read which writers, as registries name it.

    The plain forms look at the last version only, the transitive ones at each.
    """

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"

    @property
    def transitive(self) -> bool:
        """Whether each earlier version counts."""
        return self.value.endswith("_TRANSITIVE")

    @property
    def asks(self) -> frozenset[Broken]:
        """Whose breaking counts."""
        new: frozenset[Broken] = frozenset({"new readers"})
        old: frozenset[Broken] = frozenset({"old readers"})
        kind = self.value.removesuffix("_TRANSITIVE")
        return {"NONE": frozenset[Broken](), "BACKWARD": new, "FORWARD": old}.get(kind, new | old)


class Witness(Struct, frozen=True):
    """A document that the writing side may write, and what becomes of it on the reading side.

    `document` is JSON-able (bytes as base64); `encoded`, if the format has one, the bytes that were
    read. `outcome`: "refused: …" or "read as …".
    """

    document: Any
    outcome: str
    encoded: bytes | None = None


class Finding(Struct, frozen=True, kw_only=True):
    """One difference that breaks somebody; without a witness it is a warning."""

    rule: str
    """A short name: "field-removed-number-not-reserved"; docs/schemas.md explains each."""
    path: str
    """Where in the schema, as a JSON Pointer or a dotted name, as the format's users know it."""
    old: Any
    new: Any
    breaks: Broken
    instead: str
    """What to do instead, in a sentence."""
    witness: Witness | None = None

    @property
    def error(self) -> bool:
        """Whether it is proved; else a warning."""
        return self.witness is not None


def found(
    breaks: Broken, rule: str, path: str, sides: tuple[Any, Any], instead: str,
    witness: Witness | None = None,
) -> Finding:  # fmt: skip
    """A finding, from what is written and what is read (`sides`)."""
    old, new = sides if breaks == "new readers" else sides[::-1]
    return Finding(rule=rule, path=path, old=old, new=new, breaks=breaks,
                   instead=instead, witness=witness)  # fmt: skip


def both_ways(
    old: S, new: S, direction: Callable[[S, S, Broken], Iterable[Finding]]
) -> list[Finding]:
    """What a direction (writer, reader, who breaks) finds in both, sorted by path and rule."""
    found = [*direction(old, new, "new readers"), *direction(new, old, "old readers")]
    return sorted(found, key=lambda one: (one.path, one.rule, one.breaks))
