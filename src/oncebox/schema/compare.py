"""Whether readers of one version can read what writers of another write, as the documents stand.

The native rules, without any steps: writers write what their schema says and nothing else,
readers leave out what they do not know and put in their defaults. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import UNSET

from ..errors import SchemaError
from .compat.finding import Broken, Finding, Witness
from .leaves import LOOKS
from .model import (
    Bool,
    Bytes,
    Decimal,
    Enum,
    Field,
    Float,
    Int,
    List,
    Map,
    Named,
    Nullable,
    Record,
    Schema,
    Set,
    Str,
    Type,
    Union,
)
from .sample import smallest
from .text import type_text
from .valid import problems

EXACT = 2**53
"""Whole numbers up to here are numbers of binary64, too."""

AS_TEXT = tuple(kind for kind in LOOKS if kind not in (Bool, Int, Float, Bytes))
"""What a reader of text can take as it stands."""


class Break(NamedTuple):
    """A difference: at `path`, as `document` shows, which is a value of the writer there."""

    rule: str
    path: str
    written: Any
    read: Any
    instead: str
    document: Any


def unreadable(writer: Schema, reader: Schema, breaks: Broken) -> list[Finding]:
    """What readers cannot read, or read differently, of what writers write; with documents.

    Raises SchemaError for definitions that nest too deep.
    """
    found = _Walk(writer, reader, set()).named(writer.root, reader.root, "")
    try:
        return [_finding(one, writer, reader, breaks) for one in found]
    except RecursionError as error:
        where = f"{writer.type} {writer.version} and {reader.version}"
        what = f"{where}: too many definitions inside each other"
        raise SchemaError(what, expected="fewer of them") from error


def _finding(one: Break, writer: Schema, reader: Schema, breaks: Broken) -> Finding:
    where = f"{reader.type} {reader.version}"
    problem = next(problems(reader, one.document, open=True), None)
    outcome = f"read as something else by a reader of {where}"
    if problem is not None:
        outcome = f"refused: {where} at {problem.path}: expected {problem.expected}"
    writer_first = breaks == "new readers"
    return Finding(
        rule=one.rule,
        path=one.path or writer.root,
        old=one.written if writer_first else one.read,
        new=one.read if writer_first else one.written,
        breaks=breaks,
        instead=one.instead,
        witness=Witness(one.document, outcome),
    )


class _Walk(NamedTuple):
    writer: Schema
    reader: Schema
    seen: set[tuple[str, str]]

    def named(self, written: str, read: str, path: str) -> Iterator[Break]:
        if (written, read) in self.seen:
            return
        self.seen.add((written, read))
        one, other = self.writer.definitions[written], self.reader.definitions[read]
        if isinstance(one, Record) and isinstance(other, Record):
            yield from self.record(one, written, other, path)
        elif isinstance(one, Enum) and isinstance(other, Enum):
            yield from self.enum(one, other, path)
        elif isinstance(one, Union) and isinstance(other, Union):
            yield from self.union(one, other, path)
        else:
            yield self.retyped(Named(written), Named(read), path)

    def record(self, one: Record, name: str, other: Record, path: str) -> Iterator[Break]:
        fields = {field.name: field for field in one.fields}
        whole = smallest(self.writer, Named(name))
        for wanted in other.fields:
            place = f"{path}.{wanted.name}" if path else wanted.name
            field = fields.get(wanted.name)
            if field is None:
                if _is_required(wanted):
                    yield Break(
                        "field-missing", place, None, type_text(wanted.type),
                        "give it a default, or say with evolve(…) where its value comes from",
                        whole,
                    )  # fmt: skip
                continue
            yield from self.left_out(one, field, wanted, place, whole)
            for found in self.value(field.type, wanted.type, place):
                yield found._replace(document={**whole, field.name: found.document})

    def left_out(
        self, record: Record, field: Field, wanted: Field, place: str, whole: dict[str, Any]
    ) -> Iterator[Break]:
        """What becomes of a field that a writer leaves out."""
        without = {name: value for name, value in whole.items() if name != field.name}
        omitted = record.omits and field.default is not UNSET
        if (field.absent or omitted) and _is_required(wanted):
            yield Break(
                "field-may-be-left-out", place, "may be left out", "required",
                "keep its default, or let it be absent", without,
            )  # fmt: skip
        elif omitted and field.default != wanted.default:
            yield Break(
                "default-changed", place, field.default, wanted.default,
                "keep the default: whoever has it is not told in the event", without,
            )  # fmt: skip

    def enum(self, one: Enum, other: Enum, path: str) -> Iterator[Break]:
        known = {symbol.value for symbol in other.symbols}
        for symbol in one.symbols if other.default is UNSET else ():
            if symbol.value not in known:
                yield Break(
                    "symbol-unknown", path, symbol.value, sorted(known),
                    "map it in evolve(…) with values(…), or give readers a symbol for unknown ones",
                    symbol.value,
                )  # fmt: skip

    def union(self, one: Union, other: Union, path: str) -> Iterator[Break]:
        names = {member.tag: member.name for member in other.members}
        for member in one.members:
            value = {one.tag_field: member.tag, **smallest(self.writer, Named(member.name))}
            if one.tag_field != other.tag_field:
                yield Break(
                    "tag-field-changed", path, one.tag_field, other.tag_field,
                    "keep the tag's field", value,
                )  # fmt: skip
                return
            if member.tag not in names:
                yield Break(
                    "member-unknown", path, member.tag, sorted(names),
                    "emit it as an event of its own until all readers know it", value,
                )  # fmt: skip
                continue
            for found in self.named(member.name, names[member.tag], f"{path}.{member.tag}"):
                document = {one.tag_field: member.tag, **found.document}
                yield found._replace(document=document)

    def value(self, one: Type, other: Type, path: str) -> Iterator[Break]:
        match one, other:
            case Nullable(), Nullable():
                yield from self.value(one.of, other.of, path)
            case Nullable(), _:
                yield Break(
                    "may-be-null", path, type_text(one), type_text(other),
                    "go on taking null, or say with evolve(…) what stands for it", None,
                )  # fmt: skip
                yield from self.value(one.of, other, path)
            case _, Nullable():
                yield from self.value(one, other.of, path)
            case (List(of), List(wanted)) | (Set(of), List(wanted)) | (Set(of), Set(wanted)):
                for found in self.value(of, wanted, f"{path}[]"):
                    yield found._replace(document=[found.document])
            case Map(of), Map(wanted):
                for found in self.value(of, wanted, f"{path}[]"):
                    yield found._replace(document={"a": found.document})
            case Named(), Named():
                yield from self.named(one.name, other.name, path)
            case _:
                if not self.takes(one, other):
                    yield self.retyped(one, other, path)

    def takes(self, one: Type, other: Type) -> bool:
        """Whether each value of a type without parts is one of the other."""
        match one, other:
            case Int(), Int():
                return other.low <= one.low and one.high <= other.high
            case Int(), Float():
                return one.low >= -EXACT and one.high <= EXACT
            case Decimal(), Decimal():
                before = one.precision - one.scale <= other.precision - other.scale
                return before and one.scale <= other.scale
            case Named(), Str():
                return isinstance(self.writer.definitions[one.name], Enum)
            case _, Str():
                return isinstance(one, AS_TEXT)
        return one.__class__ is other.__class__

    def retyped(self, one: Type, other: Type, path: str) -> Break:
        narrower = one.__class__ is other.__class__ and not isinstance(one, Named)
        return Break(
            "narrowed" if narrower else "type-changed", path, type_text(one), type_text(other),
            "keep what it may hold" if narrower
            else "add a field beside it, or say with evolve(…) how it is converted",
            self.proof(one, other),
        )  # fmt: skip

    def proof(self, one: Type, other: Type) -> Any:  # noqa: PLR0911 - a line for each kind
        """A value of the first type that is none of the second."""
        match one, other:
            case Int(), Int():
                return one.low if one.low < other.low else one.high
            case Int(), Float():
                return EXACT + 1 if one.high > EXACT else -EXACT - 1
            case Decimal(), Decimal():
                if one.scale > other.scale:
                    return "0." + "0" * (one.scale - 1) + "1"
                return "1" + "0" * (one.precision - one.scale - 1)
            case Float(), _:
                return 0.5
            case Bytes(), Str():
                return "/w=="
            case List(), Set():
                value = smallest(self.writer, one.of)
                return [value, value]
            case Str(), _:
                return "text"
        return smallest(self.writer, one)


def _is_required(field: Field) -> bool:
    return field.default is UNSET and not field.absent
