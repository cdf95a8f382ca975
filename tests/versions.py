"""Event types with up to ten versions, made at random: each with a lens from the one before."""

from __future__ import annotations

from random import Random
from typing import Any, NamedTuple

from oncebox.lens.chain import Edge, Lenses
from oncebox.lens.steps import (
    Step,
    add,
    each,
    hoist,
    member,
    merge,
    nest,
    remove,
    rename,
    retype,
    split,
    unwrap,
    values,
    wrap,
)  # fmt: skip
from oncebox.schema.model import (
    Bool,
    Date,
    Decimal,
    Enum,
    Field,
    Float,
    Int,
    List,
    Map,
    Member,
    Named,
    Nullable,
    Record,
    Schema,
    Str,
    Symbol,
    Timestamp,
    Type,
    Union,
)  # fmt: skip

TYPE = "order.placed"
OPERATIONS = (
    "rename", "add", "add absent", "remove", "remove absent", "split", "merge", "values", "wrap",
    "unwrap", "wrap list", "unwrap list", "retype", "retype elements", "nest", "hoist",
)  # fmt: skip
PLACES = (
    "", "customer.", "maybe.", "lines[].", "prices[].", "notes[].", "lines[].parts[].",
    "paid<card>.", "refunds[]<card>.",
)  # fmt: skip
"""The event itself, a record in it, one that may be null, the elements of a list, the values of a
map, elements that may be null, lists in lists, members of unions.
"""

PLACES_EACH = 3
"""Of those, a type has so many, besides the event itself."""

DEFAULTS: dict[type, list[Any]] = {
    Int: [0, 7], Str: ["", "web"], Bool: [False, True], Float: [0.5], Nullable: [None],
    List: [[], ["x"]], Date: ["2026-01-31"],
}  # fmt: skip
FORMS: list[tuple[str, Type, str, Type, dict[str, Any]]] = [
    ("int", Int(), "str", Str(), {"default": 3}),
    ("float", Float(), "str", Str(), {"default": 0.5}),
    ("bool", Bool(), "str", Str(), {"default": False}),
    ("int", Int(), "float", Float(), {"default": 0}),
    ("int", Int(-999, 999), "decimal", Decimal(3, 2), {"scale": 2}),
    ("int", Int(), "decimal", Decimal(12, 2), {"scale": 2, "precision": 12, "default": "0.00"}),
    ("bool", Bool(), "int", Int(0, 1), {}),
    ("date", Date(), "timestamp", Timestamp(), {}),
]


class Made(NamedTuple):
    """Versions of a type, and which operations their lenses have."""

    lenses: Lenses
    schemas: list[Schema]
    operations: list[str]


class Maker:
    """Fields of records under their names; each step changes the ones of a record."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.count = 0
        self.definitions: dict[str, Any] = {}
        some = random.sample(PLACES[1:], PLACES_EACH)
        self.places = [place for place in PLACES if any(one.startswith(place) for one in some)]

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def scalar(self) -> Type:
        kinds: list[Type] = [
            Int(), Str(), Str(), Bool(), Float(), Nullable(Str()), List(Str()), Date(),
        ]  # fmt: skip
        return self.random.choice(kinds)

    def record(self) -> dict[str, Field]:
        fields = [Field(self.name("f"), 0, self.scalar()) for _ in range(self.random.randint(2, 4))]
        if self.random.random() < 0.5:
            fields.append(Field(self.name("f"), 0, Str(), default="web"))
        if self.random.random() < 0.5:
            fields.append(Field(self.name("f"), 0, Int(), absent=True))
        fields.append(Field(self.name("f"), 0, Named(self.enum(["new", "paid", "gone"]))))
        return {field.name: field for field in fields}

    def enum(self, symbols: list[str]) -> str:
        name = self.name("Enum")
        self.definitions[name] = Enum(tuple(Symbol(s, n + 1) for n, s in enumerate(symbols)))
        return name

    def first(self) -> dict[str, dict[str, Field]]:
        """The records of version 1, by place."""
        return {place: self.record() for place in self.places}

    def schema(self, version: int, records: dict[str, dict[str, Field]]) -> Schema:
        definitions = {**self.definitions, "Cash": Record(())}
        for number, place in enumerate(self.places[1:]):
            definitions[f"Place{number}"] = _record(records[place] | self.holds(place))
        for number, place in enumerate(self.places):
            if place.endswith("<card>."):
                members = Member("card", f"Place{number - 1}", 1), Member("cash", "Cash", 2)
                definitions[f"Union{number - 1}"] = Union("by", members)
        definitions["Order"] = _record(records[""] | self.holds(""))
        return Schema(TYPE, version, "Order", definitions)

    def holds(self, place: str) -> dict[str, Field]:
        """The fields of a place's record that hold the records of places in it."""
        found: dict[str, Field] = {}
        for number, inner in enumerate(self.places[1:]):
            path = inner.removeprefix(place).removesuffix("<card>.").removesuffix(".")
            name = path.removesuffix("[]")
            if inner == place or not inner.startswith(place) or "." in name:
                continue
            type: Type = Named(f"{'Union' if '<' in inner else 'Place'}{number}")
            if name in {"maybe", "notes"}:
                type = Nullable(type)
            if name != path:
                type = Map(type) if name == "prices" else List(type)
            found[name] = Field(name, 0, type)
        return found

    # ---- steps

    def step(self, what: str, fields: dict[str, Field]) -> Step | None:  # noqa: PLR0911
        """An operation on a record, which is changed; None where there is nothing for it."""
        plain = [f for f in fields.values() if f.default == _NONE and not f.absent]
        match what.split(maxsplit=1)[0]:
            case "rename":
                field = self.random.choice(list(fields.values()))
                new = self.name("f")
                del fields[field.name]
                fields[new] = _named(field, new)
                return rename(field.name, new)
            case "add":
                return self.add(fields, absent=what == "add absent")
            case "remove":
                return self.remove(fields, absent=what == "remove absent")
            case "split":
                return self.one_to_one(
                    plain, fields, Str, 2, Str(), lambda n, new: split(n, into=new, sep=" ")
                )
            case "merge":
                return self.merge(plain, fields)
            case "values":
                return self.values(plain, fields)
            case "retype":
                return self.retype(plain, fields, elements=what == "retype elements")
        if what == "wrap list":
            return self.one_to_one(
                plain, fields, Nullable, 1, List(Str()), lambda n, new: wrap(n, into=f"{new[0]}[]")
            )
        if what == "unwrap list":
            return self.one_to_one(
                plain, fields, List, 1, Nullable(Str()),
                lambda n, new: unwrap(f"{n}[]", into=new[0]),
            )  # fmt: skip
        return self.structure(what, plain, fields)

    def add(self, fields: dict[str, Field], *, absent: bool) -> Step:
        name, type = self.name("f"), self.scalar()
        fields[name] = Field(name, 0, type, absent=absent)
        if absent:
            return add(name, absent=True)
        return add(name, default=self.random.choice(DEFAULTS[type.__class__]))

    def remove(self, fields: dict[str, Field], *, absent: bool) -> Step | None:
        if absent:
            found = [f for f in fields.values() if f.absent][:1]
        else:
            known = [f for f in fields.values() if f.type.__class__ in DEFAULTS]
            found = [f for f in known if f.type not in (Int(0, 1), List(Int()))]
        if not found or (len(fields) < 3 and not absent):
            return None
        field = self.random.choice(found)
        del fields[field.name]
        if absent:
            return remove(field.name, absent=True)
        return remove(field.name, default=self.random.choice(DEFAULTS[field.type.__class__]))

    def merge(self, plain: list[Field], fields: dict[str, Field]) -> Step | None:
        texts = [f for f in plain if f.type == Str()][:2]
        if len(texts) < 2:
            return None
        new = self.name("f")
        for field in texts:
            del fields[field.name]
        fields[new] = Field(new, 0, Str())
        return merge([field.name for field in texts], into=new, sep=" ")

    def one_to_one(
        self,
        plain: list[Field],
        fields: dict[str, Field],
        was: type,
        count: int,
        now: Type,
        make: Any,
    ) -> Step | None:
        found = [f for f in plain if isinstance(f.type, was) and f.type != List(Int())]
        if not found:
            return None
        field = self.random.choice(found)
        del fields[field.name]
        new = [self.name("f") for _ in range(count)]
        for name in new:
            fields[name] = Field(name, 0, now)
        step: Step = make(field.name, new)
        return step

    def values(self, plain: list[Field], fields: dict[str, Field]) -> Step | None:
        for field in plain:
            if isinstance(field.type, Named) and isinstance(
                self.definitions[field.type.name], Enum
            ):
                old = [symbol.value for symbol in self.definitions[field.type.name].symbols]
                new = [self.name("s") for _ in old]
                up = {o: self.random.choice(new) for o in old}
                back = {n: o for o, n in up.items()}
                down = {n: back.get(n, old[0]) for n in new}
                fields[field.name] = Field(field.name, 0, Named(self.enum(new)))
                return values(field.name, up, down=down)
        return None

    def retype(
        self, plain: list[Field], fields: dict[str, Field], *, elements: bool
    ) -> Step | None:
        if elements:
            found = [f for f in fields.values() if f.type == List(Str())][:1]
            for one in found:
                fields[one.name] = Field(one.name, 0, List(Int()), absent=one.absent)
                return retype(f"{one.name}[]", "str", "int", default=0)
            return None
        ways = [*FORMS, *((n, b, w, a, more) for w, a, n, b, more in FORMS)]
        self.random.shuffle(ways)
        for was, type, now, other, more in ways:
            found = [f for f in plain if f.type == type]
            if found:
                fields[found[0].name] = Field(found[0].name, 0, other)
                return retype(found[0].name, was, now, **more)  # type: ignore[arg-type]
        return None

    def structure(  # noqa: PLR0911
        self, what: str, plain: list[Field], fields: dict[str, Field]
    ) -> Step | None:
        inner = [f for f in plain if isinstance(f.type, Named) and f.type.name.startswith("Inner")]
        if what in {"nest", "wrap"}:
            if not plain:
                return None
            taken = plain[: 2 if what == "nest" else 1]
            for field in taken:
                del fields[field.name]
            holder, record = self.name("f"), self.name("Inner")
            kept = taken if what == "nest" else [_named(taken[0], self.name("f"))]
            self.definitions[record] = _record({f.name: f for f in kept})
            fields[holder] = Field(holder, 0, Named(record))
            if what == "nest":
                return nest(*(f.name for f in taken), into=holder)
            return wrap(taken[0].name, into=f"{holder}.{kept[0].name}")
        if not inner:
            return None
        field = self.random.choice(inner)
        assert isinstance(field.type, Named)
        found = self.definitions[field.type.name].fields
        del fields[field.name]
        if what == "hoist":
            fields.update({f.name: f for f in found})
            return hoist(field.name, *(f.name for f in found))
        if len(found) != 1:
            fields[field.name] = field
            return None
        new = self.name("f")
        fields[new] = _named(found[0], new)
        return unwrap(f"{field.name}.{found[0].name}", into=new)


_NONE = Field("", 0, Str()).default


def _named(field: Field, name: str) -> Field:
    return Field(name, 0, field.type, default=field.default, absent=field.absent)


def _record(fields: dict[str, Field]) -> Record:
    return Record(
        tuple(
            Field(f.name, n + 1, f.type, default=f.default, absent=f.absent)
            for n, f in enumerate(fields.values())
        )
    )


def placed(steps: list[Step], place: str) -> list[Step]:
    """Steps of the record at a place, as steps of the event; some have paths that lead there."""
    head, marker, rest = place.partition("[].")
    if marker:
        inside = placed(steps, rest)
        return [each(head, *inside)] if inside else []
    if not place or not steps:
        return steps
    if place.endswith("<card>."):
        return [member(place.removesuffix("<card>."), "card", *steps, by="by")]
    return [s.__class__(**{**_parts(s), "path": place + s.path}) for s in steps]  # type: ignore[attr-defined]


def _parts(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in step.__struct_fields__}


def make_versions(random: Random, count: int, wanted: tuple[str, ...] = OPERATIONS) -> Made:
    """A type with so many versions, with one operation or more between each two."""
    maker = Maker(random)
    records = maker.first()
    lenses, operations = Lenses(), []
    schemas = [maker.schema(1, records)]
    lenses.know(schemas[0])
    for version in range(2, count + 1):
        steps: list[Step] = []
        tries = 0
        while not steps or random.random() < 0.5:
            place = random.choice(maker.places)
            here: list[Step] = []
            for _ in range(random.randint(1, 3)):
                what = random.choice(wanted)
                step = maker.step(what, records[place])
                if step is not None:
                    here.append(step)
                    operations.append(what)
            steps += placed(here, place)
            tries += 1
            if tries > 50:
                break
        schemas.append(maker.schema(version, records))
        lenses.know(schemas[-1])
        lenses.add(TYPE, Edge(version - 1, version, tuple(steps)))
    return Made(lenses, schemas, operations)
