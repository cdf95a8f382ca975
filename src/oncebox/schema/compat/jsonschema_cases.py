"""A conjunction of JSON Schemas as a list of cases without alternatives. Pure.

A case says, for each of JSON's types, what values of it may look like. The list takes in every
document that satisfies the conjunction, and may take in more (where a bound is met, or a word is
not understood): proofs about what a *writer* may write stay sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Final

import msgspec

from .jsonschema_read import DRAFT_2020, Node, Pool
from .jsonschema_shapes import (
    ANYTHING,
    Arrays,
    Case,
    Numbers,
    Objects,
    Part,
    Strings,
    Values,
    fraction,
)

CASES_MAX: Final = 128
"""Cases of one conjunction; alternatives beyond are left unexpanded."""
_NOTHING = Case({})
Alternative = tuple[tuple[Node, ...], tuple[Node, ...]]


def types_of(value: Any) -> set[str]:
    """The types that `type` names; "integer" goes with "number"."""
    return set(value if isinstance(value, list) else [value])


def scalars(values: Iterable[Any]) -> Case:
    """Those of the values that are neither array nor object."""
    plain = list(values)
    booleans = frozenset(v for v in plain if isinstance(v, bool))
    numbers = frozenset(fraction(v) for v in plain if _real(v))
    return Case({
        "null": Values(frozenset(v for v in plain if v is None)),
        "boolean": Values(booleans),
        "number": Numbers(values=numbers),
        "string": Strings(values=frozenset(v for v in plain if isinstance(v, str))),
    })  # fmt: skip


def listed(plain: Mapping[str, Any]) -> tuple[list[Any] | None, frozenset[str]]:
    """The values that are left where all are listed, and the keywords that this rests on."""
    if "const" in plain and "enum" in plain:
        both = [v for v in plain["enum"] if same_value(v, plain["const"])]
        return both, frozenset({"const", "enum"})
    for word in ("const", "enum"):
        if word in plain:
            return ([plain[word]] if word == "const" else plain[word]), frozenset({word})
    for word in ("anyOf", "oneOf"):
        branches = plain.get(word, ())
        if branches and all(isinstance(b, dict) and "const" in b and b.keys() <= _A_CONST
                            for b in branches):  # fmt: skip
            values = [branch["const"] for branch in branches]
            if word == "anyOf" or _distinct(values):
                return values, frozenset({word})
    return None, frozenset()


_A_CONST = frozenset({
    "const", "title", "description", "deprecated", "$comment", "examples", "default",
})  # fmt: skip


def constants(values: Iterable[Any]) -> frozenset[Any]:
    """Values that can be compared with those of another such set; arrays and objects as one."""
    return frozenset(
        "compound" if isinstance(v, dict | list) else (isinstance(v, bool), v) for v in values
    )


def _distinct(values: list[Any]) -> bool:
    if any(isinstance(v, dict | list) for v in values):
        return False
    return len(constants(values)) == len(values)


def same_value(a: Any, b: Any) -> bool:
    """Equal as JSON Schema means it: 1 is 1.0, and neither is true."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_value(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_value, a, b))
    return (type(a) is type(b) and a == b) or (_real(a) and _real(b) and a == b)


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass
class Cases:
    """Makes cases, once for each conjunction. `writer`: the Pool whose objects count as closed
    where they list properties and say nothing of others; None: none do.
    """

    writer: object | None
    made: dict[str, Node] = field(default_factory=dict)
    _tags: dict[Node, dict[str, frozenset[Any]]] = field(default_factory=dict)
    _owns: dict[Node, Case] = field(default_factory=dict)
    _lists: dict[tuple[frozenset[Node], frozenset[Node]], list[Case]] = field(default_factory=dict)

    def of(self, nodes: Iterable[Node], nots: Iterable[Node] = ()) -> list[Case]:
        """The cases of all nodes together, and none of `nots`."""
        nodes, nots = tuple(dict.fromkeys(nodes)), tuple(dict.fromkeys(nots))
        key = frozenset(nodes), frozenset(nots)
        if key not in self._lists:
            self._lists[key] = self._expand(nodes, nots)
        return self._lists[key]

    def synthetic(self, schema: dict[str, Any]) -> Node:
        """A node for a schema of our own, in the words of 2020-12 (and of few of them)."""
        text = msgspec.json.encode(schema, order="sorted").decode()
        if text not in self.made:
            self.made[text] = Pool(text, {}, DRAFT_2020).root
        return self.made[text]

    def _expand(self, nodes: tuple[Node, ...], nots: tuple[Node, ...]) -> list[Case]:
        case, choices = self._flat(nodes)
        done = [replace(case, nodes=nodes, nots=case.nots + nots)]
        for choice in choices:
            some = [
                replace(case, nots=case.nots + excluded)
                for alternative, excluded in choice
                for case in self.of(alternative)
            ]
            if len(some) * len(done) <= CASES_MAX:  # else the cases say less than the schemas
                done = [case for one in some for each in done if (case := each & one).types]
        return [case for case in done if case.types]

    def _flat(self, nodes: tuple[Node, ...]) -> tuple[Case, list[list[Alternative]]]:
        """What nodes say without alternatives, with what they refer to; and the alternatives."""
        case, choices = Case(), list[list[Alternative]]()
        todo, seen = list(nodes), set[Node]()
        while todo:
            node = todo.pop(0)
            if node in seen:
                continue
            seen.add(node)
            case &= self.own(node)
            choices += self._choices(node)
            todo += node.subs("allOf")
            if node.target is not None:
                todo.append(node.target)
        return replace(case, nodes=nodes), choices

    def own(self, node: Node) -> Case:
        """What a node says by itself."""
        found = self._owns.get(node)
        if found is None:
            found = self._owns[node] = _NOTHING if node.false else self._own(node)
        return found

    def _own(self, node: Node) -> Case:
        plain = node.plain
        own = {
            "number": _numbers(plain), "string": _strings(plain),
            "array": _arrays(node), "object": _objects(node),
        }  # fmt: skip
        case = Case({**ANYTHING, **own}, nots=(node.sub("not"),) if "not" in plain else ())
        if "type" in plain:
            types = types_of(plain["type"])
            only = {kind: of for kind, of in ANYTHING.items() if kind in types}
            if "integer" in types and "number" not in types:
                only["number"] = Numbers(step=Fraction(1))
            case &= Case(only)
        values, _ = listed(plain)
        if values is not None and not any(isinstance(v, dict | list) for v in values):
            case &= scalars(values)
        return case

    def _choices(self, node: Node) -> list[list[Alternative]]:
        plain = node.plain
        choices: list[list[Alternative]] = []
        values, used = listed(plain)
        whole = [self.exactly(v) for v in values or () if isinstance(v, dict | list)]
        if values is not None and whole:
            flat = [v for v in values if not isinstance(v, dict | list)]
            choices.append([((node,), ()) for node in (self.synthetic({"enum": flat}), *whole)])
        if "anyOf" in plain and "anyOf" not in used:
            choices.append([((branch,), ()) for branch in node.subs("anyOf")])
        if "oneOf" in plain and "oneOf" not in used:
            branches = node.subs("oneOf")
            choices.append([
                ((b,), (*branches[:at], *branches[at + 1 :])) for at, b in enumerate(branches)
            ])  # fmt: skip
        if "if" in plain and plain.keys() & {"then", "else"}:
            when = node.sub("if")
            then = (node.sub("then"),) if "then" in plain else ()
            other = (node.sub("else"),) if "else" in plain else ()
            choices.append([((when, *then), ()), (other, (when,))])
        for name, schema in node.named("dependentSchemas").items():
            choices.append([((self.absent(name),), ()), ((self.present(name), schema), ())])
        return choices

    def tags(self, node: Node) -> dict[str, frozenset[Any]]:
        """Properties that a node gives a few constants: what tells alternatives apart."""
        if node not in self._tags:
            found: dict[str, frozenset[Any]] = {}
            for below in (*([node.target] if node.target else []), *node.subs("allOf")):
                found |= self.tags(below)
            for name, value in node.plain.get("properties", {}).items():
                if isinstance(value, dict) and value.keys() & {"const", "enum"}:
                    values, _ = listed(node.sub("properties", name).plain)
                    found |= {} if values is None else {name: constants(values)}
            self._tags[node] = found
        return self._tags[node]

    def absent(self, name: str) -> Node:
        """Without the property, or no object."""
        return self.synthetic({"properties": {name: False}})

    def present(self, name: str) -> Node:
        """An object with the property."""
        return self.synthetic({"type": "object", "required": [name]})

    def exactly(self, value: Any) -> Node:
        """Only this value, said without `const` if it is an array or object."""
        if isinstance(value, dict):
            each = {name: {"const": of} for name, of in value.items()}
            return self.synthetic({
                "type": "object", "required": sorted(value), "properties": each,
                "additionalProperties": False,
            })  # fmt: skip
        if isinstance(value, list) and value:
            return self.synthetic({
                "type": "array", "minItems": len(value), "maxItems": len(value),
                "prefixItems": [{"const": each} for each in value],
            })  # fmt: skip
        if isinstance(value, list):
            return self.synthetic({"type": "array", "maxItems": 0})
        return self.synthetic({"const": value})


def _numbers(plain: Mapping[str, Any]) -> Numbers:
    said = {word: fraction(plain[word]) for word in (
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    ) if word in plain}  # fmt: skip
    if not said:
        return Numbers()
    return Numbers(step=said.get("multipleOf"), low=said.get("minimum"),
                   high=said.get("maximum")) & Numbers(
        low=said.get("exclusiveMinimum"), high=said.get("exclusiveMaximum"),
        low_open="exclusiveMinimum" in said, high_open="exclusiveMaximum" in said,
    )  # fmt: skip


def _strings(plain: Mapping[str, Any]) -> Strings:
    high = plain.get("maxLength")
    return Strings(
        int(plain.get("minLength", 0)), None if high is None else int(high),
        frozenset({plain["pattern"]} if "pattern" in plain else ()),
        frozenset({plain["format"]} if "format" in plain else ()),
    )  # fmt: skip


def _arrays(node: Node) -> Arrays:
    plain = node.plain
    high = plain.get("maxItems")
    parts = []
    if "prefixItems" in plain or "items" in plain:
        rest = node.sub("items") if "items" in plain else None
        parts.append((tuple(node.subs("prefixItems")), rest))
    if (
        "unevaluatedItems" in plain
        and (done := evaluated_items(node, everywhere(node), "contains", "$dynamicRef")) is not None
    ):
        anything = node.pool.node(True, f"{node.pointer}\0", node.base)
        parts.append(((anything,) * done, node.sub("unevaluatedItems")))
    contains: tuple[tuple[Node, int, int | None], ...] = ()
    if "contains" in plain:
        most = plain.get("maxContains")
        contains = (
            (node.sub("contains"), int(plain.get("minContains", 1)),
             None if most is None else int(most)),
        )  # fmt: skip
    return Arrays(
        int(plain.get("minItems", 0)), None if high is None else int(high),
        bool(plain.get("uniqueItems")), tuple(parts), contains,
    )  # fmt: skip


def _objects(node: Node) -> Objects:
    plain = node.plain
    high = plain.get("maxProperties")
    parts = []
    if plain.keys() & {"properties", "patternProperties", "additionalProperties"}:
        rest = node.sub("additionalProperties") if "additionalProperties" in plain else None
        parts.append(Part(node.named("properties"), node.named("patternProperties"), rest))
    if (
        "unevaluatedProperties" in plain
        and (done := evaluated_properties(node, everywhere(node), "$dynamicRef")) is not None
    ):
        anything = node.pool.node(True, f"{node.pointer}\0", node.base)
        names, patterns = (dict.fromkeys(each, anything) for each in done)
        parts.append(Part(names, patterns, node.sub("unevaluatedProperties")))
    return Objects(
        int(plain.get("minProperties", 0)), None if high is None else int(high),
        frozenset(plain.get("required", ())), tuple(parts),
        (node.sub("propertyNames"),) if "propertyNames" in plain else (),
        tuple((name, frozenset(n)) for name, n in plain.get("dependentRequired", {}).items()),
    )  # fmt: skip


def everywhere(node: Node) -> Iterable[Node]:
    """The node and all that may speak of the same value."""
    todo, seen = [node], set[Node]()
    while todo:
        at = todo.pop()
        if at not in seen:
            seen.add(at)
            yield at
            todo += at.in_place()


def evaluated_properties(
    node: Node, speaking: Iterable[Node], *words: str
) -> tuple[set[str], set[str]] | None:
    """Names and patterns that subschemas in place evaluate, of those that are `speaking`; None:
    all, or with one of `words` perhaps all.
    """
    names, patterns = set[str](), set[str]()
    for at in speaking:
        inner = at is not node and "unevaluatedProperties" in at.plain
        if inner or at.plain.keys() & {"additionalProperties", *words}:
            return None
        names.update(at.plain.get("properties", ()))
        patterns.update(at.plain.get("patternProperties", ()))
    return names, patterns


def evaluated_items(node: Node, speaking: Iterable[Node], *words: str) -> int | None:
    """How many items they evaluate; None as with properties."""
    most = 0
    for at in speaking:
        inner = at is not node and "unevaluatedItems" in at.plain
        if inner or at.plain.keys() & {"items", *words}:
            return None
        most = max(most, len(at.plain.get("prefixItems", ())))
    return most
