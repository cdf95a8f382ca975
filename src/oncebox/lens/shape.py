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
    """As a schema has it."""

    schema: Schema
    type: Type


class Some(NamedTuple):
    """One of these values."""

    values: tuple[Any, ...]


class Anything(NamedTuple):
    """Whatever a function made of it."""


class Parts(NamedTuple):
    """A list, set or map of such elements."""

    kind: type[List | Set | Map]
    of: Node


class Maybe(NamedTuple):
    """Such a value, or null."""

    of: Node


class Inner(NamedTuple):
    """A record inside; its shape is its own."""

    slots: Shape


class Cases(NamedTuple):
    """One of several records, by the text in the field `by`."""

    by: str
    members: dict[str, Shape]


Node = Of | Some | Anything | Parts | Maybe | Inner | Cases


class Slot(NamedTuple):
    """A field: what is in it, and whether it may be left out."""

    node: Node
    absent: bool = False


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
    return {f.name: Slot(Of(schema, f.type), f.absent) for f in record.fields}


def opened(node: Node) -> Node:
    """A node one level deeper, where a schema says what is in it."""
    if not isinstance(node, Of):
        return node
    match node.type:
        case Nullable(of):
            return Maybe(Of(node.schema, of))
        case List(of) | Set(of) | Map(of):
            return Parts(type(node.type), Of(node.schema, of))
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
    values = tuple(value for value in node.values if value is not None)
    inside: Node = Some(())
    if not values:
        return Maybe(inside) if node.values else node
    if all(isinstance(value, list) for value in values):
        inside = Parts(List, Some(tuple(element for value in values for element in value)))
    elif all(isinstance(value, dict) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        inside = Inner({name: _slot(name, values) for name in names})
    return inside if len(values) == len(node.values) else Maybe(inside)


def _slot(name: str, records: tuple[dict[str, Any], ...]) -> Slot:
    there = tuple(record[name] for record in records if name in record)
    return Slot(Some(there), absent=len(there) < len(records))


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
            _put(record, name, NEVER if absent else Slot(Some((default,))))
        case Remove(path):
            record, name = _at(shape, path)
            _take(record, name)
        case Split(path, into):
            record, name = _at(shape, path)
            text = _texts([_always(record, name)])
            for one in into:
                _put(record, one, Slot(text))
        case Merge(path, names):
            record, name = _at(shape, path)
            _put(record, name, Slot(_texts([_always(record, one) for one in names])))
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
                slot = _take(record, name)
                record[name] = slot._replace(node=_member(step, slot.node))


def _each(steps: Sequence[Step], node: Node, name: str) -> Node:
    """An element in which steps were gone; null stays null."""
    deeper = _within(node)
    if isinstance(deeper, Maybe):
        return Maybe(_each(steps, deeper.of, name))
    inner = _inner(Slot(deeper), name + "[]")
    for step in steps:
        apply(step, inner)
    return Inner(inner)


def _member(step: Member, node: Node) -> Node:
    """A union in one of whose members steps were gone; null stays null."""
    deeper = _within(node)
    match deeper:
        case Maybe(of):
            return Maybe(_member(step, of))
        case Cases(by, members) if by == step.by and step.name in members:
            for within in step.steps:
                apply(within, members[step.name])
            return deeper
    raise Refused(f"there is no member whose {step.by} is {step.name!r}")


def _at(shape: Shape, path: str) -> tuple[Shape, str]:
    """The record that holds the last field of a path."""
    *names, last = path.split(".")
    for name in names:
        slot = shape.get(name)
        if slot is None:
            raise Refused(f"there is no field {name}")
        node = _within(slot.node)
        inner = _within(node.of) if isinstance(node, Maybe) else node
        if inner == Some(()):
            raise Unknown  # it is never there
        if not isinstance(inner, Inner):
            raise Refused(f"{name} is no record")
        shape[name] = slot._replace(node=Maybe(inner) if isinstance(node, Maybe) else inner)
        shape = inner.slots
    return shape, last


def _take(shape: Shape, name: str) -> Slot:
    slot = shape.pop(name, None)
    if slot is None:
        raise Refused(f"there is no field {name}")
    return slot


def _always(shape: Shape, name: str) -> Node:
    """What is taken from a field that cannot be left out."""
    slot = _take(shape, name)
    if slot.absent:
        raise Refused(f"{name} may be left out")
    return slot.node


def _put(shape: Shape, name: str, slot: Slot) -> None:
    if name in shape:
        raise Refused(f"there is a field {name} already")
    shape[name] = slot


def _inner(slot: Slot, name: str) -> Shape:
    node = _within(slot.node)
    if node == Some(()):
        raise Unknown  # in a field that is never there, or elements of a default that has none
    if not isinstance(node, Inner) or slot.absent:
        raise Refused(f"{name} is not always a record")
    return node.slots


def _element(record: Shape, name: str) -> Node:
    node = _within(record[name].node) if name in record else None
    node = _within(node.of) if isinstance(node, Maybe) else node
    if node == Some(()):
        return Some(())
    if not isinstance(node, Parts):
        raise Refused(f"{name} is no list or map")
    if node.kind is Set:
        raise Refused(f"{name} is a set: its elements may become equal")
    return node.of


def _set_element(record: Shape, name: str, element: Node) -> None:
    slot = record[name]
    node = _within(slot.node)
    parts = _within(node.of) if isinstance(node, Maybe) else node
    if not isinstance(parts, Parts):
        return
    changed: Node = parts._replace(of=element)
    record[name] = slot._replace(node=Maybe(changed) if isinstance(node, Maybe) else changed)


def _texts(nodes: list[Node]) -> Node:
    """What is split from texts, or merged of them: text; null only if all may be."""
    nullable = []
    for node in nodes:
        deeper = opened(node)
        inner = deeper.of if isinstance(deeper, Maybe) else deeper
        text = isinstance(inner, Of) and isinstance(inner.type, Str)
        text |= isinstance(inner, Some) and all(isinstance(v, str | None) for v in inner.values)
        if not text and not isinstance(inner, Anything):
            raise Refused("what it works on is no text")
        nullable.append(isinstance(deeper, Maybe))
    text_of = Of(NO_SCHEMA, Str())
    return Maybe(text_of) if all(nullable) else text_of


def _replace(step: Values | Retype | Convert, shape: Shape) -> None:
    path = step.path.removesuffix("[]")
    record, name = _at(shape, path)
    if name not in record:
        raise Refused(f"there is no field {name}")
    if path != step.path:
        _set_element(record, name, _replaced(step, _element(record, name)))
    else:
        record[name] = record[name]._replace(node=_replaced(step, record[name].node))


def _replaced(step: Values | Retype | Convert, node: Node) -> Node:
    match step:
        case Values(_, up):
            known = dict(up)
            values = tuple(all_values(node))
            for value in values:
                if value not in known:
                    raise Refused(f"it does not say what {value!r} becomes")
            return Some(tuple(known[value] for value in values))
        case Retype():
            return _retyped(step, node)
    return Anything()


def _retyped(step: Retype, node: Node) -> Node:
    deeper = opened(node)
    inner = deeper.of if isinstance(deeper, Maybe) else deeper
    if isinstance(inner, Anything | Some):
        return Anything()
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
    made: Node = Of(NO_SCHEMA, into)
    return Maybe(made) if isinstance(deeper, Maybe) else made


def all_values(node: Node) -> Iterator[Any]:
    """All values that there may be. Raises Refused where they are not known."""
    match opened(node):
        case Some(values):
            yield from values
        case Maybe(of):
            yield None
            yield from all_values(of)
        case Of(_, Bool()):
            yield from (False, True)
        case Of(schema, Named(name)) if isinstance(schema.definitions[name], Enum):
            yield from (symbol.value for symbol in schema.definitions[name].symbols)  # type: ignore[union-attr]
        case _:
            raise Refused("it has more values than can be named: values() is for enums")


def _wrap(shape: Shape, path: str, into: str, empty: Any) -> None:
    record, name = _at(shape, path)
    node, absent = _take(record, name)
    target = into.removesuffix("[]")
    if target != into:
        _put(record, target, Slot(Parts(List, _there(node) if empty is None else node), absent))
        return
    holder, field = into.split(".")
    if holder not in record:
        record[holder] = Slot(Inner({}))
    if absent:
        raise Refused(f"{name} may be left out")
    _put(_inner(record[holder], holder), field, Slot(node))
    record[holder] = Slot(Inner(_inner(record[holder], holder)))


def _there(node: Node) -> Node:
    """A node where it is not null."""
    deeper = opened(node)
    if isinstance(deeper, Some):
        return Some(tuple(value for value in deeper.values if value is not None))
    return deeper.of if isinstance(deeper, Maybe) else node


def _unwrap(shape: Shape, path: str, into: str, empty: Any) -> None:
    if path.endswith("[]"):
        record, name = _at(shape, path.removesuffix("[]"))
        element = _element(record, name)
        absent = _take(record, name).absent
        node: Node = Maybe(element) if empty is None else element
        _put(record, into, Slot(node, absent))
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
