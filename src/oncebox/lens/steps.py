"""The steps of a lens: what one version of an event has otherwise than the one before. Pure.

A step is data (but for `Convert`) and says both directions: `inverse` gives the step back. Paths
are dotted names of fields of a document; `lines[]` means each element of a list, or each value of
a map. Where a field on the way is not there, a step does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from ..errors import SchemaError

STEPS_MAX = 200
"""Steps between two versions."""
PATH_DEPTH_MAX = 20

Form = Literal["int", "float", "str", "bool", "decimal", "date", "timestamp"]
"""How a value looks in a document; see `schema/model.py`."""

_NAME = re.compile(r"[^.\[\]\s]+\Z")


class Step(Struct, frozen=True, omit_defaults=True, tag_field="step"):
    """One difference between two versions, from the older to the newer. Made of whatever a file
    says, it raises SchemaError for what is no path or name.
    """

    def __post_init__(self) -> None:
        _check(self)


class Rename(Step, frozen=True, tag="rename"):
    """The field at `path` is called `name`, in the same record."""

    path: str
    name: str


class Add(Step, frozen=True, tag="add"):
    """A new field: `default` stands in it on the way up, or it is `absent` there."""

    path: str
    default: Any | UnsetType = UNSET
    absent: bool = False


class Remove(Step, frozen=True, tag="remove"):
    """A field that goes: `default` stands in it on the way down, or it is `absent` there."""

    path: str
    default: Any | UnsetType = UNSET
    absent: bool = False


class Split(Step, frozen=True, tag="split"):
    """The text at `path` becomes as many as `into` names, in the same record; the last has the
    rest.
    """

    path: str
    into: tuple[str, ...]
    sep: str


class Merge(Step, frozen=True, tag="merge"):
    """The texts in `names`, in the record of `path`, become the one at `path`."""

    path: str
    names: tuple[str, ...]
    sep: str


class Values(Step, frozen=True, tag="values"):
    """Each value at `path` becomes another: pairs of old and new, and of new and old."""

    path: str
    up: tuple[tuple[Any, Any], ...]
    down: tuple[tuple[Any, Any], ...]


class Wrap(Step, frozen=True, tag="wrap"):
    """The value at `path` goes into a record (`into` "amount.minor") or a list ("emails[]", with
    `empty` for the value that makes it empty), in the same record.
    """

    path: str
    into: str
    empty: Any = None


class Unwrap(Step, frozen=True, tag="unwrap"):
    """The value at `path` ("amount.minor", or the first one of "emails[]") goes out of its record
    or list, to a field `into` beside it.
    """

    path: str
    into: str
    empty: Any = None


class Retype(Step, frozen=True, tag="retype"):
    """The value at `path` was of the form `was` and is of the form `now`; `default` where it cannot
    be had in the other form: an int of more than `precision` digits as a decimal, for one.
    """

    path: str
    was: Form
    now: Form
    scale: int = 0
    default: Any | UnsetType = UNSET
    precision: int = 0


class Nest(Step, frozen=True, tag="nest"):
    """Fields go into a new record at `path`, which is beside them."""

    path: str
    names: tuple[str, ...]


class Hoist(Step, frozen=True, tag="hoist"):
    """The fields of the record at `path` take its place."""

    path: str
    names: tuple[str, ...]


class Each(Step, frozen=True, tag="each"):
    """Steps inside each element of the list, or each value of the map, at `path`."""

    path: str
    steps: tuple[AnyStep, ...]


class Member(Step, frozen=True, tag="member"):
    """Steps inside the record at `path` (or each in the list or map at "paid[]"), where its field
    `by` is `name`: that member of a union.
    """

    path: str
    by: str
    name: str
    steps: tuple[AnyStep, ...]


def cannot_travel(value: Any) -> Any:
    """Stands for a function that a lock could not hold."""
    del value
    raise LookupError("a convert() has functions, which only the code that declares it has")


class Convert(Step, frozen=True, tag="convert"):
    """Two plain functions: of the value at `path`, or of the whole document. They cannot travel in
    the lock, which tells the place alone.
    """

    path: str
    up: Any = cannot_travel
    down: Any = cannot_travel


AnyStep = (
    Rename | Add | Remove | Split | Merge | Values | Wrap | Unwrap | Retype | Nest | Hoist | Each
    | Member | Convert
)  # fmt: skip
"""Every step. A lock holds lists of these."""


def inverse(step: Step) -> Step:  # noqa: C901, PLR0911 - one line for each kind
    """The step back."""
    match step:
        case Rename(path, name):
            record, dot, old = path.rpartition(".")
            return Rename(record + dot + name, old)
        case Add(path, default, absent):
            return Remove(path, default, absent)
        case Remove(path, default, absent):
            return Add(path, default, absent)
        case Split(path, into, sep):
            return Merge(path, into, sep)
        case Merge(path, names, sep):
            return Split(path, names, sep)
        case Values(path, up, down):
            return Values(path, down, up)
        case Wrap(path, into, empty):
            record, dot, old = path.rpartition(".")
            return Unwrap(record + dot + into, old, empty)
        case Unwrap(path, into, empty):
            depth = 1 if path.endswith("[]") else 2
            parts = path.split(".")
            record = "".join(part + "." for part in parts[:-depth])
            return Wrap(record + into, ".".join(parts[-depth:]), empty)
        case Retype(path, was, now, scale, default, precision):
            return Retype(path, now, was, scale, default, precision)
        case Nest(path, names):
            return Hoist(path, names)
        case Hoist(path, names):
            return Nest(path, names)
        case Each(path, steps):
            return Each(path, _inverses(steps))
        case Member(path, by, name, steps):
            return Member(path, by, name, _inverses(steps))
        case Convert(path, up, down):
            return Convert(path, down, up)
    raise AssertionError(step)


def _inverses(steps: tuple[AnyStep, ...]) -> tuple[AnyStep, ...]:
    return tuple(inverse(one) for one in reversed(steps))  # type: ignore[misc]


# ---- how users write them


def rename(path: str, name: str) -> Step:
    """The field at `path` gets another name, in the same record: `rename("cust", "customer")`."""
    return _inside(path, Rename, name)


def add(path: str, *, default: Any | UnsetType = UNSET, absent: bool = False) -> Step:
    """The newer version has a field more. On the way up `default` is put there (each event has its
    own copy), or with `absent` nothing. Raises SchemaError without either.
    """
    why = "a new field has no value in older events"
    own = _own_default(f"add({path!r})", why, default, absent)
    return _inside(path, Add, own, absent)


def remove(path: str, *, default: Any | UnsetType = UNSET, absent: bool = False) -> Step:
    """The newer version has a field less. On the way down `default` is put there, or with `absent`
    nothing. Raises SchemaError without either: the step cannot be inverted by itself.
    """
    why = "it cannot be inverted: newer events have no value for it"
    own = _own_default(f"remove({path!r})", why, default, absent)
    return _inside(path, Remove, own, absent)


def split(path: str, *, into: Sequence[str], sep: str = " ") -> Step:
    """One text becomes several: `split("name", into=("first", "last"))`. The last has the rest."""
    return _inside(path, Split, _names("split", into, sep), sep)


def merge(names: Sequence[str], *, into: str, sep: str = " ") -> Step:
    """Several texts become one, in the same record: `merge(("first", "last"), into="name")`."""
    return _inside(into, Merge, _names("merge", names, sep), sep)


def values(path: str, up: Mapping[Any, Any], *, down: Mapping[Any, Any] | None = None) -> Step:
    """Each value becomes another: `values("status", {"new": "open", "paid": "closed"})`.

    `down` says the way back; without it, `up` backwards. Raises SchemaError where two values become
    one and `down` does not say which of them it was: that cannot be inverted.
    """
    pairs = tuple(up.items())
    if down is None:
        back = {new: old for old, new in pairs}
        if len(back) < len(pairs):
            twice = next(
                new for at, (_, new) in enumerate(pairs) if new in [n for _, n in pairs[:at]]
            )
            raise SchemaError(
                f"values({path!r}) cannot be inverted: several values become {twice!r}",
                expected="down=, which says what each newer value is in the older version",
            )
        down = back
    for value in (*up, *up.values(), *down, *down.values()):
        if not isinstance(value, str | int | float | bool | None):
            raise SchemaError(
                f"values({path!r}): {value!r}", expected="texts, numbers, booleans or null"
            )
        _json(f"values({path!r})", value)
    return _inside(path, Values, pairs, tuple(down.items()))


def wrap(path: str, *, into: str, empty: Any = None) -> Step:
    """A value goes into a record or a list: `wrap("cents", into="amount.minor")`,
    `wrap("email", into="emails[]")`. Of a list, the way down takes the first element, and `empty`
    where there is none.
    """
    return _inside(path, Wrap, into, _json("empty", empty))


def unwrap(path: str, *, into: str, empty: Any = None) -> Step:
    """A value goes out of its record or list: `unwrap("amount.minor", into="cents")`,
    `unwrap("emails[]", into="email")`. Of a list it is the first element; `empty` where there is
    none.
    """
    return _inside(path, Unwrap, into, _json("empty", empty))


def retype(
    path: str,
    was: Form,
    now: Form,
    *,
    scale: int = 0,
    precision: int = 0,
    default: Any | UnsetType = UNSET,
) -> Step:
    """A value takes another form: `retype("cents", "int", "str", default=0)`.

    `default` stands where a value cannot be had in the other form: a text that is no number, a
    number that is too large; it is needed where one of the directions may meet those. Between "int"
    and "decimal", `scale` says how many digits stand behind the point: 1250 is "12.50" with 2; and
    `precision` how many there are, where the int may have more: `retype("cents", "int", "decimal",
    scale=2, precision=12, default="0.00")`.
    """
    own = default if default is UNSET else _json(f"retype({path!r})", default)
    return _inside(path, Retype, was, now, scale, own, precision)


def may_fail(step: Retype) -> tuple[str, str] | None:
    """The direction in which not every value has the other form: from which to which."""
    pair, back = (step.was, step.now), (step.now, step.was)
    if step.precision and set(pair) == {"int", "decimal"}:
        return "int", "decimal"
    return next((one for one in (pair, back) if one in PARTIAL), None)


PARTIAL = {("str", "int"), ("str", "float"), ("str", "bool"), ("float", "int")}
"""Conversions that not every value has."""
PRECISION_MAX = 18
"""Digits of a decimal that every int of 64 bits has room for."""
_TOTAL = {("int", "decimal"), ("int", "bool"), ("date", "timestamp")}
CONVERSIONS = {(a, b) for one, other in PARTIAL | _TOTAL for a, b in ((one, other), (other, one))}


def nest(*names: str, into: str) -> Step:
    """Fields go into a new record beside them: `nest("street", "city", into="address")`."""
    return _inside(into, Nest, _names("nest", names))


def hoist(path: str, *names: str) -> Step:
    """The fields of a record take its place: `hoist("address", "street", "city")`."""
    return _inside(path, Hoist, _names("hoist", names))


def each(path: str, *steps: Step) -> Step:
    """Steps inside each element of a list, or each value of a map, of records:
    `each("lines", rename("qty", "quantity"))`.
    """
    return _inside(path, Each, steps)


def member(path: str, name: str, *steps: Step, by: str = "type") -> Step:
    """Steps inside one member of a union, or inside each such in a list or map of unions:
    `member("paid", "card", add("expires", default=""))`, `member("refunds[]", "card", …)`. The
    field `by` of a record says which member it is.
    """
    return _inside(path, Member, by, name, steps)


def convert(path: str = "", *, up: Callable[[Any], Any], down: Callable[[Any], Any]) -> Step:
    """Two plain functions, of the value at `path` or, without one, of the whole document (a dict,
    which they may change and have to return). For what no other step can say: functions cannot
    travel in the lock, so code that is older cannot run them.
    """
    return _inside(path, Convert, up, down)


# ---- what they check


def _check(step: Step) -> None:  # noqa: C901, PLR0912 - one case for each kind
    """Raises SchemaError for a step whose paths and names are none."""
    match step:
        case Rename(path, name):
            _path(path)
            _name(name)
        case Split(path, names, sep) | Merge(path, names, sep):
            _path(path)
            _names(step.__class__.__name__.lower(), names, sep)
        case Nest(path, names) | Hoist(path, names):
            _path(path)
            _names(step.__class__.__name__.lower(), names)
        case Wrap(path, into):
            _path(path)
            _into(into)
        case Unwrap(path, into):
            _path(path, element=True)
            _name(into)
            if not path.endswith("[]") and "." not in path:
                raise SchemaError(f"unwrap({path[:80]!r})", expected='"record.field" or "list[]"')
        case Retype(path, was, now, default=default):
            _path(path, element=True)
            partial = may_fail(step)
            if (was, now) not in CONVERSIONS or not 0 <= step.precision <= PRECISION_MAX:
                known = ", ".join(f"{one} to {other}" for one, other in sorted(CONVERSIONS))
                raise SchemaError(
                    f"retype({path[:80]!r}) from {was} to {now}, precision {step.precision}",
                    expected=f"{known}; a precision up to {PRECISION_MAX}",
                    hint="convert() takes two functions",
                )
            if partial is not None and default is UNSET:
                raise SchemaError(
                    f"retype({path[:80]!r}) cannot be inverted: not every {partial[0]} can be had "
                    f"as {partial[1]}",
                    expected="default=, for those that cannot",
                )
        case Convert(path, up, down):
            if not (callable(up) and callable(down)):
                raise SchemaError("convert()", expected="two functions: up= and down=")
            _path(path or "a", element=True)
        case Values(path):
            _path(path, element=True)
        case Each(path, steps) | Member(path, _, _, steps):
            _path(path, element=isinstance(step, Member))
            if any(isinstance(one, Convert) and not one.path for one in steps):
                raise SchemaError(
                    f"convert() of a whole element of {path}", hint=f'convert("{path}[]", …)'
                )
        case Add(path) | Remove(path):
            _path(path)


def without_functions(step: Step) -> Step:
    """A step as a lock can hold it."""
    match step:
        case Convert(path):
            return Convert(path)
        case Each(steps=steps) | Member(steps=steps):
            inside = tuple(without_functions(one) for one in steps)
            return replace(step, steps=inside)
    return step


def converts(steps: Iterable[Step]) -> Iterator[Convert]:
    """The pairs of functions in steps, at any depth."""
    for step in steps:
        match step:
            case Convert():
                yield step
            case Each(steps=inside) | Member(steps=inside):
                yield from converts(inside)


def _inside(path: str, make: Callable[..., Step], *said: Any) -> Step:
    """The step at a path; `lines[].sku` is the step at `sku` in each of `lines`."""
    head, marker, rest = path.partition("[].")
    if not marker:
        return make(path, *said)
    return Each(head, (_inside(rest, make, *said),))  # type: ignore[arg-type]


def _path(path: str, *, element: bool = False) -> None:
    names = (path.removesuffix("[]") if element else path).split(".")
    if len(names) > PATH_DEPTH_MAX or not all(map(_NAME.match, names)):
        raise SchemaError(
            f"path {path[:80]!r}", expected='names of fields: "amount.minor", "lines[].sku"'
        )


def _name(name: str) -> str:
    if not _NAME.match(name):
        raise SchemaError(f"name {name[:80]!r}", expected="the name of one field")
    return name


def _names(step: str, names: Sequence[str] | str, sep: str = " ") -> tuple[str, ...]:
    if isinstance(names, str) or len(set(names)) != max(len(names), 1):
        raise SchemaError(f"{step}() of {names!r}", expected="names of fields, each once")
    if not sep:
        raise SchemaError(f"{step}() with an empty separator")
    return tuple(map(_name, names))


def _into(into: str) -> str:
    inner = into.removesuffix("[]")
    parts = inner.split(".")
    if (inner == into and len(parts) != 2) or (inner != into and len(parts) != 1):
        raise SchemaError(f"wrap() into {into[:80]!r}", expected='"record.field" or "list[]"')
    return ".".join(map(_name, parts)) + into[len(inner) :]


def _own_default(step: str, why: str, default: object, absent: bool) -> Any:
    """A copy of a default, which is nobody else's."""
    if absent != (default is UNSET):
        raise SchemaError(
            f"{step}: {why}" if default is UNSET else f"{step} has a default and absent=True",
            expected="default=, or absent=True for a field that may be left out",
        )
    return default if default is UNSET else _json(step, default)


def _json(what: str, value: Any) -> Any:
    """A value of a document. Raises SchemaError for any other."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and isfinite(value):
        return value
    if type(value) is list:
        return [_json(what, one) for one in value]
    if type(value) is dict and all(isinstance(name, str) for name in value):
        return {name: _json(what, one) for name, one in value.items()}
    raise SchemaError(
        f"{what}: {value!r} is no value of a document",
        expected="text, number, boolean, null, list or dict: as the event's JSON has it",
    )
