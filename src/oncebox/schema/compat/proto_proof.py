"""Proofs by protobuf: messages of the writer's class, in bytes and in ProtoJSON, read by the
reader's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .bounds import missing
from .finding import Witness
from .outcome import refused, shown
from .proto_types import Field, Message, Proto

try:
    from google.protobuf import json_format
except ImportError as error:  # pragma: no cover
    raise missing("protobuf", "protobuf") from error

if TYPE_CHECKING:
    from .protobuf import Pair

Trail = tuple[Field, ...]
"""The writer's fields from a document down to a message in it."""

ANY, STRUCT = "google.protobuf.Any", "google.protobuf.Struct"
"""Of any type, so without one it stays empty; and a map, so nobody's values but its own."""

_T = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "fixed64": 6, "fixed32": 7,
    "bool": 8, "string": 9, "bytes": 12, "uint32": 13, "sfixed32": 15, "sfixed64": 16,
    "sint32": 17, "sint64": 18,
}  # fmt: skip
_SIGNED32, _SIGNED64 = [1, -1, 2**31 - 1, -(2**31)], [1, -1, 2**40 + 7, 2**63 - 1, -(2**63)]
_UNSIGNED32, _UNSIGNED64 = [1, 2**32 - 1], [1, 2**40 + 7, 2**64 - 1]
_SAMPLES: dict[int, list[Any]] = {
    **{_T[name]: _SIGNED32 for name in ("int32", "sint32", "sfixed32")},
    **{_T[name]: _SIGNED64 for name in ("int64", "sint64", "sfixed64")},
    **{_T[name]: _UNSIGNED32 for name in ("uint32", "fixed32")},
    **{_T[name]: _UNSIGNED64 for name in ("uint64", "fixed64")},
    _T["double"]: [0.1, 1e300],
    _T["float"]: [1.5],
    _T["bool"]: [True],
    _T["string"]: ["a", "été"],
    _T["bytes"]: [b"a", b"\xff"],
}


def samples(one: Field) -> list[Any]:
    """Values of a field that show what a change of its type may lose; none is its default."""
    if one.map:
        keys, values = samples(one.key), samples(one.value)
        return [{keys[0]: v} for v in values] + [{keys[-1]: values[0]}]
    plain = _plain(one)
    return [[v] for v in plain] + [[plain[0], plain[-1]]] if one.repeated else plain


def _plain(one: Field) -> list[Any]:
    if one.enum is not None:
        known = [number for number in one.enum.names if number != one.default]
        found = known or [one.default]
        return found if one.enum.closed else [*found, max(one.enum.names) + 1]
    if one.message is not None:
        made, full = filled(one.message), one.message.full
        fields = list(one.message.fields.values()) if full != ANY else []
        plain = [one for one in fields if one.value.message is None or full == STRUCT]
        for inner in (plain or fields)[:1]:
            value = samples(inner)[0] if plain else _of_message(inner)
            put(made, inner, value)
        return [made]
    return _SAMPLES[one.type]


def _of_message(one: Field) -> Any:
    """The smallest value of a field of messages that is there."""
    inner = one.value.message
    assert inner is not None
    if one.map:
        return {samples(one.key)[0]: filled(inner)}
    return [filled(inner)] if one.repeated else filled(inner)


def _of_enum(one: Field, value: Any) -> Any:
    """A number of an enum as a value of a field, which may hold many."""
    if isinstance(value, list | dict) or not one.repeated:
        return value
    if one.map:
        return {samples(one.key)[0]: value}
    return [value]


def filled(message: Message) -> Any:
    """A message with its required fields and nothing else."""
    made = message.cls()
    for one in message.fields.values():
        if one.required:
            put(made, one, samples(one)[0] if one.message is None else filled(one.message))
    return made


def put(made: Any, one: Field, value: Any) -> None:
    """Set a field."""
    if one.map:
        into = getattr(made, one.name)
        for key, part in value.items():
            if hasattr(part, "CopyFrom"):
                into[key].CopyFrom(part)
            else:
                into[key] = part
    elif one.repeated:
        getattr(made, one.name).extend(value)
    elif one.message is not None:
        getattr(made, one.name).CopyFrom(value)
        getattr(made, one.name).SetInParent()
    else:
        setattr(made, one.name, value)


def got(made: Any, one: Field) -> Any:
    """A field's value as plain Python: text as UTF-8, messages as {number: value}."""
    value = getattr(made, one.name)
    if one.map:
        return [{1: _one(key), 2: _one(value[key])} for key in sorted(value)]
    if one.repeated:
        return [_one(part) for part in value]
    if one.message is not None and not made.HasField(one.name):
        return None
    return _one(value)


def _one(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    if not hasattr(value, "ListFields"):
        return value
    return {d.number: _listed(v) for d, v in value.ListFields()}


def _listed(value: Any) -> Any:
    if hasattr(value, "ListFields") or isinstance(value, str | bytes):
        return _one(value)
    if hasattr(value, "items"):
        return [{1: _one(key), 2: _one(value[key])} for key in sorted(value)]
    return [_one(part) for part in value] if hasattr(value, "__len__") else value


def same(a: Any, b: Any) -> bool:
    """Whether a value was kept; one that became a list of one was."""
    if isinstance(a, list) != isinstance(b, list):
        many, one = (a, b) if isinstance(a, list) else (b, a)
        return len(many) == 1 and same(many[0], one)
    return bool(a == b) and isinstance(a, bytes) == isinstance(b, bytes)


class Refused(Exception):
    """What a reader said that refused."""


Sets = Sequence[tuple[Field, Field, Any]]
"""The writer's field, the reader's, and what is written in it."""
Through = Callable[[Any, Message, Sets], str | None]
"""What becomes of a message: that it is refused or read as another; None: it is read as it is."""


class Proof:
    """Makes witnesses, at most so many."""

    def __init__(self, proofs_max: int) -> None:
        self.left = proofs_max

    def either(self, pair: Pair, one: Field, twin: Field, values: Iterable[Any]) -> Witness | None:
        """A value that is lost in binary or, else, in ProtoJSON."""
        values = [_of_enum(one, value) for value in values]
        for through in (_binary, _json):
            for value in values:
                if witness := self._tried(pair, [(one, twin, value)], through):
                    return witness
        return None

    def json(self, pair: Pair, one: Field, twin: Field) -> Witness | None:
        """A value that is lost in ProtoJSON."""
        return self._tried(pair, [(one, twin, samples(one)[0])], _json)

    def misnamed(self, pair: Pair, one: Field, number: int) -> Witness | None:
        """A value of an enum that binary readers take for another."""

        def through(made: Any, reader: Message, _: Sets) -> str | None:
            was_read = _parsed(made, reader)
            return _differing(*(json_format.MessageToDict(m) for m in (made, was_read)))

        return self._tried(pair, [(one, one, _of_enum(one, number))], through)

    def together(self, pair: Pair, first: Field, second: Field) -> Witness | None:
        """Two fields, one of which is lost in binary."""
        sets = [(one, pair.reader.fields[one.number], samples(one)[0]) for one in (first, second)]
        return self._tried(pair, sets, _binary)

    def default(self, pair: Pair, one: Field, twin: Field) -> Witness | None:
        """A document without the field."""

        def through(made: Any, reader: Message, _: Sets) -> str | None:
            was_read = _parsed(made, reader)
            return _differing(_one(getattr(made, one.name)), _one(getattr(was_read, twin.name)))

        return self._tried(pair, [], through)

    def required(self, pair: Pair, twin: Field) -> Witness | None:
        """A document without a field that the reader requires."""

        def through(made: Any, reader: Message, _: Sets) -> str | None:
            if _parsed(made, reader).IsInitialized():
                return None
            return f"refused: not initialized: {twin.name} is required"

        return self._tried(pair, [], through)

    def nameless(self, message: Message, reader: Proto) -> Witness | None:
        """A message whose name the reader does not have."""
        try:
            reader.pool.FindMessageTypeByName(message.full)
        except KeyError as error:
            made = filled(message)
            return Witness({"@type": message.full}, refused(error), made.SerializeToString())
        return None

    def _tried(self, pair: Pair, sets: Sets, through: Through) -> Witness | None:
        if self.left <= 0:
            return None
        made = filled(pair.writer)
        for one, _, value in sets:
            put(made, one, value)
        try:
            outcome = through(made, pair.reader, sets)
        except Refused as error:
            outcome = str(error)
        if outcome is None:
            return None
        self.left -= 1
        document = _within(pair, made)
        if through is _json:
            encoded = json_format.MessageToJson(document, indent=None).encode()
        else:
            encoded = document.SerializePartialToString()
        return Witness(json_format.MessageToDict(document), outcome, encoded)


def _within(pair: Pair, made: Any) -> Any:
    """The message inside the smallest document that has it."""
    for one in reversed(pair.trail):
        holder = filled(one.owner)
        value = made
        if one.map:
            value = {samples(one.key)[0]: made}
        elif one.repeated:
            value = [made]
        put(holder, one, value)
        made = holder
    return made


def _parsed(made: Any, reader: Message) -> Any:
    raw = made.SerializePartialToString()
    try:
        return reader.cls.FromString(raw)
    except Exception as error:
        raise Refused(refused(error)) from error


def _differing(mine: Any, theirs: Any) -> str | None:
    return None if mine == theirs else f"read as {shown(theirs)} instead of {shown(mine)}"


def _binary(made: Any, reader: Message, sets: Sets) -> str | None:
    return _lost(made, _parsed(made, reader), sets, "")


def _json(made: Any, reader: Message, sets: Sets) -> str | None:
    document = json_format.MessageToDict(made)
    try:
        was_read = json_format.ParseDict(document, reader.cls(), ignore_unknown_fields=True)
    except Exception as error:
        raise Refused(f"{refused(error)} (ProtoJSON)") from error
    for one, twin, _ in sets:  # in JSON a list of one is not the one
        if isinstance(got(made, one), list) != isinstance(got(was_read, twin), list):
            return f"read as {_told(was_read, twin)} (ProtoJSON)"
    return _lost(made, was_read, sets, " (ProtoJSON)")


def _lost(made: Any, was_read: Any, sets: Sets, where: str) -> str | None:
    for one, twin, _ in sets:
        if not same(got(made, one), got(was_read, twin)):
            return f"read as {_told(was_read, twin)} instead of {_told(made, one)}{where}"
    return None


def _told(made: Any, one: Field) -> str:
    """A field's value, as ProtoJSON writes it; but whole numbers are no strings."""
    value = got(made, one)
    if type(value) is int and one.enum is None:
        return shown(value)
    try:
        found = json_format.MessageToDict(made, always_print_fields_with_no_presence=True)
    except (TypeError, ValueError):  # an Any of a type that is not there
        return shown(value)
    if not isinstance(found, dict):  # a type of a form of its own
        return shown(value)
    return shown(found[one.json_name]) if one.json_name in found else "nothing"
