"""The text of a .proto file for a descriptor: of a schema of ours, and of registries' clients, some
of which send only that, where people, Java's clients and our checker read text.

Source: protobuf.dev, language specification; descriptor.proto. What has no text here is
refused, and never left out: options that are extensions, and groups.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...errors import SchemaError
from ..compat.bounds import missing
from .names import camel

try:
    from google.protobuf import descriptor_pb2 as pb2
    from google.protobuf import text_format
    from google.protobuf.message import DecodeError
    from google.protobuf.unknown_fields import UnknownFieldSet
except ImportError as error:  # pragma: no cover
    raise missing("protobuf", "protobuf") from error

FIELD_NUMBER_MAX, ENUM_NUMBER_MAX = 2**29, 2**31 - 1
"""How descriptors say `max`: behind the last one of fields, the last one of enums."""

DEPTH_MAX = 100
"""Messages in messages."""

_FIELD: Any = pb2.FieldDescriptorProto
_GROUP, _MESSAGE, _ENUM = (_FIELD.Type.Value(f"TYPE_{n}") for n in ("GROUP", "MESSAGE", "ENUM"))
_REPEATED, _REQUIRED = _FIELD.LABEL_REPEATED, _FIELD.LABEL_REQUIRED


def read_base64(text: str) -> Any:
    """The FileDescriptorProto that a text is in Base64; None if it is none. Raises SchemaError."""
    try:
        raw = base64.b64decode("".join(text.split()), validate=True)
        return pb2.FileDescriptorProto.FromString(raw)
    except (binascii.Error, ValueError):
        return None
    except DecodeError as error:
        what = "the schema is Base64, but of no descriptor"
        raise SchemaError(what, expected="a .proto file, or its FileDescriptorProto") from error


Docs = Mapping[str, str]
"""Comments of messages, enums, and fields as `Message.field`, none of them inside another."""


def written(file: Any, docs: Docs | None = None) -> str:
    """The text of a FileDescriptorProto. Raises SchemaError."""
    return "\n".join(_file(_with_short_names(file), docs or {})) + "\n"


def _with_short_names(file: Any) -> Any:
    """A copy in which types are named as people do, where that means the same: without the file's
    package, or the dot in front, unless their first part also stands for something nearer.
    """
    file = pb2.FileDescriptorProto.FromString(file.SerializeToString())
    own = f".{file.package}." if file.package else "."
    tops = {part.name for part in (*file.message_type, *file.enum_type)}
    messages, inner = list(file.message_type), set[str]()
    for message in messages:  # grows as it goes
        messages += message.nested_type
        inner |= {part.name for part in (*message.nested_type, *message.enum_type)}
    nearer = inner | tops | set(file.package.split("."))
    for message in messages:
        for field in message.field:
            name = field.type_name
            if name.startswith(own) and name[len(own) :].partition(".")[0] in tops - inner:
                field.type_name = name[len(own) :]
            elif name.startswith(".") and name[1:].partition(".")[0] not in nearer:
                field.type_name = name[1:]
    return file


def _file(file: Any, docs: Docs) -> Iterator[str]:
    syntax = file.syntax or "proto2"
    edition = syntax == "editions"
    if edition:
        yield f"edition = {_text(pb2.Edition.Name(file.edition).removeprefix('EDITION_'))};"
    else:
        yield f"syntax = {_text(syntax)};"
    if file.package:
        yield from ("", f"package {file.package};")
    if file.dependency:
        yield ""
    for place, name in enumerate(file.dependency):
        public, weak = place in file.public_dependency, place in file.weak_dependency
        yield f"import {'public ' if public else 'weak ' if weak else ''}{_text(name)};"
    yield from _statements(file.options)
    for message in file.message_type:
        yield from ("", *_comment(docs.get(message.name)))
        yield from _message(message, syntax, 1, docs)
    for enum in file.enum_type:
        yield from ("", *_comment(docs.get(enum.name)))
        yield from _enum(enum, syntax)
    yield from _extensions(file.extension, syntax)
    for service in file.service:
        yield f"service {service.name} {{"
        yield from _inside(_service(service))
        yield "}"
    _nothing_else(file)


def _comment(text: str | None) -> Iterator[str]:
    return (f"// {line}".rstrip() for line in (text or "").splitlines())


def _message(message: Any, syntax: str, depth: int, docs: Docs) -> Iterator[str]:
    if depth > DEPTH_MAX:
        raise SchemaError("the schema is nested too deeply", expected=f"{DEPTH_MAX} levels at most")
    yield f"message {message.name} {{"
    yield from _inside(_parts(message, syntax, depth, docs))
    yield "}"


def _parts(message: Any, syntax: str, depth: int, docs: Docs) -> Iterator[str]:
    yield from _statements(message.options)
    entries = {inner.name: inner for inner in message.nested_type if inner.options.map_entry}
    for enum in message.enum_type:
        yield from _enum(enum, syntax)
    # Records name a message by its place, and a map's entry has one: so their order is kept.
    left = iter(message.field)
    seen: set[int] = set()
    for inner in message.nested_type:
        if inner.name not in entries:
            yield from _message(inner, syntax, depth + 1, {})
            continue
        for field in left:
            yield from _field(message, field, syntax, entries, seen, docs)
            if field.type_name.rpartition(".")[2] == inner.name:
                break
    for field in left:
        yield from _field(message, field, syntax, entries, seen, docs)
    for span in message.extension_range:
        more = _listed(_options(span.options))
        yield f"extensions {_span(span.start, span.end - 1, FIELD_NUMBER_MAX - 1)}{more};"
    spans = [_span(s.start, s.end - 1, FIELD_NUMBER_MAX - 1) for s in message.reserved_range]
    yield from _reserved(spans, message.reserved_name, syntax)
    yield from _extensions(message.extension, syntax)
    _nothing_else(message)


def _field(
    message: Any, field: Any, syntax: str, entries: dict[str, Any], seen: set[int], docs: Docs
) -> Iterator[str]:
    """A field, or with its first field a whole oneof; `seen`: those that were written."""
    if not field.HasField("oneof_index") or field.proto3_optional:
        yield from _comment(docs.get(f"{message.name}.{field.name}"))
        yield _line(field, syntax, entries)
    elif field.oneof_index not in seen:
        seen.add(field.oneof_index)
        oneof = message.oneof_decl[field.oneof_index]
        yield f"oneof {oneof.name} {{"
        yield from _inside(_statements(oneof.options))
        for mate in message.field:
            if _in_oneof(mate, field.oneof_index):
                yield from _inside(_comment(docs.get(f"{message.name}.{mate.name}")))
                yield f"  {_line(mate, 'oneof', entries)}"
        yield "}"
        _nothing_else(oneof)


def _in_oneof(field: Any, index: int) -> bool:
    return (
        field.HasField("oneof_index") and field.oneof_index == index and not field.proto3_optional
    )


def _line(field: Any, syntax: str, entries: dict[str, Any]) -> str:
    if field.type == _GROUP:
        raise SchemaError(f"{field.name} is a group", expected="a message of its own instead")
    entry = entries.get(field.type_name.rpartition(".")[2]) if field.label == _REPEATED else None
    options = _options(field.options)
    if field.HasField("default_value"):
        options.insert(0, f"default = {_default(field)}")
    if field.json_name and field.json_name != camel(field.name):
        options.append(f"json_name = {_text(field.json_name)}")
    if entry is not None:
        kind = f"map<{_kind(entry.field[0])}, {_kind(entry.field[1])}>"
    else:
        kind = f"{_label(field, syntax)}{_kind(field)}"
    _nothing_else(field)
    return f"{kind} {field.name} = {field.number}{_listed(options)};"


def _label(field: Any, syntax: str) -> str:
    if field.label == _REPEATED:
        return "repeated "
    if syntax == "proto2":
        return "required " if field.label == _REQUIRED else "optional "
    return "optional " if field.proto3_optional else ""


def _kind(field: Any) -> str:
    if field.type in (_MESSAGE, _ENUM) or not field.HasField("type"):
        return str(field.type_name)
    return str(_FIELD.Type.Name(field.type).removeprefix("TYPE_").lower())


def _default(field: Any) -> str:
    kind = _kind(field)
    if kind == "bytes":  # it is escaped already
        return f'"{field.default_value}"'
    return _text(field.default_value) if kind == "string" else str(field.default_value)


def _enum(enum: Any, syntax: str) -> Iterator[str]:
    yield f"enum {enum.name} {{"
    yield from _inside(_statements(enum.options))
    for value in enum.value:
        yield f"  {value.name} = {value.number}{_listed(_options(value.options))};"
        _nothing_else(value)
    spans = [_span(s.start, s.end, ENUM_NUMBER_MAX) for s in enum.reserved_range]
    yield from _inside(_reserved(spans, enum.reserved_name, syntax))
    yield "}"
    _nothing_else(enum)


def _reserved(spans: list[str], names: Iterable[str], syntax: str) -> Iterator[str]:
    if spans:
        yield f"reserved {', '.join(spans)};"
    if names:
        said = names if syntax == "editions" else map(_text, names)
        yield f"reserved {', '.join(said)};"


def _span(start: int, end: int, last: int) -> str:
    if start == end:
        return str(start)
    return f"{start} to {'max' if end == last else end}"


def _extensions(fields: Iterable[Any], syntax: str) -> Iterator[str]:
    for field in fields:
        yield f"extend {field.extendee} {{"
        yield f"  {_line(field, syntax, {})}"
        yield "}"


def _service(service: Any) -> Iterator[str]:
    yield from _statements(service.options)
    for method in service.method:
        taken = f"{'stream ' if method.client_streaming else ''}{method.input_type}"
        given = f"{'stream ' if method.server_streaming else ''}{method.output_type}"
        options = " ".join(_statements(method.options))
        end = f" {{ {options} }}" if options else ";"
        yield f"rpc {method.name}({taken}) returns ({given}){end}"
        _nothing_else(method)
    _nothing_else(service)


def _options(options: Any) -> list[str]:
    """Options as `name = value`. Raises SchemaError for those that this protobuf does not know."""
    found = []
    _nothing_else(options)
    for field, value in options.ListFields():
        if field.is_extension or field.name == "uninterpreted_option":
            raise _custom(options)
        if field.name == "map_entry":
            continue
        values = value if hasattr(value, "append") else [value]
        found += [f"{field.name} = {_value(field, one)}" for one in values]
    return found


def _statements(options: Any) -> Iterator[str]:
    return (f"option {option};" for option in _options(options))


def _listed(options: list[str]) -> str:
    return f" [{', '.join(options)}]" if options else ""


def _value(field: Any, value: Any) -> str:
    if field.message_type is not None:
        _nothing_else(value)
        return f"{{ {text_format.MessageToString(value, as_one_line=True)} }}"
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    if isinstance(value, bool):
        return str(value).lower()
    return _text(value) if isinstance(value, str) else str(value)


def _nothing_else(part: Any) -> None:
    """Raises SchemaError where a descriptor says what this protobuf does not know."""
    if len(UnknownFieldSet(part)):
        raise _custom(part)


def _custom(part: Any) -> SchemaError:
    return SchemaError(
        f"the descriptor has what has no text here, in {part.DESCRIPTOR.name}",
        expected="no options of one's own",
        hint="register the text of the .proto file instead",
    )


def _inside(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _text(value: str) -> str:
    """A string of a .proto file: JSON's escapes are among its own."""
    return json.dumps(value, ensure_ascii=False)
