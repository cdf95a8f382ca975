"""Whether steps make documents of one schema from those of another: a lens that does not is
refused before it meets an event. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import UNSET

from ..errors import SchemaError
from ..schema.model import (
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
    Type,
    Union,
)
from ..schema.numbers import inner
from ..schema.valid import type_problems
from .shape import (
    NO_SCHEMA,
    Cases,
    Inner,
    Of,
    Parts,
    Refused,
    Shape,
    Slot,
    Some,
    Unknown,
    apply,
    opened,
    shape_of,
)
from .steps import Step


def check_steps(old: Schema, new: Schema, steps: Sequence[Step]) -> None:
    """Raises SchemaError for steps that do not make documents of `new` from those of `old`."""
    lens = f"lens of {old.type} from version {old.version} to {new.version}"
    shape = shape_of(old)
    step: Step | None = None
    try:
        for step in steps:
            apply(step, shape)
        step = None
        problem = next(misfits(shape, new), None)
    except Unknown:
        return
    except Refused as refused:
        problem = str(refused)
    if problem is not None:
        raise SchemaError(
            f"{lens}{'' if step is None else f', {shown(step)}'}: {problem}",
            expected=f"documents of version {new.version}",
            hint="oncebox schema explain shows the steps in both directions",
        )


def shown(step: Step) -> str:
    """A step in few words."""
    where = getattr(step, "path", "")
    return f"{step.__class__.__name__.lower()}({where!r})"


def misfits(shape: Shape, new: Schema, *, open: bool = False) -> Iterator[str]:
    """What keeps a shape from being the event of a schema; with `open`, from being read as one by
    who leaves out what it does not know.
    """
    yield from _Fit(new, set(), open).record(shape, new.record, "")


class _Fit(NamedTuple):
    new: Schema
    met: set[tuple[int, str, str]]
    open: bool

    def record(self, shape: Shape, record: Record, path: str) -> Iterator[str]:
        for field in record.fields:
            slot = shape.get(field.name)
            where = path + field.name
            needed = field.default is UNSET and not field.absent
            if needed and (slot is None or slot.absent):
                may = "is not there" if slot is None else "may be left out"
                yield f"{where} {may}, and version {self.new.version} needs it"
                continue
            if slot is not None and not _same(slot, field.type):
                yield from self.slot(slot, field.type, where)
        known = {field.name for field in record.fields}
        for name in shape:
            if name not in known and not self.open:
                yield f"version {self.new.version} has no field {path + name}"

    def values(self, values: Sequence[object], type: Type, where: str) -> Iterator[str]:
        for value in values:
            for problem in type_problems(self.new, type, value, open=True):
                needs = f"version {self.new.version} needs {problem.expected}"
                yield f"{where} is {value!r}, and {needs}"

    def slot(self, slot: Slot, type: Type, where: str) -> Iterator[str]:
        node = slot.node
        if isinstance(node, Some):
            yield from self.values((None,) * slot.null + node.values, type, where)
            return
        if slot.null and not isinstance(type, Nullable):
            yield f"{where} may be null"
            return
        while isinstance(type, Nullable):
            type = type.of
        if isinstance(node, Of) and node.schema is not NO_SCHEMA and isinstance(node.type, Named):
            met = (id(node.schema), node.type.name, repr(type))
            if met in self.met:
                return
            self.met.add(met)
        deeper = opened(node)
        match deeper:
            case Parts(kind, of):
                alike = isinstance(type, kind) or (kind is Set and isinstance(type, List))
                if isinstance(type, List | Set | Map) and alike:
                    yield from self.slot(of, type.of, where + "[]")
                else:
                    yield f"{where} is a {kind.__name__.lower()}"
            case Inner(slots):
                definition = self.new.definitions[type.name] if isinstance(type, Named) else None
                if isinstance(definition, Record):
                    yield from self.record(slots, definition, where + ".")
                else:
                    yield f"{where} is a record"
            case Cases():
                yield from self.cases(deeper, type, where)
            case Of(schema, old):
                yield from self.plain(schema, old, type, where)

    def cases(self, cases: Cases, type: Type, where: str) -> Iterator[str]:
        union = self.new.definitions[type.name] if isinstance(type, Named) else None
        if not isinstance(union, Union):
            yield f"{where} is one of several records"
            return
        if cases.by != union.tag_field:
            yield f"{where} has its tag in {cases.by}"
        names = {member.tag: member.name for member in union.members}
        for tag, shape in cases.members.items():
            record = self.new.definitions[names[tag]] if tag in names else None
            if isinstance(record, Record):
                yield from self.record(shape, record, f"{where}.{tag}.")
            else:
                yield f"{where} may be {tag!r}"

    def plain(self, schema: Schema, old: Type, type: Type, where: str) -> Iterator[str]:
        if isinstance(old, Named) and isinstance(type, Named):
            yield from self.named(schema, old.name, type.name, where)
        elif isinstance(old, Int) and isinstance(type, Float):
            return
        elif old.__class__ is not type.__class__:
            yield f"{where} is {_word(old)}, and version {self.new.version} needs {_word(type)}"
        elif isinstance(old, Int) and isinstance(type, Int):
            if not type.low <= old.low <= old.high <= type.high:
                yield f"{where} is {old.low} to {old.high}, not {type.low} to {type.high}"
        elif isinstance(old, Decimal) and isinstance(type, Decimal):
            narrower = old.precision - old.scale > type.precision - type.scale
            if narrower or old.scale > type.scale:
                needs = f"version {self.new.version} needs ({type.precision}, {type.scale})"
                yield f"{where} is decimal({old.precision}, {old.scale}), and {needs}"

    def named(self, schema: Schema, name: str, other: str, where: str) -> Iterator[str]:
        old, new = schema.definitions[name], self.new.definitions[other]
        if isinstance(old, Enum) and isinstance(new, Enum):
            known = {symbol.value for symbol in new.symbols}
            gone = [s.value for s in old.symbols if s.value not in known]
            if gone and new.default is UNSET:
                yield f"{where} may be {gone[0]!r}, which version {self.new.version} does not know"
        else:
            yield f"{where} is {name}"


def _same(slot: Slot, type: Type) -> bool:
    """Whether it is of this type, and nothing in it can differ: most fields."""
    if isinstance(type, Nullable):
        type = type.of
    elif slot.null:
        return False
    return isinstance(slot.node, Of) and slot.node.type == type and inner(type) is None


def _word(type: Type) -> str:
    return type.name if isinstance(type, Named) else type.__class__.__name__.lower()
