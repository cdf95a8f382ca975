"""The checker for Protobuf, in binary and in ProtoJSON, on descriptors that protoc made.

At least what Buf's categories WIRE and WIRE_JSON ask, and more where values change. ProtoJSON is
read as services do that live with other versions: unknown fields are left out. Extensions are not
looked at.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .bounds import too_deep
from .finding import Broken, Finding, Witness, both_ways, found
from .proto_proof import ANY, Proof, Trail, samples
from .proto_types import GROUP, MESSAGE, STRING, Enum, Field, Message, Proto, parsed_all, source

PROOFS_MAX = 200
"""Findings of a direction that are proved; what is found beyond them is reported without."""

WELL_KNOWN = "google.protobuf."

_KNOWN_FIRST = "Readers must know a value before it is written, else they take the default."
_NAMES = (
    "Keep the name of each number; ProtoJSON has names, binary has numbers. With allow_alias, a "
    "number may have the old name, too."
)
_ANEW = "Add a field with a new number and name, and reserve the old ones."
INSTEAD: Final = {
    "package-changed": "Keep the package: it is part of the name of every message.",
    "message-removed": "Keep the message, deprecated, for as long as it may be read.",
    "call-changed": "Add a call of another name: both sides of this one have to agree.",
    "required-changed": "Never add or remove required: readers refuse what lacks the field.",
    "message-set-changed": "Keep message_set_wire_format as it is.",
    "json-format-changed": "Keep json_format = ALLOW.",
    "reserved-removed": "Keep reserved {};",
    "reserved-used": "Take a new number and name: these were given up, and old documents have "
    "them.",
    "field-removed-number-not-reserved": "Write reserved {}; so that nobody gives it to another "
    "field.",
    "field-removed-name-not-reserved": 'Write reserved "{}"; so that nobody gives it to another '
    "field.",
    "field-renumbered": "Keep the number: in binary it is all that there is of a field's name.",
    "field-renamed": 'Keep the name, or write [json_name = "{}"]; ProtoJSON has names.',
    "field-type-changed": _ANEW,
    "field-cardinality-changed": _ANEW,
    "default-changed": "Keep the default: readers take theirs where the field was left out.",
    "presence-changed": "Keep it: without presence, a zero that was set looks as if it was not.",
    "utf8-validation-changed": "Keep utf8_validation = NONE, or be sure that all text is UTF-8.",
    "oneof-changed": "Leave fields where they are; add new ones to the oneof.",
    "enum-closed": "Keep the enum open: a closed one loses numbers that it does not know.",
    "enum-value-renamed": _NAMES,
    "enum-value-renumbered": _NAMES,
    "enum-value-removed": 'Keep the value, deprecated; or write reserved {}; reserved "{}";',
    "enum-value-removed-reserved": "Readers take the default for it; keep the value if documents "
    "still have it.",
    "enum-value-added": _KNOWN_FIRST,
    "enum-value-added-to-closed": _KNOWN_FIRST,
}
"""What to do instead, by rule."""


class Pair(NamedTuple):
    """A message as it is written and as it is read, and the way to it from a written document."""

    writer: Message
    reader: Message
    trail: Trail


def compare(
    old: str,
    new: str,
    *,
    references: Mapping[str, str] | None = None,
    old_references: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Every difference that breaks old or new readers, sorted by path and rule.

    `references`: texts of the files that the schemas import, by the path in the import;
    `old_references`: those of the old one, if they are others. Raises SchemaError.
    """
    theirs = references if old_references is None else old_references
    before, after = parsed_all(
        [source(old, theirs, "the old schema"), source(new, references, "the new schema")]
    )
    try:
        return both_ways(before, after, lambda w, r, breaks: _Walk(w, r, breaks).findings())
    except RecursionError:
        raise too_deep("the schemas", "required messages in messages") from None


def read(text: str, references: Mapping[str, str] | None = None, which: str = "schema") -> None:
    """Raises SchemaError if protoc does not read the text."""
    parsed_all([source(text, references, which)])


def prepare(texts: Sequence[tuple[str, Mapping[str, str] | None, str]]) -> None:
    """Parse many texts in one run of the compiler: (text, references, what errors call it)."""
    parsed_all([source(*one) for one in texts])


class _Walk:
    """A walk over the messages of a writer and a reader, each pair once, shortest way first."""

    def __init__(self, writer: Proto, reader: Proto, breaks: Broken) -> None:
        self.writer, self.reader = writer, reader
        self.breaks: Broken = breaks
        self.retired = breaks == "new readers"
        """Whether the writer is the older, so that what the reader lacks was removed."""
        self.waiting: deque[Pair] = deque()
        self.met: set[tuple[int, int]] = set()
        self.proof = Proof(PROOFS_MAX)

    def found(
        self, rule: str, path: str, written: Any, read: Any, witness: Witness | None = None,
        *named: Any,
    ) -> Finding:  # fmt: skip
        """What breaks; `named`: for the words of what to do instead."""
        instead = INSTEAD[rule].format(*named)
        return found(self.breaks, rule, path, (written, read), instead, witness)

    def findings(self) -> Iterator[Finding]:
        yield from self.files()
        yield from self.reached()
        for name, message in self.writer.inner.items():
            if name in self.reader.inner:
                self.meet(message, self.reader.inner[name], ())
        yield from self.reached()

    def reached(self) -> Iterator[Finding]:
        while self.waiting:
            yield from self.message(self.waiting.popleft())

    def meet(self, w: Message, r: Message, trail: Trail) -> None:
        known = w.full.startswith(WELL_KNOWN) and w.full == r.full
        if (id(w), id(r)) not in self.met and not known:
            self.met.add((id(w), id(r)))
            self.waiting.append(Pair(w, r, trail))

    def files(self) -> Iterator[Finding]:
        w, r = self.writer, self.reader
        inner = {id(f.message) for m in _all(w) for f in m.fields.values() if f.message is not m}
        if w.package != r.package:
            witness = self.proof.nameless(next(iter(w.messages.values())), r)
            yield self.found("package-changed", w.package, w.package, r.package, witness)
        for name, call in w.calls.items():
            if call != r.calls.get(name, call):
                yield self.found("call-changed", name, call, r.calls[name])
        for name, message in w.messages.items():
            if name in r.messages:
                self.meet(message, r.messages[name], ())
            elif self.retired and id(message) not in inner:
                witness = self.proof.nameless(message, r)
                yield self.found("message-removed", name, name, None, witness)

    def message(self, pair: Pair) -> Iterator[Finding]:
        w, r, _ = pair
        for number, one in w.fields.items():
            twin = r.fields.get(number)
            if twin is None:
                yield from self.lacking(pair, one)
            else:
                yield from self.field(pair, one, twin)
        for number, twin in r.fields.items():
            written = w.fields.get(number)
            if twin.required and not (written and written.required):
                path, was = f"{r.name}.{twin.name}", written.shown() if written else None
                witness = self.proof.required(pair, twin)
                yield self.found("required-changed", path, was, twin.shown(), witness)
        yield from self.oneofs(pair)
        if w.message_set != r.message_set:
            yield self.found("message-set-changed", r.name, w.message_set, r.message_set)
        yield from self.promises(w, r)

    def promises(self, w: Message | Enum, r: Message | Enum) -> Iterator[Finding]:
        """What the older side promised for later."""
        if not self.retired:
            return
        if lost := _unreserved(w, r):
            yield self.found("reserved-removed", r.name, lost, None, None, ", ".join(lost))
        if w.json and not r.json:
            yield self.found("json-format-changed", r.name, "ALLOW", "LEGACY_BEST_EFFORT")

    def lacking(self, pair: Pair, one: Field) -> Iterator[Finding]:
        """A field that the reader does not have: it leaves the value out, which is no break, but
        its number and name must never mean anything else.
        """
        r = pair.reader
        number, name = _within(one.number, r.reserved), one.name in r.reserved_names
        path = f"{r.name}.{one.name}"
        namesake = r.named.get(one.json_name)
        if namesake is not None:
            yield self.renumbered(pair, one, namesake)
        elif self.retired:
            for part, kept, what in (("number", number, one.number), ("name", name, one.name)):
                if not kept:
                    rule = f"field-removed-{part}-not-reserved"
                    yield self.found(rule, path, one.shown(), None, None, what)
        elif number or name:
            yield self.found("reserved-used", path, one.shown(), "reserved")

    def renumbered(self, pair: Pair, one: Field, namesake: Field) -> Finding:
        """A name that stands at another number: the bytes mean another field, or none."""
        witness = self.proof.either(pair, one, namesake, samples(one))
        path = f"{pair.reader.name}.{namesake.name}"
        return self.found("field-renumbered", path, one.shown(), namesake.shown(), witness)

    def field(self, pair: Pair, one: Field, twin: Field) -> Iterator[Finding]:
        path = f"{pair.reader.name}.{twin.name}"
        namesake = pair.reader.named.get(one.json_name)
        if namesake is not None and namesake is not twin:
            yield self.renumbered(pair, one, namesake)
        elif namesake is None:
            witness = self.proof.json(pair, one, twin)
            names = one.json_name, twin.json_name
            yield self.found("field-renamed", path, *names, witness, names[not self.retired])
        if one.shape != twin.shape or _key(one) != _key(twin):
            yield from self.shape(pair, one, twin, path)
            return
        value, other = one.value, twin.value
        if one.map and value.type != other.type:
            yield from self.shape(pair, one, twin, path)
        elif value.message is not None and other.message is not None:
            yield from self.inside(pair, one, twin, path, value.message, other.message)
        elif value.enum is not None and other.enum is not None:
            yield from self.enum(pair, one, twin, value.enum, other.enum)
        left_out = not one.repeated and not one.required
        if left_out and repr(one.default) != repr(twin.default):  # NaN is NaN
            witness = self.proof.default(pair, one, twin)
            yield self.found("default-changed", path, one.default, twin.default, witness)
        if one.presence != twin.presence and not one.repeated and one.oneof == twin.oneof:
            yield self.found("presence-changed", path, one.presence, twin.presence)
        if one.type == STRING and not one.verified and twin.verified:
            yield self.found("utf8-validation-changed", path, one.shown(), twin.shown())

    def shape(self, pair: Pair, one: Field, twin: Field, path: str) -> Iterator[Finding]:
        many = one.repeated != twin.repeated or one.map != twin.map
        witness = self.proof.either(pair, one, twin, samples(one))
        rule = "field-cardinality-changed" if many else "field-type-changed"
        if witness is not None or self.proof.left <= 0 or not _widened(one, twin):
            yield self.found(rule, path, one.shown(), twin.shown(), witness)

    def inside(
        self, pair: Pair, one: Field, twin: Field, path: str, w: Message, r: Message
    ) -> Iterator[Finding]:
        """Messages in a field. Well-known types have forms of their own in ProtoJSON."""
        known = [side.full.startswith(WELL_KNOWN) for side in (w, r)]
        alike = known[0] == known[1] and ANY not in (w.full, r.full)
        witness = None
        if any(known) and w.full != r.full:
            witness = self.proof.either(pair, one, twin, samples(one))
            if witness is not None or not alike:
                yield self.found("field-type-changed", path, one.shown(), twin.shown(), witness)
        if witness is None and alike:
            self.meet(w, r, (*pair.trail, one))

    def enum(self, pair: Pair, one: Field, twin: Field, w: Enum, r: Enum) -> Iterator[Finding]:
        if (id(w), id(r)) in self.met:
            return
        self.met.add((id(w), id(r)))
        for number, names in w.names.items():
            name = names[0]
            if name in r.names.get(number, ()):
                continue
            path, shown = f"{r.name}.{name}", f"{name} = {number}"
            if name in r.numbers:
                now, witness = f"{name} = {r.numbers[name]}", self.proof.misnamed(pair, one, number)
                yield self.found("enum-value-renumbered", path, shown, now, witness)
            elif number in r.names:
                now = f"{r.names[number][0]} = {number}"
                witness = self.proof.either(pair, one, twin, [number])
                yield self.found("enum-value-renamed", path, shown, now, witness)
            else:
                rule = self.value(r, number, name)
                sure = rule in ("enum-value-removed", "enum-value-added-to-closed")
                witness = self.proof.either(pair, one, twin, [number]) if sure else None
                yield self.found(rule, path, shown, None, witness, number, name)
        if r.closed and not w.closed:
            witness = self.proof.either(pair, one, twin, [max([*w.names, *r.names]) + 1])
            yield self.found("enum-closed", r.name, "open", "closed", witness)
        yield from self.promises(w, r)

    def value(self, r: Enum, number: int, name: str) -> str:
        """The rule for a value that the reader's enum does not have."""
        if not self.retired:
            return "enum-value-added-to-closed" if r.closed else "enum-value-added"
        kept = _within(number, r.reserved) and name in r.reserved_names
        return "enum-value-removed-reserved" if kept else "enum-value-removed"

    def oneofs(self, pair: Pair) -> Iterator[Finding]:
        """Fields that the writer may set together and of which the reader keeps one."""
        w, r, _ = pair
        groups: dict[str, list[Field]] = {}
        for number, twin in r.fields.items():
            if twin.oneof and number in w.fields:
                groups.setdefault(twin.oneof, []).append(w.fields[number])
        for name, fields in groups.items():
            first: dict[str, Field] = {}
            for one in fields:
                first.setdefault(one.oneof or f"{one.number}", one)
            apart = list(first.values())
            if len(apart) > 1 or not apart[0].oneof:
                witness = self.proof.together(pair, *apart[:2]) if len(apart) > 1 else None
                inside = [one.name for one in apart]
                yield self.found("oneof-changed", f"{r.name}.{name}", inside, name, witness)


def _all(proto: Proto) -> Iterator[Message]:
    waiting = list(proto.messages.values())
    seen = set()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [f.message for f in one.fields.values() if f.message is not None]


def _within(number: int, ranges: list[tuple[int, int]]) -> bool:
    return any(start <= number < end for start, end in ranges)


def _unreserved(w: Message | Enum, r: Message | Enum) -> list[str]:
    """What was reserved and is no more, so that it could be given again."""
    merged = _merged(r.reserved)
    lost = [
        f"{start} to {end - 1}" if end - start > 1 else f"{start}"
        for start, end in w.reserved
        if not _covered(start, end, merged)
    ]
    return lost + sorted(w.reserved_names - r.reserved_names)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers in ranges that do not touch, in order."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def _covered(start: int, end: int, merged: list[tuple[int, int]]) -> bool:
    place = bisect_right(merged, start, key=lambda one: one[0])
    return place > 0 and merged[place - 1][1] >= end


def _key(one: Field) -> int:
    return one.key.type if one.map else 0


def _widened(one: Field, twin: Field) -> bool:
    """Whether a change of type of which no sample was lost is not worth a warning."""
    if one.map and twin.map:
        return _key(one) == _key(twin) and _widened(one.value, twin.value)
    return one.repeated == twin.repeated and not {one.type, twin.type} & {GROUP, MESSAGE}
