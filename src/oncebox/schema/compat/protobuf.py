"""The checker for Protobuf, in binary and in ProtoJSON, on descriptors that protoc made.

At least what Buf's categories WIRE and WIRE_JSON ask, and more where values change. ProtoJSON is
read as services do that live with other versions: unknown fields are left out. Extensions are not
looked at.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .bounds import too_deep
from .finding import Broken, Finding, Witness, both_ways
from .proto_proof import Proof, Trail, samples
from .proto_types import GROUP, MESSAGE, STRING, Enum, Field, Message, Proto, parsed_all, source

PROOFS_MAX = 200
"""Findings of a direction that are proved; what is found beyond them is reported without."""

WELL_KNOWN = "google.protobuf."

_ANEW = "Add a field with a new number and name, and reserve the old ones."


class Problem(NamedTuple):
    """What is wrong, before it is proved; `witness` is what the proof gave."""

    rule: str
    path: str
    writer: Any
    reader: Any
    instead: str
    witness: Witness | None = None


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
        return both_ways(before, after, _direction)
    except RecursionError:
        raise too_deep("the schemas", "required messages in messages") from None


def read(text: str, references: Mapping[str, str] | None = None, which: str = "schema") -> None:
    """Raises SchemaError if protoc does not read the text."""
    parsed_all([source(text, references, which)])


def prepare(texts: Sequence[tuple[str, Mapping[str, str] | None, str]]) -> None:
    """Parse many texts in one run of the compiler: (text, references, what errors call it)."""
    parsed_all([source(*one) for one in texts])


def _direction(writer: Proto, reader: Proto, breaks: Broken) -> Iterator[Finding]:
    for one in _Walk(writer, reader, retired=breaks == "new readers").problems():
        sides = (one.writer, one.reader)
        old, new = sides if breaks == "new readers" else sides[::-1]
        yield Finding(
            rule=one.rule,
            path=one.path,
            old=old,
            new=new,
            breaks=breaks,
            instead=one.instead,
            witness=one.witness,
        )


class _Walk:
    """A walk over the messages of a writer and a reader, each pair once, shortest way first.
    `retired`: the writer is the older, so what the reader lacks was removed.
    """

    def __init__(self, writer: Proto, reader: Proto, *, retired: bool) -> None:
        self.writer, self.reader = writer, reader
        self.retired = retired
        self.waiting: deque[Pair] = deque()
        self.met: set[tuple[int, int]] = set()
        self.proof = Proof(PROOFS_MAX)

    def problems(self) -> Iterator[Problem]:
        yield from self.files()
        yield from self.reached()
        for name, message in self.writer.inner.items():
            if name in self.reader.inner:
                self.meet(message, self.reader.inner[name], ())
        yield from self.reached()

    def reached(self) -> Iterator[Problem]:
        while self.waiting:
            yield from self.message(self.waiting.popleft())

    def meet(self, w: Message, r: Message, trail: Trail) -> None:
        known = w.full.startswith(WELL_KNOWN) and w.full == r.full
        if (id(w), id(r)) not in self.met and not known:
            self.met.add((id(w), id(r)))
            self.waiting.append(Pair(w, r, trail))

    def files(self) -> Iterator[Problem]:
        w, r = self.writer, self.reader
        inner = {id(f.message) for m in _all(w) for f in m.fields.values() if f.message is not m}
        first = next(iter(w.messages.values()))
        if w.package != r.package:
            instead = "Keep the package: it is part of the name of every message."
            witness = self.proof.nameless(first, r)
            yield Problem("package-changed", w.package, w.package, r.package, instead, witness)
        for name, call in w.calls.items():
            if call != r.calls.get(name, call):
                instead = "Add a call of another name: both sides of this one have to agree."
                yield Problem("call-changed", name, call, r.calls[name], instead)
        for name, message in w.messages.items():
            if name in r.messages:
                self.meet(message, r.messages[name], ())
            elif self.retired and id(message) not in inner:
                instead = "Keep the message, deprecated, for as long as it may be read."
                witness = self.proof.nameless(message, r)
                yield Problem("message-removed", name, name, None, instead, witness)

    def message(self, pair: Pair) -> Iterator[Problem]:
        w, r, _ = pair
        for number, one in w.fields.items():
            twin = r.fields.get(number)
            if twin is None:
                yield from self.lacking(pair, one)
            else:
                yield from self.field(pair, one, twin)
        for number, twin in r.fields.items():
            one_or_none = w.fields.get(number)
            if twin.required and not (one_or_none and one_or_none.required):
                yield Problem(
                    "required-changed",
                    f"{r.name}.{twin.name}",
                    one_or_none.shown() if one_or_none else None,
                    twin.shown(),
                    "Never add or remove required: readers refuse what lacks the field.",
                    self.proof.required(pair, twin),
                )
        yield from self.oneofs(pair)
        if self.retired:
            yield from _reserved(w, r, f"{r.name}")
        if w.message_set != r.message_set:
            rule, instead = "message-set-changed", "Keep message_set_wire_format as it is."
            yield Problem(rule, r.name, w.message_set, r.message_set, instead)
        if self.retired and w.json and not r.json:
            rule, instead = "json-format-changed", "Keep json_format = ALLOW."
            yield Problem(rule, r.name, "ALLOW", "LEGACY_BEST_EFFORT", instead)

    def lacking(self, pair: Pair, one: Field) -> Iterator[Problem]:
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
            for rule, kept, what in (
                ("field-removed-number-not-reserved", number, f"reserved {one.number};"),
                ("field-removed-name-not-reserved", name, f'reserved "{one.name}";'),
            ):
                if not kept:
                    instead = f"Write {what} so that nobody gives it to another field."
                    yield Problem(rule, path, one.shown(), None, instead)
        elif number or name:
            instead = (
                "Take a new number and name: these were given up, and old documents have them."
            )
            yield Problem("reserved-used", path, one.shown(), "reserved", instead)

    def renumbered(self, pair: Pair, one: Field, namesake: Field) -> Problem:
        """A name that stands at another number: the bytes mean another field, or none."""
        return Problem(
            "field-renumbered",
            f"{pair.reader.name}.{namesake.name}",
            one.shown(),
            namesake.shown(),
            "Keep the number: in binary it is all that there is of a field's name.",
            self.proof.either(pair, one, namesake, samples(one)),
        )

    def field(self, pair: Pair, one: Field, twin: Field) -> Iterator[Problem]:
        path = f"{pair.reader.name}.{twin.name}"
        shown = one.shown(), twin.shown()
        namesake = pair.reader.named.get(one.json_name)
        if namesake is not None and namesake is not twin:
            yield self.renumbered(pair, one, namesake)
        elif namesake is None:
            instead = (
                f'Keep the name, or write [json_name = "{one.json_name}"]; ProtoJSON has names.'
            )
            witness = self.proof.json(pair, one, twin)
            yield Problem("field-renamed", path, one.json_name, twin.json_name, instead, witness)
        if one.shape != twin.shape or _key(one) != _key(twin):
            yield from self.shape(pair, one, twin, path)
            return
        if one.message is not None and twin.message is not None:
            if one.map:
                yield from self.map(pair, one, twin, path)
            else:
                yield from self.inside(pair, one, twin, path, one.message, twin.message)
        elif one.enum is not None and twin.enum is not None:
            yield from self.enum(pair, one, twin)
        left_out = not one.repeated and not one.required
        if left_out and repr(one.default) != repr(twin.default):  # NaN is NaN
            instead = "Keep the default: readers take theirs where the field was left out."
            witness = self.proof.default(pair, one, twin)
            yield Problem("default-changed", path, one.default, twin.default, instead, witness)
        if one.presence != twin.presence and not one.repeated and one.oneof == twin.oneof:
            instead = "Keep it: without presence, a zero that was set looks as if it was not."
            yield Problem("presence-changed", path, one.presence, twin.presence, instead)
        if one.type == STRING and not one.verified and twin.verified:
            instead = "Keep utf8_validation = NONE, or be sure that all text is UTF-8."
            yield Problem("utf8-validation-changed", path, *shown, instead)

    def shape(self, pair: Pair, one: Field, twin: Field, path: str) -> Iterator[Problem]:
        many = one.repeated != twin.repeated or one.map != twin.map
        witness = self.proof.either(pair, one, twin, samples(one))
        rule = "field-cardinality-changed" if many else "field-type-changed"
        if witness is not None or self.proof.left <= 0 or not _widened(one, twin):
            yield Problem(rule, path, one.shown(), twin.shown(), _ANEW, witness)

    def inside(
        self, pair: Pair, one: Field, twin: Field, path: str, w: Message, r: Message
    ) -> Iterator[Problem]:
        """Messages in a field. Well-known types have forms of their own in ProtoJSON."""
        known = [side.full.startswith(WELL_KNOWN) for side in (w, r)]
        witness = None
        if any(known) and w.full != r.full:
            witness = self.proof.either(pair, one, twin, samples(one))
            if witness is not None or not all(known):
                shown = one.shown(), twin.shown()
                yield Problem("field-type-changed", path, *shown, _ANEW, witness)
        if witness is None:
            self.meet(w, r, (*pair.trail, one))

    def map(self, pair: Pair, one: Field, twin: Field, path: str) -> Iterator[Problem]:
        assert one.message is not None
        assert twin.message is not None
        value, other = one.message.fields[2], twin.message.fields[2]
        if value.type != other.type:
            yield from self.shape(pair, one, twin, path)
        elif value.message is not None and other.message is not None:
            yield from self.inside(pair, one, twin, path, value.message, other.message)
        elif value.enum is not None and other.enum is not None:
            yield from self.enum(pair, one, twin)

    def enum(self, pair: Pair, one: Field, twin: Field) -> Iterator[Problem]:
        w, r = _enum(one), _enum(twin)
        if (id(w), id(r)) in self.met:
            return
        self.met.add((id(w), id(r)))
        for number, names in w.names.items():
            if names[0] in r.names.get(number, ()):
                continue
            if number not in r.names and names[0] not in r.numbers:
                yield self.value(pair, one, twin, number)
                continue
            moved = names[0] in r.numbers
            yield Problem(
                "enum-value-renumbered" if moved else "enum-value-renamed",
                f"{r.name}.{names[0]}",
                f"{names[0]} = {number}",
                f"{names[0]} = {r.numbers[names[0]]}"
                if moved
                else f"{r.names[number][0]} = {number}",
                "Keep the name of each number; ProtoJSON has names, binary has numbers. With "
                "allow_alias, a number may have the old name, too.",
                self.proof.misnamed(pair, one, number)
                if moved
                else self.proof.either(pair, one, twin, [number]),
            )
        if r.closed and not w.closed:
            unheard = max([*w.names, *r.names]) + 1
            instead = "Keep the enum open: a closed one loses numbers that it does not know."
            witness = self.proof.either(pair, one, twin, [unheard])
            yield Problem("enum-closed", r.name, "open", "closed", instead, witness)
        if self.retired:
            yield from _reserved(w, r, r.name)
        if self.retired and w.json and not r.json:
            rule, instead = "json-format-changed", "Keep json_format = ALLOW."
            yield Problem(rule, r.name, "ALLOW", "LEGACY_BEST_EFFORT", instead)

    def value(self, pair: Pair, one: Field, twin: Field, number: int) -> Problem:
        """A value that the reader's enum does not have."""
        w, r = _enum(one), _enum(twin)
        name = w.names[number][0]
        path, shown = f"{r.name}.{name}", f"{name} = {number}"
        kept = _within(number, r.reserved) and name in r.reserved_names
        if self.retired and kept:
            rule, witness = "enum-value-removed-reserved", None
            instead = "Readers take the default for it; keep the value if documents still have it."
        elif self.retired:
            rule = "enum-value-removed"
            witness = self.proof.either(pair, one, twin, [number])
            instead = f'Keep the value, deprecated; or write reserved {number}; reserved "{name}";'
        else:
            rule = "enum-value-added-to-closed" if r.closed else "enum-value-added"
            witness = self.proof.either(pair, one, twin, [number]) if r.closed else None
            instead = "Readers must know a value before it is written, else they take the default."
        return Problem(rule, path, shown, None, instead, witness)

    def oneofs(self, pair: Pair) -> Iterator[Problem]:
        """Fields that the writer may set together and of which the reader keeps one."""
        w, r, _ = pair
        groups: dict[str, list[Field]] = {}
        for number, twin in r.fields.items():
            if twin.oneof and number in w.fields:
                groups.setdefault(twin.oneof, []).append(twin)
        for name, twins in groups.items():
            first: dict[str, Field] = {}
            for twin in twins:
                one = w.fields[twin.number]
                first.setdefault(one.oneof or f"{one.number}", one)
            apart = list(first.values())
            path = f"{r.name}.{name}"
            instead = "Leave fields where they are; add new ones to the oneof."
            inside = [one.name for one in apart]
            if len(apart) > 1:
                witness = self.proof.together(pair, apart[0], apart[1])
                yield Problem("oneof-changed", path, inside, name, instead, witness)
            elif not apart[0].oneof:
                yield Problem("oneof-changed", path, inside, name, instead)


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


def _reserved(w: Message | Enum, r: Message | Enum, path: str) -> Iterator[Problem]:
    """What was reserved and is no more, so that it could be given again."""
    merged = _merged(r.reserved)
    lost = [
        f"{start} to {end - 1}" if end - start > 1 else f"{start}"
        for start, end in w.reserved
        if not _covered(start, end, merged)
    ]
    lost += sorted(w.reserved_names - r.reserved_names)
    if lost:
        instead = f"Keep reserved {', '.join(lost)};"
        yield Problem("reserved-removed", path, lost, None, instead)


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
    return one.message.fields[1].type if one.map and one.message is not None else 0


def _enum(one: Field) -> Enum:
    found = one.message.fields[2].enum if one.map and one.message is not None else one.enum
    assert found is not None
    return found


def _widened(one: Field, twin: Field) -> bool:
    """Whether a change of type of which no sample was lost is not worth a warning."""
    if one.map and twin.map and one.message is not None and twin.message is not None:
        return _key(one) == _key(twin) and _widened(one.message.fields[2], twin.message.fields[2])
    return one.repeated == twin.repeated and not {one.type, twin.type} & {GROUP, MESSAGE}
