"""A document taken apart by its schema, with something else made of each value.

The JSON codec makes of a document the same in its one form: defaults filled in, unknown fields
left out, decimals with all digits, moments in UTC. Avro and Protobuf make what their libraries
write. A converter is compiled once per schema into closures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from ..errors import DecodeFailed
from ..schema import leaves
from ..schema.model import (
    Bool,
    Document,
    Enum,
    Field,
    Float,
    Int,
    Kind,
    List,
    Map,
    Named,
    Nullable,
    Record,
    Schema,
    Set,
    Str,
    Type,
    Union,
    Uuid,
)

Conversion = Callable[[Any], Any]


class Unfit(ValueError):
    """A value that its schema does not allow, at a path."""

    def __init__(self, what: str, path: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.path = path


def at(step: str, error: Exception) -> Unfit:
    """The same failure, one step further out."""
    if isinstance(error, Unfit):
        return Unfit(error.what, step + error.path)
    if isinstance(error, KeyError):
        return Unfit(f"no field {error}", step)
    return Unfit(f"{error}" or error.__class__.__name__, step)


FAILURES = (ValueError, TypeError, KeyError, OverflowError, AttributeError)
"""What a value of the wrong kind may cause."""


def document_by(label: str, read: Conversion, value: Any) -> Document:
    """What a conversion makes of what a library has read. Raises DecodeFailed, with the path."""
    try:
        found: Document = read(value)
    except FAILURES as error:
        unfit = at("", error)
        raise DecodeFailed(
            f"{label} at ${unfit.path}: {unfit.what}", expected="what its schema says"
        ) from None
    return found


Otherwise = Callable[[dict[str, Any], str], None] | None
"""What is done where a field is not there; None: it must be."""


def nothing(_found: dict[str, Any], _key: str) -> None:
    """What is left out stays left out."""


def filled(default: Any, convert: Conversion) -> Otherwise:
    """A default is put there, made anew each time: never a shared object. UNSET: there is none."""
    if default is UNSET:
        return None

    def fill(found: dict[str, Any], key: str) -> None:
        found[key] = convert(default)

    return fill


Definitions = dict[str, Conversion]


def made_once(known: Definitions, name: str, make: Callable[[], Conversion]) -> Conversion:
    """The conversion of a definition; made once, since a record may hold itself."""
    found = known.get(name)
    if found is None:

        def later(value: Any) -> Any:
            return known[name](value)

        known[name] = later
        found = known[name] = make()
    return found


class Converter:
    """How each kind of value is made; by default the same in its canonical form."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._named: dict[str, Conversion] = {}

    def root(self) -> Conversion:
        """The conversion of the event itself."""
        return self.type(Named(self.schema.root))

    def type(self, type: Type) -> Conversion:
        """The conversion of a type's values."""
        match type:
            case Nullable(of):
                return self.nullable(of)
            case List(of) | Set(of):
                return self.list(self.type(of))
            case Map(of):
                return self.map(self.type(of))
            case Named(name):
                return self.named(name)
        return self.leaf(type)

    def named(self, name: str) -> Conversion:
        """The conversion of a definition."""

        def make() -> Conversion:
            definition = self.schema.definitions[name]
            if isinstance(definition, Enum):
                return self.enum(name, definition)
            if isinstance(definition, Union):
                return self.union(name, definition)
            return self.record(name, definition)

        return made_once(self._named, name, make)

    # ---- kinds

    def leaf(self, type: Type) -> Conversion:
        """A value without parts."""
        raw = leaves.raw_of(type)
        if raw is not None:
            read, write = raw
            return text(lambda value: write(read(value)))
        return integer(type.low, type.high) if isinstance(type, Int) else _PLAIN[type.__class__]

    def nullable(self, of: Type) -> Conversion:
        """A value or None."""
        convert = self.type(of)
        return lambda value: None if value is None else convert(value)

    def list(self, convert: Conversion) -> Conversion:
        """A list of values."""
        read = each(convert)

        def of_list(value: Any) -> Any:
            if value.__class__ is not list:
                raise Unfit(f"got {shown(value)}, expected a list")
            return read(value)

        return of_list

    def map(self, convert: Conversion) -> Conversion:
        """An object by keys."""

        def of_map(value: Any) -> Any:
            if value.__class__ is not dict:
                raise Unfit(f"got {shown(value)}, expected an object")
            found: dict[str, Any] = {}
            key = ""
            try:
                for key, part in value.items():
                    key.encode()
                    found[key] = convert(part)
            except FAILURES as error:
                raise at(f"[{shown(key)}]", error) from None
            return found

        return of_map

    def enum(self, _name: str, enum: Enum) -> Conversion:
        """A symbol; an unknown one is what the enum takes for unknown ones."""
        return self.symbols({symbol.value: symbol.value for symbol in enum.symbols}, enum)

    def symbols(self, known: dict[str, Any], enum: Enum) -> Conversion:
        """What stands for each symbol."""
        default = known[enum.default] if isinstance(enum.default, str) else None

        def of_enum(value: Any) -> Any:
            found = known.get(value, default) if value.__class__ is str else None
            if found is None:
                raise Unfit(f"got {shown(value)}, expected one of {', '.join(known)}"[:300])
            return found

        return of_enum

    def record(self, name: str, record: Record) -> Conversion:
        """An object by fields: what is made of each that is there, or has a default."""
        fields = [(field.name, *self.field(name, field)) for field in record.fields]

        def of_record(value: Any) -> Any:
            if value.__class__ is not dict:
                raise Unfit(f"got {shown(value)}, expected an object")
            found: dict[str, Any] = {}
            key = ""
            try:
                for key, convert, otherwise in fields:
                    if key in value:
                        found[key] = convert(value[key])
                    elif otherwise is not None:
                        otherwise(found, key)
                    else:
                        raise Unfit("missing")
            except FAILURES as error:
                raise at(f".{key}", error) from None
            return found

        return of_record

    def field(self, _record: str, field: Field) -> tuple[Conversion, Otherwise]:
        """The conversion of a field, and what is done where it is not there."""
        convert = self.type(field.type)
        return convert, nothing if field.absent else filled(field.default, convert)

    def union(self, _name: str, union: Union) -> Conversion:
        """An object of one of the records, by its tag."""
        tag_field = union.tag_field
        members = {member.tag: self.named(member.name) for member in union.members}

        def of_union(value: Any) -> Any:
            tag, convert = member_of(value, tag_field, members)
            return {tag_field: tag, **convert(value)}

        return of_union


def each(convert: Conversion) -> Conversion:
    """What is made of each of several values, as a list."""

    def of_each(values: Any) -> list[Any]:
        found: list[Any] = []
        try:
            for part in values:
                found.append(convert(part))
        except FAILURES as error:
            raise at(f"[{len(found)}]", error) from None
        return found

    return of_each


def member_of(value: Any, tag_field: str, members: dict[str, Any]) -> tuple[str, Any]:
    """The tag of a union's value, and what is known of that member."""
    if value.__class__ is not dict:
        raise Unfit(f"got {shown(value)}, expected an object")
    tag = value.get(tag_field)
    found = members.get(tag) if isinstance(tag, str) else None
    if found is None or not isinstance(tag, str):
        expected = ", ".join(members)
        raise Unfit(f"got {shown(tag)}, expected one of {expected}"[:300], f".{tag_field}")
    return tag, found


def shown(value: Any) -> str:
    """A value in a sentence: its beginning, for people."""
    return value.__class__.__name__ if isinstance(value, dict | list) else repr(value)[:40]


def integer(low: int, high: int) -> Conversion:
    """A whole number within bounds."""

    def of_int(value: Any) -> Any:
        if value.__class__ is not int or not low <= value <= high:
            raise Unfit(f"got {shown(value)}, expected a whole number from {low} to {high}")
        return value

    return of_int


def exactly(kind: type, what: str) -> Conversion:
    """A value of just this Python type."""

    def of_kind(value: Any) -> Any:
        if value.__class__ is not kind:
            raise Unfit(f"got {shown(value)}, expected {what}")
        return value

    return of_kind


def text(read: Callable[[str], Any]) -> Conversion:
    """What is made of a string."""

    def of_text(value: Any) -> Any:
        if value.__class__ is not str:
            raise Unfit(f"got {shown(value)}, expected a string")
        return read(value)

    return of_text


def number(value: Any) -> float:
    """A float; a whole number is one, too."""
    if value.__class__ is not float and value.__class__ is not int:
        raise Unfit(f"got {shown(value)}, expected a number")
    return leaves.finite(float(value))


def utf8(value: str) -> str:
    """Text that has a UTF-8 form. Raises ValueError for a lone surrogate."""
    if not value.isascii():
        value.encode()
    return value


_PLAIN: dict[type[Kind], Conversion] = {
    Bool: exactly(bool, "true or false"),
    Float: number,
    Str: text(utf8),
    Uuid: text(leaves.uuid_text),
}
