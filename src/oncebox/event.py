"""What an event is: a class of the user's with a type, a stream, a key and a version.

Pure. An event class is a dataclass, a msgspec Struct or a pydantic model under `@event`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

from .errors import BadEvent, ConfigurationError

KEY_BYTES_MAX = 1024
NAME_BYTES_MAX = 200

Key = str | int | UUID | tuple["str | int | UUID", ...]

_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")

AnyClass = type
C = TypeVar("C", bound=AnyClass)


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562, section 5.7): unique, and near in time is near in an index."""
    return new_id_and_text()[0]


if sys.version_info >= (3, 14):
    from uuid import uuid7

    def new_id_and_text() -> tuple[UUID, str]:
        """A new id and its text."""
        id = uuid7()
        return id, str(id)
else:
    from uuid_utils import uuid7

    def new_id_and_text() -> tuple[UUID, str]:
        """A new id and its text; made apart, since Python's UUID is slow to write."""
        id = uuid7()
        return UUID(int=id.int), str(id)


class EventType(NamedTuple):
    """What `@event` declares: `type` and `version` name the contract, `stream` the topic."""

    type: str
    stream: str
    key: tuple[str, ...] | None
    version: int
    cls: AnyClass
    format: Literal["json", "avro", "protobuf"] = "json"
    schema_id: int | UUID | None = None

    def key_of(self, event: object) -> str | None:
        """The canonical text of an event's key; None for an un-keyed type."""
        names = self.key
        if names is None:
            return None
        if len(names) == 1:
            return key_text(getattr(event, names[0]))
        return key_text(tuple(getattr(event, name) for name in names))


def event(
    type: str,
    /,
    *,
    stream: str,
    key: str | tuple[str, ...] | None,
    version: int = 1,
    format: Literal["json", "avro", "protobuf"] = "json",
    schema_id: int | UUID | None = None,
) -> Callable[[C], C]:
    """Declare an event class.

    `type` is dotted words ("order.placed"); `stream` the log's topic; `key` the attribute, or
    attributes, whose value orders events (None: un-keyed); `version` a number from 1; `format` what
    its events are written in. Whoever handles them reads each format. `schema_id`: what a registry
    calls its schema: with a number, payloads begin with Confluent's prefix; with a GUID, it stands
    in Confluent's header. Both are for readers that ask for it.
    Raises ConfigurationError for names outside the rules or a key that is not a field.
    """
    check_type(type)
    check_name("stream", stream)
    if not 1 <= version <= 9999:
        raise ConfigurationError(f"version {version!r} of {type}", expected="1 to 9999")
    names = (key,) if isinstance(key, str) else key

    def declare(cls: C) -> C:
        fields = _field_names(cls)
        for name in names or ():
            if fields is not None and name not in fields:
                raise ConfigurationError(
                    f"{cls.__name__} has no field {name!r}",
                    expected=f"one of {', '.join(sorted(fields))}",
                    hint="key= names the field whose value orders the events",
                )
        declared = EventType(type, stream, names, version, cls, format, schema_id)
        cls.__oncebox__ = declared  # type: ignore[attr-defined]
        _classes[type, version] = cls
        return cls

    return declare


_classes: WeakValueDictionary[tuple[str, int], type] = WeakValueDictionary()


def event_classes() -> dict[tuple[str, int], type]:
    """The event classes of this process by type and version; of two, the one declared last."""
    return dict(_classes)


def event_class(type: str, version: int) -> AnyClass | None:
    """The class that was last declared for a version."""
    return _classes.get((type, version))


def event_type(cls: type) -> EventType:
    """What `@event` declared for a class. Raises ConfigurationError for any other class."""
    declared = cls.__dict__.get("__oncebox__")
    if not isinstance(declared, EventType):
        raise ConfigurationError(
            f"{cls.__name__} is not an event class",
            hint='decorate it: @event("order.placed", stream="orders", key="order_id")',
        )
    return declared


def key_text(key: Key) -> str:
    """One canonical text per key: what is hashed, compared and stored everywhere.

    str: itself. int: decimal. UUID: lower case with hyphens. A tuple: its parts joined by "/",
    with "~" written "~0" and "/" written "~1" inside a part (as in RFC 6901).
    Raises BadEvent for other types, an empty key, NUL, or more than KEY_BYTES_MAX bytes of UTF-8.
    """
    if type(key) is str:
        text = key
    elif isinstance(key, tuple) and key:
        text = "/".join(_part(part).replace("~", "~0").replace("/", "~1") for part in key)
    else:
        text = _part(key)
    if not text or len(text) > KEY_BYTES_MAX or not text.isascii() or "\0" in text:
        _check_length(text)
    return text


def _part(part: object) -> str:
    if isinstance(part, str):
        return str(part)
    if isinstance(part, int) and not isinstance(part, bool):
        return str(int(part))
    if isinstance(part, UUID):
        return str(part)
    raise BadEvent(f"key {part!r} is a {type(part).__name__}", expected="str, int, UUID or a tuple")


def _check_length(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadEvent(f"key {text[:40]!r} is not UTF-8", expected="valid Unicode") from None
    if not text or "\0" in text or size > KEY_BYTES_MAX:
        found = "is empty" if not text else "holds NUL" if "\0" in text else f"has {size} bytes"
        raise BadEvent(
            f"key {text[:40]!r} {found}", expected=f"1 to {KEY_BYTES_MAX} bytes without NUL"
        )


def check_type(type: str) -> str:
    """An event type's name: dotted words. Raises ConfigurationError."""
    if len(type) > NAME_BYTES_MAX or not _TYPE.match(type):
        raise ConfigurationError(f"event type {type!r}", expected='dotted words: "order.placed"')
    return type


def check_name(what: str, name: str) -> str:
    """The name of a service, stream, consumer or instance. Raises ConfigurationError."""
    if len(name) > NAME_BYTES_MAX or not _NAME.match(name):
        raise ConfigurationError(
            f"{what} {name[:60]!r}",
            expected=f"1 to {NAME_BYTES_MAX} of letters, digits, '.', '_', '-'",
        )
    return name


def source_name(service: str, instance: str | None, stream: str) -> str:
    """`/{service}[/{instance}]/{stream}`: the CloudEvents source that owns the chains."""
    return f"/{service}/{instance}/{stream}" if instance else f"/{service}/{stream}"


def stream_of(source: str) -> str:
    """The stream of a source: its last part."""
    return source.rsplit("/", 1)[-1]


def _field_names(cls: type) -> set[str] | None:
    """A class's fields where they can be known: dataclass, msgspec Struct, pydantic model."""
    for attribute in ("__dataclass_fields__", "model_fields"):
        fields = getattr(cls, attribute, None)
        if isinstance(fields, dict):
            return set(fields)
    struct = getattr(cls, "__struct_fields__", None)
    return set(struct) if struct is not None else None
