"""From an event class to its schema: dataclasses, msgspec Structs, pydantic's models. Pure.

The schema says what `codec.encode` writes for the class and what `codec.decode` takes. Whatever
has no image there is refused, with its place. Numbers are given in the order of declaration; the
lock replaces them by those that the names have had before.
"""

from __future__ import annotations

import decimal
import enum
import functools
import math
import operator
import re
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, UNSET, Struct, json

from ..errors import SchemaError
from ..event import EventType, event_type
from .classes import (
    ClassField,
    Engine,
    engine_of,
    fields_of,
    is_record,
    is_shared,
    oddities,
    own_doc,
    unset_types,
)  # fmt: skip
from .model import (
    INT_HIGH,
    INT_LOW,
    Bool,
    Bytes,
    Date,
    Decimal,
    Definition,
    Duration,
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
    Set,
    Str,
    Symbol,
    Time,
    Timestamp,
    Type,
    Union,
    Uuid,
)  # fmt: skip
from .sample import smallest
from .tags import Digits, Tag
from .text import WORDS, type_text
from .valid import wrong_defaults

PLAIN: dict[Any, Type] = {
    bool: Bool(),
    float: Float(),
    str: Str(),
    uuid.UUID: Uuid(),
    date: Date(),
}
LISTS = (list, abc.Sequence, tuple)
SETS = (set, frozenset, abc.Set)
MAPS = (dict, abc.Mapping)
DIGITS_MAX = 1000
"""Of a Decimal: what other languages' decimals hold is far below it."""

DEPTH_MAX = 50
"""Lists and maps inside each other."""

POSSIBLE = (
    "bool, int, float, str, bytes, Decimal, UUID, date, time, an aware datetime, timedelta, an "
    "enum of strings, list, set, dict[str, …], another record, or one of these or None"
)

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def schema_of(cls: type) -> Schema:
    """The schema of an event class.

    Raises SchemaError for what has no image in a schema, with the class and the field, what is
    possible there, and what to do; ConfigurationError for a class that is no event class.
    """
    declared = event_type(cls)
    walk = _Walk(declared, engine_of(cls))
    try:
        root = walk.record(cls, cls.__name__)
    except RecursionError as error:
        raise walk.refused(cls.__name__, "too deep", "fewer classes inside each other") from error
    schema = Schema(
        declared.type,
        declared.version,
        root,
        walk.definitions,
        declared.stream,
        tuple(walk.names[attribute] for attribute in declared.key or ()),
    )
    smallest(schema)
    _check_defaults(schema)
    return schema


def _check_defaults(schema: Schema) -> None:
    for path, expected in wrong_defaults(schema):
        raise SchemaError(
            f"{schema.type} {schema.version}: the default of {path} does not fit its type",
            expected=expected,
        )


class _Walk:
    """Through a class and what is inside it; `place` is `OrderPlaced.lines.cents`."""

    def __init__(self, declared: EventType, engine: Engine) -> None:
        self.event = f"{declared.type} {declared.version}"
        self.engine: Engine = engine
        self.definitions: dict[str, Definition] = {}
        self.known: dict[str, object] = {}
        self.root = declared.cls
        self.names: dict[str, str] = {}

    def refused(
        self, place: str, found: str, expected: str, hint: str | None = None
    ) -> SchemaError:
        """An error that names the event, the field, and what is possible there."""
        return SchemaError(f"{self.event}: {place} is {found}", expected=expected, hint=hint)

    def name(self, name: str, owner: object, place: str) -> bool:
        """Take a name for a definition; whether it is new."""
        if not _IDENTIFIER.match(name) or name in WORDS:
            raise self.refused(
                place, f"called {name!r}", "a name of letters, digits and underscores"
            )
        if name in self.known and self.known[name] != owner:
            raise self.refused(place, f"a second {name}", "one definition for a name", "rename one")
        new = name not in self.known
        self.known[name] = owner
        return new

    # ---- records

    def record(self, cls: type, place: str, *, without: str | None = None) -> str:
        """The name of a class's record; `without` the field that says which of a union it is."""
        if self.name(cls.__name__, (cls, without), place):
            self.definitions[cls.__name__] = Record(())  # it may hold itself
            self.definitions[cls.__name__] = self._record(cls, without)
        return cls.__name__

    def _record(self, cls: type, without: str | None) -> Record:
        place = cls.__name__
        if not is_record(cls):
            raise self.refused(
                place, "no record", "a dataclass, a msgspec Struct or a pydantic model"
            )
        if engine_of(cls) != self.engine:
            expected = f"classes that {self.engine} reads, as {self.root.__name__} is one"
            raise self.refused(place, f"read by {engine_of(cls)}", expected)
        for found, hint in oddities(cls):
            raise self.refused(
                place, f"declared with {found}", "what every reader understands", hint
            )
        if getattr(cls, "__parameters__", ()):
            raise self.refused(place, "generic", "a class without type parameters")
        try:
            found_fields = fields_of(cls)
        except (NameError, TypeError) as error:
            raise self.refused(
                place, f"not readable: {error}", "annotations that can be resolved",
                "define the class and what it names at the top of a module",
            ) from error  # fmt: skip
        if issubclass(cls, Struct) and without is None and cls.__struct_config__.tag is not None:
            raise self.refused(
                place, "a tagged Struct", "a tag only in a union",
                "an event's type stands in its headers: leave out tag=",
            )  # fmt: skip
        if cls is self.root:
            self.names = {field.attribute: field.name for field in found_fields}
        fields = [self.field(cls, f) for f in found_fields if f.name != without]
        names = [field.name for field in fields]
        if len(set(names)) < len(names) or without in names:
            raise self.refused(
                place, "a record with one name twice", "different names in documents"
            )
        numbered = (msgspec.structs.replace(f, number=n) for n, f in enumerate(fields, 1))
        omits = issubclass(cls, Struct) and cls.__struct_config__.omit_defaults
        return Record(tuple(numbered), doc=own_doc(cls), omits=omits)

    def field(self, cls: type, field: ClassField) -> Field:
        """A field, not numbered yet."""
        place = f"{cls.__name__}.{field.attribute}"
        if field.reads is not None:
            found = f"written as {field.name!r} and read as {field.reads!r}"
            raise self.refused(place, found, "one name for both", "give it one alias")
        if field.unwritten:
            hint = "leave exclude= out, or make it a property: readers would miss it"
            raise self.refused(
                place, "left out when it is written", "fields that are written", hint
            )
        annotation, metadata = _unwrapped(field.annotation, field.metadata)
        annotation, absent = _without_unset(annotation)
        type = self.image(annotation, metadata, place)
        if type_text(type).count("[") > DEPTH_MAX:
            raise self.refused(
                place, "too deep", f"at most {DEPTH_MAX} lists and maps in each other"
            )
        default = UNSET if absent else self._default(field, type, place)
        if absent and field.default not in unset_types() and field.default is not UNSET:
            raise self.refused(place, "possibly absent, without = UNSET", "UNSET as its default")
        tag = next((m for m in metadata if isinstance(m, Tag)), Tag())
        pydantic_says = next((m for m in metadata if type_name(m) == "FieldInfo"), None)
        return Field(
            field.name,
            0,
            type,
            default,
            absent,
            tag.pii,
            tag.deprecated or str(getattr(pydantic_says, "deprecated", None) or ""),
            tag.doc or str(getattr(pydantic_says, "description", None) or ""),
        )

    def _default(self, field: ClassField, type: Type, place: str) -> Any:
        """A field's default as it stands in documents; UNSET if there is none."""
        if field.factory is not None:
            try:
                value, other = field.factory(), field.factory()
            except Exception as error:
                found = f"with a default that fails: {error}"
                raise self.refused(place, found, "a value") from error
            same = value is other
        elif field.default is NODEFAULT:
            return UNSET
        else:
            value, other, same = field.default, field.default, self.engine == "msgspec"
        if same and is_shared(value):
            raise self.refused(
                place, "one object as everybody's default", "a frozen class, or default_factory",
                "whoever changes what was decoded would change the next event",
            )  # fmt: skip
        first, second = (_document(self.engine, field, type, v, place) for v in (value, other))
        if first != second:
            raise self.refused(
                place, "different at every call of its default_factory", "the same value each time",
                "make it required: who emits gives the value, and readers take the event's",
            )  # fmt: skip
        return first

    # ---- types

    def image(self, annotation: Any, metadata: tuple[Any, ...], place: str) -> Type:
        """The type of an annotation with what is said beside it."""
        annotation, metadata = _unwrapped(annotation, metadata)
        if not isinstance(annotation, abc.Hashable):
            raise self.refused(place, _shown(annotation), POSSIBLE)
        self._check_serializers(metadata, place)
        special = _SPECIAL.get(annotation)
        if special is not None:
            return special(self, metadata, place)
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin in (typing.Union, types.UnionType):
            return self.alternatives(arguments, metadata, place)
        if origin is Literal:
            return self.literal(arguments, place)
        if origin is not None or annotation in (*LISTS, *SETS, *MAPS):
            return self.container(annotation, origin, arguments, place)
        return self.of_class(annotation, place)

    def of_class(self, annotation: Any, place: str) -> Type:
        """Enums and records by name, and types without anything to say beside them."""
        if annotation in PLAIN:
            return PLAIN[annotation]
        if type_name(annotation) == "AwareDatetime":
            return Timestamp()
        if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
            return self.enum(annotation, place)
        if isinstance(annotation, type) and is_record(annotation):
            return self.alone(annotation, place)
        raise self.refused(place, _shown(annotation), POSSIBLE)

    def _check_serializers(self, metadata: tuple[Any, ...], place: str) -> None:
        for one in metadata:
            if type(one).__module__ == "pydantic.functional_serializers":
                raise self.refused(place, f"written by {type_name(one)}", "the type's own form")
            if type_name(one) == "Json":
                raise self.refused(place, "text that holds JSON", "the type that it holds")

    def container(self, annotation: Any, origin: Any, arguments: Any, place: str) -> Type:
        """Lists, sets and maps."""
        if origin in MAPS and len(arguments) == 2:
            if _unwrapped(arguments[0], ())[0] is not str:
                raise self.refused(
                    place, _shown(annotation), "dict[str, …]",
                    "names in documents are strings: or make it a list of records",
                )  # fmt: skip
            return Map(self.image(arguments[1], (), place))
        if origin is tuple and not (len(arguments) == 2 and arguments[1] is ...):
            expected = "tuple[X, ...]: elements of one type"
            raise self.refused(
                place, _shown(annotation), expected, "or a record: its fields have names"
            )
        if origin in LISTS and arguments:
            return List(self.image(arguments[0], (), place))
        if origin in SETS and len(arguments) == 1:
            return Set(self.image(arguments[0], (), place))
        raise self.refused(place, _shown(annotation), "list[X], set[X] or dict[str, X]")

    def alternatives(self, arguments: Any, metadata: tuple[Any, ...], place: str) -> Type:
        """X | None, and unions of records with a tag."""
        several = [a for a in arguments if a is not types.NoneType]
        if any(one in unset_types() for one in several):
            raise self.refused(
                place, "possibly absent within a value", "UNSET only as a field's value"
            )
        if len(several) == 1:
            image = self.image(several[0], metadata, place)
        else:
            image = self.union(several, metadata, place)
        if len(several) == len(arguments) or isinstance(image, Nullable):
            return image
        return Nullable(image)

    def literal(self, values: Any, place: str) -> Type:
        """Literal["a", "b"] as an enum of its own."""
        texts = [value for value in values if value is not None]
        if not texts or not all(type(text) is str for text in texts):
            raise self.refused(place, f"Literal{[*values]}", "strings")
        image = self.define(place, Enum(_symbols(texts)), tuple(texts))
        return Nullable(image) if len(texts) < len(values) else image

    def enum(self, cls: type[enum.Enum], place: str) -> Type:
        """An enum by its values."""
        values = [member.value for member in cls]
        if not values or not all(isinstance(value, str) for value in values):
            raise self.refused(
                place, f"{cls.__name__}, an enum of {_shown(type(values[0])) if values else ''}",
                "an enum of strings", "a number in an event tells its readers nothing",
            )  # fmt: skip
        if self.name(cls.__name__, cls, place):
            try:
                default: Any = cls("\0").value  # what its `_missing_` takes for unknown ones
            except ValueError:
                default = UNSET
            symbols = _symbols([str(value) for value in values])
            self.definitions[cls.__name__] = Enum(symbols, default, doc=own_doc(cls))
        return Named(cls.__name__)

    def alone(self, cls: type, place: str) -> Type:
        """A record outside of a union. A Struct writes its tag there, too."""
        if self.engine == "msgspec" and _tag_of(cls) is not None:
            return self.union([cls], (), place)
        return Named(self.record(cls, place))

    def union(self, classes: list[Any], metadata: tuple[Any, ...], place: str) -> Type:
        """Records, of which a tag says which it is."""
        tags = self._tags(classes, metadata)
        if tags is None or len({field for _, field, _ in tags}) != 1:
            shown = " | ".join(map(_shown, classes))
            raise self.refused(
                place, shown, "one type, or records with a tag",
                'msgspec: class Card(Struct, tag="card"); pydantic: Field(discriminator="kind")',
            )  # fmt: skip
        members = tuple(
            Member(tag, self.record(cls, place, without=field), number)
            for number, (cls, field, tag) in enumerate(tags, 1)
        )
        owner = tuple(cls for cls, _, _ in tags)
        return self.define(place, Union(tags[0][1], members), owner)

    def _tags(self, classes: list[Any], metadata: Any) -> list[tuple[Any, str, str]] | None:
        """Each class with its tag's field and text; None if one has none."""
        found: list[tuple[Any, str, str]] = []
        names = (getattr(m, "discriminator", None) for m in metadata)
        discriminator = next((name for name in names if name is not None), None)
        for cls in classes:
            tag = _tag_of(cls) if self.engine == "msgspec" else _literal_of(cls, discriminator)
            if tag is None:
                return None
            found.append((cls, *tag))
        return found

    def define(self, place: str, definition: Definition, owner: object) -> Named:
        """A definition without a name of its own is called by its field."""
        cls, _, field = place.rpartition(".")
        name = cls.rpartition(".")[2] + "".join(p[:1].upper() + p[1:] for p in field.split("_"))
        if self.name(name, owner, place):
            self.definitions[name] = definition
        return Named(name)


# ---- types about which more is to be said


def _int(walk: _Walk, metadata: tuple[Any, ...], place: str) -> Type:
    if not metadata:
        return Int()
    low, high = INT_LOW, INT_HIGH
    for name, least in _LEAST.items():
        low = max((low, *map(least, _bounds(metadata, name))))
    for name, most in _MOST.items():
        high = min((high, *map(most, _bounds(metadata, name))))
    wrong = next((b for n in (*_LEAST, *_MOST) for b in _bounds(metadata, n) if abs(b) > 2**63), 0)
    if wrong or low > high:
        found = f"an int with the bound {wrong}" if wrong else f"an int from {low} to {high}"
        raise walk.refused(place, found, "64 bits with a sign, and one value at least")
    return Int(low, high)


_LEAST = {"ge": math.ceil, "gt": lambda bound: math.floor(bound) + 1}
_MOST = {"le": math.floor, "lt": lambda bound: math.ceil(bound) - 1}


def _bounds(metadata: tuple[Any, ...], name: str) -> list[Any]:
    found = (getattr(one, name, None) for one in metadata)
    return [bound for bound in found if isinstance(bound, int | float)]


def _bytes(walk: _Walk, metadata: tuple[Any, ...], place: str) -> Type:
    encoder = next((m.encoder for m in metadata if hasattr(m, "encoder")), None)
    if walk.engine == "pydantic" and type_name(encoder) != "Base64Encoder":
        raise walk.refused(
            place, "bytes", "pydantic.Base64Bytes",
            "pydantic writes bytes as text, and only what is UTF-8",
        )  # fmt: skip
    return Bytes()


def _decimal(walk: _Walk, metadata: tuple[Any, ...], place: str) -> Type:
    for one in metadata:
        says = one.__class__ is Digits
        precision = getattr(one, "precision" if says else "max_digits", None)
        scale = getattr(one, "scale" if says else "decimal_places", None)
        if precision is not None and scale is not None:
            if not 1 <= precision <= DIGITS_MAX or not 0 <= scale <= precision:
                expected = f"1 to {DIGITS_MAX} digits, as many or fewer behind the point"
                raise walk.refused(
                    place, f"a Decimal of {precision} digits, scale {scale}", expected
                )
            return Decimal(precision, scale)
    raise walk.refused(
        place, "a Decimal of any size", "Annotated[Decimal, Digits(precision, scale)]",
        "from oncebox.schema import Digits; pydantic: Field(max_digits=…, decimal_places=…)",
    )  # fmt: skip


def _datetime(walk: _Walk, metadata: tuple[Any, ...], place: str) -> Type:
    if any(getattr(one, "tz", None) is True for one in metadata) and walk.engine == "msgspec":
        return Timestamp()
    raise walk.refused(
        place, "a datetime that may be without a zone", "a datetime that knows its zone",
        "from oncebox.schema import Aware; pydantic: AwareDatetime",
    )  # fmt: skip


def _time(walk: _Walk, metadata: tuple[Any, ...], place: str) -> Type:
    if any(getattr(one, "tz", None) is True for one in metadata):
        raise walk.refused(place, "a time with a zone", "a time without one, or an aware datetime")
    return Time()


def _timedelta(walk: _Walk, metadata: tuple[Any, ...], place: str) -> Type:
    del metadata
    if walk.engine == "pydantic":
        raise walk.refused(
            place, "a timedelta of pydantic", "an int of seconds or microseconds",
            "pydantic writes 365 days as a year, which other readers do not take",
        )  # fmt: skip
    return Duration()


_SPECIAL: dict[Any, Callable[[_Walk, tuple[Any, ...], str], Type]] = {
    int: _int,
    bytes: _bytes,
    decimal.Decimal: _decimal,
    datetime: _datetime,
    time: _time,
    timedelta: _timedelta,
}


# ---- annotations


def _unwrapped(annotation: Any, metadata: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without Annotated, NewType and aliases, and what they said beside it."""
    while True:
        if hasattr(annotation, "__metadata__"):
            said = annotation.__metadata__  # pydantic's Field(le=9) holds what it says
            inner = (m for one in said for m in (*getattr(one, "metadata", ()), one))
            metadata = (*inner, *metadata)
            annotation = annotation.__origin__
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type_name(annotation) == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation, metadata


def _without_unset(annotation: Any) -> tuple[Any, bool]:
    """An annotation without UnsetType, and whether it was there."""
    if get_origin(annotation) not in (typing.Union, types.UnionType):
        return annotation, False
    arguments = get_args(annotation)
    rest = tuple(one for one in arguments if one not in unset_types())
    if len(rest) == len(arguments) or not rest:
        return annotation, False
    return functools.reduce(operator.or_, rest), True


def _tag_of(cls: Any) -> tuple[str, str] | None:
    """A Struct's tag: its field and text."""
    if not (isinstance(cls, type) and issubclass(cls, Struct)):
        return None
    config = cls.__struct_config__
    if not isinstance(config.tag, str) or config.tag_field is None:
        return None
    return config.tag_field, config.tag


def _literal_of(cls: Any, discriminator: Any) -> tuple[str, str] | None:
    """A pydantic model's tag: the field's name in documents, and its one text."""
    if not is_record(cls) or not isinstance(discriminator, str):
        return None
    for field in fields_of(cls):
        if field.attribute == discriminator and get_origin(field.annotation) is Literal:
            texts = get_args(field.annotation)
            if len(texts) == 1 and isinstance(texts[0], str):
                return field.name, str.__str__(texts[0])  # an enum's member by its value
    return None


def _symbols(values: list[str]) -> tuple[Symbol, ...]:
    return tuple(Symbol(value, number) for number, value in enumerate(values, 1))


def _document(engine: Engine, field: ClassField, type: Type, value: Any, place: str) -> Any:
    """A default in document form; the elements of sets in order."""
    try:
        if engine == "pydantic":
            from pydantic import TypeAdapter

            metadata = tuple(m for m in field.metadata if type_name(m) != "FieldInfo")
            hint: Any = field.annotation
            for one in metadata:
                hint = typing.Annotated[hint, one]
            adapter: TypeAdapter[Any] = TypeAdapter(hint)
            written = adapter.dump_json(value, by_alias=True, warnings="error")
        else:
            written = json.encode(value, order="deterministic")
    except Exception as error:
        raise SchemaError(f"{place}: its default cannot be written: {error}") from error
    found = json.decode(written)
    if isinstance(type, Set) and isinstance(found, list):
        found.sort(key=lambda part: json.encode(part, order="sorted"))
    return found


def type_name(value: Any) -> str:
    """The name of a value's class, or of a class."""
    return value.__name__ if isinstance(value, type) else type(value).__name__


def _shown(annotation: Any) -> str:
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return " | ".join(map(_shown, get_args(annotation)))
    plain = isinstance(annotation, type) and not get_args(annotation)
    return annotation.__name__ if plain else str(annotation)
