"""Steps become one plain Python function: readable when printed, as fast as written by hand.

Two forms of the same function. The plain one, `function(d)`, takes a document, changes it and
returns it. The other, `function(d, given, lost)`, also keeps what would be lost: see `residue.py`.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from msgspec import UNSET

from ..errors import SchemaError
from . import forms
from .fills import NO_FILLS, Fills
from .residue import Residue, add_back, note_gone, through
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
    inverse,
    may_fail,
)

Plain = Callable[[Any], Any]
Expression = Callable[[str], str]
Tracked = Callable[[Any, Residue, Residue], Any]


class Stage(NamedTuple):
    """The steps between two versions, in the direction in which they are gone. `ids` names each,
    the same in both directions. `fills` is for what they may leave out.
    """

    was: int
    now: int
    steps: Sequence[Step]
    ids: Sequence[str]
    fills: Fills = NO_FILLS


class Compiled(NamedTuple):
    """A function and how it reads."""

    plain: Plain
    tracked: Tracked
    source: str


def compile_stages(name: str, stages: Sequence[Stage], fills: Fills = NO_FILLS) -> Compiled:
    """One function through all stages, in both forms; before them `fills`. Raises SchemaError for
    steps, out of a file, that no `evolve` would have taken.
    """
    try:
        plain, source = _compiled(name, stages, fills, track=False)
        tracked, _ = _compiled(name, stages, fills, track=True)
    except ValueError as error:
        raise SchemaError(
            f"steps of {name} cannot work: {error}", hint="oncebox schema lock writes them anew"
        ) from error
    return Compiled(plain, tracked, source)


def _compiled(name: str, stages: Sequence[Stage], fills: Fills, *, track: bool) -> tuple[Any, str]:
    lines = _Lines(track=track)
    lines.filled(fills, "# what its writer may leave out")
    for stage in stages:
        lines.add(f"# {stage.was} to {stage.now}")
        lines.up = stage.was < stage.now
        for step, id in zip(stage.steps, stage.ids, strict=True):
            lines.step(step, "d", repr(id))
        lines.filled(stage.fills, f"# what {stage.now} says of what is left out")
    arguments = "d, given, lost" if track else "d"
    body = [f"    {line}" for line in (*lines.lines, "return d")]
    heads = [*lines.functions, *(f"{known} = {value}" for known, value in lines.shown.items())]
    source = "\n".join([*heads, *[""] * bool(heads), f"def {name}({arguments}):", *body, ""])
    space = {**RUNTIME, **lines.values}
    exec(compile(source, f"<lens {name}>", "exec"), space)  # noqa: S102 - our own text
    return space[name], source


class Mapped(dict[Any, Any]):
    """What each value becomes. Of one that is not named it says so."""

    path = ""

    def __missing__(self, value: Any) -> Any:
        raise ValueError(f"{self.path} is {value!r}, which has no value in the other version")


class _Lines:
    """Lines of a function that is written. With `track`, what would be lost is kept."""

    def __init__(self, *, track: bool) -> None:
        self.track = track
        self.up = True
        self.lines: list[str] = []
        self.values: dict[str, Any] = {}
        self.shown: dict[str, str] = {}
        self.functions: dict[str, None] = {}
        self.depth = 0
        self.count = 0

    def add(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    def filled(self, fills: Fills, why: str) -> None:
        """Lines that put defaults, and the functions that they call."""
        for line in (why, *fills.lines) if fills.lines else ():
            self.add(line)
        self.functions.update(dict.fromkeys(fills.functions))

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.add(head)
        self.depth += 1
        yield
        self.depth -= 1

    def new(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    @contextmanager
    def at(self, d: str, path: str) -> Iterator[tuple[str, str]]:
        """Within the record that has the path's last field: the record, and that field's name."""
        *names, last = path.split(".")
        depth = self.depth
        for name in names:
            inner = self.new("r")
            self.add(f"{inner} = {d}.get({name!r})")
            self.add(f"if {inner}.__class__ is dict:")
            self.depth += 1
            d = inner
        yield d, last
        self.depth = depth

    # ---- steps

    def step(self, step: Step, d: str, id: str, *, inside: bool = False) -> None:
        """The lines of one step on the record `d`. `id`: an expression; `inside` an element."""
        match step:
            case Rename(path, name):
                with self.at(d, path) as (r, n):  # a field is mostly there: ask less
                    self.add("try:")
                    self.add(f"    {r}[{name!r}] = {r}.pop({n!r})")
                    self.add("except KeyError:")
                    self.add("    pass")
            case Add():
                self.added(step, d, id, inside=inside)
            case Remove():
                self.removed(step, d, id, inside=inside)
            case Split(path, into, sep):
                self.split(d, path, into, sep, id)
            case Merge(path, names, sep):
                self.merge(d, path, names, sep, id)
            case Values() | Retype() | Convert():
                self.replaced(step, d, id)
            case Wrap(path, into, empty):
                self.wrap(d, path, into, empty, id)
            case Unwrap(path, into, empty):
                self.unwrap(d, path, into, empty, id)
            case Nest(path, names):
                with self.at(d, path) as (r, n):
                    self.add(f"{r}[{n!r}] = {{n: {r}.pop(n) for n in {list(names)!r} if n in {r}}}")
            case Hoist(path, names):
                with self.at(d, path) as (r, n):
                    inner = self.new("r")
                    self.add(f"{inner} = {r}.pop({n!r}, None)")
                    with self.block(f"if {inner}.__class__ is dict:"):
                        found = f"{{n: {inner}[n] for n in {list(names)!r} if n in {inner}}}"
                        self.add(f"{r}.update({found})")
            case Each(path, steps):
                self.each(d, f"{path}[]", steps, id)
            case Member(path, by, name, steps):
                self.each(d, path, steps, id, (by, name), inside=inside)

    def added(self, step: Add, d: str, id: str, *, inside: bool) -> None:
        with self.at(d, step.path) as (r, n):
            # A literal is made anew for each event: a default is never shared.
            default = "ABSENT" if step.default is UNSET else repr(step.default)
            if self.track:
                self.add(f"add_back(given, {id}, {r}, {n!r}, {default}, {inside})")
            elif step.default is UNSET:
                self.add(f"pass  # {step.path!r} may be left out")
            else:
                with self.block(f"if {n!r} not in {r}:"):
                    self.add(f"{r}[{n!r}] = {default}")

    def removed(self, step: Remove, d: str, id: str, *, inside: bool) -> None:
        with self.at(d, step.path) as (r, n):
            if self.track:
                default = "ABSENT" if step.default is UNSET else repr(step.default)
                self.add(f"note_gone(lost, {id}, {r}, {n!r}, {default}, {inside})")
            else:
                self.add(f"{r}.pop({n!r}, None)")

    def split(self, d: str, path: str, into: tuple[str, ...], sep: str, id: str) -> None:
        there, back = _split(sep, len(into)), _merge(sep)
        with self.at(d, path) as (r, n), self.block(f"if {n!r} in {r}:"):
            targets = ", ".join(f"{r}[{name!r}]" for name in into) + "," * (len(into) == 1)
            self.add(f"{targets} = {self.value(f'{r}.pop({n!r})', there, back, id)}")

    def merge(self, d: str, path: str, names: tuple[str, ...], sep: str, id: str) -> None:
        there, back = _merge(sep), _split(sep, len(names))
        with self.at(d, path) as (r, n):
            found = " or ".join(f"{name!r} in {r}" for name in names)
            with self.block(f"if {found}:"):
                parts = "[" + ", ".join(f'{r}.pop({name!r}, "")' for name in names) + "]"
                self.add(f"{r}[{n!r}] = {self.value(parts, there, back, id)}")

    def replaced(self, step: Values | Retype | Convert, d: str, id: str) -> None:
        """A value that becomes another in its place."""
        there, back = self.known(step), self.known(inverse(step)) if self.track else str
        if not step.path:
            self.add(f"{d} = {self.value(d, there, back, id)}")
            return
        path = step.path.removesuffix("[]")
        with self.at(d, path) as (r, n), self.block(f"if {n!r} in {r}:"):
            if path == step.path:
                self.add(f"{r}[{n!r}] = {self.value(f'{r}[{n!r}]', there, back, id)}")
                return
            one, at = self.new("one"), self.new("at")
            with self.block(f"for {at}, {one} in elements({r}[{n!r}]):"):
                value = self.value(one, there, back, f'{id} + f"/{{{at}}}"')
                self.add(f"{r}[{n!r}][{at}] = {value}")

    def wrap(self, d: str, path: str, into: str, empty: Any, id: str) -> None:
        with self.at(d, path) as (r, n), self.block(f"if {n!r} in {r}:"):
            value, target = self.new("v"), into.removesuffix("[]")
            self.add(f"{value} = {r}.pop({n!r})")
            if target != into:
                wrapped = self.value(value, _listed(empty), _first(empty), id)
                self.add(f"{r}[{target!r}] = {wrapped}")
                return
            record, name = into.split(".")
            self.add(f"{r}.setdefault({record!r}, {{}})[{name!r}] = {value}")

    def unwrap(self, d: str, path: str, into: str, empty: Any, id: str) -> None:
        if path.endswith("[]"):
            with self.at(d, path.removesuffix("[]")) as (r, n), self.block(f"if {n!r} in {r}:"):
                value = self.value(f"{r}.pop({n!r})", _first(empty), _listed(empty), id)
                self.add(f"{r}[{into!r}] = {value}")
            return
        holder, _, name = path.rpartition(".")
        with self.at(d, holder) as (r, h):
            inner, value = self.new("r"), self.new("v")
            self.add(f"{inner} = {r}.get({h!r})")
            with self.block(f"if {inner}.__class__ is dict and {name!r} in {inner}:"):
                self.add(f"{value} = {inner}.pop({name!r})")
                with self.block(f"if not {inner}:"):
                    self.add(f"del {r}[{h!r}]")
                self.add(f"{r}[{into!r}] = {value}")

    def each(
        self,
        d: str,
        path: str,
        steps: Sequence[Step],
        id: str,
        only: tuple[str, str] | None = None,
        *,
        inside: bool = True,
    ) -> None:
        """Steps in the record at a path, or in each of a list or map ("lines[]"); only where a
        field has a text.
        """
        if not steps:
            return
        one, at, of_each = self.new("e"), self.new("at"), path.endswith("[]")
        is_it = "" if only is None else f"{one}.get({only[0]!r}) == {only[1]!r}"
        with self.at(d, path.removesuffix("[]")) as (r, n):
            found = f"{r}.get({n!r})"
            if of_each:
                self.add(f"for {at}, {one} in records({found}):")
                if is_it:
                    self.depth += 1
                    self.add(f"if {is_it}:")
            else:
                self.add(f"if ({one} := {found}).__class__ is dict and {is_it}:")
            self.depth += 1
            for nth, step in enumerate(steps):
                place = nth if self.up else len(steps) - 1 - nth  # as the other way counts
                inner = f'{id} + f".{place}/{{{at}}}"' if of_each else f'{id} + ".{place}"'
                self.step(step, one, inner, inside=inside or of_each)

    # ---- values

    def value(self, value: str, there: Expression, back: Expression, id: str) -> str:
        """The expression of a value that is changed; kept, where what it was would be lost."""
        if not self.track:
            return there(value)
        ways = f"lambda v: {there('v')}, lambda v: {back('v')}"
        return f"through(given, lost, {id}, {value}, {ways})"

    def known(self, step: Step) -> Expression:
        """The expression of what a step makes of a value."""
        match step:
            case Values(path, up):
                name = self.new("values_")
                mapped = self.values[name] = Mapped(up)
                mapped.path = path
                self.shown[name] = repr(dict(up))
                return lambda v: f"{name}[{v}]"
            case Retype(_, was, now, scale, default, precision):
                more = f", {scale}" if {was, now} == {"int", "decimal"} else ""
                if may_fail(step) == (was, now):
                    more += f", {default!r}" + f", {precision}" * bool(precision)
                return lambda v: f"{was}_to_{now}({v}{more})"
            case Convert(_, up):
                stem = getattr(up, "__name__", "function")
                stem = stem if stem.isidentifier() and not keyword.iskeyword(stem) else "function"
                name = self.new(f"{stem}_")
                self.values[name] = up
                return lambda v: f"{name}({v})"
        raise AssertionError(step)


def _split(sep: str, count: int) -> Expression:
    return lambda v: f"split({v}, {sep!r}, {count})"


def _merge(sep: str) -> Expression:
    return lambda v: f"merge({v}, {sep!r})"


def _listed(empty: Any) -> Expression:
    return lambda v: f"listed({v}, {empty!r})"


def _first(empty: Any) -> Expression:
    return lambda v: f"first({v}, {empty!r})"


RUNTIME: dict[str, Any] = {
    **{name: getattr(forms, name) for name in forms.__all__},
    "add_back": add_back,
    "note_gone": note_gone,
    "through": through,
    "ABSENT": UNSET,
}
