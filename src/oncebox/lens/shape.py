"""What steps make of a schema: so that a lens is refused before it meets an event. Pure.

A *shape* is a record's fields as the steps see them. Each step changes it or is refused; at the
end it has to be what the other version's schema says. What a step makes is known as far as it can
be: a default is the value that it is, the result of `values` one of those values, and that of a
function anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..schema.model import (
    Bool,
    Date,
    Decimal,
    Enum,
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
    Timestamp,
    Type,
    Union,
)  # fmt: skip
from ..schema.valid import type_problems
from .steps import (
    Add,
    Convert,
    Each,
    Hoist,
    Member,
    Merge,
    Nest,
    Remove,
    Rename,
    Retype,
    Split,
    Step,
    Unwrap,
    Values,
    Wrap,
    may_fail,
)


class Of(NamedTuple):
    """As a schema has it; the type is not nullable: a slot says that."""

    schema: Schema
    type: Type


class Some(NamedTuple):
    """One of these values, none of them null."""

    values: tuple[Any, ...]


class Anything(NamedTuple):
    """Whatever a function made of it."""


class Parts(NamedTuple):
    """A list, set or map of such elements."""

    kind: type[List | Set | Map]
    of: Slot


class Inner(NamedTuple):
    """A record inside; its shape is its own."""

    slots: Shape


class Cases(NamedTuple):
    """One of several records, by the text in the field `by`."""

    by: str
    members: dict[str, Shape]


Node = Of | Some | Anything | Parts | Inner | Cases


class Slot(NamedTuple):
    """A field or an element: what is in it, and whether it may be left out, or be null."""

    node: Node
    absent: bool = False
    null: bool = False


Shape = dict[str, Slot]

NEVER = Slot(Some(()), absent=True)
"""A field that a step adds and leaves out."""

NO_SCHEMA = Schema("", 0, "", {})
"""Of what a step makes, which no schema says."""

_FORMS: dict[str, type[Any]] = {
    "int": Int, "float": Float, "str": Str, "bool": Bool, "decimal": Decimal, "date": Date,
    "timestamp": Timestamp,
}  # fmt: skip


class Unknown(Exception):
    """Nothing is known behind a step: a function has the whole document, say."""


class Refused(Exception):
    """Why a step cannot work."""


def shape_of(schema: Schema) -> Shape:
    """The event's own record."""
    return _record(schema, schema.record)


def _record(schema: Schema, record: Record) -> Shape:
    return {f.name: _slot_of(schema, f.type, absent=f.absent) for f in record.fields}


def _slot_of(schema: Schema, type: Type, *, absent: bool = False) -> Slot:
    null = isinstance(type, Nullable)
    while isinstance(type, Nullable):
        type = type.of
    return Slot(Of(schema, type), absent, null)


def _some(values: Sequence[Any], *, absent: bool = False) -> Slot:
    there = tuple(value for value in values if value is not None)
    return Slot(Some(there), absent, len(there) < len(values))


def opened(node: Node) -> Node:
    """A node one level deeper, where a schema says what is in it."""
    if not isinstance(node, Of):
        return node
    match node.type:
        case List(of) | Set(of) | Map(of):
            return Parts(type(node.type), _slot_of(node.schema, of))
        case Named(name):
            definition = node.schema.definitions[name]
            if isinstance(definition, Record):
                return Inner(_record(node.schema, definition))
            if isinstance(definition, Union):
                members = ((m.tag, node.schema.definitions[m.name]) for m in definition.members)
                shapes = {tag: _record(node.schema, one) for tag, one in members}  # type: ignore[arg-type]
                return Cases(definition.tag_field, shapes)
    return node


def _within(node: Node) -> Node:
    """A node as a step works inside it: of a default, too, the elements or fields are known."""
    if not isinstance(node, Some):
        return opened(node)
    values = node.values
    if values and all(isinstance(value, list) for value in values):
        return Parts(List, _some([element for value in values for element in value]))
    if values and all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        return Inner({name: _in_each(name, values) for name in names})
    return Some(())


def _in_each(name: str, records: tuple[dict[str, Any], ...]) -> Slot:
    there = [record[name] for record in records if name in record]
    return _some(there, absent=len(there) < len(records))


# ---- steps


def apply(step: Step, shape: Shape) -> None:  # noqa: C901, PLR0912 - one case for each kind
    """Change a shape as a step changes documents. Raises Unknown, and Refused."""
    match step:
        case Convert(""):
            raise Unknown
        case Rename(path, name):
            record, old = _at(shape, path)
            _put(record, name, _take(record, old))
        case Add(path, default, absent):
            record, name = _at(shape, path)
            _put(record, name, NEVER if absent else _some([default]))
        case Remove(path):
            record, name = _at(shape, path)
            _take(record, name)
        case Split(path, into):
            record, name = _at(shape, path)
            text = _texts([_always(record, name)])
            for one in into:
                _put(record, one, text)
        case Merge(path, names):
            record, name = _at(shape, path)
            _put(record, name, _texts([_always(record, one) for one in names]))
        case Values() | Retype() | Convert():
            _replace(step, shape)
        case Wrap(path, into, empty):
            _wrap(shape, path, into, empty)
        case Unwrap(path, into, empty):
            _unwrap(shape, path, into, empty)
        case Nest(path, names):
            record, name = _at(shape, path)
            _put(record, name, Slot(Inner({one: _take(record, one) for one in names})))
        case Hoist(path, names):
            record, name = _at(shape, path)
            slot = _take(record, name)
            inner = _inner(slot, name)
            lacks = set(names) - set(inner)
            if set(inner) - set(names) or (lacks and not isinstance(slot.node, Some)):
                raise Refused(f"{name} has the fields {', '.join(inner)}")
            for one in names:  # a default may leave some out
                _put(record, one, inner.get(one, NEVER))
        case Each(path, steps):
            record, name = _at(shape, path)
            _set_element(record, name, _each(steps, _element(record, name), name))
        case Member(path):
            record, name = _at(shape, path.removesuffix("[]"))
            if path.endswith("[]"):
                _set_element(record, name, _member(step, _element(record, name)))
            else:
                record[name] = _member(step, _take(record, name))


def _each(steps: Sequence[Step], slot: Slot, name: str) -> Slot:
    """An element in which steps were gone; null stays null."""
    inner = _inner(slot._replace(null=False), name + "[]")
    for step in steps:
        apply(step, inner)
    return slot._replace(node=Inner(inner))


def _member(step: Member, slot: Slot) -> Slot:
    """A union in one of whose members steps were gone; null stays null."""
    node = _within(slot.node)
    if not isinstance(node, Cases) or node.by != step.by or step.name not in node.members:
        raise Refused(f"there is no member whose {step.by} is {step.name!r}")
    for within in step.steps:
        apply(within, node.members[step.name])
    return slot._replace(node=node)


def _at(shape: Shape, path: str) -> tuple[Shape, str]:
    """The record that holds the last field of a path."""
    *names, last = path.split(".")
    for name in names:
        slot = shape.get(name)
        if slot is None:
            raise Refused(f"there is no field {name}")
        node = _within(slot.node)
        if node == Some(()):
            raise Unknown  # it is never there
        if not isinstance(node, Inner):
            raise Refused(f"{name} is no record")
        shape[name] = slot._replace(node=node)
        shape = node.slots
    return shape, last


def _take(shape: Shape, name: str) -> Slot:
    slot = shape.pop(name, None)
    if slot is None:
        raise Refused(f"there is no field {name}")
    return slot


def _always(shape: Shape, name: str) -> Slot:
    """What is taken from a field that cannot be left out."""
    slot = _take(shape, name)
    if slot.absent:
        raise Refused(f"{name} may be left out")
    return slot


def _put(shape: Shape, name: str, slot: Slot) -> None:
    if name in shape:
        raise Refused(f"there is a field {name} already")
    shape[name] = slot


def _inner(slot: Slot, name: str) -> Shape:
    node = _within(slot.node)
    if node == Some(()) and not slot.null:
        raise Unknown  # in a field that is never there, or elements of a default that has none
    if not isinstance(node, Inner) or slot.absent or slot.null:
        raise Refused(f"{name} is not always a record")
    return node.slots


def _element(record: Shape, name: str) -> Slot:
    node = _within(record[name].node) if name in record else None
    if node == Some(()):
        return Slot(Some(()))
    if not isinstance(node, Parts):
        raise Refused(f"{name} is no list or map")
    if node.kind is Set:
        raise Refused(f"{name} is a set: its elements may become equal")
    return node.of


def _set_element(record: Shape, name: str, element: Slot) -> None:
    parts = _within(record[name].node)
    if isinstance(parts, Parts):
        record[name] = record[name]._replace(node=parts._replace(of=element))


def _texts(slots: Sequence[Slot]) -> Slot:
    """What is split from texts, or merged of them: text; null only if all may be."""
    for slot in slots:
        node = opened(slot.node)
        text = isinstance(node, Of) and isinstance(node.type, Str)
        text |= isinstance(node, Some) and all(isinstance(value, str) for value in node.values)
        if not text and not isinstance(node, Anything):
            raise Refused("what it works on is no text")
    return Slot(Of(NO_SCHEMA, Str()), null=all(slot.null for slot in slots))


def _replace(step: Values | Retype | Convert, shape: Shape) -> None:
    path = step.path.removesuffix("[]")
    record, name = _at(shape, path)
    if name not in record:
        raise Refused(f"there is no field {name}")
    if path != step.path:
        _set_element(record, name, _replaced(step, _element(record, name)))
    else:
        record[name] = _replaced(step, record[name])


def _replaced(step: Values | Retype | Convert, slot: Slot) -> Slot:
    match step:
        case Values(_, up):
            known = dict(up)
            values = list(all_values(slot))
            for value in values:
                if value not in known:
                    raise Refused(f"it does not say what {value!r} becomes")
            return _some([known[value] for value in values], absent=slot.absent)
        case Retype():
            return _retyped(step, slot)
    return Slot(Anything(), slot.absent)


def _retyped(step: Retype, slot: Slot) -> Slot:
    inner = opened(slot.node)
    if isinstance(inner, Anything | Some):
        return Slot(Anything(), slot.absent)
    if not isinstance(inner, Of) or not isinstance(inner.type, _FORMS[step.was]):
        raise Refused(f"the value is no {step.was}")
    into: Type
    if isinstance(inner.type, Decimal):
        if inner.type.scale != step.scale:
            raise Refused(f"the value has {inner.type.scale} digits behind the point")
        top = 10**inner.type.precision - 1
        into = Int(-top, top)
    elif isinstance(inner.type, Bool) and step.now == "int":
        into = Int(0, 1)
    elif step.now == "decimal":
        assert isinstance(inner.type, Int)
        most = max(abs(inner.type.low), abs(inner.type.high))
        into = Decimal(max(step.precision or len(str(most)), step.scale), step.scale)
    else:
        into = _FORMS[step.now]()
    if may_fail(step) == (step.was, step.now):
        for problem in type_problems(NO_SCHEMA, into, step.default):
            raise Refused(f"its default {step.default!r} is not {problem.expected}")
    return slot._replace(node=Of(NO_SCHEMA, into))


def all_values(slot: Slot) -> Iterator[Any]:
    """All values that there may be. Raises Refused where they are not known."""
    if slot.null:
        yield None
    match slot.node:
        case Some(values):
            yield from values
        case Of(_, Bool()):
            yield from (False, True)
        case Of(schema, Named(name)) if isinstance(schema.definitions[name], Enum):
            yield from (symbol.value for symbol in schema.definitions[name].symbols)  # type: ignore[union-attr]
        case _:
            raise Refused("it has more values than can be named: values() is for enums")


def _wrap(shape: Shape, path: str, into: str, empty: Any) -> None:
    record, name = _at(shape, path)
    slot = _take(record, name)
    target = into.removesuffix("[]")
    if target != into:
        element = Slot(slot.node, null=slot.null and empty is not None)
        _put(record, target, Slot(Parts(List, element), slot.absent))
        return
    holder, field = into.split(".")
    if holder not in record:
        record[holder] = Slot(Inner({}))
    if slot.absent:
        raise Refused(f"{name} may be left out")
    inner = _inner(record[holder], holder)
    _put(inner, field, slot)
    record[holder] = Slot(Inner(inner))


def _unwrap(shape: Shape, path: str, into: str, empty: Any) -> None:
    if path.endswith("[]"):
        record, name = _at(shape, path.removesuffix("[]"))
        element = _element(record, name)
        absent = _take(record, name).absent
        _put(record, into, Slot(element.node, absent, element.null or empty is None))
        return
    holder, _, field = path.rpartition(".")
    record, name = _at(shape, holder)
    if name not in record:
        raise Refused(f"there is no field {name}")
    inner = _inner(record[name], name)
    slot = _take(inner, field)
    if inner:
        record[name] = Slot(Inner(inner))
    else:
        del record[name]
    _put(record, into, slot)
