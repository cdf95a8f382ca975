"""The answers of the comparison of JSON Schemas, attacked with documents that it did not make."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import jsonschema_rs
import pytest

import json_schemas as made
from oncebox.schema.compat.finding import Finding
from oncebox.schema.compat.jsonschema import compare
from test_compat_jsonschema import confirm

PAIRS = 40
"""Of a seed."""
DOCUMENTS = 150
"""Of a pair."""


def attack(seed: int, pairs: int, tally: Counter[str]) -> None:
    """Random pairs: what is called compatible must hold for random documents."""
    r = Random(seed)
    for n in range(pairs):
        draft = 7 if n % 2 else 2020
        old = made.rooted(r, draft=draft)
        new = made.changed(r, old, r.choice([1, 1, 2, 3]))
        if r.random() < 0.15:
            new = made.rooted(r, draft=draft)
        found = compare(json.dumps(old), json.dumps(new), producers_closed=False)
        for finding in found:
            confirm(finding, old, new)
        documents = [made.document(r) for _ in range(DOCUMENTS)]
        for writer, reader, breaks in ((old, new, "new readers"), (new, old, "old readers")):
            mine = [f for f in found if f.breaks == breaks]
            bad = counterexample(draft, writer, reader, documents)
            told = f"{json.dumps(bad)}: {json.dumps(writer)} to {json.dumps(reader)}"
            assert mine or bad is None, told
            tally[verdict(mine)] += 1
            tally["missed"] += bad is not None and not any(f.error for f in mine)


def verdict(found: list[Finding]) -> str:
    return "error" if any(f.error for f in found) else "warning" if found else "compatible"


def counterexample(draft: int, writer: Any, reader: Any, documents: list[Any]) -> Any:
    kind = jsonschema_rs.Draft7Validator if draft == 7 else jsonschema_rs.Draft202012Validator
    takes, reads = (kind(schema, validate_formats=False) for schema in (writer, reader))
    return next((d for d in documents if takes.is_valid(d) and not reads.is_valid(d)), None)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_called_compatible_holds_for_documents(seed: int) -> None:
    tally: Counter[str] = Counter()
    attack(seed, PAIRS, tally)
    assert tally["compatible"] > 0
    assert tally["error"] > 0
    assert tally["missed"] <= 1  # a warning where there is a proof


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 1040))
def test_what_is_called_compatible_holds_for_many_documents(seed: int) -> None:
    tally: Counter[str] = Counter()
    attack(seed, 500, tally)
    assert tally["missed"] < tally["error"] / 50


@pytest.mark.parametrize("seed", range(4))
def test_writers_that_write_what_they_list_are_read(seed: int) -> None:
    """Objects of lists of properties: documents have no others, so the rule is exact."""
    r = Random(seed)
    for _ in range(60):
        old, new = plain(r, 2), plain(r, 2)
        if r.random() < 0.7:
            new = json.loads(json.dumps(old))
            new["properties"][r.choice(made.NAMES)] = plain(r, 1)
        found = compare(json.dumps(old), json.dumps(new))
        for finding in found:
            confirm(finding, old, new)
            writer = old if finding.breaks == "new readers" else new
            assert finding.witness is None or lists(writer, finding.witness.document)
        for writer, reader, breaks in ((old, new, "new readers"), (new, old, "old readers")):
            documents = [d for d in (made.document(r) for _ in range(300)) if lists(writer, d)]
            bad = counterexample(2020, writer, reader, documents)
            assert bad is None or any(f.breaks == breaks for f in found), (bad, writer, reader)


def plain(r: Random, depth: int) -> Any:
    """A schema of lists of properties, and leaves."""
    if depth == 0 or r.random() < 0.2:
        leaf = {"type": r.choice(["string", "integer", "boolean"])}
        return leaf if depth < 2 else {"type": "object", "properties": {"a": leaf}}
    names = r.sample(made.NAMES, r.choice([1, 2, 3]))
    listed = {name: plain(r, depth - 1) for name in names}
    schema: dict[str, Any] = {"type": "object", "properties": listed}
    if r.random() < 0.4:
        schema["required"] = r.sample(names, 1)
    if r.random() < 0.3:
        schema["additionalProperties"] = r.choice([False, False, True])
    return schema


def lists(schema: Any, document: Any) -> bool:
    """Whether a document has no properties but those that its schema lists, at any depth."""
    if not isinstance(document, dict) or "properties" not in schema:
        return True
    listed = schema["properties"]
    if "additionalProperties" not in schema and not document.keys() <= listed.keys():
        return False
    return all(lists(listed[name], value) for name, value in document.items() if name in listed)
