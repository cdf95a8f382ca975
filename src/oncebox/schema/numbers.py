"""Numbers of fields, symbols and members: given once, kept by name, never given again. Pure.

What a definition was in earlier versions is found by walking two schemas from their roots along
equal names, so a class may be called otherwise in each version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from .model import (
    Definition,
    Enum,
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
)  # fmt: skip

Renames = Mapping[tuple[str, ...], str]
"""From a field's path in the newer version to its name in the older one."""

Part = tuple[str, int, str]
"""A field, symbol or member: its name, its number, and the shape that the number stands for."""


def numbered(
    schema: Schema,
    others: Sequence[Schema] = (),
    before: Schema | None = None,
    renames: Renames | None = None,
    own: Schema | None = None,
) -> Schema:
    """The schema with the numbers that its names have had.

    `others`: all other versions that are locked; `before`: the one before this (or, for the first,
    the one behind it), whose numbers are kept; `renames` says which of its fields are called
    otherwise; `own`: this version as it is locked. A field that is new, that was away, or that has
    another type gets a number that no other version has had.
    """
    known = None if own is None else _as_locked(schema, own)
    if known is not None:
        return known
    mine = {} if own is None else _matched(schema, own, None)
    earlier = {} if before is None else _matched(schema, before, renames)
    histories = [(old, _matched(schema, old, None)) for old in others if old is not before]
    histories += [] if before is None else [(before, earlier)]
    definitions: dict[str, Definition] = {}
    for name, definition in schema.definitions.items():
        taken: set[int] = set()
        for old, found in histories:
            if name in found:
                was = old.definitions[found[name].name]
                taken |= {number for _, number in numbered_parts(was)} | {*was.retired_numbers}
        near = None if before is None or name not in earlier else _near(before, earlier[name])
        locked = None if own is None or name not in mine else _near(own, mine[name])
        later = before is not None and before.version > schema.version
        definitions[name] = _renumbered(schema, definition, locked, near, taken, retires=not later)
    return replace(schema, definitions=definitions)


def _as_locked(schema: Schema, own: Schema) -> Schema | None:
    """The schema with the numbers of its locked form, where nothing is different; else None."""
    definitions: dict[str, Definition] = {}
    for name, definition in schema.definitions.items():
        was = own.definitions.get(own.root if name == schema.root else name)
        if was is None or was.__class__ is not definition.__class__:
            return None
        numbers = dict(numbered_parts(was))
        if numbers.keys() != {part for part, _ in numbered_parts(definition)}:
            return None
        definitions[name] = _with(definition, numbers, was.retired_numbers, was.retired_names)
    found = replace(schema, definitions=definitions)
    return found if same(found, own) else None


class _Match(NamedTuple):
    """What a definition was called, and which of its fields were called otherwise."""

    name: str
    renames: dict[str, str]


class _Near(NamedTuple):
    """A definition as it was, and its parts by name."""

    definition: Definition
    parts: dict[str, Part]
    renames: dict[str, str]


def _near(schema: Schema, match: _Match) -> _Near:
    definition = schema.definitions[match.name]
    parts = {part[0]: part for part in _parts(schema, definition)}
    return _Near(definition, parts, match.renames)


def _renumbered(
    schema: Schema,
    definition: Definition,
    own: _Near | None,
    near: _Near | None,
    taken: set[int],
    *,
    retires: bool,
) -> Definition:
    parts = list(_parts(schema, definition))
    numbers: dict[str, int] = {}
    given: set[int] = set()
    for source in [source for source in (own, near) if source is not None]:
        for name, _, shape in parts:
            old = source.parts.get(source.renames.get(name, name))
            same = old is not None and old[2] == shape and old[1] not in given
            if old is not None and same and name not in numbers:
                numbers[name] = old[1]
                given.add(old[1])
    next_number = max((0, *taken, *numbers.values())) + 1
    for name, _, _ in parts:
        if name not in numbers:
            numbers[name] = next_number
            next_number += 1
    used = set(numbers.values())
    near = near if retires else None
    before = {} if near is None else near.parts
    gone = [part for part in before.values() if part[1] not in used]
    retired = {n for n in (*(part[1] for part in gone), *_retired(near)) if n not in used}
    names = (*(() if near is None else near.definition.retired_names), *(part[0] for part in gone))
    kept = {name for name in names if name not in numbers}
    return _with(definition, numbers, tuple(sorted(retired)), tuple(sorted(kept)))


def _retired(near: _Near | None) -> tuple[int, ...]:
    return () if near is None else near.definition.retired_numbers


def _with(
    definition: Definition,
    numbers: dict[str, int],
    retired: tuple[int, ...],
    names: tuple[str, ...],
) -> Definition:
    where, called = _PARTS[definition.__class__]
    parts = (
        replace(one, number=numbers[getattr(one, called)]) for one in getattr(definition, where)
    )
    in_order = tuple(sorted(parts, key=lambda one: one.number))
    more: dict[str, Any] = {"retired_numbers": retired, "retired_names": names, where: in_order}
    return replace(definition, **more)


def _parts(schema: Schema, definition: Definition) -> Iterator[Part]:
    shapes = {}
    if isinstance(definition, Record):
        shapes = {field.name: _shape(schema, field.type) for field in definition.fields}
    for name, number in numbered_parts(definition):
        yield name, number, shapes.get(name, "")


def numbered_parts(definition: Definition) -> Iterator[tuple[str, int]]:
    """Fields, symbols or members: name and number."""
    where, called = _PARTS[definition.__class__]
    for one in getattr(definition, where):
        yield getattr(one, called), one.number


_PARTS: dict[type[Definition], tuple[str, str]] = {
    Record: ("fields", "name"), Enum: ("symbols", "value"), Union: ("members", "tag"),
}  # fmt: skip
"""Where a definition has its parts, and what has the name of each."""


def _shape(schema: Schema, type: Type) -> str:
    """What a number stands for: a type without bounds, and without whether it may be null."""
    match type:
        case Nullable():
            return _shape(schema, type.of)
        case List() | Set():
            return f"[{_shape(schema, type.of)}]"
        case Map():
            return f"map[{_shape(schema, type.of)}]"
        case Named():
            return schema.definitions[type.name].__class__.__name__
        case _:
            return type.__class__.__name__


# ---- the same definition in two versions


def _matched(new: Schema, old: Schema, renames: Renames | None) -> dict[str, _Match]:
    """For each definition of `new` what it was in `old`, where it was anything."""
    found: dict[str, _Match] = {}
    ahead: list[tuple[str, str, tuple[str, ...]]] = [(new.root, old.root, ())]
    while ahead:
        name, old_name, path = ahead.pop()
        here, there = new.definitions[name], old.definitions[old_name]
        if name in found or here.__class__ is not there.__class__:
            continue
        called = {p[-1]: was for p, was in (renames or {}).items() if p[:-1] == path}
        found[name] = _Match(old_name, called)
        ahead.extend(reversed(list(_pairs(here, there, called, path))))
    return found


def _pairs(
    here: Definition, there: Definition, called: dict[str, str], path: tuple[str, ...]
) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    if isinstance(here, Record) and isinstance(there, Record):
        olds: dict[str, Field] = {field.name: field for field in there.fields}
        for field in here.fields:
            old = olds.get(called.get(field.name, field.name))
            one, other = inner(field.type), None if old is None else inner(old.type)
            if one is not None and other is not None:
                yield one, other, (*path, field.name)
    elif isinstance(here, Union) and isinstance(there, Union):
        names = {member.tag: member.name for member in there.members}
        for member in here.members:
            if member.tag in names:
                yield member.name, names[member.tag], path


def inner(type: Type) -> str | None:
    """The definition that a type holds, through lists and the like; None if it holds none."""
    while isinstance(type, Nullable | List | Set | Map):
        type = type.of
    return type.name if isinstance(type, Named) else None


def held(definition: Definition) -> set[str]:
    """The definitions that one holds, right in it."""
    match definition:
        case Record(fields):
            return {name for field in fields if (name := inner(field.type)) is not None}
        case Union(_, members):
            return {member.name for member in members}
    return set()


# ---- identity


def same(one: Schema, other: Schema) -> bool:
    """Whether two schemas are the same for all readers and writers."""
    return one == other or _bare(one) == _bare(other)


def _bare(schema: Schema) -> Schema:
    """A schema without what breaks nobody: documentation and marks, and what the class of the event
    itself is called.
    """
    definitions: dict[str, Definition] = {}
    for name, definition in schema.definitions.items():
        plain: Definition = replace(definition, doc="")
        if isinstance(plain, Record):
            fields = (replace(f, doc="", deprecated="", pii=False) for f in plain.fields)
            plain = replace(plain, fields=tuple(fields))
        definitions["" if name == schema.root else name] = _without_root(schema.root, plain)
    return replace(schema, root="", definitions=definitions)


def _without_root(root: str, definition: Definition) -> Definition:
    """A definition that may hold the event itself, under no name."""
    match definition:
        case Record(fields) if any(inner(field.type) == root for field in fields):
            without = (replace(f, type=_renamed(f.type, root)) for f in fields)
            return replace(definition, fields=tuple(without))
        case Union(_, members) if any(member.name == root for member in members):
            plain = (replace(m, name="") if m.name == root else m for m in members)
            return replace(definition, members=tuple(plain))
    return definition


def _renamed(type: Type, root: str) -> Type:
    if isinstance(type, Nullable | List | Set | Map):
        return replace(type, of=_renamed(type.of, root))
    return Named("") if type == Named(root) else type
