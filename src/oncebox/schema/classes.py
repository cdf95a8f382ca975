"""The fields of a class as its codec sees them: dataclass, msgspec Struct, pydantic model."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import NODEFAULT

Engine = Literal["msgspec", "pydantic"]
"""Whose codec a class goes through; all that is inside it goes through the same."""


class ClassField(NamedTuple):
    """A field: `attribute` in Python, `name` in documents.

    `default` is NODEFAULT where there is none; `factory` makes one. `metadata` is what annotations
    say beside the type, the outermost last.
    """

    attribute: str
    name: str
    annotation: Any
    metadata: tuple[Any, ...]
    default: Any = NODEFAULT
    factory: Any = None
    reads: str | None = None
    """The name under which it is read, where that is another one."""
    unwritten: bool = False


def engine_of(cls: type) -> Engine:
    """As `codec.codec_of` chooses it."""
    return "pydantic" if hasattr(cls, "__pydantic_validator__") else "msgspec"


def is_record(value: Any) -> bool:
    """Whether a class has fields that can be known."""
    return isinstance(value, type) and (
        hasattr(value, "__pydantic_validator__")
        or dataclasses.is_dataclass(value)
        or issubclass(value, msgspec.Struct)
    )


def fields_of(cls: type) -> list[ClassField]:
    """A class's fields in order. Raises NameError for an annotation that cannot be resolved."""
    if hasattr(cls, "__pydantic_validator__"):
        return list(_of_pydantic(cls))
    if issubclass(cls, msgspec.Struct):
        return list(_of_struct(cls))
    return list(_of_dataclass(cls))


def _of_struct(cls: type[msgspec.Struct]) -> Iterable[ClassField]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in msgspec.structs.fields(cls):
        factory = None if field.default_factory is NODEFAULT else field.default_factory
        hint = hints[field.name]
        yield ClassField(field.name, field.encode_name, hint, (), field.default, factory)


def _of_dataclass(cls: Any) -> Iterable[ClassField]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        default = NODEFAULT if field.default is dataclasses.MISSING else field.default
        made = field.default_factory is not dataclasses.MISSING
        factory = field.default_factory if made else None
        yield ClassField(field.name, field.name, hints[field.name], (), default, factory)


def _of_pydantic(cls: Any) -> Iterable[ClassField]:
    from pydantic_core import PydanticUndefined

    if not cls.__dict__.get("__pydantic_complete__", True):
        rebuild = getattr(cls, "model_rebuild", None)
        if rebuild is not None:
            rebuild()
    fields = getattr(cls, "__pydantic_fields__", None) or cls.model_fields  # before 2.10
    aliased = _config(cls).get("validate_by_alias", True)
    for name, field in fields.items():
        written = field.serialization_alias or field.alias or name
        read = (aliased and (field.validation_alias or field.alias)) or name
        missing = field.default is PydanticUndefined or field.default is ...
        yield ClassField(
            name,
            written,
            field.annotation,
            (*field.metadata, field),
            NODEFAULT if missing else field.default,
            field.default_factory,
            None if read == written else str(read),
            bool(field.exclude or getattr(field, "exclude_if", None)),
        )


def _config(cls: Any) -> Any:
    return getattr(cls, "model_config", None) or getattr(cls, "__pydantic_config__", None) or {}


# ---- what a class does that a schema cannot say


def oddities(cls: Any) -> Iterable[tuple[str, str]]:
    """What makes a class's documents other than its fields say: (what, what to do)."""
    if issubclass(cls, msgspec.Struct):
        config = cls.__struct_config__
        if config.array_like:
            yield "array_like=True", "documents are objects: leave it out"
        if config.forbid_unknown_fields:
            yield "forbid_unknown_fields=True", "readers leave out what they do not know"
    if hasattr(cls, "__dataclass_fields__"):
        yield from _of_parameters(cls)
    if hasattr(cls, "__pydantic_validator__"):
        yield from _of_pydantic_class(cls)


def _of_parameters(cls: Any) -> Iterable[tuple[str, str]]:
    others = cls.__dataclass_fields__.keys() - {field.name for field in dataclasses.fields(cls)}
    for name in inspect.signature(cls).parameters if others else ():
        if name in others:
            yield f"{name}: InitVar", "what is not written cannot be read: make it a field"


_ALLOWED = {
    "ser_json_timedelta": ("iso8601",),
    "ser_json_temporal": ("iso8601",),
    "ser_json_bytes": ("utf8",),
    "ser_json_inf_nan": ("null",),
}


def _of_pydantic_class(cls: Any) -> Iterable[tuple[str, str]]:
    config = _config(cls)
    if config.get("extra") == "allow":
        yield 'extra="allow"', "a document has the fields of its schema"
    if config.get("extra") == "forbid":
        yield 'extra="forbid"', "readers leave out what they do not know"
    for name, allowed in _ALLOWED.items():
        if config.get(name, allowed[0]) not in allowed:
            yield f"{name}={config[name]!r}", f"leave it {allowed[0]!r}"
    if config.get("json_encoders"):
        yield "json_encoders", "use the types' own forms"
    decorators = getattr(cls, "__pydantic_decorators__", None)
    for kind in ("field_serializers", "model_serializers", "computed_fields"):
        for name in getattr(decorators, kind, ()):
            yield f"{name} ({kind[:-1]})", "documents hold fields as they are"
    if "__pydantic_root_model__" in dir(cls) and cls.__pydantic_root_model__:
        yield "RootModel", "a record has named fields"


# ---- defaults


def is_shared(value: Any, *, depth: int = 20) -> bool:
    """Whether a value could be changed by one who has it: as a default it would be shared."""
    if isinstance(value, tuple | frozenset):
        return depth == 0 or any(is_shared(part, depth=depth - 1) for part in value)
    if isinstance(value, list | dict | set | bytearray):
        return True
    cls = type(value)
    if not is_record(cls):
        return False
    if isinstance(value, msgspec.Struct):
        frozen = value.__struct_config__.frozen
    elif dataclasses.is_dataclass(cls):
        frozen = cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    else:
        frozen = bool(cls.model_config.get("frozen"))
    parts = (getattr(value, field.attribute, None) for field in fields_of(cls))
    return not frozen or depth == 0 or any(is_shared(part, depth=depth - 1) for part in parts)


def unset_types() -> tuple[Any, ...]:
    """What stands in annotations for a value that may be absent."""
    pydantic: Any = sys.modules.get("pydantic")
    missing = None
    if pydantic is not None:
        missing = getattr(pydantic, "MISSING", None)
    return (msgspec.UnsetType,) if missing is None else (msgspec.UnsetType, missing)


def own_doc(cls: type) -> str:
    """A class's own docstring; not the signature that `dataclass` writes in its place."""
    text = cls.__dict__.get("__doc__")
    if not isinstance(text, str) or text.startswith(f"{cls.__name__}("):
        return ""
    return inspect.cleandoc(text)
