"""JSON Schemas read with bounds: drafts, references, cycles. No reference leaves the texts given.

A `Node` is a subschema at its place. `Node.plain` has its keywords in the words of 2020-12,
whatever its draft, so that nothing behind this file asks for the draft.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from graphlib import CycleError, TopologicalSorter
from math import inf
from typing import Any, Final, NoReturn
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import msgspec

from ...errors import SchemaError
from .bounds import missing, pairs, read_json, too_deep

OLD, NEW = "the old schema", "the new schema"
LEVELS_MAX: Final = 200
"""Of arrays and objects inside each other, in a schema's text."""
NODES_MAX: Final = 100_000
"""Subschemas of a schema and of what it refers to."""
WAYS_MAX: Final = 10_000
"""Subschemas that speak of one value, each as often as others lead to it."""
PATTERN_MAX: Final = 10_000
"""Characters of a regular expression."""
BACKTRACKS_MAX: Final = 100_000
"""Steps of the regular expressions that cannot be matched in linear time (lookaround, …)."""

DRAFT_7, DRAFT_2020 = "draft-07", "2020-12"
_URIS = {
    DRAFT_7: "http://json-schema.org/draft-07/schema#",
    DRAFT_2020: "https://json-schema.org/draft/2020-12/schema",
}
_MAPS = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONES = (
    "not", "if", "then", "else", "additionalProperties", "propertyNames", "items", "contains",
    "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_BELOW = frozenset({*_MAPS, *_LISTS, *_ONES})
_IN_PLACE = frozenset({"allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"})
"""Keywords whose subschemas speak of the same value, not of a part of it."""
_NOT_IN_7 = frozenset({
    "$anchor", "$dynamicAnchor", "$dynamicRef", "$defs", "prefixItems", "minContains",
    "maxContains", "dependentRequired", "dependentSchemas", "unevaluatedProperties",
    "unevaluatedItems",
})  # fmt: skip
_HARMLESS = frozenset({
    "type", "title", "description", "default", "examples", "deprecated", "format", "$comment",
    "maxLength", "maxItems", "maxProperties", "minimum", "minLength", "properties", "items",
    "prefixItems", "patternProperties", "additionalProperties", "uniqueItems",
})  # fmt: skip
"""With any of these alone, a value is to be found: the empty one, or a large one."""
_NUMBER, _SIZE = "a number", "a number without a fraction, 0 or more"
_EXPECTED = {
    **dict.fromkeys((*_ONES, "items"), "an object, true or false"),
    **dict.fromkeys(_LISTS, "an array of schemas"),
    **dict.fromkeys(_MAPS, "an object of schemas"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties",
         "minContains", "maxContains"),
        _SIZE,
    ),
    "type": "one of JSON's types, or an array of them",
    "required": "an array of strings",
    "multipleOf": "a number above 0",
}  # fmt: skip
"""What the drafts' own schemas ask of keywords, in plain words."""


def refuse(node: Node, what: str, expected: str, hint: str | None = None) -> NoReturn:
    """Say what cannot be read, and where."""
    where = node.pointer if "#" in node.pointer else f"#{node.pointer}"
    raise SchemaError(f"{node.pool.which}, {where}: {what}", expected=expected, hint=hint)


def engine() -> Any:
    """The validator's library. Raises MissingDependency."""
    try:
        import jsonschema_rs
    except ImportError:
        raise missing("jsonschema-rs", "jsonschema") from None
    return jsonschema_rs


class Node:
    """A subschema: its value, its place as a JSON Pointer, and the URI that its references are
    relative to. One object per place of a `Pool`, so identity is equality.
    """

    __slots__ = ("__dict__", "base", "pointer", "pool", "value")

    def __init__(self, pool: Pool, value: Any, pointer: str, base: str) -> None:
        self.pool, self.value, self.pointer, self.base = pool, value, pointer, base

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Its keywords, as 2020-12 names them; `{}` for true. Ask `false` first."""
        if not isinstance(self.value, dict):
            return {}
        return _from_7(self.value) if self.pool.draft == DRAFT_7 else self.value

    @property
    def false(self) -> bool:
        """Whether it is the schema that nothing satisfies."""
        return self.value is False

    def sub(self, keyword: str, *steps: str | int) -> Node:
        """The subschema under a keyword of `plain`, and a name or index in it."""
        value = self.plain[keyword]
        for step in steps:
            value = value[step]
        written = keyword
        if isinstance(self.value, dict) and self.pool.draft == DRAFT_7:
            if keyword in ("prefixItems", "dependentSchemas"):
                written = "items" if keyword == "prefixItems" else "dependencies"
            elif keyword == "items" and "prefixItems" in self.plain:
                written = "additionalItems"
        pointer = f"{self.pointer}/{written}"
        for step in steps:
            pointer += f"/{escape(step)}" if isinstance(step, str) else f"/{step}"
        return self.pool.node(value, pointer, self.base)

    def subs(self, keyword: str) -> list[Node]:
        """Those of a keyword that has an array."""
        return [self.sub(keyword, at) for at in range(len(self.plain.get(keyword, ())))]

    def named(self, keyword: str) -> dict[str, Node]:
        """Those of a keyword that has an object."""
        return {name: self.sub(keyword, name) for name in self.plain.get(keyword, ())}

    @cached_property
    def inhabited(self) -> bool:
        """Whether it takes something, as its keywords show at a glance."""
        return not self.false and self.plain.keys() <= _HARMLESS

    @cached_property
    def target(self) -> Node | None:
        """What its `$ref` means."""
        return self.pool.resolve(self) if "$ref" in self.plain else None

    def _under(self, words: frozenset[str]) -> Iterator[Node]:
        for word, value in self.plain.items():
            if word not in words:
                continue
            if word in _MAPS:
                yield from (self.sub(word, name) for name in value)
            elif word in _LISTS:
                yield from self.subs(word)
            else:
                yield self.sub(word)

    def below(self) -> Iterator[Node]:
        """Each subschema right under it, without what it refers to."""
        return self._under(_BELOW)

    def in_place(self) -> Iterator[Node]:
        """Each that speaks of the same value."""
        yield from self._under(_IN_PLACE)
        if self.target is not None:
            yield self.target

    def parts(self, value: Any) -> Iterator[tuple[Node, Any]]:
        """The parts of a document, each with the subschemas that validators ask of it."""

        def those(*words: str) -> list[Node]:
            return [self.sub(word) for word in words if word in self.plain]

        if isinstance(value, dict):
            rest = those("additionalProperties", "unevaluatedProperties")
            rest += self.named("patternProperties").values()
            known = self.plain.get("properties", ())
            for name, part in value.items():
                own = [self.sub("properties", name)] if name in known else []
                yield from ((node, part) for node in own + rest)
        elif isinstance(value, list):
            prefix, rest = self.subs("prefixItems"), those("items", "contains", "unevaluatedItems")
            for at, part in enumerate(value):
                yield from ((node, part) for node in prefix[at : at + 1] + rest)

    @cached_property
    def text(self) -> bytes:
        """Its value as text; equal values have equal texts, but not the other way round."""
        return msgspec.json.encode(self.value, order="sorted")


def _from_7(value: dict[str, Any]) -> dict[str, Any]:
    """Draft 7 in the words of 2020-12."""
    if "$ref" in value:  # whatever stands beside it is ignored
        return {"$ref": value["$ref"]}
    plain = {word: each for word, each in value.items() if word not in _NOT_IN_7}
    rest = plain.pop("additionalItems", True)
    if isinstance(plain.get("items"), list):
        plain["prefixItems"] = plain.pop("items")
        plain["items"] = rest
        if not plain["prefixItems"]:
            del plain["prefixItems"]
    depends = plain.pop("dependencies", {})
    plain["dependentRequired"] = {n: d for n, d in depends.items() if isinstance(d, list)}
    plain["dependentSchemas"] = {n: d for n, d in depends.items() if not isinstance(d, list)}
    return plain


def escape(step: str) -> str:
    """A step of a JSON Pointer."""
    return step.replace("~", "~0").replace("/", "~1")


class Pool:
    """A schema and all that it refers to. Raises SchemaError for what it cannot read."""

    def __init__(
        self, text: str, references: Mapping[str, str], draft: str | None, which: str = "schema"
    ) -> None:
        value = parse(text, which)
        self.which = which
        self.draft = draft_of(value, which) or draft or _guess(value)
        self.references = references
        self.nodes: dict[str, Node] = {}
        self.resources: dict[str, Node] = {}
        self.anchors: dict[tuple[str, str], Node] = {}
        self.dynamic = b'"$dynamicRef"' in text.encode()
        self._walked: set[Node] = set()
        self.ways = 1
        """The most subschemas that speak of one value, each as often as others lead to it."""
        self.root = self.node(value, "", "")
        self.resources.setdefault("", self.root)
        self._known(value)
        self._walk(self.root)
        self._ends()

    def node(self, value: Any, pointer: str, base: str) -> Node:
        """The one node of this place."""
        found = self.nodes.get(pointer)
        if found is None:
            if len(self.nodes) >= NODES_MAX:
                refuse(self.root, "too many subschemas", f"at most {NODES_MAX:,}")
            own = value.get("$id") if isinstance(value, dict) else None
            if isinstance(own, str) and not (self.draft == DRAFT_7 and "$ref" in value):
                uri, anchor = urldefrag(own) if _is_uri(own) else ("", "")
                base = urljoin(base, uri) if uri else base
            else:
                uri = anchor = ""
            found = self.nodes[pointer] = Node(self, value, pointer, base)
            if uri:
                self.resources.setdefault(base, found)
            if anchor:
                self.anchors.setdefault((base, anchor), found)
        return found

    def _walk(self, start: Node) -> None:
        """Read everything below and everything referred to, so that later steps cannot fail."""
        todo, referring = [start], list[Node]()
        while todo or referring:
            while todo:
                node = todo.pop()
                if node in self._walked:
                    continue
                self._walked.add(node)
                _check(node, self.draft)
                for word in ("$anchor", "$dynamicAnchor"):
                    if word in node.plain:
                        self.anchors.setdefault((node.base, node.plain[word]), node)
                if "$ref" in node.plain:
                    referring.append(node)
                todo += node.below()
            if referring:
                target = referring.pop().target
                assert target is not None
                if target not in self._walked:  # in a place that the draft does not know
                    self._known(target.value, target.pointer)
                todo.append(target)

    def resolve(self, node: Node) -> Node:
        """What the reference of a node means, without any I/O."""
        reference: str = node.plain["$ref"]
        name, fragment = urldefrag(reference)
        uri = (urljoin(node.base, name) or name) if name else node.base
        root = self.resources.get(uri) or self._foreign(name, uri, node)
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            found = self.anchors.get((root.base, fragment))
            return found or self._unknown(node, reference)
        value, pointer, base = root.value, root.pointer, root.base
        for step in fragment.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            try:
                value = value[int(name)] if isinstance(value, list) else value[name]
            except (KeyError, IndexError, ValueError, TypeError):
                self._unknown(node, reference)
            pointer += f"/{escape(name)}"
            base = self.nodes[pointer].base if pointer in self.nodes else base
        if not isinstance(value, dict | bool):
            refuse(node, f"{reference!r} is no schema", "an object, true or false")
        return self.node(value, pointer, base)

    def _foreign(self, name: str, uri: str, node: Node) -> Node:
        """A text of the given references."""
        for known in (uri, name):
            if known in self.references:
                value = parse(self.references[known], known)
                draft = draft_of(value, known)
                if draft not in (None, self.draft):
                    refuse(node, f"{known!r} is {draft}", f"{self.draft}, as here")
                root = self.node(value, f"{known}#", uri)
                self._known(value, root.pointer)
                self.resources[uri] = root
                self._walk(root)
                return root
        return self._unknown(node, node.plain["$ref"])

    def _unknown(self, node: Node, reference: str) -> NoReturn:
        given = ", ".join(sorted(self.references)[:10]) or "none"
        refuse(
            node, f"nothing here is called {reference!r}",
            f"a place in this schema, or one of the given references ({given})",
            "References are never fetched: give the schema that this one names.",
        )  # fmt: skip

    def _ends(self) -> None:
        """Refuse what validators never end with: a schema that needs itself for the very same
        value, or that leads to the same words in too many ways.
        """
        inside = {node: list(node.in_place()) for node in self._walked}
        ways = dict[Node, int]()
        try:
            for node in TopologicalSorter(inside).static_order():
                ways[node] = 1 + sum(ways[each] for each in inside[node])
                self.ways = max(self.ways, ways[node])
                if ways[node] > WAYS_MAX:
                    refuse(
                        node, "allOf, anyOf, … and references lead to the same words too often",
                        f"at most {WAYS_MAX:,} subschemas for one value",
                    )  # fmt: skip
        except CycleError as error:
            refuse(
                error.args[1][0], "the schema refers to itself in a circle",
                "a step into a property or an item between a schema and itself",
            )  # fmt: skip

    def _known(self, value: Any, pointer: str = "") -> None:
        """Refuse what the draft's own schema does not admit."""
        rs = engine()
        try:
            if isinstance(value, dict):
                rs.meta.validate({**value, "$schema": _URIS[self.draft]})
        except rs.ValidationError as error:
            *above, word = [str(step) for step in error.instance_path] or [""]
            while word.isdecimal() and above:
                *above, word = above
            what, expected = f"{word!r}: {error.message[:200]}", _EXPECTED.get(word)
            if expected is None:
                above, what = [*above, word], error.message[:200]
                inner = 'types "boolean", "object"' in what
                expected = _EXPECTED["not"] if inner else f"a schema of {self.draft}"
            lists = word == "items" and self.draft == DRAFT_2020
            where = pointer + "".join(f"/{escape(step)}" for step in above if step)
            raise SchemaError(
                f"{self.which}, {where if '#' in where else '#' + where}: {what}",
                expected=expected,
                hint="arrays of `items` are of draft 7: say so in `$schema`" if lists else None,
            ) from None

    def effort(self, document: Any) -> float:
        """About how many subschemas a validator asks, of a document and all of its parts."""
        known: dict[tuple[Node, int], int] = {}

        def asked(node: Node, value: Any) -> int:
            key = node, id(value)
            if key not in known:
                inside = sum(asked(each, value) for each in node.in_place())
                known[key] = 1 + inside + sum(asked(*each) for each in node.parts(value))
            return known[key]

        try:
            return asked(self.root, document)
        except RecursionError:
            return inf

    @cached_property
    def validator(self) -> Any:
        """The real validator; formats are documentation, and nothing is fetched."""
        rs = engine()
        kind = rs.Draft7Validator if self.draft == DRAFT_7 else rs.Draft202012Validator
        try:
            return kind(
                self.root.value, validate_formats=False, retriever=self._retrieve,
                pattern_options=rs.FancyRegexOptions(backtrack_limit=BACKTRACKS_MAX),
            )  # fmt: skip
        except (rs.ValidationError, rs.ReferencingError, ValueError) as error:
            raise SchemaError(
                f"{self.which}: {str(error)[:300]}", expected=f"a schema of {self.draft}"
            ) from None

    def _retrieve(self, uri: str) -> Any:
        for known in (uri, uri.removeprefix("json-schema:///")):
            if known in self.references:
                return parse(self.references[known], known)
        raise KeyError(uri)


def parse(text: str, which: str) -> Any:
    """The JSON of a schema, within bounds."""
    value = read_json(text, which)
    level, row = 0, [value]
    while row:
        if level > LEVELS_MAX:
            raise too_deep(which, "#")
        level += 1
        row = [
            each
            for above in row
            if isinstance(above, dict | list)
            for each in (above.values() if isinstance(above, dict) else above)
        ]
    if not isinstance(value, dict | bool):
        raise SchemaError(f"{which}: not a JSON Schema", expected="an object, true or false")
    return value


def draft_of(value: Any, which: str) -> str | None:
    """The draft that a schema names. Raises SchemaError for others than ours."""
    named = value.get("$schema") if isinstance(value, dict) else None
    if named is None:
        return None
    for draft in (DRAFT_7, DRAFT_2020):
        if isinstance(named, str) and named.rstrip("#").endswith(f"{draft}/schema"):
            return draft
    raise SchemaError(f"{which}: {named!r}", expected="draft-07 or 2020-12 in `$schema`")


def _guess(value: Any) -> str:
    """2020-12, if nobody says; but these words are of draft 7."""
    older = isinstance(value, dict) and ("definitions" in value or "dependencies" in value)
    return DRAFT_7 if older else DRAFT_2020


def _check(node: Node, draft: str) -> None:
    """What the draft's own schema does not tell."""
    for word in ("$id", "$ref"):
        if word in node.plain and not _is_uri(node.plain[word]):
            refuse(node, f"{word!r} is {node.plain[word]!r}", "a URI")
    if "$schema" in node.plain and draft_of(node.value, node.pool.which) != draft:
        refuse(node, f"a schema of {node.plain['$schema']!r} inside", f"{draft}, as outside")
    if "pattern" in node.plain:
        _regex(node, node.plain["pattern"])
    for pattern in node.plain.get("patternProperties", ()):
        _regex(node, pattern)


def _is_uri(text: str) -> bool:
    """Whether it may be a URI, so that it can be joined with others."""
    try:
        urlsplit(text)
    except ValueError:
        return False
    return True


def _regex(node: Node, pattern: str) -> None:
    if len(pattern) > PATTERN_MAX or compiled(pattern) is None:
        refuse(
            node, f"the regular expression {pattern[:100]!r}",
            "one of ECMA 262 that compiles to a small automaton",
        )  # fmt: skip


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """A validator of strings that match, in bounded time; None if there is no such."""
    rs = engine()
    options = rs.FancyRegexOptions(backtrack_limit=BACKTRACKS_MAX)
    try:
        return rs.Draft202012Validator(
            {"type": "string", "pattern": pattern}, pattern_options=options
        )
    except (rs.ValidationError, ValueError):
        return None


def matches(pattern: str, text: str) -> bool | None:
    """Whether a text matches somewhere; None where the engine gave up."""
    validator = compiled(pattern)
    if validator.is_valid(text):
        return True
    return None if gave_up(validator.iter_errors(text)) else False


def matches_all(pattern: str) -> bool:
    """Whether surely every text matches: what takes the empty text, whatever is around it."""
    bare = not any(sign in pattern for sign in ("^", "$", "\\", "(?"))
    return pattern in ("^", "$", "^.*", ".*$") or (bare and matches(pattern, "") is True)


def apart(a: str, b: str) -> bool:
    """Whether surely no text matches both: they begin differently."""
    starts = [_start(pattern) for pattern in (a, b)]
    least = min(map(len, starts))
    return starts[0][:least] != starts[1][:least]


def _start(pattern: str) -> str:
    """What each text that matches begins with, as far as it is plain to see."""
    if "|" in pattern or (found := re.match(r"\^([A-Za-z0-9_ /:-]*)", pattern)) is None:
        return ""
    followed = pattern[found.end() : found.end() + 1] in ("*", "+", "?", "{")
    return found[1][:-1] if followed else found[1]


def gave_up(errors: Iterable[Any]) -> bool:
    """Whether a refusal rests on a limit of the engine, not on the schema."""
    todo = list(errors)
    while todo:
        error = todo.pop()
        if type(error.kind).__name__.endswith(("BacktrackLimitExceeded", "RegexEngineFailure")):
            return True
        for branch in getattr(error.kind, "context", ()):
            todo += branch
        if (inner := getattr(error.kind, "error", None)) is not None and hasattr(inner, "kind"):
            todo.append(inner)
    return False


References = Mapping[str, str]


def read_pair(
    old: str, new: str, references: References | None, old_references: References | None
) -> tuple[Pool, Pool]:
    """Both schemas of a pair. One that names no draft has that of the other, or 2020-12."""
    theirs = references if old_references is None else old_references
    drafts = [draft_of(parse(text, which), which) for text, which in ((old, OLD), (new, NEW))]
    return _read(old, pairs(theirs), drafts[1], OLD), _read(new, pairs(references), drafts[0], NEW)


def read_one(text: str, references: References | None, which: str) -> Pool:
    """A schema by itself."""
    return _read(text, pairs(references), None, which)


@lru_cache(maxsize=4)  # a new version is compared with each earlier one
def _read(
    text: str, references: tuple[tuple[str, str], ...], draft: str | None, which: str
) -> Pool:
    return Pool(text, dict(references), draft, which)
