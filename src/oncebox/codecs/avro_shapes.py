"""What a reader wants of Avro data: shapes, from a schema of ours or from any Avro schema.

A shape is an Avro schema as the reader has it, beside the form in which values are wanted: as a
document's, or as the Python values that fastavro gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import UNSET

from ..schema.images.avro import ABSENT, Branch, branches_of, symbols_of
from ..schema.images.names import names_of, namespace
from ..schema.leaves import LOOKS
from ..schema.model import (
    Decimal,
    Enum,
    Field,
    Int,
    List,
    Map,
    Named,
    Record,
    Schema,
    Set,
    Type,
)
from .convert import Converter

PRIMITIVES = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}


class Left(NamedTuple):
    """The value of a field that was left out."""


LEFT_OUT = Left()


class Leaf(NamedTuple):
    """A primitive or a fixed of `size` bytes, with its logical type."""

    avro: str
    logical: str = ""
    precision: int = 0
    scale: int = 0
    size: int = 0
    names: tuple[str, ...] = ()
    left_out: bool = False
    bounds: tuple[int, int] | None = None


class Array(NamedTuple):
    """A list of items."""

    items: Any


class Mapping(NamedTuple):
    """An object by keys."""

    values: Any


class Choice(NamedTuple):
    """A union: one of several shapes."""

    branches: tuple[Any, ...]


class Symbols(NamedTuple):
    """An enum: what each symbol is read as, and unknown ones (None: refused)."""

    names: tuple[str, ...]
    symbols: dict[str, str]
    default: str | None


class Part(NamedTuple):
    """A field, `names` first its own, then its aliases; `otherwise`: what gives its value where
    the writer has no such field (None: nothing does).
    """

    key: str
    names: tuple[str, ...]
    shape: Any
    otherwise: Callable[[], Any] | None


@dataclass(eq=False)
class Fields:
    """A record. `tag`: field and value that a union's member has besides. `empty`: it stands for
    what was left out.
    """

    names: tuple[str, ...]
    parts: list[Part] = field(default_factory=list)
    tag: tuple[str, str] | None = None
    left_out: bool = False


class Shapes:
    """The shapes of a schema of ours."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.names = names_of(schema, "Avro")
        self.namespace = namespace(schema.type)
        self.converter = Converter(schema)
        self.records: dict[tuple[str, tuple[str, str] | None], Fields] = {}

    def root(self) -> Any:
        """The shape of the event itself."""
        return self.record(self.schema.root, None)

    def of(self, type: Type, *, absent: bool = False) -> Any:
        branches = branches_of(self.schema, type, absent=absent)
        nullable = any(branch.type is None and not branch.left_out for branch in branches)
        shapes = [self.branch(branch, nullable=nullable) for branch in branches]
        return shapes[0] if len(shapes) == 1 else Choice(tuple(shapes))

    def branch(self, branch: Branch, *, nullable: bool) -> Any:  # noqa: PLR0911
        if branch.left_out:
            if nullable:
                return Fields((f"{self.namespace}.{ABSENT}",), left_out=True)
            return Leaf("null", left_out=True)
        type = branch.type
        match type:
            case None:
                return Leaf("null")
            case Int(low, high) if type != Int():
                return Leaf("long", bounds=(low, high))
            case Decimal(precision, scale):
                return Leaf("bytes", "decimal", precision, scale)
            case List(of) | Set(of):
                return Array(self.of(of))
            case Map(of):
                return Mapping(self.of(of))
            case Named(name):
                definition = self.schema.definitions[name]
                if isinstance(definition, Enum):
                    avro = {v: k for k, v in symbols_of(name, definition).items()}
                    default = definition.default if isinstance(definition.default, str) else None
                    return Symbols((f"{self.namespace}.{self.names[name]}",), avro, default)
                return self.record(name, branch.tag)
        return leaf_of(resolved(LOOKS[type.__class__].avro, {}))

    def record(self, name: str, tag: tuple[str, str] | None) -> Fields:
        known = self.records.get((name, tag))
        if known is None:
            known = Fields((f"{self.namespace}.{self.names[name]}",), tag=tag)
            self.records[name, tag] = known
            definition = self.schema.definitions[name]
            assert isinstance(definition, Record)
            known.parts = [self.part(field) for field in definition.fields]
        return known

    def part(self, field: Field) -> Part:
        shape = self.of(field.type, absent=field.absent)
        otherwise: Callable[[], Any] | None = None
        if field.absent:
            otherwise = lambda: LEFT_OUT  # noqa: E731
        elif field.default is not UNSET:
            convert, default = self.converter.type(field.type), field.default
            otherwise = lambda: convert(default)  # noqa: E731
        return Part(field.name, (field.name,), shape, otherwise)


class Foreign:
    """The shapes of a parsed Avro schema; `named`: its named types by full name. `leaf` makes a
    value of what Avro has, for defaults.
    """

    def __init__(self, named: dict[str, Any], leaf: Callable[[Leaf, Any], Any]) -> None:
        self.named = named
        self.leaf = leaf
        self.records: dict[str, Fields] = {}

    def of(self, schema: Any) -> Any:
        if isinstance(schema, list):
            if any(isinstance(branch, list) for branch in schema):
                raise ValueError("a union inside a union")
            return Choice(tuple(self.of(branch) for branch in schema))
        schema = resolved(schema, self.named)
        kind = schema["type"]
        if kind == "array":
            return Array(self.of(schema["items"]))
        if kind == "map":
            return Mapping(self.of(schema["values"]))
        if kind == "enum":
            return Symbols(names(schema), {s: s for s in schema["symbols"]}, schema.get("default"))
        if kind in ("record", "error"):
            return self.record(schema)
        return leaf_of(schema)

    def record(self, schema: dict[str, Any]) -> Fields:
        known = self.records.get(schema["name"])
        if known is None:
            known = self.records[schema["name"]] = Fields(names(schema))
            for field in schema["fields"]:
                shape = self.of(field["type"])
                otherwise: Callable[[], Any] | None = None
                if "default" in field:
                    otherwise = self.default(shape, field["default"])
                called = (field["name"], *field.get("aliases", ()))
                known.parts.append(Part(field["name"], called, shape, otherwise))
        return known

    def default(self, shape: Any, value: Any) -> Callable[[], Any]:
        return lambda: self.made(shape, value)

    def made(self, shape: Any, value: Any) -> Any:
        """A default, complete, as it would be read. Raises ValueError where it does not fit."""
        match shape:
            case Choice(branches):
                for branch in branches:
                    try:
                        return self.made(branch, value)
                    except (ValueError, TypeError, KeyError):
                        continue
                raise ValueError(f"default {value!r} fits no branch")
            case Array(items):
                if not isinstance(value, list):
                    raise ValueError(f"default {value!r} is no array")  # noqa: TRY004
                return [self.made(items, part) for part in value]
            case Mapping(values):
                return {key: self.made(values, part) for key, part in value.items()}
            case Symbols():
                return shape.symbols[value]
            case Fields():
                return {part.key: self.made_part(part, value) for part in shape.parts}
        assert isinstance(shape, Leaf)
        return self.leaf(shape, _raw(shape, value))

    def made_part(self, part: Part, value: dict[str, Any]) -> Any:
        if part.key in value:
            return self.made(part.shape, value[part.key])
        if part.otherwise is None:
            raise ValueError(f"the default has no {part.key}")
        return part.otherwise()


_PYTHON: dict[str, Any] = {
    "null": type(None), "boolean": bool, "int": int, "long": int, "float": (int, float),
    "double": (int, float), "string": str, "bytes": str, "fixed": str,
}  # fmt: skip


def _raw(leaf: Leaf, value: Any) -> Any:
    """What stands in Avro data for a default's JSON."""
    expected = _PYTHON[leaf.avro]
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ValueError(f"default {value!r} is no {leaf.avro}")
    if isinstance(value, str) and leaf.avro in ("bytes", "fixed"):
        return value.encode("latin-1")
    return float(value) if leaf.avro in ("float", "double") else value


def names(schema: dict[str, Any]) -> tuple[str, ...]:
    """A named type's full name, then its aliases."""
    return (schema["name"], *schema.get("aliases", ()))


def resolved(schema: Any, named: dict[str, Any]) -> dict[str, Any]:
    """An Avro type that is no union, as an object with its "type"."""
    if isinstance(schema, str):
        if schema in PRIMITIVES:
            return {"type": schema}
        found: dict[str, Any] = named[schema]
        return found
    if isinstance(schema["type"], str) and schema["type"] in named:
        return resolved(schema["type"], named)
    if isinstance(schema["type"], dict):
        return resolved(schema["type"], named)
    plain: dict[str, Any] = schema
    return plain


def leaf_of(schema: dict[str, Any]) -> Leaf:
    """A primitive or fixed type, with its logical type."""
    logical, size = schema.get("logicalType"), schema.get("size", 0)
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"a size of {size!r}")
    return Leaf(
        schema["type"],
        logical if isinstance(logical, str) else "",
        schema.get("precision", 0),
        schema.get("scale", 0),
        size,
        names(schema) if schema["type"] == "fixed" else (),
    )
