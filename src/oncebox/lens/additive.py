"""Steps nobody has to declare: a version that only adds or drops fields with defaults. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET
from msgspec.structs import replace

from ..errors import SchemaError
from ..schema.model import List, Map, Named, Nullable, Record, Schema, Type, Union
from .fit import check_steps
from .steps import Add, Each, Member, Remove, Step, inverse


def derived_steps(old: Schema, new: Schema) -> tuple[Step, ...] | None:
    """The steps from a version to a newer one, where their schemas say them; None where somebody
    has to.
    """
    try:
        steps = tuple(_differences(old, new, old.root, new.root, ()))
        check_steps(old, new, steps)
        check_steps(new, old, [inverse(step) for step in reversed(steps)])
    except SchemaError:
        return None
    return steps


def _inside(type: Type) -> tuple[str, str] | None:
    """The name of what is inside, and "[]" for that of a list or map; None where nothing can be."""
    match type:
        case Nullable(of):
            return _inside(of)
        case List(Nullable(Named(name))) | Map(Nullable(Named(name))):
            return name, "[]"
        case List(Named(name)) | Map(Named(name)):
            return name, "[]"
        case Named(name):
            return name, ""
    return None


def _differences(
    old: Schema, new: Schema, was: str, now: str, met: tuple[str, ...]
) -> Iterator[Step]:
    before, after = old.definitions[was], new.definitions[now]
    if not isinstance(before, Record) or not isinstance(after, Record) or was in met:
        return
    known = {field.name: field for field in before.fields}
    for field in after.fields:
        earlier = known.pop(field.name, None)
        if earlier is None:
            yield Add(field.name, field.default, field.default is UNSET)
            continue
        one, other = _inside(earlier.type), _inside(field.type)
        if one is not None and other is not None:
            yield from _deeper(old, new, field.name + one[1], one[0], other[0], (*met, was))
    for field in known.values():
        yield Remove(field.name, field.default, field.default is UNSET)


def _deeper(
    old: Schema, new: Schema, path: str, was: str, now: str, met: tuple[str, ...]
) -> Iterator[Step]:
    """Steps of what a field holds, as steps of the record that has the field."""
    before, after = old.definitions[was], new.definitions[now]
    if isinstance(before, Union) and isinstance(after, Union):
        names = {member.tag: member.name for member in after.members}
        for one in before.members:
            there = names.get(one.tag)
            for step in () if there is None else _differences(old, new, one.name, there, met):
                yield Member(path, before.tag_field, one.tag, (step,))  # type: ignore[arg-type]
        return
    for step in _differences(old, new, was, now, met):
        if path.endswith("[]"):
            yield Each(path.removesuffix("[]"), (step,))  # type: ignore[arg-type]
        else:
            yield replace(step, path=f"{path}.{step.path}")  # type: ignore[attr-defined]
