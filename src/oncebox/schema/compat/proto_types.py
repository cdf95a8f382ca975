"""What descriptors say of messages and enums, features resolved, in the form that rules need.

The syntax line decides nothing: presence, openness, encoding and packing are asked of the
descriptors of the runtime; UTF-8 and JSON features are resolved here, as it does not tell them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any

from ...errors import SchemaError
from .bounds import FIELDS_MAX, missing, pairs, too_deep, too_many
from .proto_compile import MAIN, Source, compile_all

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
except ImportError as error:  # pragma: no cover
    raise missing("protobuf", "protobuf") from error

PARSED_MAX = 256
"""Files kept parsed; those not used for longest are forgotten."""

_TYPES: Any = descriptor_pb2.FieldDescriptorProto.Type
GROUP, MESSAGE, STRING = map(_TYPES.Value, ("TYPE_GROUP", "TYPE_MESSAGE", "TYPE_STRING"))
NO_VERIFY, LEGACY_JSON = 3, 2
"""utf8_validation = NONE; json_format = LEGACY_BEST_EFFORT."""


@dataclass(slots=True, eq=False)
class Field:
    """A field, as a reader sees it."""

    owner: Message
    number: int
    name: str
    json_name: str
    type: int
    repeated: bool
    required: bool
    presence: bool
    default: Any
    oneof: str = ""
    verified: bool = True
    message: Message | None = None
    enum: Enum | None = None
    map: bool = False

    @property
    def key(self) -> Field:
        """The key of a map."""
        assert self.message is not None
        return self.message.fields[1]

    @property
    def value(self) -> Field:
        """What a map holds; of another field, itself."""
        return self.message.fields[2] if self.map and self.message is not None else self

    @property
    def shape(self) -> tuple[int, bool, bool]:
        """What decides how its bytes look."""
        return self.type, self.repeated, self.map

    def shown(self) -> str:
        """As a .proto has it."""
        kind = _TYPES.Name(self.type).removeprefix("TYPE_").lower()
        if self.map:
            return f"map<{self.key.kind}, {self.value.kind}> {self.name} = {self.number}"
        label = "repeated " if self.repeated else "required " if self.required else ""
        kind = self.kind if kind in ("message", "enum") else kind
        return f"{label}{kind} {self.name} = {self.number}"

    @property
    def kind(self) -> str:
        """Its type's name."""
        of = self.message or self.enum
        return of.name if of is not None else _TYPES.Name(self.type).removeprefix("TYPE_").lower()


@dataclass(eq=False)
class Message:
    """A message. `name` is without the package."""

    full: str
    name: str
    descriptor: Any
    reserved: list[tuple[int, int]]
    reserved_names: frozenset[str]
    json: bool
    message_set: bool
    fields: dict[int, Field] = field(default_factory=dict)

    @cached_property
    def named(self) -> dict[str, Field]:
        """Its fields by the names that ProtoJSON takes; a JSON name goes before another's name."""
        by_name = {one.name: one for one in self.fields.values()}
        return by_name | {one.json_name: one for one in self.fields.values()}

    @cached_property
    def cls(self) -> Any:
        """Its class, made by protobuf."""
        return message_factory.GetMessageClass(self.descriptor)


@dataclass(slots=True, eq=False)
class Enum:
    """An enum; `names` has the first name of each number first."""

    full: str
    name: str
    closed: bool
    json: bool
    numbers: dict[str, int]
    names: dict[int, list[str]]
    reserved: list[tuple[int, int]]
    reserved_names: frozenset[str]


class Proto:
    """A file with all that it imports. Views are made when they are asked for."""

    def __init__(self, descriptors: bytes, which: str) -> None:
        self.pool: Any = descriptor_pool.DescriptorPool()
        files = descriptor_pb2.FileDescriptorSet.FromString(descriptors).file
        try:
            for file in files:
                self.pool.AddSerializedFile(file.SerializeToString())
        except TypeError as error:
            raise SchemaError(
                f"{which}: {error}",
                expected="a file that the installed protobuf knows",
                hint="pip install --upgrade protobuf",
            ) from error
        self._files: dict[str, Any] = {file.name: file for file in files}
        self._protos: dict[str, tuple[Any, str]] = {}
        for file in files:
            self._index(file, file.package, "")
        own = [file for file in files if not file.name.startswith("google/protobuf/")]
        if sum(map(_parts, own)) > FIELDS_MAX:
            raise too_many(which)
        main = self.pool.FindFileByName(MAIN)
        self.package: str = main.package
        self.messages: dict[str, Message] = {}
        self.inner: dict[str, Message] = {}
        """Messages in messages, which may be nobody's field and an event all the same."""
        self._known: dict[str, Any] = {}
        for name, found in main.message_types_by_name.items():
            self.messages[name] = self.message(found)
            self._look_into(found)
        self.calls: dict[str, dict[str, Any]] = {
            f"{service.name}.{one.name}": {
                "request": one.input_type,
                "response": one.output_type,
                "streams": [one.client_streaming, one.server_streaming],
                "idempotency": one.options.idempotency_level,
            }
            for service in self._files[MAIN].service
            for one in service.method
        }
        if not self.messages:
            raise SchemaError(f"{which}: no message in it", expected="one message at least")
        for one in self._known.values():
            if isinstance(one, Message):
                _ends(one, which)

    def _look_into(self, found: Any) -> None:
        for one in found.nested_types:
            if not one.GetOptions().map_entry:
                made = self.message(one)
                self.inner[made.name] = made
                self._look_into(one)

    def message(self, found: Any) -> Message:
        known: Message | None = self._known.get(found.full_name)
        if known is not None:
            return known
        proto = self._protos[found.full_name][0]
        made = Message(
            found.full_name,
            _local(found),
            found,
            [(one.start, one.end) for one in proto.reserved_range],
            frozenset(proto.reserved_name),
            self._feature(found, "json_format", LEGACY_JSON) != LEGACY_JSON,
            proto.options.message_set_wire_format,
        )
        self._known[made.full] = made
        for one, its in zip(found.fields, proto.field, strict=True):
            made.fields[one.number] = self._field(made, one, its)
        return made

    def _field(self, owner: Message, one: Any, proto: Any) -> Field:
        features = proto.options.features
        oneof = one.containing_oneof
        made = Field(
            owner,
            one.number,
            one.name,
            one.json_name,
            one.type,
            proto.label == proto.LABEL_REPEATED,
            proto.label == proto.LABEL_REQUIRED or features.field_presence == 3,
            one.has_presence,
            one.default_value,
            "" if oneof is None or proto.proto3_optional else oneof.name,
            (
                features.utf8_validation
                or self._feature(owner.descriptor, "utf8_validation", NO_VERIFY)
            )
            != NO_VERIFY,
        )
        if one.message_type is not None:
            made.message = self.message(one.message_type)
            made.map = one.message_type.GetOptions().map_entry
        elif one.enum_type is not None:
            made.enum = self._enum(one.enum_type)
        return made

    def _enum(self, found: Any) -> Enum:
        known: Enum | None = self._known.get(found.full_name)
        if known is not None:
            return known
        proto = self._protos[found.full_name][0]
        names: dict[int, list[str]] = {}
        for one in proto.value:
            names.setdefault(one.number, []).append(one.name)
        made = Enum(
            found.full_name,
            _local(found),
            found.is_closed,
            self._feature(found, "json_format", LEGACY_JSON) != LEGACY_JSON,
            {one.name: one.number for one in proto.value},
            names,
            [(one.start, one.end + 1) for one in proto.reserved_range],
            frozenset(proto.reserved_name),
        )
        self._known[made.full] = made
        return made

    def _index(self, holder: Any, scope: str, parent: str) -> None:
        """Note each message and enum by its full name, with the message that it stands in: the
        runtime's descriptors tell no features.
        """
        nested = holder.nested_type if parent else holder.message_type
        for one in (*nested, *holder.enum_type):
            full = f"{scope}.{one.name}" if scope else one.name
            self._protos[full] = one, parent
            if hasattr(one, "nested_type"):
                self._index(one, full, full)

    def _feature(self, found: Any, name: str, of_proto2: int) -> int:
        """A feature of a message or enum; `of_proto2`: what it is there; elsewhere it is 1 or 2."""
        file, full = self._files[found.file.name], found.full_name
        while full:
            proto, full = self._protos[full]
            value = getattr(proto.options.features, name)
            if value:
                return int(value)
        given = getattr(file.options.features, name)
        return int(given) or (of_proto2 if file.syntax in ("", "proto2") else 1)


def _local(found: Any) -> str:
    package = found.file.package
    return str(found.full_name.removeprefix(f"{package}.") if package else found.full_name)


def _ends(message: Message, which: str) -> None:
    """Raises SchemaError if a message needs itself, so that nobody could ever write it."""
    waiting, seen = [message], {message.full}
    while waiting:
        for one in waiting.pop().fields.values():
            if one.message is None or not one.required:
                continue
            if one.message is message:
                raise SchemaError(
                    f"{which}, {message.full}: always holds itself, so no document can end",
                    expected="a way out of the cycle: no required field in it",
                )
            if one.message.full not in seen:
                seen.add(one.message.full)
                waiting.append(one.message)


def _parts(holder: Any) -> int:
    """Messages, fields, values and what is reserved, at all depths of a file or message."""
    nested = holder.nested_type if hasattr(holder, "nested_type") else holder.message_type
    count = len(nested) + sum(map(_parts, nested))
    for one in (*nested, *holder.enum_type):
        kept = len(one.reserved_range) + len(one.reserved_name)
        count += kept + len(one.field if hasattr(one, "field") else one.value)
    return count


_CACHE: OrderedDict[tuple[str, tuple[tuple[str, str], ...]], Proto] = OrderedDict()
_LOCK = Lock()


def parsed_all(sources: Sequence[Source]) -> list[Proto]:
    """Each file parsed; those not known yet by one run of the compiler. Raises SchemaError."""
    with _LOCK:
        found = {one[:2]: _CACHE[one[:2]] for one in sources if one[:2] in _CACHE}
    unknown = {one[:2]: one for one in sources if one[:2] not in found}
    if unknown:
        made = compile_all(list(unknown.values()))
        for (key, source), descriptors in zip(unknown.items(), made, strict=True):
            try:
                found[key] = Proto(descriptors, source.which)
            except RecursionError:
                raise too_deep(source.which, "messages in messages") from None
    with _LOCK:
        for key, proto in found.items():
            _CACHE[key] = proto
            _CACHE.move_to_end(key)
        while len(_CACHE) > PARSED_MAX:
            _CACHE.popitem(last=False)
    return [found[one[:2]] for one in sources]


def source(text: str, references: Mapping[str, str] | None, which: str) -> Source:
    """A text as the compiler takes it."""
    return Source(text, pairs(references), which)
