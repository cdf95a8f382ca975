"""A schema as Protobuf writes it: proto3, as a descriptor made directly and as text.

Numbers are the schema's own; what was retired is reserved. What Protobuf has no word for: presence
is explicit (`optional`), and no value of its own stands for null. So a wrapper record holds what
would otherwise be lost: a null inside a list or map, or beside "left out" or a default that is not
null; a list inside a list; a list or map that may be missing. Whole numbers are int64, decimals,
UUIDs, dates and times strings as in documents, moments and durations google.protobuf's. `pii` is
`debug_redact`, and the JSON names are the documents' names.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from msgspec import UNSET

from ...errors import MissingDependency, SchemaError
from ..leaves import LOOKS
from ..model import (
    Enum,
    Field,
    List,
    Map,
    Named,
    Nullable,
    Schema,
    Set,
    Type,
    Union,
)
from .names import camel, checked, identifier, names_of, namespace

NUMBER_MAX = 2**29 - 1
RESERVED = range(19_000, 20_000)
"""Field numbers that Protobuf keeps for itself."""

_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Plain(NamedTuple):
    """A field or element as it stands: of a type that is neither nullable nor a container."""

    type: Type


class Repeated(NamedTuple):
    """A repeated field of elements."""

    of: Shape


class Keyed(NamedTuple):
    """A map field of values."""

    of: Shape


class Wrapped(NamedTuple):
    """A record of its own with one field, `value`, `items` or `entries`, that has number 1."""

    name: str
    of: Shape
    null: bool
    """Whether an empty one stands for null."""

    @property
    def field(self) -> str:
        """What its field is called."""
        match self.of:
            case Repeated():
                return "items"
            case Keyed():
                return "entries"
        return "value"


Shape = Plain | Repeated | Keyed | Wrapped


class Shapes:
    """How the types of a schema stand in Protobuf."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.names = names_of(schema, "Protobuf")

    def field(self, field: Field) -> Shape:
        """The shape of a field. Without a wrapper, one that is not there stands for null, for an
        empty container, or for what is missing.
        """
        type, default = field.type, field.default
        if isinstance(type, Nullable):
            if field.absent or (default is not UNSET and default is not None):
                return self.element(type)
            return self.element(type.of)
        if isinstance(type, List | Set | Map):
            wrapped = self.element(type)
            assert isinstance(wrapped, Wrapped)
            return wrapped if field.absent or default else wrapped.of  # UNSET is false
        return Plain(type)

    def element(self, type: Type) -> Shape:
        """The shape of a value that has to be there whole: in a list, map or wrapper."""
        match type:
            case Nullable(of):
                inner = self.element(of)
                return Wrapped(f"Nullable{self.said(of)}", inner, null=True)
            case List(of) | Set(of):
                return Wrapped(f"List{self.said(of)}", Repeated(self.element(of)), null=False)
            case Map(of):
                return Wrapped(f"Map{self.said(of)}", Keyed(self.element(of)), null=False)
        return Plain(type)

    def said(self, type: Type) -> str:
        """A type in the name of a wrapper."""
        match type:
            case Nullable(of):
                return f"Nullable{self.said(of)}"
            case List(of) | Set(of):
                return f"List{self.said(of)}"
            case Map(of):
                return f"Map{self.said(of)}"
            case Named(name):
                return self.names.get(name, name)
        return type.__class__.__name__

    def member_names(self, name: str, union: Union) -> dict[str, str]:
        """What the members of a union are called in its oneof, by tag."""
        return _apart(
            name, {member.tag: (_snake(member.tag), member.number) for member in union.members}
        )

    def symbol_names(self, name: str, enum: Enum) -> dict[str, str]:
        """What the symbols of an enum are called, by value; all within one package."""
        prefix = _CAPITAL.sub("_", self.names[name]).upper()
        found = {
            s.value: (f"{prefix}_{identifier(s.value).upper()}", s.number) for s in enum.symbols
        }
        return _apart(name, found, f"{prefix}_UNSPECIFIED")


def _snake(text: str) -> str:
    return identifier(_CAPITAL.sub("_", text)).lower()


def _apart(name: str, names: dict[str, tuple[str, int]], *taken: str) -> dict[str, str]:
    """Names that are different: of two that are the same the later one gets its number."""
    found: dict[str, str] = {}
    seen = set(taken)
    for key, (said, number) in names.items():
        found[key] = said if said not in seen else f"{said}_{number}"
        if found[key] in seen:
            raise SchemaError(f"{name}: {key!r} has no name of its own in Protobuf")
        seen.add(found[key])
    return found


def descriptor(schema: Schema) -> Any:
    """A `FileDescriptorProto` whose first record is the event itself. Raises SchemaError for names
    and numbers that Protobuf does not allow.
    """
    return _File(schema).made()


def proto(schema: Schema) -> str:
    """The text of a .proto file."""
    descriptor_pb2()  # which says what is missing
    from .prototext import written

    file = _File(schema)
    return written(file.made(), file.docs)


def file_name(schema: Schema) -> str:
    """The name of a schema's .proto file."""
    return f"{namespace(schema.type).replace('.', '/')}.proto"


def descriptor_pb2() -> Any:
    """Protobuf's descriptors. Raises MissingDependency."""
    try:
        from google.protobuf import descriptor_pb2
    except ImportError as error:
        raise MissingDependency(
            "Protobuf needs google's protobuf", hint='pip install "oncebox[protobuf]"'
        ) from error
    return descriptor_pb2


class _File:
    """A file descriptor in the making; `docs`: comments by full name."""

    def __init__(self, schema: Schema) -> None:
        pb2 = descriptor_pb2()
        self.types: Any = pb2.FieldDescriptorProto
        self.schema = schema
        self.shapes = Shapes(schema)
        self.package = namespace(schema.type)
        self.docs: dict[str, str] = {}
        self.file = pb2.FileDescriptorProto(
            name=file_name(schema), package=self.package, syntax="proto3"
        )
        self.wrappers: dict[str, Wrapped] = {}

    def made(self) -> Any:
        if not self.file.message_type:
            definitions = self.schema.definitions
            order = [self.schema.root, *(n for n in definitions if n != self.schema.root)]
            for name in order:
                self.definition(name)
            for needs in ("timestamp", "duration"):
                if f".google.protobuf.{needs.capitalize()}" in str(self.file):
                    self.file.dependency.append(f"google/protobuf/{needs}.proto")
        return self.file

    def definition(self, name: str) -> None:
        definition = self.schema.definitions[name]
        full = self.shapes.names[name]
        self.docs[full] = definition.doc
        if isinstance(definition, Enum):
            self.enum(name, full, definition)
            return
        made = self.file.message_type.add(name=full)
        if isinstance(definition, Union):
            made.oneof_decl.add(name="value")
            names = self.shapes.member_names(name, definition)
            for member in definition.members:
                field = self.add(made, names[member.tag], member.number, Plain(Named(member.name)))
                field.oneof_index = 0
        else:
            for field in definition.fields:
                self.field(made, name, field)
        for number in sorted(set(definition.retired_numbers)):
            made.reserved_range.add(start=number, end=number + 1)
        retired = definition.retired_names
        if isinstance(definition, Union):
            retired = tuple(map(_snake, retired))
        live = {field.name for field in made.field}
        made.reserved_name.extend(n for n in dict.fromkeys(retired) if n not in live)

    def enum(self, name: str, full: str, enum: Enum) -> None:
        made = self.file.enum_type.add(name=full)
        names = self.shapes.symbol_names(name, enum)
        prefix = _CAPITAL.sub("_", full).upper()
        made.value.add(name=f"{prefix}_UNSPECIFIED", number=0)
        for symbol in enum.symbols:
            made.value.add(name=names[symbol.value], number=symbol.number)
        for number in sorted(set(enum.retired_numbers)):
            made.reserved_range.add(start=number, end=number)
        retired = dict.fromkeys(f"{prefix}_{identifier(n).upper()}" for n in enum.retired_names)
        made.reserved_name.extend(n for n in retired if n not in names.values())

    def field(self, message: Any, record: str, field: Field) -> None:
        path = f"{record}.{field.name}"
        name = checked(field.name, path, "Protobuf")
        made = self.add(message, name, field.number, self.shapes.field(field))
        if camel(name) != name:
            made.json_name = name
        comment = [field.doc] if field.doc else []
        if field.deprecated:
            made.options.deprecated = True
            comment.append(f"Deprecated: {field.deprecated}")
        if field.pii:
            made.options.debug_redact = True
        self.docs[f"{message.name}.{name}"] = "\n".join(comment)

    def add(self, message: Any, name: str, number: int, shape: Shape) -> Any:
        """A field with a shape. Raises SchemaError for a number outside the rules."""
        if not 1 <= number <= NUMBER_MAX or number in RESERVED:
            raise SchemaError(
                f"{message.name}.{name}: number {number}",
                expected=f"1 to {NUMBER_MAX}, and not 19000 to 19999",
            )
        made = message.field.add(name=name, number=number, label=self.types.LABEL_OPTIONAL)
        if isinstance(shape, Repeated):
            made.label = self.types.LABEL_REPEATED
            self.set_type(made, shape.of)
        elif isinstance(shape, Keyed):
            entry = message.nested_type.add(name=f"{_pascal(name)}Entry")
            entry.options.map_entry = True
            for part, its_number in (("key", 1), ("value", 2)):
                inner = entry.field.add(name=part, number=its_number)
                inner.label = self.types.LABEL_OPTIONAL
                if part == "key":
                    inner.type = self.types.TYPE_STRING
                else:
                    self.set_type(inner, shape.of)
            made.label, made.type = self.types.LABEL_REPEATED, self.types.TYPE_MESSAGE
            made.type_name = f".{self.package}.{message.name}.{entry.name}"
        else:
            self.set_type(made, shape)
            if made.type != self.types.TYPE_MESSAGE:
                made.proto3_optional = True
                made.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{name}")
        return made

    def set_type(self, made: Any, shape: Shape) -> None:
        types = self.types
        if isinstance(shape, Wrapped):
            made.type, made.type_name = types.TYPE_MESSAGE, f".{self.package}.{self.wrapper(shape)}"
            return
        assert isinstance(shape, Plain)
        type = shape.type
        if isinstance(type, Named):
            enum = isinstance(self.schema.definitions[type.name], Enum)
            made.type = types.TYPE_ENUM if enum else types.TYPE_MESSAGE
            made.type_name = f".{self.package}.{self.shapes.names[type.name]}"
            return
        looks = LOOKS[type.__class__].proto
        if looks.startswith("."):
            made.type, made.type_name = types.TYPE_MESSAGE, looks
        else:
            made.type = types.Type.Value(f"TYPE_{looks.upper()}")

    def wrapper(self, shape: Wrapped) -> str:
        known = self.wrappers.get(shape.name)
        if known is None:
            self.wrappers[shape.name] = shape
            if shape.name in self.shapes.names.values():
                raise SchemaError(
                    f"{self.schema.type}: a record called {shape.name}",
                    expected="another name: Protobuf's image needs this one for a wrapper",
                )
            made = self.file.message_type.add(name=shape.name)
            self.add(made, shape.field, 1, shape.of)
        return shape.name


def _pascal(name: str) -> str:
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))
