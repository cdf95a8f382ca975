"""The canonical schema of an event version: types, fields with numbers, records. Pure, no I/O.

A *document* is an event as JSON values: what `json.loads` gives. It is the one form on which
lenses work and in which defaults are kept; each type here says how its values look in it. The
same values in Avro and Protobuf are the business of the codecs.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

INT_LOW, INT_HIGH = -(2**63), 2**63 - 1

Document = dict[str, Any]


class Kind(Struct, frozen=True, omit_defaults=True, tag_field="kind"):
    """A type of values."""


class Bool(Kind, frozen=True, tag="bool"):
    """In a document: true or false."""


class Int(Kind, frozen=True, tag="int"):
    """In a document: a number without a fraction, `low` to `high`, both included."""

    low: int = INT_LOW
    high: int = INT_HIGH


class Float(Kind, frozen=True, tag="float"):
    """In a document: a number; IEEE 754 binary64, neither NaN nor infinite."""


class Str(Kind, frozen=True, tag="str"):
    """In a document: a string."""


class Bytes(Kind, frozen=True, tag="bytes"):
    """In a document: a string, base64 (RFC 4648, section 4) with padding."""


class Decimal(Kind, frozen=True, tag="decimal"):
    """In a document: a string, as `str(decimal.Decimal)` writes it without an exponent; at most
    `precision` digits, `scale` of them behind the point.
    """

    precision: int
    scale: int


class Uuid(Kind, frozen=True, tag="uuid"):
    """In a document: a string, lower case with hyphens."""


class Date(Kind, frozen=True, tag="date"):
    """In a document: a string, "2026-01-31" (RFC 3339, full-date)."""


class Time(Kind, frozen=True, tag="time"):
    """In a document: a string, "12:30:00" or "12:30:00.000001": no zone."""


class Timestamp(Kind, frozen=True, tag="timestamp"):
    """In a document: a string, RFC 3339 with a zone, to the microsecond."""


class Duration(Kind, frozen=True, tag="duration"):
    """In a document: a string, ISO 8601 as msgspec writes it ("P1DT2.5S"), to the microsecond."""


class Nullable(Kind, frozen=True, tag="nullable"):
    """A value or null."""

    of: Type


class List(Kind, frozen=True, tag="list"):
    """In a document: an array."""

    of: Type


class Set(Kind, frozen=True, tag="set"):
    """In a document: an array without equal elements; their order means nothing."""

    of: Type


class Map(Kind, frozen=True, tag="map"):
    """In a document: an object; keys are strings."""

    of: Type


class Named(Kind, frozen=True, tag="named"):
    """What `Schema.definitions` has under this name: so records can hold themselves."""

    name: str


Type = (
    Bool | Int | Float | Str | Bytes | Decimal | Uuid | Date | Time | Timestamp | Duration
    | Nullable | List | Set | Map | Named
)  # fmt: skip


class Field(Struct, frozen=True, omit_defaults=True):
    """A field of a record. `number` never changes and is never given again.

    Always there, unless it has a `default` (a document's value, which readers put where the field
    is not: never share it, copy it) or is `absent` (may be left out, and stays left out: not the
    same as null).
    """

    name: str
    number: int
    type: Type
    default: Any | UnsetType = UNSET
    absent: bool = False
    pii: bool = False
    deprecated: str = ""
    doc: str = ""


class Record(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="record"):
    """In a document: an object. Readers leave out what they do not know. `omits`: its writers
    leave out fields that have their default.
    """

    fields: tuple[Field, ...]
    retired_numbers: tuple[int, ...] = ()
    retired_names: tuple[str, ...] = ()
    doc: str = ""
    omits: bool = False


class Symbol(Struct, frozen=True, omit_defaults=True):
    """A symbol of an enum: `value` stands in documents, `number` in Protobuf (from 1)."""

    value: str
    number: int


class Enum(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="enum"):
    """In a document: the string of one symbol. `default`: what readers take for unknown ones."""

    symbols: tuple[Symbol, ...]
    default: str | UnsetType = UNSET
    retired_numbers: tuple[int, ...] = ()
    retired_names: tuple[str, ...] = ()
    doc: str = ""


class Member(Struct, frozen=True, omit_defaults=True):
    """A member of a union: the record `name`, under `tag` in documents, `number` in Protobuf."""

    tag: str
    name: str
    number: int


class Union(Struct, frozen=True, omit_defaults=True, tag_field="kind", tag="union"):
    """In a document: an object of one of the records, with `tag_field` saying which."""

    tag_field: str
    members: tuple[Member, ...]
    retired_numbers: tuple[int, ...] = ()
    retired_names: tuple[str, ...] = ()
    doc: str = ""


Definition = Record | Enum | Union


class Schema(Struct, frozen=True, omit_defaults=True):
    """One version of an event type: `definitions[root]` is the record of the event itself."""

    type: str
    version: int
    root: str
    definitions: dict[str, Definition]
    stream: str = ""
    key: tuple[str, ...] = ()

    @property
    def record(self) -> Record:
        """The record of the event itself."""
        root = self.definitions[self.root]
        assert isinstance(root, Record)
        return root
