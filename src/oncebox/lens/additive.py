"""Steps nobody has to declare: a version that only adds or drops fields with defaults. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from ..errors import SchemaError
from ..schema.model import List, Map, Named, Nullable, Record, Schema, Type
from .fit import check_steps
from .steps import Add, Each, Remove, Step, inverse


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


def _inside(type: Type) -> tuple[str, bool] | None:
    """The name of what is inside, and whether in a list or map; None where nothing can be."""
    match type:
        case Nullable(of):
            return _inside(of)
        case List(Named(name)) | Map(Named(name)):
            return name, True
        case Named(name):
            return name, False
    return None


def _placed(step: Step, field: str, *, each: bool) -> Step:
    """A step of a record as a step of the record that has it in a field."""
    if each:
        return Each(field, (step,))  # type: ignore[arg-type]
    match step:
        case Add(path, default, absent):
            return Add(f"{field}.{path}", default, absent)
        case Remove(path, default, absent):
            return Remove(f"{field}.{path}", default, absent)
        case Each(path, steps):
            return Each(f"{field}.{path}", steps)
    raise AssertionError(step)


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
            for step in _differences(old, new, one[0], other[0], (*met, was)):
                yield _placed(step, field.name, each=one[1])
    for field in known.values():
        yield Remove(field.name, field.default, field.default is UNSET)
