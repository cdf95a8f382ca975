"""The words of Confluent's REST protocol: what is registered, asked and refused. Pure.

Source: the protocol's public reference and the behaviour of its clients.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.json import encode

from ..errors import OnceboxError, SchemaError
from ..schema.compat.finding import Format, Mode

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"

FORMATS: dict[str, Format] = {"AVRO": "avro", "JSON": "json", "PROTOBUF": "protobuf"}
TYPES = {format: name for name, format in FORMATS.items()}

DEFAULT_LEVEL = Mode.BACKWARD_TRANSITIVE
"""Where nobody said another one: new readers can read all that a topic may still hold."""

MODES = ("READWRITE", "READONLY", "IMPORT")

NUMBER_MAX = 2**31 - 1
SUBJECT_CHARS_MAX = 255
SCHEMA_BYTES_MAX = 1 << 20
REFERENCES_MAX = 100
"""Schemas that one refers to, with those that they refer to."""

LEVELS_MAX = 20
"""How far references lead on to references."""

SUBJECT_NOT_FOUND, VERSION_NOT_FOUND, SCHEMA_NOT_FOUND = 40401, 40402, 40403
SUBJECT_SOFT_DELETED, SUBJECT_NOT_SOFT_DELETED = 40404, 40405
VERSION_SOFT_DELETED, VERSION_NOT_SOFT_DELETED = 40406, 40407
LEVEL_NOT_CONFIGURED, MODE_NOT_CONFIGURED = 40408, 40409
INCOMPATIBLE = 409
INVALID_SCHEMA, INVALID_VERSION, INVALID_LEVEL, INVALID_MODE = 42201, 42202, 42203, 42204
NOT_PERMITTED, REFERENCE_EXISTS, ID_DOES_NOT_MATCH = 42205, 42206, 42207
INVALID_SUBJECT, SCHEMA_TOO_LARGE = 42208, 42209
STORE_FAILED = 50001


class Declined(OnceboxError):
    """A request that the registry refuses: `code` as the protocol has it, its status in front."""

    def __init__(self, code: int, what: str = "", **more: Any) -> None:
        super().__init__(what, **more)
        self.code = code

    @property
    def status(self) -> int:
        """Of HTTP."""
        return self.code if self.code < 1000 else self.code // 100


Number = Annotated[int, Meta(ge=-NUMBER_MAX, le=NUMBER_MAX)]
"""An id or a version."""


class Reference(Struct, frozen=True, omit_defaults=True):
    """`name`: how a schema calls another one (a type's full name, an import, a $ref)."""

    name: str
    subject: str
    version: Number


class Body(Struct, frozen=True, rename={"format": "schemaType", "rules": "ruleSet"}):
    """A schema as clients send it."""

    schema: str = ""
    format: str | None = None
    references: list[Reference] | None = None
    metadata: dict[str, Any] | None = None
    rules: dict[str, Any] | None = None
    id: Number | None = None
    version: Number | None = None


class Registered(
    Struct, frozen=True, omit_defaults=True, rename={"format": "schemaType", "rules": "ruleSet"}
):
    """A schema as registries answer it; `subject` and `version` where they were asked for."""

    schema: str
    subject: str | UnsetType = UNSET
    version: int | UnsetType = UNSET
    id: int | UnsetType = UNSET
    guid: str | UnsetType = UNSET
    format: str = field(default="")
    references: tuple[Reference, ...] = ()
    metadata: dict[str, Any] | UnsetType = UNSET
    rules: dict[str, Any] | UnsetType = UNSET
    deleted: bool = False


def texts_of(
    references: Iterable[Reference],
    found_at: Callable[[Reference], tuple[str, Iterable[Reference]]],
) -> dict[str, str]:
    """The texts that references lead to, directly or not, by name: what is needed first comes
    first. `found_at`: the text at one, and what that refers to. Raises SchemaError for too many.
    """
    found: dict[str, str] = {}

    def add(reference: Reference, level: int) -> None:
        if reference.name in found:
            return
        if level > LEVELS_MAX or len(found) >= REFERENCES_MAX:
            what = f"references lead on to too many others, at {reference.subject}"
            expected = f"at most {REFERENCES_MAX} schemas on {LEVELS_MAX} levels"
            raise SchemaError(what, expected=expected)
        text, more = found_at(reference)
        for inner in more:
            add(inner, level + 1)
        found[reference.name] = text

    for reference in references:
        add(reference, 1)
    return found


def guid(text: str, references: tuple[Reference, ...] = (), more: bytes = b"") -> str:
    """The name of a schema by its content, the same in every registry of ours.

    For a text alone, Confluent's: MD5. What it refers to (name, subject, and version in four bytes)
    and `more` (metadata and rules as JSON) count, too; how theirs counts them is not known.
    """
    digest = hashlib.md5(text.encode(), usedforsecurity=False)
    for reference in references:
        digest.update(reference.name.encode() + reference.subject.encode())
        digest.update(reference.version.to_bytes(4, "big", signed=True))
    digest.update(more)
    return str(uuid.UUID(bytes=digest.digest()))


def digest(format: str, text: str, references: tuple[Reference, ...], more: bytes) -> str:
    """What is the same schema: SHA-256, since two texts with one MD5 can be made."""
    return hashlib.sha256(encode((format, text, references, more))).hexdigest()
