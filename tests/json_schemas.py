"""Random JSON Schemas over few words, small changes to them, and random documents of those words.

Few words on purpose: so documents often satisfy schemas, and often just not.
"""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

NAMES = ["a", "b", "c", "ab"]
TEXTS = ["", "a", "b", "ab", "aab", "1", "b1"]
PATTERNS = ["^a", "b$", "[0-9]", "^a*$", "a|b", "^.$"]
NUMBERS: list[Any] = [-1, 0, 1, 2, 3, 4, 6, 0.5, 1.5]
SCALARS: list[Any] = [None, True, False, *NUMBERS, *TEXTS]
KINDS = ["null", "boolean", "integer", "number", "string", "array", "object"]


def schema(r: Random, depth: int = 3, *, draft: int = 2020) -> Any:
    """A schema of draft 7 or 2020-12."""
    if r.random() < 0.06:
        return r.choice([True, True, {}, False])
    made: dict[str, Any] = {}
    kinds = r.sample(KINDS, r.choice([1, 1, 1, 2, 3]))
    if r.random() < 0.75:
        made["type"] = kinds[0] if len(kinds) == 1 else kinds
    else:
        kinds = r.sample(KINDS, 3)
    if r.random() < 0.1:
        made["enum"] = r.sample(SCALARS, r.choice([1, 2, 4]))
        if r.random() < 0.3:
            made["enum"].append(r.choice([[], {}, [1], {"a": 1}, {"a": "a", "b": 1}]))
    if r.random() < 0.05:
        made["const"] = r.choice([*SCALARS, [1], {"a": 1}])
    for kind in kinds:
        _words(r, made, kind, depth, draft)
    if depth > 0 and r.random() < 0.3:
        _alternatives(r, made, depth, draft)
    return made


def _words(r: Random, made: dict[str, Any], kind: str, depth: int, draft: int) -> None:
    def some(chance: float = 0.35) -> bool:
        return r.random() < chance

    if kind in ("integer", "number"):
        for word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if some(0.25):
                made[word] = r.choice(NUMBERS)
        if some(0.2):
            made["multipleOf"] = r.choice([0.5, 1, 1.5, 2, 3])
    elif kind == "string":
        if some():
            made["minLength"] = r.randint(0, 2)
        if some():
            made["maxLength"] = r.randint(0, 3)
        if some():
            made["pattern"] = r.choice(PATTERNS)
    elif kind == "array":
        _array_words(r, made, depth, draft, some)
    elif kind == "object":
        _object_words(r, made, depth, draft, some)


def _array_words(r: Random, made: dict[str, Any], depth: int, draft: int, some: Any) -> None:
    if depth > 0:
        if some():
            prefix = [schema(r, depth - 1, draft=draft) for _ in range(r.choice([1, 2]))]
            made["items" if draft == 7 else "prefixItems"] = prefix
            if some(0.5):
                rest = "additionalItems" if draft == 7 else "items"
                made[rest] = r.choice([False, schema(r, depth - 1, draft=draft)])
        elif some(0.6):
            made["items"] = schema(r, depth - 1, draft=draft)
        if some(0.25):
            made["contains"] = schema(r, depth - 1, draft=draft)
            if draft != 7 and some():
                made["minContains"] = r.randint(0, 2)
            if draft != 7 and some():
                made["maxContains"] = r.randint(1, 2)
    if some():
        made["minItems"] = r.randint(0, 2)
    if some():
        made["maxItems"] = r.randint(0, 3)
    if some(0.2):
        made["uniqueItems"] = r.choice([True, True, False])
    if draft != 7 and depth > 0 and some(0.1):
        made["unevaluatedItems"] = r.choice([False, schema(r, depth - 1, draft=draft)])


def _object_words(r: Random, made: dict[str, Any], depth: int, draft: int, some: Any) -> None:
    if depth > 0:
        if some(0.7):
            names = r.sample(NAMES, r.choice([1, 2, 3]))
            made["properties"] = {name: schema(r, depth - 1, draft=draft) for name in names}
        if some(0.2):
            made["patternProperties"] = {r.choice(PATTERNS): schema(r, depth - 1, draft=draft)}
        if some(0.4):
            more = r.choice([False, False, True, schema(r, depth - 1, draft=draft)])
            made["additionalProperties"] = more
        if some(0.15):
            made["propertyNames"] = r.choice(
                [{"enum": r.sample(NAMES, 2)}, {"pattern": r.choice(PATTERNS)}, {"maxLength": 1}]
            )
        if some(0.15):
            depends = schema(r, depth - 1, draft=draft)
            word = "dependencies" if draft == 7 else "dependentSchemas"
            made[word] = {r.choice(NAMES): depends}
        if draft != 7 and some(0.12):
            made["unevaluatedProperties"] = r.choice([False, schema(r, depth - 1, draft=draft)])
    if some(0.15):
        word = "dependencies" if draft == 7 else "dependentRequired"
        made.setdefault(word, {})[r.choice(NAMES)] = r.sample(NAMES, 1)
    if some(0.4):
        made["required"] = r.sample(NAMES, r.choice([1, 1, 2]))
    if some(0.15):
        made["minProperties"] = r.randint(0, 2)
    if some(0.15):
        made["maxProperties"] = r.randint(0, 3)


def _alternatives(r: Random, made: dict[str, Any], depth: int, draft: int) -> None:
    def one() -> Any:
        return schema(r, depth - 1, draft=draft)

    word = r.choice(["allOf", "anyOf", "oneOf", "not", "if", "$ref"])
    if word in ("allOf", "anyOf", "oneOf"):
        made[word] = [one() for _ in range(r.choice([1, 2, 2, 3]))]
    elif word == "not":
        made["not"] = one()
    elif word == "if":
        made["if"] = one()
        for then in ("then", "else"):
            if r.random() < 0.7:
                made[then] = one()
    elif word == "$ref":
        # a reference whose target is filled in by `rooted`
        made["$ref"] = "#/$defs/" + r.choice(["x", "y"])
        if draft == 7:
            made["$ref"] = made["$ref"].replace("$defs", "definitions")


def rooted(r: Random, *, draft: int = 2020, recursive: bool = True) -> Any:
    """A whole schema with what it refers to, perhaps itself."""
    some = schema(r, 3, draft=draft)
    made: dict[str, Any] = some if isinstance(some, dict) else {"type": ["object", "string"]}
    if draft == 7 and "$ref" in made:
        del made["$ref"]
    where = "definitions" if draft == 7 else "$defs"
    made[where] = {name: _leaf(r, draft) for name in "xy"}
    if recursive and r.random() < 0.5:
        made[where]["x"] = {"type": ["object", "null"], "properties": {
            "a": {"$ref": f"#/{where}/x"}, "b": _leaf(r, draft)}}  # fmt: skip
    known = {7: "http://json-schema.org/draft-07/schema#"}
    made["$schema"] = known.get(draft, "https://json-schema.org/draft/2020-12/schema")
    return made


def _leaf(r: Random, draft: int) -> Any:
    while True:
        made = schema(r, 1, draft=draft)
        if "$ref" not in json.dumps(made):
            return made


def changed(r: Random, whole: Any, times: int = 1) -> Any:
    """The schema with small changes somewhere."""
    whole = copy.deepcopy(whole)
    draft = 7 if "draft-07" in whole.get("$schema", "") else 2020
    for _ in range(times):
        places: list[dict[str, Any]] = []
        _schemas(whole, places)
        at = r.choice(places)
        action = r.choice(["drop", "drop", "add", "tune", "tune", "replace"])
        words = sorted(at.keys() - {"$schema", "$defs", "definitions", "$ref"})
        if action == "drop" and words:
            del at[r.choice(words)]
        elif action == "add":
            extra = schema(r, 1, draft=draft)
            if isinstance(extra, dict):
                at.update({w: v for w, v in extra.items() if w != "$ref"})
        elif action == "tune" and words:
            _tune(r, at, r.choice(words))
        elif action == "replace" and isinstance(at.get("properties"), dict):
            at["properties"][r.choice(NAMES)] = schema(r, 1, draft=draft)
    return whole


def _tune(r: Random, at: dict[str, Any], word: str) -> None:
    value: Any = at[word]
    if isinstance(value, bool):
        at[word] = not value
    elif isinstance(value, int | float) and word != "const":
        at[word] = max(value + r.choice([-1, 1]), 0 if "imum" not in word else -3)
        if word == "multipleOf" and at[word] <= 0:
            at[word] = 1
    elif isinstance(value, list) and len(value) > 1 and word not in ("const", "items"):
        value.pop(r.randrange(len(value)))
    elif word == "type":
        kinds: list[Any] = value if isinstance(value, list) else [value]
        at[word] = sorted({*kinds, r.choice(KINDS)})
    elif word == "required":
        at[word] = sorted({*at[word], r.choice(NAMES)})
    elif word == "pattern":
        at[word] = r.choice(PATTERNS)


def _schemas(value: Any, found: list[dict[str, Any]]) -> None:
    if not isinstance(value, dict):
        return
    found.append(value)
    for word, each in value.items():
        if word in ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"):
            for one in each.values():
                _schemas(one, found)
        elif word in ("allOf", "anyOf", "oneOf", "prefixItems") or (
            word == "items" and isinstance(each, list)
        ):
            for one in each:
                _schemas(one, found)
        elif word not in ("enum", "const", "dependencies", "dependentRequired"):
            _schemas(each, found)


def document(r: Random, depth: int = 3) -> Any:
    """A document of the same words."""
    chance = r.random()
    if depth == 0 or chance < 0.4:
        return r.choice(SCALARS)
    if chance < 0.6:
        items = [document(r, depth - 1) for _ in range(r.choice([0, 1, 1, 2, 2, 3, 4]))]
        return items + items[:1] if r.random() < 0.15 else items
    names = r.sample([*NAMES, "z", "a1"], r.choice([0, 1, 1, 2, 2, 3, 4]))
    return {name: document(r, depth - 1) for name in names}
