"""Lines that put defaults where fields are left out: by a writer, before the first step, and by the
steps to a version, behind them. What they mean is said by that version, and not by the one that
reads. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from ..schema.model import (
    Definition,
    Field,
    List,
    Map,
    Named,
    Nullable,
    Record,
    Schema,
    Set,
    Type,
    Union,
)
from ..schema.numbers import held, inner
from .steps import Add, Each, Member, Step


class Fills(NamedTuple):
    """Lines of a function that has the document in `d`, and the functions that they call."""

    lines: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()


NO_FILLS = Fills()


def fills(schema: Schema) -> Fills:
    """What fills the documents of a schema, wherever in them a field may be left out."""
    writer = _Writer(schema)
    lines = tuple(writer.definition(schema.root, "d"))
    functions: list[str] = []
    for name in writer.called:  # grows while they are written
        body = (f"    {line}\n" for line in writer.definition(name, "r"))
        functions.append(f"def {writer.function(name)}(r):\n{''.join(body)}")
    return Fills(lines, tuple(functions))


def may_leave_out(steps: Iterable[Step], old: Schema | None) -> bool:
    """Whether what steps make of documents of `old` may lack fields that have a default: because
    they may lack in those, or because a step adds a record that is not whole, or nothing.
    """
    if old is not None and any(
        field.absent
        for one in old.definitions.values()
        for field in (one.fields if isinstance(one, Record) else ())
    ):
        return True
    return any(
        isinstance(step.default, list | dict | UnsetType)
        if isinstance(step, Add)
        else isinstance(step, Each | Member) and may_leave_out(step.steps, None)
        for step in steps
    )


class _Writer:
    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.called: list[str] = []
        self.needed = _needed(schema)

    def function(self, name: str) -> str:
        """What the function of a definition is called: its name may come out of a file."""
        version = self.schema.version
        if name.isidentifier() and name.isascii():
            return f"fill_{version}_{name}"
        return f"fill_{version}_{[*self.schema.definitions].index(name)}"

    def call(self, name: str, value: str) -> str:
        if name not in self.called:
            self.called.append(name)
        return f"{self.function(name)}({value})"

    def definition(self, name: str, value: str) -> Iterator[str]:
        definition = self.schema.definitions[name]
        if isinstance(definition, Record):
            for field in definition.fields:
                yield from self.field(field, value)
        elif isinstance(definition, Union):
            for member in definition.members:
                if member.name in self.needed:
                    yield f"if {value}.get({definition.tag_field!r}) == {member.tag!r}:"
                    yield f"    {self.call(member.name, value)}"

    def field(self, field: Field, record: str) -> Iterator[str]:
        if field.default is not UNSET:
            # A literal is made anew for each event: a default is never shared.
            yield f"if {field.name!r} not in {record}:"
            yield f"    {record}[{field.name!r}] = {field.default!r}"
        if inner(field.type) in self.needed:
            yield from self.inside(field.type, f"{record}.get({field.name!r})", 1)

    def inside(self, type: Type, value: str, depth: int) -> Iterator[str]:
        """Lines for what is in a value. `depth` numbers the elements of lists in each other."""
        match type:
            case Nullable(of):
                yield from self.inside(of, value, depth)
            case List(of) | Set(of) | Map(of):
                yield f"for _, e{depth} in elements({value}):"
                lines = self.inside(of, f"e{depth}", depth + 1)
                yield from (f"    {line}" for line in lines)
            case Named(name):
                yield f"if (v := {value}).__class__ is dict:"
                yield f"    {self.call(name, 'v')}"


def _needed(schema: Schema) -> set[str | None]:
    """The definitions in which something may be left out, or in what they hold."""
    found: set[str | None] = set()
    more = {name for name, one in schema.definitions.items() if _may_miss(one)}
    while more:
        found |= more
        rest = ((name, one) for name, one in schema.definitions.items() if name not in found)
        more = {name for name, one in rest if not found.isdisjoint(held(one))}
    return found


def _may_miss(definition: Definition) -> bool:
    fields = definition.fields if isinstance(definition, Record) else ()
    return any(field.default is not UNSET for field in fields)
