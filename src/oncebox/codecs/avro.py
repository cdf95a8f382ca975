"""Avro: documents written by fastavro, and read by functions compiled per writer and reader.

fastavro cannot be told to stop: a short record may nest until the process ends, or ask for a
billion nulls. So bytes of others never reach it; see `avro_reader`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from io import BytesIO
from typing import Any

from msgspec import MsgspecError, json

from ..errors import MissingDependency, SchemaError
from ..schema.images.avro import ABSENT, avro_image, raw_value, symbols_of
from ..schema.images.names import names_of, namespace
from ..schema.model import (
    Document,
    Duration,
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
from . import avro_leaves
from .avro_reader import Decoder, compile_reader
from .avro_shapes import Foreign, Leaf, Shapes
from .bounds import is_deeper
from .convert import Conversion, Converter, Otherwise, integer, member_of, text

SCHEMA_BYTES_MAX = 5 * 1024 * 1024
SCHEMA_DEPTH_MAX = 400
"""Brackets inside each other in a schema's text, at most."""


class AvroCodec:
    """Documents of a schema as Avro, and back."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.image = avro_image(schema)
        self._parsed, self._named = parsed(self.image)
        self._datum = Datums(schema).root()
        self._shape = Shapes(schema).root()
        self._write = _fastavro().schemaless_writer
        self.decode: Decoder = compile_reader(
            self._parsed, self._named, self._shape, label=f"{schema.type} in Avro"
        )

    def encode(self, document: Document) -> bytes:
        """Its bytes. Raises ValueError, with the path, for what its schema does not allow."""
        out = BytesIO()
        self._write(out, self._parsed, self._datum(document), strict=False)
        return out.getvalue()


def foreign_reader(
    writer: str,
    reader: str | None = None,
    *,
    values: bool = False,
    references: Mapping[str, str] | None = None,
    label: str = "Avro",
) -> Decoder:
    """What decodes Avro that oncebox did not write, into documents: with the writer's schema, and
    the reader's where it is another. `values`: into what fastavro gives. `references`: texts of
    the schemas that they name. Raises SchemaError.
    """
    more = tuple((references or {}).values())
    schema, named = parsed_text(writer, more)
    wanted, wanted_named = (schema, named) if reader is None else parsed_text(reader, more)

    def leaf(shape: Leaf, raw: Any) -> Any:
        convert = avro_leaves.conversion(shape, shape, values=values)
        return raw if convert is None else convert(raw)

    def shape() -> Any:
        return Foreign(wanted_named, leaf).of(wanted)

    return _compiled(schema, named, shape, values=values, label=label)


def _compiled(
    writer: Any,
    named: dict[str, Any],
    shape: Callable[[], Any],
    *,
    values: bool = False,
    label: str = "Avro",
) -> Decoder:
    try:
        return compile_reader(writer, named, shape(), values=values, label=label)
    except Exception as error:  # schemas of others may hold anything
        raise SchemaError(
            f"an Avro schema that cannot be used: {type(error).__name__}: {error}"[:500],
            expected="types that are complete, and defaults that fit them",
        ) from error


def parsed(schema: Any, named: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """A schema with full names, and its named types by them; `named`: those that are known before.
    Raises SchemaError.
    """
    named = {} if named is None else named
    try:
        found = _fastavro().parse_schema(schema, named_schemas=named, _force=True)
    except (MissingDependency, RecursionError):
        raise
    except Exception as error:
        raise SchemaError(
            f"an Avro schema that cannot be read: {type(error).__name__}: {error}"[:500],
            expected="a schema as Avro 1.12 has it",
        ) from error
    return found, named


@lru_cache(maxsize=1000)
def parsed_text(text: str, references: tuple[str, ...] = ()) -> tuple[Any, dict[str, Any]]:
    """The same of a schema's text, with bounds; `references`: texts that it names, in any order."""
    named: dict[str, Any] = {}
    waiting = [_schema_of(one) for one in references]
    while waiting:
        left = []
        for one in waiting:
            tried = dict(named)
            try:
                parsed(one, tried)
            except SchemaError:
                left.append(one)
            else:
                named = tried
        if len(left) == len(waiting):
            parsed(left[0], named)  # which says what is wrong with it
        waiting = left
    try:
        return parsed(_schema_of(text), named)
    except RecursionError:
        raise SchemaError("an Avro schema that is too deep") from None


def _schema_of(text: str) -> Any:
    raw = text.encode("utf-8", "surrogatepass")  # what is no text is no JSON
    if len(raw) > SCHEMA_BYTES_MAX or is_deeper(raw, SCHEMA_DEPTH_MAX):
        raise SchemaError(
            f"an Avro schema of {len(raw)} bytes",
            expected=f"at most {SCHEMA_BYTES_MAX} bytes and {SCHEMA_DEPTH_MAX} levels",
        )
    try:
        return json.decode(raw)
    except (MsgspecError, RecursionError) as error:
        if text.isidentifier():
            return text
        raise SchemaError(f"an Avro schema that is no JSON: {error}") from error


def fingerprint(image: Any) -> bytes:
    """CRC-64-AVRO of an Avro schema (as JSON values): eight bytes, little-endian."""
    module = _fastavro().schema
    canonical = module.to_parsing_canonical_form(parsed(image)[0])
    return bytes.fromhex(module.fingerprint(canonical, "CRC-64-AVRO"))


def _fastavro() -> Any:
    try:
        import fastavro
    except ImportError as error:
        raise MissingDependency(
            "Avro needs fastavro", hint='pip install "oncebox[avro]"'
        ) from error
    return fastavro


class Datums(Converter):
    """What fastavro writes of a document's values: raw numbers and bytes, unions by name."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema)
        self.names = names_of(schema, "Avro")
        self.namespace = namespace(schema.type)

    def leaf(self, type: Type) -> Conversion:
        raw = raw_value(type)
        if raw is None:
            return super().leaf(type)
        if isinstance(type, Duration):  # a timedelta holds more than a long
            return text(lambda value: _long(raw(value)))
        return text(raw)

    def nullable(self, of: Type) -> Conversion:
        convert = self.hinted(of)
        return lambda value: None if value is None else convert(value)

    def hinted(self, type: Type) -> Conversion:
        """A value inside a union. Which branch it is, fastavro would guess: an empty record looks
        like one that stands for "left out".
        """
        convert, name = self.type(type), ""
        if isinstance(type, Named):
            definition = self.schema.definitions[type.name]
            if not isinstance(definition, Union):
                name = self.full_name(type.name)
            elif len(definition.members) == 1:  # of several, each value says it itself
                name = self.full_name(definition.members[0].name)
        elif isinstance(type, List | Set | Map):
            name = "map" if isinstance(type, Map) else "array"
        return (lambda value: (name, convert(value))) if name else convert

    def full_name(self, name: str) -> str:
        """What a definition is called in Avro."""
        return f"{self.namespace}.{self.names[name]}"

    def enum(self, name: str, enum: Enum) -> Conversion:
        return self.symbols(symbols_of(name, enum), enum)

    def union(self, _name: str, union: Union) -> Conversion:
        tag_field = union.tag_field
        members = {
            member.tag: (self.full_name(member.name), self.named(member.name))
            for member in union.members
        }
        alone = len(members) == 1

        def of_union(value: Any) -> Any:
            _, (full, convert) = member_of(value, tag_field, members)
            return convert(value) if alone else (full, convert(value))

        return of_union

    def field(self, record: str, field: Field) -> tuple[Conversion, Otherwise]:
        convert, otherwise = super().field(record, field)
        if not field.absent:
            return convert, otherwise
        nullable = isinstance(field.type, Nullable)
        if not nullable:
            convert = self.hinted(field.type)
        left_out: Any = (f"{self.namespace}.{ABSENT}", {}) if nullable else None

        def leave_out(found: dict[str, Any], key: str) -> None:
            found[key] = left_out

        return convert, leave_out


_long = integer(-(2**63), 2**63 - 1)
