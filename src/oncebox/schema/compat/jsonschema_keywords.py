"""What each keyword of a reader's schema asks of a writer's case, and whether it follows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from .jsonschema_cases import listed, scalars, types_of
from .jsonschema_parts import arrays, objects
from .jsonschema_prove import ALTERNATIVES_MAX, Failure, Prover
from .jsonschema_read import Node, matches, matches_all
from .jsonschema_shapes import Case, Numbers, Strings, as_json, fraction

SPLITS_MAX: Final = 64
"""Values that are looked at one by one where alternatives share them out."""

NOT_UNDERSTOOD = ("$dynamicRef", "$recursiveRef", "dependencies")
"""The last one in 2020-12 only, where some validators look at it and others do not."""
_BOUNDS = {
    "minimum": "minimum-raised", "exclusiveMinimum": "minimum-raised",
    "maximum": "maximum-lowered", "exclusiveMaximum": "maximum-lowered",
}  # fmt: skip


def keywords(p: Prover, case: Case, goal: Node) -> Iterator[Failure]:
    """What of the goal does not follow, keyword by keyword."""
    plain = goal.plain
    if goal.false:
        yield p.fail("refused", case, goal)
        return
    for word in NOT_UNDERSTOOD:
        if word in plain:
            yield p.fail("not-understood", case, goal, word)
    for sub in (*([goal.target] if goal.target else []), *goal.subs("allOf")):
        yield from p.follows(case, sub)
    if "type" in plain:
        yield from _types(p, case, goal)
    values, used = listed(plain)
    if values is not None:
        yield from _one_listed(p, case, goal, values, min(used))
    for kind, check in (
        ("number", _numbers), ("string", _strings),
        ("array", arrays), ("object", objects),
    ):  # fmt: skip
        if kind in case.types:
            one = case if len(case.types) == 1 else p.only(case, kind)
            found = list(check(p, one, one.shapes[kind], goal))
            if found and not (case.nots and one is not case and p.empty(one)):
                yield from found
    if "anyOf" in plain and "anyOf" not in used:
        yield from _one_of(p, case, goal, "anyOf")
    if "oneOf" in plain and "oneOf" not in used:
        yield from _one_of(p, case, goal, "oneOf")
    if "not" in plain and not p.apart(case, excluded := goal.sub("not")):
        both = p.cases.of((*case.nodes, excluded), case.nots)
        yield p.fail("not-widened", case, goal, "not", samples=both)
    if "if" in plain:
        yield from _conditional(p, case, goal)


def _types(p: Prover, case: Case, goal: Node) -> Iterator[Failure]:
    allowed = types_of(goal.plain["type"])
    bad = []
    for kind in case.types:
        if kind in allowed:
            continue
        if kind == "number" and "integer" in allowed:
            tight = case.shapes[kind].tight
            if tight.values is not None and all(v.denominator == 1 for v in tight.values):
                continue
            if tight.step is not None and tight.step.denominator == 1:
                continue
        if not p.empty(one := p.only(case, kind)):
            bad.append(one)
    if bad:
        yield p.fail("type-narrowed", case, goal, "type", samples=bad)


def _one_listed(
    p: Prover, case: Case, goal: Node, values: list[Any], word: str
) -> Iterator[Failure]:
    allowed = scalars(values).shapes
    wholes = [p.cases.exactly(v) for v in values if isinstance(v, dict | list)]
    bad: list[Case] = []
    for kind in case.types:
        one, few = p.only(case, kind), case.shapes[kind].few
        if few is None:
            compound = kind in ("array", "object") and any(p.takes(one, w) for w in wholes)
            bad += [] if compound or p.empty(one) else [one]
            continue
        left = map(as_json, few - allowed[kind].few)
        refused = sorted(left, key=repr)
        bad += [one] if len(refused) > SPLITS_MAX and not p.empty(one) else []
        for value in refused[:SPLITS_MAX]:
            exact = p.cases.of((*case.nodes, p.cases.exactly(value)), case.nots)
            bad += [c for c in exact if not p.empty(c)]
    if bad:
        rule = "const-changed" if word == "const" else "enum-narrowed"
        yield p.fail(rule, case, goal, word, samples=bad)


def _numbers(p: Prover, case: Case, of: Numbers, goal: Node) -> Iterator[Failure]:
    tight = of.tight
    for word, rule in _BOUNDS.items():
        if word not in goal.plain:
            continue
        bound = fraction(goal.plain[word])
        up, open_ = word.endswith("inimum"), word.startswith("exclusive")
        known, known_open = (tight.low, tight.low_open) if up else (tight.high, tight.high_open)
        if known is None or not (
            (known > bound if up else known < bound)
            or (known == bound and (known_open or not open_))
        ):
            yield p.fail(rule, case, goal, word)
    if "multipleOf" in goal.plain:
        step = fraction(goal.plain["multipleOf"])
        if tight.values is not None:
            fits = all((v / step).denominator == 1 for v in tight.values)
        else:
            fits = tight.step is not None and (tight.step / step).denominator == 1
        if not fits:
            yield p.fail("multiple-narrowed", case, goal, "multipleOf")


def _strings(p: Prover, case: Case, of: Strings, goal: Node) -> Iterator[Failure]:
    plain, kept = goal.plain, of.few
    if (low := plain.get("minLength", 0)) > of.low and not (
        kept is not None and all(len(v) >= low for v in kept)
    ):
        yield p.fail("min-length-raised", case, goal, "minLength")
    high = plain.get("maxLength")
    if high is not None and not (
        (of.high is not None and of.high <= high)
        or (kept is not None and all(len(v) <= high for v in kept))
    ):
        yield p.fail("max-length-lowered", case, goal, "maxLength")
    pattern = plain.get("pattern")
    if not (
        pattern is None or pattern in of.patterns or matches_all(pattern)
        or (kept is not None and all(matches(pattern, v) for v in kept))
    ):  # fmt: skip
        yield p.fail("pattern-changed", case, goal, "pattern")
    form = plain.get("format")
    if form is not None and form not in of.formats and kept is None:
        p.note(p.fail("format-changed", case, goal, "format"))


def _conditional(p: Prover, case: Case, goal: Node) -> Iterator[Failure]:
    when = goal.sub("if")
    if "then" in goal.plain:
        for one in p.cases.of((*case.nodes, when), case.nots):
            yield from p.follows(one, goal.sub("then"))
    if "else" in goal.plain:
        for one in p.cases.of(case.nodes, (*case.nots, when)):
            yield from p.follows(one, goal.sub("else"))


def _one_of(p: Prover, case: Case, goal: Node, word: str) -> list[Failure]:
    branches = goal.subs(word)
    failures: list[Failure] = []
    todo = [case]
    while todo:
        part = todo.pop()
        if p.spent:
            return [*failures, p.fail("undecided", part, goal)]
        taken = [branch for branch in branches if p.takes(part, branch)]
        good = bool(taken)
        clash: Node | None = None
        if good and word == "oneOf":
            clash = next((other for other in branches if other is not taken[0]
                          and not p.apart(part, other)), None)  # fmt: skip
        if good and clash is None:
            continue
        parts = [] if clash is not None and len(taken) > 1 else _split(p, part)
        if parts:
            todo += parts
        elif p.empty(part):
            continue
        elif clash is not None:
            both = p.cases.of((*part.nodes, clash), part.nots)
            failures.append(p.fail("alternatives-overlap", part, goal, word, samples=both))
        else:
            failures += _untaken(p, part, goal, branches, word)
    return failures


def _untaken(p: Prover, part: Case, goal: Node, branches: list[Node], word: str) -> list[Failure]:
    """No alternative takes it: what is wrong with the one that comes closest."""
    if p.quick:
        return [p.fail("alternatives-narrowed", part, goal, word)]
    near = [branch for branch in branches if not p.told_apart(part, branch)]
    tried = sorted((p.why_not(part, branch) for branch in near), key=_distance)
    others = tuple(f for each in tried[1:] for f in each)[:ALTERNATIVES_MAX]
    if len(near) == 1 < len(branches) or (near and _distance(tried[0])[0] == 0):
        return [replace(f, others=(*f.others, *others)) for f in tried[0]]
    inner = tuple(f for each in tried for f in each)[:ALTERNATIVES_MAX]
    return [replace(p.fail("alternatives-narrowed", part, goal, word), others=inner)]


def _split(p: Prover, case: Case) -> list[Case]:
    """The case in smaller ones; none if it is as small as it gets."""
    kinds = case.types
    if len(kinds) != 1:
        return [p.only(case, kind) for kind in kinds]
    values = [as_json(v) for v in case.shapes[kinds[0]].few or ()]
    if not 1 < len(values) <= SPLITS_MAX:
        return []
    return [
        one
        for value in sorted(values, key=repr)
        for one in p.cases.of((*case.nodes, p.cases.exactly(value)), case.nots)
    ]


def _distance(failures: list[Failure]) -> tuple[int, int]:
    """How far an alternative is from taking a case: what fails right there counts most."""
    return sum(not failure.trail for failure in failures), len(failures)
