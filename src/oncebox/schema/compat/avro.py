"""The checker for Avro: its schema resolution, and what that lets pass though values change.

Resolution after the specification of Avro 1.12, "Schema Resolution". A witness is the smallest
document of the writer that shows the fault, written and read by fastavro before it is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

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
from .bounds import missing, read_json, too_deep
from .finding import Broken, Finding, both_ways

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


class Problem(NamedTuple):
    """Where a reader fails on a writer, and a value to prove it with.

    `value` stands at the end of the trail; without one it is a mere warning. It is proved with
    `types`, the writer's and the reader's, or with the default of the reader's `field`. `logical`:
    it is the understanding of the value that differs.
    """

    rule: str
    path: str
    writer: Any
    reader: Any
    instead: str
    trail: Trail
    types: tuple[Type, Type]
    value: Any = NOTHING
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
    before = parsed(old, _pairs(theirs), "the old schema")
    after = parsed(new, _pairs(references), "the new schema")
    same = theirs == references and read_json(old, "the old schema") == read_json(new, "")
    if same:  # readers with the writer's own schema resolve nothing
        return []
    try:
        return both_ways(before, after, _direction)
    except RecursionError:  # of defaults: types are bounded
        raise too_deep("the schemas", "a default") from None


def read(text: str, references: Mapping[str, str] | None = None, which: str = "schema") -> None:
    """Raises SchemaError if the text is no schema of Avro."""
    parsed(text, _pairs(references), which)


def _pairs(references: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((references or {}).items()))


def _direction(writer: Type, reader: Type, breaks: Broken) -> Iterator[Finding]:
    proof = Proof(writer, reader)
    for n, one in enumerate(_problems(writer, reader)):
        witness = proof.of(one) if one.value is not NOTHING and n < PROOFS_MAX else None
        if witness is None and one.rule == "type-moved":  # tried, and fine
            continue
        sides = (one.writer, one.reader)
        old, new = sides if breaks == "new readers" else sides[::-1]
        yield Finding(
            rule=one.rule,
            path=one.path,
            old=old,
            new=new,
            breaks=breaks,
            instead=one.instead,
            witness=witness,
        )


def _problems(writer: Type, reader: Type) -> Iterator[Problem]:
    walk, fine = _Resolution(), True
    for one in walk.resolve(writer, reader, reader.short or reader.kind, ()):
        fine = fine and one.value is NOTHING
        yield one
    for record, field in every_field(reader):
        bad = field.default is not NOTHING and not fits(field.default, field.type)
        if bad and id(field) not in walk.unwritten:
            path = f"{record.name}.{field.name}"
            yield wrong_default(writer, writer, field, path, ())
    twice = shared(writer) | shared(reader) if fine else set[int]()
    places = [one for one in walk.places if {id(one.types[0]), id(one.types[1])} & twice]
    yield from places[:PLACES_MAX]


class _Resolution:
    """One walk through a writer's and a reader's schema; each pair of records is met once."""

    def __init__(self) -> None:
        self.met: set[tuple[int, int]] = set()
        self.branches: dict[int, dict[str, dict[int, Type]]] = {}
        self.unwritten: set[int] = set()
        """Fields for which the reader takes its default."""
        self.places: list[Problem] = []
        """Where named types stand, which readers may fail to find (fastavro's issue 780)."""

    def resolve(self, w: Type, r: Type, path: str, trail: Trail) -> Iterator[Problem]:
        if not writable(w):  # nobody can write it
            return
        if w.name and r.name:
            instead = "Define the type at the place where it was defined before."
            types = (w, r)
            self.places.append(
                Problem(
                    "type-moved", path, w.shown(), r.shown(), instead, trail, types, smallest(w)
                )
            )
        if w.kind == "union":
            yield from self.written_union(w, r, path, trail)
        elif r.kind == "union":
            yield from self.into_union(w, r, path, trail)
        elif w.kind == r.kind and w.of is not None:
            step: Step = ("item" if w.kind == "array" else "value", None, None)
            yield from self.resolve(w.inner, r.inner, f"{path}[]", (*trail, step))
        elif not matches(w, r):
            yield mismatch(w, r, path, trail)
        elif w.kind != r.kind:
            yield from promoted(w, r, path, trail)
            yield from logical(w, r, path, trail)
        elif w.kind == "record":
            yield from self.records(w, r, path, trail)
        elif w.kind == "enum":
            yield from symbols(w, r, path, trail)
        else:
            yield from logical(w, r, path, trail)

    def written_union(self, w: Type, r: Type, path: str, trail: Trail) -> Iterator[Problem]:
        for branch in w.branches:
            if not writable(branch):
                continue
            inner: Trail = (*trail, ("branch", None, branch.tag))
            if r.kind == "union":
                yield from self.into_union(branch, r, path, inner)
            elif matches(branch, r):
                yield from self.resolve(branch, r, path, inner)
            else:
                yield not_taken(branch, r, path, inner)

    def into_union(self, w: Type, r: Type, path: str, trail: Trail) -> Iterator[Problem]:
        fitting = [branch for branch in self.candidates(w, r) if matches(w, branch)]
        if not fitting:
            yield not_taken(w, r, path, trail)
            return
        if fitting[0].kind != w.kind and any(branch.kind == w.kind for branch in fitting):
            yield Problem(
                "union-order",
                path,
                w.shown(),
                r.shown(),
                f"Put {w.kind} before {fitting[0].kind}: readers differ in whether they take the "
                "first branch that fits or the same type.",
                trail,
                (w, r),
            )
        yield from self.resolve(w, fitting[0], path, trail)

    def candidates(self, w: Type, r: Type) -> list[Type]:
        """The branches of a reader's union that may fit, in order: a union may have thousands."""
        if id(r) not in self.branches:
            by_name: dict[str, dict[int, Type]] = {}
            for n, branch in enumerate(r.branches):
                for name in {branch.short, *branch.aliases}:
                    by_name.setdefault(name, {})[n] = branch
            self.branches[id(r)] = by_name
        known = self.branches[id(r)]
        found = known.get(w.short, {}) | known.get(w.name, {})
        return [found[n] for n in sorted(found)]

    def records(self, w: Type, r: Type, path: str, trail: Trail) -> Iterator[Problem]:
        if (id(w), id(r)) in self.met:
            return
        self.met.add((id(w), id(r)))
        known = {alias: one for one in r.fields for alias in one.aliases}
        known |= {one.name: one for one in r.fields}
        written = set()
        for one in w.fields:
            twin = known.get(one.name)
            if twin is not None:
                if twin.name in written:
                    yield two_as_one(w, r, twin, path, trail)
                written.add(twin.name)
                step: Step = ("field", w, (one.name, twin.name))
                yield from self.resolve(one.type, twin.type, f"{path}.{one.name}", (*trail, step))
        for one in r.fields:
            if one.name in written:
                continue
            self.unwritten.add(id(one))
            if one.default is NOTHING:
                yield no_default(w, r, one, f"{path}.{one.name}", trail)
            elif not fits(one.default, one.type):
                yield wrong_default(w, r, one, f"{path}.{one.name}", trail)


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


def mismatch(w: Type, r: Type, path: str, trail: Trail) -> Problem:
    """Types of which readers do not take one for the other."""
    if w.kind == r.kind and w.name and w.short != r.short:
        rule, instead = "name-changed", f"Give {r.name} the alias {w.name}, or its old name."
    elif w.kind == r.kind == "fixed":
        rule, instead = "fixed-size-changed", "Add a field of another fixed type, with a default."
    else:
        rule, instead = "type-changed", "Add a field of the new type, with a default."
    return Problem(rule, path, w.shown(), r.shown(), instead, trail, (w, r), smallest(w))


def not_taken(w: Type, r: Type, path: str, trail: Trail) -> Problem:
    """A value that no branch of the reader takes."""
    return Problem(
        "branch-not-read",
        path,
        w.shown(),
        r.shown(),
        f"Let readers know {w.tag} first; write it once they all do.",
        trail,
        (w, r),
        _with_one(w),
    )


def _with_one(kind: Type) -> Any:
    """A value that has something in it: readers look at the type of items when there are any."""
    if kind.of is None or not writable(kind.of):
        return smallest(kind)
    return [smallest(kind.of)] if kind.kind == "array" else {"k": smallest(kind.of)}


def no_default(w: Type, r: Type, one: Field, path: str, trail: Trail) -> Problem:
    """A field that the reader needs and the writer does not have."""
    return Problem(
        "field-without-default",
        path,
        None,
        one.type.shown(),
        "Give the field a default in the schema that has it, before or while adding or removing "
        "it; or, if it was renamed, its old name as an alias.",
        trail,
        (w, r),
        smallest(w),
        one,
    )


def two_as_one(w: Type, r: Type, one: Field, path: str, trail: Trail) -> Problem:
    """A field that stands for two of the writer's: by its name, and by an alias."""
    names = [each.name for each in w.fields if each.name == one.name or each.name in one.aliases]
    return Problem(
        "two-read-as-one",
        f"{path}.{one.name}",
        names,
        one.name,
        "Give the alias to a field of another name: one of the two is lost.",
        trail,
        (w, r),
        smallest(w),
        one,
    )


def wrong_default(w: Type, r: Type, one: Field, path: str, trail: Trail) -> Problem:
    """A default of the reader's that is no value of its type."""
    return Problem(
        "default-wrong-type",
        path,
        None,
        {"type": one.type.shown(), "default": one.default},
        "Give it a default of its type: readers refuse the schema, or get a wrong value.",
        trail,
        (w, r),
        smallest(w),
        one,
    )


def symbols(w: Type, r: Type, path: str, trail: Trail) -> Iterator[Problem]:
    """Symbols that the reader does not know."""
    read = set(r.symbols)
    lost = [symbol for symbol in w.symbols if symbol not in read]
    if not lost:
        return
    known = r.default in r.symbols
    yield Problem(
        "symbol-read-as-default" if known else "symbol-not-read",
        path,
        lost,
        {"default": r.default} if known else None,
        "Readers take the enum's default for symbols that they do not know."
        if known
        else "Give the enum a default symbol; or let all readers know a symbol before it is "
        "written.",
        trail,
        (w, r),
        NOTHING if known else lost[0],
    )


def promoted(w: Type, r: Type, path: str, trail: Trail) -> Iterator[Problem]:
    """Promotions that the specification allows, and that lose something."""
    pair = (w.kind, r.kind)
    if pair in LOSSY:
        instead = f"Keep {w.kind}: a {r.kind} rounds large numbers."
        rule, value = "lossy-promotion", LOSSY[pair]
        yield Problem(rule, path, w.shown(), r.shown(), instead, trail, (w, r), value)
    elif pair == ("bytes", "string"):
        instead = "Keep bytes: those that are no UTF-8 cannot be read as a string."
        rule, text = "bytes-as-string", b"\xff"
        yield Problem(rule, path, w.shown(), r.shown(), instead, trail, (w, r), text)


def logical(w: Type, r: Type, path: str, trail: Trail) -> Iterator[Problem]:
    """The same bytes, understood otherwise. Checkers of registries look at none of this."""
    if w.logical == r.logical:
        return
    before, after = w.logical.get("logicalType"), r.logical.get("logicalType")
    rule = "logical-type-changed"
    instead = "Add a field of the new logical type, with a default."
    value: Any = NOTHING
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
    yield Problem(rule, path, w.shown(), r.shown(), instead, trail, (w, r), value, logical=True)


def _digits(kind: Type) -> int:
    precision = kind.logical.get("precision")
    return precision if isinstance(precision, int) else 0


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
