"""A schema as Avro writes it (Avro 1.12): records, logical types, defaults, aliases.

What Avro has no word for: a field that may be left out is a union whose first branch stands for
"left out": null, or the empty record `Absent` where null is a value of its own. A duration is a
long with the logical type `duration-micros`, which other readers take for a long. Fields carry
`doc`, `pii` and `deprecated` as attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec import UNSET, json

from ...errors import SchemaError
from ..leaves import LOOKS, raw_of
from ..model import (
    Decimal,
    Enum,
    Field,
    Float,
    List,
    Map,
    Named,
    Nullable,
    Record,
    Schema,
    Set,
    Type,
    Union,
)
from .names import checked, identifier, names_of, namespace

ABSENT = "Absent"


class Branch(NamedTuple):
    """One branch of a union: `left_out`, null (both None), a type, or a union's member."""

    type: Type | None
    tag: tuple[str, str] | None = None
    left_out: bool = False


def branches_of(schema: Schema, type: Type, *, absent: bool = False) -> list[Branch]:
    """The branches of a field's or element's type; more than one: it is a union in Avro."""
    if isinstance(type, Nullable):
        found = [Branch(None), *branches_of(schema, type.of)]
        if any(branch.type is None for branch in found[1:]):
            raise SchemaError(f"{schema.type}: null inside null", expected="one of them")
    elif isinstance(type, Named) and isinstance(union := schema.definitions[type.name], Union):
        found = [Branch(Named(m.name), (union.tag_field, m.tag)) for m in union.members]
    else:
        found = [Branch(type)]
    return [Branch(None, left_out=True), *found] if absent else found


def ordered(schema: Schema, field: Field) -> list[Branch]:
    """The branches of a field, that of its default first, as Avro wants it."""
    branches = branches_of(schema, field.type, absent=field.absent)
    if field.default is not UNSET and len(branches) > 1:
        branches.sort(key=lambda branch: not _is_of(branch, field.default))
    return branches


def _is_of(branch: Branch, value: Any) -> bool:
    if branch.left_out:
        return False
    if branch.tag is not None:
        return isinstance(value, dict) and value.get(branch.tag[0]) == branch.tag[1]
    return (branch.type is None) is (value is None)


def symbols_of(name: str, enum: Enum) -> dict[str, str]:
    """The symbols of an enum in Avro, by what stands in documents. Raises SchemaError."""
    symbols = {symbol.value: identifier(symbol.value) for symbol in enum.symbols}
    if len(set(symbols.values())) < len(symbols):
        raise SchemaError(
            f"{name}: two of its symbols are one in Avro: {', '.join(symbols.values())}",
            expected="symbols that differ in letters, digits and _",
        )
    return symbols


def avro_image(schema: Schema, earlier: Sequence[Schema] = ()) -> dict[str, Any]:
    """The Avro schema. `earlier` versions give aliases to fields that had other names then.

    Raises SchemaError for what Avro has no name for.
    """
    image: dict[str, Any] = _Image(schema, earlier).named(schema.root)
    return image


def avsc(schema: Schema, earlier: Sequence[Schema] = ()) -> str:
    """The text of an .avsc file."""
    return json.format(json.encode(avro_image(schema, earlier)), indent=2).decode() + "\n"


class _Image:
    def __init__(self, schema: Schema, earlier: Sequence[Schema]) -> None:
        self.schema = schema
        self.earlier = earlier
        self.namespace = namespace(schema.type)
        self.names = names_of(schema, "Avro")
        self.seen: set[str] = set()

    def type(self, type: Type) -> Any:
        return self.union(branches_of(self.schema, type))

    def union(self, branches: list[Branch]) -> Any:
        nullable = any(branch.type is None and not branch.left_out for branch in branches)
        parts = [
            self.single(branch.type) if branch.type is not None
            else self.absent() if branch.left_out and nullable
            else "null"
            for branch in branches
        ]  # fmt: skip
        return parts[0] if len(parts) == 1 else parts

    def single(self, type: Type) -> Any:
        """A type that is no union."""
        if isinstance(type, Named):
            return self.named(type.name)
        if isinstance(type, List | Set):
            return {"type": "array", "items": self.type(type.of)}
        if isinstance(type, Map):
            return {"type": "map", "values": self.type(type.of)}
        if isinstance(type, Decimal):
            return LOOKS[Decimal].avro | {"precision": type.precision, "scale": type.scale}
        return LOOKS[type.__class__].avro

    def absent(self) -> Any:
        full = f"{self.namespace}.{ABSENT}"
        if ABSENT in self.names.values():
            raise SchemaError(f"{self.schema.type}: a record called {ABSENT}", hint="rename it")
        if ABSENT in self.seen:
            return full
        self.seen.add(ABSENT)
        return {"type": "record", "name": ABSENT, "namespace": self.namespace, "fields": []}

    def named(self, name: str) -> Any:
        known = self.names[name]
        if name in self.seen:
            return f"{self.namespace}.{known}"
        self.seen.add(name)
        definition = self.schema.definitions[name]
        image: dict[str, Any] = {"name": known, "namespace": self.namespace}
        if definition.doc:
            image["doc"] = definition.doc
        if isinstance(definition, Enum):
            symbols = symbols_of(name, definition)
            image |= {"type": "enum", "symbols": list(symbols.values())}
            if definition.default is not UNSET:
                image["default"] = symbols[definition.default]
        else:
            assert isinstance(definition, Record), f"{name} is a union: it has no name in Avro"
            image |= {"type": "record"}
            image["fields"] = [self.field(name, field) for field in definition.fields]
        return image

    def field(self, record: str, field: Field) -> dict[str, Any]:
        name = checked(field.name, f"{record}.{field.name}", "Avro")
        branches = ordered(self.schema, field)
        image: dict[str, Any] = {"name": name, "type": self.union(branches)}
        if field.doc:
            image["doc"] = field.doc
        if field.absent:
            nullable = any(branch.type is None and not branch.left_out for branch in branches)
            image["default"] = {} if nullable else None
        if field.default is not UNSET:
            image["default"] = avro_default(self.schema, field.type, field.default)
        if aliases := self.aliases(record, field):
            image["aliases"] = aliases
        if field.pii:
            image["pii"] = True
        if field.deprecated:
            image["deprecated"] = field.deprecated
        return image

    def aliases(self, record: str, field: Field) -> list[str]:
        """The names that the field of this number had."""
        found = []
        for schema in self.earlier:
            name = schema.root if record == self.schema.root else record
            definition = schema.definitions.get(name)
            if isinstance(definition, Record):
                found += [f.name for f in definition.fields if f.number == field.number]
        mine = self.schema.definitions[record]
        assert isinstance(mine, Record)
        taken = {f.name for f in mine.fields}
        return [name for name in dict.fromkeys(found) if name not in taken]


def avro_default(schema: Schema, type: Type, value: Any) -> Any:
    """A document's value as Avro writes defaults: bytes as code points, times as numbers."""
    match type:
        case Nullable(of):
            return None if value is None else avro_default(schema, of, value)
        case List(of) | Set(of):
            return [avro_default(schema, of, part) for part in value]
        case Map(of):
            return {key: avro_default(schema, of, part) for key, part in value.items()}
        case Named(name):
            return _named_default(schema, name, value)
        case Float():
            return float(value)
    raw = raw_value(type)
    made = value if raw is None else raw(value)
    return made.decode("latin-1") if isinstance(made, bytes) else made


def _named_default(schema: Schema, name: str, value: Any) -> Any:
    definition = schema.definitions[name]
    if isinstance(definition, Enum):
        return symbols_of(name, definition)[value]
    if isinstance(definition, Union):
        tag = value[definition.tag_field]
        member = next(m for m in definition.members if m.tag == tag)
        return _named_default(schema, member.name, value)
    found = {}
    for field in definition.fields:
        if field.name in value:
            found[field.name] = avro_default(schema, field.type, value[field.name])
        elif field.default is not UNSET:
            found[field.name] = avro_default(schema, field.type, field.default)
        else:
            found[field.name] = {} if isinstance(field.type, Nullable) else None  # left out
    return found


def raw_value(type: Type) -> Callable[[str], Any] | None:
    """What makes of a document's text the number or bytes in Avro; None where it stays."""
    raw = raw_of(type)
    if isinstance(type, Decimal) and raw is not None:
        unscaled = raw.of
        return lambda text: _decimal_bytes(unscaled(text))
    return None if raw is None else raw.of


def _decimal_bytes(unscaled: int) -> bytes:
    """Two's complement, big-endian, as short as it can be (Avro's decimal)."""
    return unscaled.to_bytes(
        (8 + (unscaled + (unscaled < 0)).bit_length()) // 8, "big", signed=True
    )
