"""What a reader's schema asks of the parts of objects and arrays. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from .jsonschema_cases import evaluated_items, evaluated_properties
from .jsonschema_prove import OPEN, AnyName, Failure, ItsName, Prover
from .jsonschema_read import Node, apart, matches
from .jsonschema_shapes import Arrays, Case, Objects


def objects(p: Prover, case: Case, of: Objects, goal: Node) -> Iterator[Failure]:
    """What of the goal does not follow for objects."""
    plain = goal.plain
    needed = of.needed_with(of.required)
    if not needed.issuperset(plain.get("required", ())):
        yield p.fail("required-added", case, goal, "required")
    if plain.get("minProperties", 0) > max(of.low, len(needed)):
        yield p.fail("min-properties-raised", case, goal, "minProperties")
    if "maxProperties" in plain:
        most = p.most(of)
        if most is None or most > plain["maxProperties"]:
            yield p.fail("max-properties-lowered", case, goal, "maxProperties")
    for name, needs in plain.get("dependentRequired", {}).items():
        lacking = set(needs) - of.needed_with({*of.required, name})
        if lacking and p.at(of, name) is not None:
            with_it = p.cases.of((*case.nodes, p.cases.present(name)), case.nots)
            yield p.fail("dependent-required-added", case, goal,
                             "dependentRequired", samples=with_it)  # fmt: skip
    for name, sub in goal.named("dependentSchemas").items():
        if p.at(of, name) is not None:
            for one in p.cases.of((*case.nodes, p.cases.present(name)), case.nots):
                yield from p.follows(one, sub)
    yield from _properties(p, case, of, goal)


def _properties(p: Prover, case: Case, of: Objects, goal: Node) -> Iterator[Failure]:
    plain = goal.plain
    names, rest = p.classes(of)
    for name in plain.get("properties", ()):
        nodes = p.at(of, name)
        if nodes is not None:
            sub = goal.sub("properties", name)
            silent = "" if any(name in part.properties for part in of.parts) else OPEN
            yield from p.down(nodes, sub, (case, name), silent)
    for pattern, sub in goal.named("patternProperties").items():
        for name in names:
            if matches(pattern, name) is not False and (n := p.at(of, name)) is not None:
                yield from p.down(n, sub, (case, name))
        own = of.patterns
        own = {pattern: own[pattern]} if pattern in own else own
        for mine, nodes in own.items():
            if mine != pattern and apart(mine, pattern):
                continue
            yield from p.down(nodes, sub, (case, AnyName(mine)))
        if pattern not in of.patterns and rest is not None:
            yield from p.down(rest, sub, (case, AnyName(pattern)), OPEN)
    if "additionalProperties" in plain:
        known = set(plain.get("properties", ())), set(plain.get("patternProperties", ()))
        yield from _others(p, case, of, goal.sub("additionalProperties"), known)
    if "unevaluatedProperties" in plain:
        seen = evaluated_properties(goal, _sure(p, case, goal))
        if seen is not None:
            yield from _others(p, case, of, goal.sub("unevaluatedProperties"), seen)
    if "propertyNames" in plain:
        yield from _names(p, case, of, goal.sub("propertyNames"))


def _others(
    p: Prover, case: Case, of: Objects, sub: Node, known: tuple[set[str], set[str]],
) -> Iterator[Failure]:  # fmt: skip
    """Properties that a reader's schema does not name satisfy `sub`."""
    names, rest = p.classes(of)
    for name in names:
        if name in known[0] or any(matches(pattern, name) for pattern in known[1]):
            continue
        if (nodes := p.at(of, name)) is not None:
            yield from p.down(nodes, sub, (case, name), refused="property-removed")
    for pattern, nodes in of.patterns.items():
        if pattern not in known[1]:
            yield from p.down(nodes, sub, (case, AnyName(pattern)), refused="object-closed")
    if rest is not None:
        hop = case, AnyName()
        yield from p.down(rest, sub, hop, "additional-narrowed", refused="object-closed")


def _names(p: Prover, case: Case, of: Objects, sub: Node) -> Iterator[Failure]:
    names, rest = p.classes(of)
    named = [p.cases.exactly(name) for name in names if p.at(of, name) is not None]
    if p.finite(of) is None:
        like = [{"type": "string", "pattern": pattern} for pattern in of.patterns]
        like += [{"type": "string"}] if rest is not None else []
        named += [p.cases.synthetic(each) for each in like]
    for node in named:
        yield from p.down((node, *of.names), sub, (case, ItsName()))


def _sure(p: Prover, case: Case, goal: Node) -> Iterator[Node]:
    """The subschemas in place that every document of the case satisfies."""
    yield goal
    plain = goal.plain
    below = [*([goal.target] if goal.target else []), *goal.subs("allOf")]
    for word in ("anyOf", "oneOf"):
        below += [branch for branch in goal.subs(word) if p.takes(case, branch)]
    if "if" in plain:
        when = goal.sub("if")
        if p.takes(case, when):
            below += [when, *([goal.sub("then")] if "then" in plain else [])]
        elif "else" in plain and p.apart(case, when):
            below.append(goal.sub("else"))
    required = case.shapes["object"].required if "object" in case.types else frozenset()
    below += [s for name, s in goal.named("dependentSchemas").items() if name in required]
    for sub in below:
        yield from _sure(p, case, sub)


def arrays(p: Prover, case: Case, of: Arrays, goal: Node) -> Iterator[Failure]:
    """What of the goal does not follow for arrays."""
    plain = goal.plain
    high = p.longest(of)
    prefix = goal.subs("prefixItems")
    for at, sub in enumerate(prefix):
        if high is None or high > at:
            yield from p.down(of.at(at), sub, (case, at), "items-narrowed")
    if "items" in plain:
        yield from _items(p, case, of, goal.sub("items"), len(prefix))
    if (
        "unevaluatedItems" in plain
        and (done := evaluated_items(goal, _sure(p, case, goal))) is not None
    ):
        yield from _items(p, case, of, goal.sub("unevaluatedItems"), done)
    if plain.get("minItems", 0) > of.low:
        yield p.fail("min-items-raised", case, goal, "minItems")
    most = plain.get("maxItems")
    if most is not None and (high is None or high > most):
        yield p.fail("max-items-lowered", case, goal, "maxItems")
    if plain.get("uniqueItems") and not of.unique and (high is None or high > 1):
        yield p.fail("unique-added", case, goal, "uniqueItems")
    if "contains" in plain:
        yield from _contains(p, case, of, goal, high)


def _items(p: Prover, case: Case, of: Arrays, sub: Node, start: int) -> Iterator[Failure]:
    high = p.longest(of)
    for at in range(start, max(start, of.places) + 1):
        if high is None or high > at:
            step = (case, at)
            yield from p.down(of.at(at), sub, step, "items-narrowed", "items-closed")


def _contains(p: Prover, case: Case, of: Arrays, goal: Node, high: int | None) -> Iterator[Failure]:
    sub = goal.sub("contains")
    least = int(goal.plain.get("minContains", 1))
    most = goal.plain.get("maxContains")
    sure = sum(p.attempt(of.at(at), sub) for at in range(min(of.low, of.places)))
    if of.low > of.places and p.attempt(of.at(of.places), sub):
        sure += of.low - of.places
    by_items = sure >= least
    same = of.at(0) if of.places == 0 else ()  # what holds for each item
    by_contains = any(low >= least and p.attempt((n, *same), sub) for n, low, _ in of.contains)
    if least > 0 and not (by_items or by_contains):
        yield p.fail("contains-narrowed", case, goal, "contains")
    if most is None or (high is not None and high <= most):
        return
    if any(h is not None and h <= most and p.attempt((sub,), n) for n, _, h in of.contains):
        return
    possible = [at for at in range(of.places + 1) if (high is None or at < high)
                and not p.nothing((*of.at(at), sub))]  # fmt: skip
    if of.places in possible or len(possible) > most:
        yield p.fail("max-contains-lowered", case, goal, "maxContains")
