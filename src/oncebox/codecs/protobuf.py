"""Protobuf: documents written and read by google's protobuf (upb), with classes made at run time
from a schema's descriptor.

upb stops at 100 levels and reads nothing behind the end; what it does not bound is how many
records a few bytes may ask for. Where the size of a payload leaves that open, it is walked first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from msgspec import UNSET

from ..errors import DecodeFailed, SchemaError
from ..schema import leaves
from ..schema.images.protobuf import (
    Keyed,
    Plain,
    Repeated,
    Shape,
    Shapes,
    Wrapped,
    descriptor,
)
from ..schema.model import (
    Bytes,
    Document,
    Duration,
    Enum,
    Field,
    Kind,
    Named,
    Nullable,
    Record,
    Schema,
    Timestamp,
    Type,
    Union,
)
from .bounds import ELEMENTS_MAX, check_size
from .convert import (
    FAILURES,
    Conversion,
    Converter,
    Otherwise,
    Unfit,
    at,
    document_by,
    each,
    filled,
    member_of,
    nothing,
    text,
)
from .wire import Layout, check_wire, layout_of

_SECOND_US = 1_000_000
_NANOS_MAX = 999_999_999


class ProtobufCodec:
    """Documents of a schema as Protobuf, and back."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.file = descriptor(schema)
        self.cls = message_class(self.file, self.file.message_type[0].name)
        self._layout: Layout = layout_of(self.cls.DESCRIPTOR)
        self._made = Messages(schema, self.cls.DESCRIPTOR.file).root()
        self._read = Documents(schema).root()
        self._label = f"{schema.type} in Protobuf"

    def encode(self, document: Document) -> bytes:
        """Its bytes. Raises ValueError, with the path, for what its schema does not allow."""
        raw: bytes = self._made(document).SerializeToString(deterministic=True)
        if self._layout.recursive:
            try:
                self.cls.FromString(raw)
            except Exception as error:
                raise Unfit("too deep for Protobuf, which reads 100 levels") from error
        return raw

    def decode(self, raw: bytes) -> Document:
        """The document. Raises DecodeFailed with the path of what could not be read."""
        message = parsed_message(self._label, self.cls, self._layout, raw)
        return document_by(self._label, self._read, message)


def parsed_message(label: str, cls: Any, layout: Layout, raw: bytes) -> Any:
    """A message of a class, within bounds. Raises DecodeFailed."""
    check_size(label, raw)
    if len(raw) * layout.weight_max > 2 * ELEMENTS_MAX:
        check_wire(label, raw, layout)
    try:
        return cls.FromString(raw)
    except Exception as error:  # protobuf's own DecodeError
        raise DecodeFailed(f"{label}: {error}", expected="Protobuf of at most 100 levels") from None


def message_class(file: Any, name: str) -> Any:
    """The class of a file's record, in a pool of its own. Raises SchemaError for a descriptor that
    Protobuf refuses.
    """
    from google.protobuf import descriptor_pool, duration_pb2, message_factory, timestamp_pb2

    pool = descriptor_pool.DescriptorPool()
    for known in (timestamp_pb2, duration_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    try:
        pool.Add(file)
        found = pool.FindMessageTypeByName(f"{file.package}.{name}")
    except Exception as error:
        raise SchemaError(f"a Protobuf schema that cannot be used: {error}"[:500]) from error
    return message_factory.GetMessageClass(found)


# ---- from documents


class Messages(Converter):
    """What Protobuf's classes are made of: `dict`s, but a message where a map needs one."""

    def __init__(self, schema: Schema, file: Any) -> None:
        super().__init__(schema)
        self.shapes = Shapes(schema)
        self.file = file

    def root(self) -> Conversion:
        convert, cls = super().root(), self.cls(self.shapes.names[self.schema.root])
        return lambda document: cls(**convert(document))

    def cls(self, name: str) -> Any:
        """The class of a record of the file's, or of google's."""
        from google.protobuf import message_factory

        full = name if "." in name else f"{self.file.package}.{name}"
        return message_factory.GetMessageClass(self.file.pool.FindMessageTypeByName(full))

    def leaf(self, type: Type) -> Conversion:
        raw = _RAW.get(type.__class__)
        return super().leaf(type) if raw is None else text(raw)

    def enum(self, _name: str, enum: Enum) -> Conversion:
        return self.symbols({symbol.value: symbol.number for symbol in enum.symbols}, enum)

    def union(self, name: str, union: Union) -> Conversion:
        names = self.shapes.member_names(name, union)
        tag_field = union.tag_field
        members = {m.tag: (names[m.tag], self.named(m.name)) for m in union.members}

        def of_union(value: Any) -> Any:
            _, (field, convert) = member_of(value, tag_field, members)
            return {field: convert(value)}

        return of_union

    def field(self, _record: str, field: Field) -> tuple[Conversion, Otherwise]:
        shape = self.shapes.field(field)
        convert = self.shaped(shape, field.type)
        if isinstance(field.type, Nullable) and not (isinstance(shape, Wrapped) and shape.null):
            inner = convert
            convert = lambda value: None if value is None else inner(value)  # noqa: E731
        return convert, nothing if field.absent else filled(field.default, convert)

    def shaped(self, shape: Shape, type: Type) -> Conversion:
        """A value as its shape stands in a message."""
        if isinstance(shape, Wrapped):
            if shape.null:
                assert isinstance(type, Nullable)
                inner = self.shaped(shape.of, type.of)
                return lambda value: {} if value is None else {"value": inner(value)}
            inner = self.shaped(shape.of, type)
            name = shape.field
            return lambda value: {name: inner(value)}
        if isinstance(type, Nullable):
            return self.shaped(shape, type.of)
        if isinstance(shape, Repeated):
            return self.list(self.shaped(shape.of, type.of))  # type: ignore[union-attr]
        if isinstance(shape, Keyed):
            return self.map(self.in_map(shape.of, type.of))  # type: ignore[union-attr]
        return self.type(type)

    def in_map(self, shape: Shape, type: Type) -> Conversion:
        """A map's value: protobuf takes no dict for a message there."""
        convert = self.shaped(shape, type)
        if isinstance(shape, Wrapped):
            cls = self.cls(shape.name)
        elif isinstance(type, Named) and not isinstance(self.schema.definitions[type.name], Enum):
            cls = self.cls(self.shapes.names[type.name])
        elif isinstance(type, Timestamp | Duration):
            cls = self.cls(f"google.protobuf.{type.__class__.__name__}")
        else:
            return convert
        return lambda value: cls(**convert(value))


def _moment(us: int) -> dict[str, int]:
    return {"seconds": us // _SECOND_US, "nanos": us % _SECOND_US * 1000}


def _duration(value: str) -> dict[str, int]:
    us = leaves.duration_us_of(value)
    seconds, rest = divmod(abs(us), _SECOND_US)  # both parts have the sign
    _check_seconds(seconds)
    sign = -1 if us < 0 else 1
    return {"seconds": sign * seconds, "nanos": sign * rest * 1000}


_RAW: dict[type[Kind], Callable[[str], Any]] = {
    Bytes: leaves.bytes_of,
    Timestamp: lambda value: _moment(leaves.timestamp_us_of(value)),
    Duration: _duration,
}


# ---- to documents


class Documents(Converter):
    """What makes a document of a message of ours."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema)
        self.shapes = Shapes(schema)
        self.converter = Converter(schema)

    def record(self, name: str, record: Record) -> Conversion:  # noqa: ARG002
        return read_fields([(f.name, *self.read_field(f)) for f in record.fields])

    def read_field(self, field: Field) -> tuple[Conversion, bool, Otherwise]:
        """What reads a field, whether it may be missing, and what is done then."""
        shape = self.shapes.field(field)
        read, has = self.shaped(shape, field.type), not isinstance(shape, Repeated | Keyed)
        if field.absent:
            return read, has, nothing
        null = field.default is UNSET and isinstance(field.type, Nullable)
        default = None if null else field.default
        return read, has, filled(default, self.converter.type(field.type))

    def shaped(self, shape: Shape, type: Type) -> Conversion:
        if isinstance(shape, Wrapped):
            if shape.null:
                assert isinstance(type, Nullable)
                inner = self.shaped(shape.of, type.of)
                return lambda m: inner(m.value) if m.HasField("value") else None
            of = type.of if isinstance(type, Nullable) else type
            inner = self.shaped(shape.of, of)
            parts = attrgetter(shape.field)
            return lambda m: inner(parts(m))
        if isinstance(type, Nullable):
            return self.shaped(shape, type.of)
        if isinstance(shape, Repeated):
            return each(self.shaped(shape.of, type.of))  # type: ignore[union-attr]
        if isinstance(shape, Keyed):
            return read_map(self.shaped(shape.of, type.of))  # type: ignore[union-attr]
        assert isinstance(shape, Plain)
        return self.named(type.name) if isinstance(type, Named) else self.leaf(type)

    def leaf(self, type: Type) -> Conversion:
        return _READ.get(type.__class__) or super().leaf(type)

    def enum(self, _name: str, enum: Enum) -> Conversion:
        known = {symbol.number: symbol.value for symbol in enum.symbols}
        default = enum.default if isinstance(enum.default, str) else None

        def of_enum(value: Any) -> Any:
            found = known.get(value, default)
            if found is None:
                raise Unfit(f"got symbol {value}, which the schema does not have")
            return found

        return of_enum

    def union(self, name: str, union: Union) -> Conversion:
        names = self.shapes.member_names(name, union)
        tag_field = union.tag_field
        members = {names[m.tag]: (m.tag, self.named(m.name)) for m in union.members}

        def of_union(value: Any) -> Any:
            field = value.WhichOneof("value")
            if field is None:
                raise Unfit("none of the union's records")
            tag, read = members[field]
            return {tag_field: tag, **read(getattr(value, field))}

        return of_union


def read_fields(fields: Sequence[tuple[str, Conversion, bool, Otherwise]]) -> Conversion:
    """What reads a message: of each field its name, what reads it, whether it says if it is there,
    and what is done if not.
    """

    def of_record(value: Any) -> Any:
        found: dict[str, Any] = {}
        key = ""
        try:
            for key, read, has, missing in fields:
                if not has or value.HasField(key):
                    found[key] = read(getattr(value, key))
                elif missing is None:
                    raise Unfit("missing")
                else:
                    missing(found, key)
        except FAILURES as error:
            raise at(f".{key}", error) from None
        return found

    return of_record


def read_map(read: Conversion) -> Conversion:
    """What reads a map field."""

    def of_map(value: Any) -> Any:
        found: dict[str, Any] = {}
        key = ""
        try:
            for key in value:
                found[key] = read(value[key])
        except FAILURES as error:
            raise at(f"[{key!r}]", error) from None
        return found

    return of_map


def _check_seconds(seconds: int) -> None:
    if abs(seconds) > 315_576_000_000:
        raise ValueError("more than the 10,000 years of Protobuf's Duration")


def _duration_text(value: Any) -> str:
    _check_seconds(value.seconds)
    return leaves.duration_text(_us_of(value))


def _us_of(value: Any) -> int:
    seconds, nanos = value.seconds, value.nanos
    if abs(nanos) > _NANOS_MAX:
        raise ValueError(f"{nanos} nanoseconds")
    return int(seconds * _SECOND_US + (nanos // 1000 if nanos >= 0 else -(-nanos // 1000)))


_READ: dict[type[Kind], Conversion] = {
    Bytes: leaves.bytes_text,
    Timestamp: lambda value: leaves.timestamp_text(_us_of(value)),
    Duration: _duration_text,
}

GOOGLE: dict[str, Conversion] = {
    "google.protobuf.Timestamp": _READ[Timestamp],
    "google.protobuf.Duration": _READ[Duration],
}
"""Records of google's that are values without parts."""
