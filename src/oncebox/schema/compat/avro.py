"""The checker for Avro: its schema resolution, and what that lets pass though values change.

Resolution after the specification of Avro 1.12, "Schema Resolution". A witness is the smallest
document of the writer that shows the fault, written and read by fastavro before it is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from .avro_types import (
    NOTHING,
    Field,
    Type,
    every_field,
    fits,
    parsed,
    shared,
    smallest,
    writable,
)
from .bounds import missing, pairs, read_json, too_deep
from .finding import Broken, Finding, both_ways, found

try:
    from .avro_proof import Proof
except ImportError as error:  # pragma: no cover
    raise missing("fastavro", "avro") from error

PROOFS_MAX = 64
"""Findings of a direction that are proved; what is found beyond them is reported without."""

PLACES_MAX = 32
"""Places of types that stand at several, which are tried out."""

PROMOTIONS = {
    ("int", "long"), ("int", "float"), ("int", "double"), ("long", "float"), ("long", "double"),
    ("float", "double"), ("string", "bytes"), ("bytes", "string"),
}  # fmt: skip
LOSSY = {
    ("int", "float"): 2**24 + 1,
    ("long", "float"): 2**24 + 1,
    ("long", "double"): 2**53 + 1,
}
"""Promotions that round, with a number that shows it."""

Step = tuple[Literal["field", "item", "value", "branch"], Any, Any]
"""A step into a document: ("field", the writer's record, (its field, the reader's field)),
("branch", None, its name), ("item" or "value", None, None)."""
Trail = tuple[Step, ...]


_ANEW = "Add a field of the new {}, with a default."
INSTEAD: Final = {
    "field-without-default": "Give the field a default in the schema that has it, before or while "
    "adding or removing it; or, if it was renamed, its old name as an alias.",
    "two-read-as-one": "Give the alias to a field of another name: one of the two is lost.",
    "default-wrong-type": "Give it a default of its type: readers refuse the schema, or get a "
    "wrong value.",
    "type-changed": _ANEW.format("type"),
    "fixed-size-changed": "Add a field of another fixed type, with a default.",
    "name-changed": "Keep the name. An alias of it helps only readers whose schema has the alias.",
    "type-moved": "Define the type at the place where it was defined before.",
    "branch-not-read": "Readers need a branch for it: keep it if it was removed, and write a new "
    "one only when all of them know it.",
    "union-order": "Put the same type first: readers differ in whether they take the first branch "
    "that fits or the same type.",
    "symbol-not-read": "Keep the symbol if it was removed; let all readers know a new one before "
    "it is written, or give the enum a default symbol.",
    "symbol-read-as-default": "Readers take the enum's default for symbols that they do not know.",
    "lossy-promotion": "Keep the type: floating point rounds large numbers.",
    "bytes-as-string": "Keep bytes: those that are no UTF-8 cannot be read as a string.",
    **dict.fromkeys(
        ("logical-type-changed", "decimal-scale-changed", "decimal-precision-changed"),
        _ANEW.format("logical type"),
    ),
}
"""What to do instead, by rule."""


class Place(NamedTuple):
    """A writer's type and the reader's for it, and where they stand."""

    w: Type
    r: Type
    path: str
    trail: Trail = ()

    def inside(self, w: Type, r: Type, name: str = "", *steps: Step) -> Place:
        """A part of it; `name`: what comes to the path."""
        return Place(w, r, self.path + name, self.trail + steps)


class Problem(NamedTuple):
    """Where a reader fails on a writer, and a value to prove it with.

    `value` stands at the end of the trail; without one it is a mere warning. It is proved with
    the writer's type and the reader's, or with the default of the reader's `field`. `told`: what
    is shown of writer and reader, instead of the types. `logical`: it is the understanding of the
    value that differs.
    """

    rule: str
    at: Place
    value: Any = NOTHING
    told: tuple[Any, Any] | None = None
    field: Field | None = None
    logical: bool = False


def compare(
    old: str,
    new: str,
    *,
    references: Mapping[str, str] | None = None,
    old_references: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Every difference that breaks old or new readers, sorted by path and rule.

    `references`: texts that define what the schemas name; `old_references`: those of the old one,
    if they are others. Raises SchemaError.
    """
    theirs = references if old_references is None else old_references
    before = parsed(old, pairs(theirs), "the old schema")
    after = parsed(new, pairs(references), "the new schema")
    same = theirs == references and read_json(old, "the old schema") == read_json(new, "")
    if same:  # readers with the writer's own schema resolve nothing
        return []
    try:
        return both_ways(before, after, _direction)
    except RecursionError:  # of defaults: types are bounded
        raise too_deep("the schemas", "a default") from None


def read(text: str, references: Mapping[str, str] | None = None, which: str = "schema") -> None:
    """Raises SchemaError if the text is no schema of Avro."""
    parsed(text, pairs(references), which)


def _direction(writer: Type, reader: Type, breaks: Broken) -> Iterator[Finding]:
    proof = Proof(writer, reader)
    for n, one in enumerate(_problems(writer, reader)):
        witness = proof.of(one) if one.value is not NOTHING and n < PROOFS_MAX else None
        if witness is not None or one.rule != "type-moved":  # which is tried, and may be fine
            sides = one.told or (one.at.w.shown(), one.at.r.shown())
            yield found(breaks, one.rule, one.at.path, sides, INSTEAD[one.rule], witness)


def _problems(writer: Type, reader: Type) -> Iterator[Problem]:
    walk, fine = _Resolution(), True
    for one in walk.resolve(Place(writer, reader, reader.short or reader.kind)):
        fine = fine and one.value is NOTHING
        yield one
    for record, field in every_field(reader):
        bad = field.default is not NOTHING and not fits(field.default, field.type)
        if bad and id(field) not in walk.unwritten:
            yield wrong_default(Place(writer, writer, f"{record.name}.{field.name}"), field)
    twice = shared(writer) | shared(reader) if fine else set[int]()
    places = [at for at in walk.places if {id(at.w), id(at.r)} & twice]
    for at in places[:PLACES_MAX]:
        yield Problem("type-moved", at, smallest(at.w))


class _Resolution:
    """One walk through a writer's and a reader's schema; each pair of records is met once."""

    def __init__(self) -> None:
        self.met: set[tuple[int, int]] = set()
        self.branches: dict[int, dict[str, dict[int, Type]]] = {}
        self.unwritten: set[int] = set()
        """Fields for which the reader takes its default."""
        self.places: list[Place] = []
        """Where named types stand, which readers may fail to find (fastavro's issue 780)."""

    def resolve(self, at: Place) -> Iterator[Problem]:
        w, r, *_ = at
        if not writable(w):  # nobody can write it
            return
        if w.name and r.name:
            self.places.append(at)
        if w.kind == "union":
            yield from self.written_union(at)
        elif r.kind == "union":
            yield from self.into_union(at)
        elif w.kind == r.kind and w.of is not None:
            step: Step = ("item" if w.kind == "array" else "value", None, None)
            yield from self.resolve(at.inside(w.inner, r.inner, "[]", step))
        elif not matches(w, r):
            yield mismatch(at)
        elif w.kind != r.kind:
            yield from promoted(at)
            yield from logical(at)
        elif w.kind == "record":
            yield from self.records(at)
        elif w.kind == "enum":
            yield from symbols(at)
        else:
            yield from logical(at)

    def written_union(self, at: Place) -> Iterator[Problem]:
        for branch in at.w.branches:
            if not writable(branch):
                continue
            inner = at.inside(branch, at.r, "", ("branch", None, branch.tag))
            if at.r.kind == "union":
                yield from self.into_union(inner, at.w)
            elif matches(branch, at.r):
                yield from self.resolve(inner)
            else:
                yield not_taken(inner, at.w)

    def into_union(self, at: Place, whole: Type | None = None) -> Iterator[Problem]:
        """`whole`: the writer's union that the type is a branch of."""
        w, r, *_ = at
        fitting = [branch for branch in self.candidates(w, r) if matches(w, branch)]
        if not fitting:
            yield not_taken(at, whole or w)
            return
        if fitting[0].kind != w.kind and any(branch.kind == w.kind for branch in fitting):
            yield Problem("union-order", at)
        yield from self.resolve(at.inside(w, fitting[0]))

    def candidates(self, w: Type, r: Type) -> list[Type]:
        """The branches of a reader's union that may fit, in order: a union may have thousands."""
        if id(r) not in self.branches:
            by_name: dict[str, dict[int, Type]] = {}
            for n, branch in enumerate(r.branches):
                for name in {branch.short, *branch.aliases}:
                    by_name.setdefault(name, {})[n] = branch
            self.branches[id(r)] = by_name
        known = self.branches[id(r)]
        fits = known.get(w.short, {}) | known.get(w.name, {})
        return [fits[n] for n in sorted(fits)]

    def records(self, at: Place) -> Iterator[Problem]:
        w, r, *_ = at
        if (id(w), id(r)) in self.met:
            return
        self.met.add((id(w), id(r)))
        known = {alias: one for one in r.fields for alias in one.aliases}
        known |= {one.name: one for one in r.fields}
        written = set()
        for one in w.fields:
            twin = known.get(one.name)
            if twin is None:
                continue
            if twin.name in written:
                yield two_as_one(at, twin)
            written.add(twin.name)
            step: Step = ("field", w, (one.name, twin.name))
            yield from self.resolve(at.inside(one.type, twin.type, f".{one.name}", step))
        for one in r.fields:
            if one.name in written:
                continue
            self.unwritten.add(id(one))
            here = at.inside(w, r, f".{one.name}")
            if one.default is NOTHING:
                told = None, one.type.shown()
                yield Problem("field-without-default", here, smallest(w), told, one)
            elif not fits(one.default, one.type):
                yield wrong_default(here, one)


def matches(w: Type, r: Type) -> bool:
    """Whether the reader's type is taken for the writer's at all, before their insides count."""
    if "union" in (w.kind, r.kind):
        return True
    if w.kind != r.kind:
        return (w.kind, r.kind) in PROMOTIONS
    if w.kind in ("array", "map"):
        return matches(w.inner, r.inner)
    if not w.name:
        return True
    named = w.short == r.short or bool({w.name, w.short} & r.aliases)
    return named and w.size == r.size


def mismatch(at: Place) -> Problem:
    """Types of which readers do not take one for the other."""
    w, r, *_ = at
    if w.kind == r.kind and w.name and w.short != r.short:
        return Problem("name-changed", at, smallest(w))
    fixed = w.kind == r.kind == "fixed"
    return Problem("fixed-size-changed" if fixed else "type-changed", at, smallest(w))


def not_taken(at: Place, whole: Type) -> Problem:
    """A value that no branch of the reader takes; readers look at items when there are any."""
    kind, value = at.w, smallest(at.w)
    if kind.of is not None and writable(kind.of):
        value = [smallest(kind.of)] if kind.kind == "array" else {"k": smallest(kind.of)}
    return Problem("branch-not-read", at, value, (whole.shown(), at.r.shown()))


def two_as_one(at: Place, one: Field) -> Problem:
    """A field that stands for two of the writer's: by its name, and by an alias."""
    names = [each.name for each in at.w.fields if each.name in {one.name, *one.aliases}]
    here = at.inside(at.w, at.r, f".{one.name}")
    return Problem("two-read-as-one", here, smallest(at.w), (names, one.name), one)


def wrong_default(at: Place, one: Field) -> Problem:
    """A default of the reader's that is no value of its type."""
    told = {"type": one.type.shown(), "default": one.default}
    return Problem("default-wrong-type", at, smallest(at.w), (None, told), one)


def symbols(at: Place) -> Iterator[Problem]:
    """Symbols that the reader does not know."""
    read = set(at.r.symbols)
    lost = [symbol for symbol in at.w.symbols if symbol not in read]
    if lost and at.r.default in read:
        yield Problem("symbol-read-as-default", at, told=(lost, {"default": at.r.default}))
    elif lost:
        yield Problem("symbol-not-read", at, lost[0], (at.w.symbols, at.r.symbols))


def promoted(at: Place) -> Iterator[Problem]:
    """Promotions that the specification allows, and that lose something."""
    pair = (at.w.kind, at.r.kind)
    if pair in LOSSY:
        yield Problem("lossy-promotion", at, LOSSY[pair])
    elif pair == ("bytes", "string"):
        yield Problem("bytes-as-string", at, b"\xff")


def logical(at: Place) -> Iterator[Problem]:
    """The same bytes, understood otherwise. Checkers of registries look at none of this."""
    w, r, *_ = at
    if w.logical == r.logical:
        return
    before, after = w.logical.get("logicalType"), r.logical.get("logicalType")
    rule, value = "logical-type-changed", NOTHING
    if before == after == "decimal":
        scales = (w.logical.get("scale", 0), r.logical.get("scale", 0))
        rule = "decimal-scale-changed" if scales[0] != scales[1] else "decimal-precision-changed"
        if rule == "decimal-precision-changed" and _digits(r) >= _digits(w):
            return
        value = _unscaled(w)
    elif before and after:
        value = _sample(before, w)
    elif after == "uuid" and w.kind == "string":
        value = "no uuid"
    yield Problem(rule, at, value, logical=True)


def _digits(kind: Type) -> int:
    return int(kind.logical.get("precision", 0))


def _unscaled(kind: Type) -> bytes:
    """The largest decimal of a type: all nines, big-endian."""
    number: int = 10 ** min(max(_digits(kind), 1), 1000) - 1
    size = kind.size or number.bit_length() // 8 + 1
    return int(number & (2 ** (8 * size - 1) - 1)).to_bytes(size, "big")


def _sample(logical_type: str, kind: Type) -> Any:
    """A raw value of a logical type; NOTHING for one that the specification does not have."""
    match logical_type, kind.kind:
        case "decimal", _:
            return _unscaled(kind)
        case "uuid", "string":
            return "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
        case (("uuid" | "duration"), "fixed"):
            return bytes(n % 7 for n in range(kind.size))
        case "date" | "time-millis" | "time-micros", "int" | "long":
            return 19_000
        case _, "long" if "timestamp-" in logical_type:
            return 1_700_000_000_000
    return NOTHING
