"""Whether a document is one of its schema: each type's values, and the places of problems."""

from __future__ import annotations

from typing import Any

import pytest

from oncebox.schema.model import (
    Bool,
    Bytes,
    Date,
    Decimal,
    Duration,
    Enum,
    Field,
    Float,
    Int,
    List,
    Map,
    Member,
    Named,
    Nullable,
    Record,
    Schema,
    Set,
    Str,
    Symbol,
    Time,
    Timestamp,
    Type,
    Union,
    Uuid,
)  # fmt: skip
from oncebox.schema.valid import problems, type_problems

TREE = Schema(
    type="tree.grown",
    version=1,
    root="Tree",
    definitions={
        "Tree": Record(
            (
                Field("name", 1, Str()),
                Field("colour", 2, Named("Colour"), default="green"),
                Field("note", 3, Nullable(Str()), absent=True),
                Field("branches", 4, List(Named("Tree")), default=[]),
                Field("fruit", 5, Nullable(Named("Fruit")), default=None),
            )
        ),
        "Colour": Enum((Symbol("green", 1), Symbol("red", 2)), default="green"),
        "Fruit": Union("kind", (Member("apple", "Apple", 1), Member("nut", "Nut", 2))),
        "Apple": Record((Field("grams", 1, Int(0, 500)),)),
        "Nut": Record(()),
    },
)

VALUES: list[tuple[Type, list[Any], list[Any]]] = [
    (Bool(), [True, False], [0, "true", None]),
    (Int(), [0, -(2**63), 2**63 - 1], [2**63, -(2**63) - 1, 1.0, True, "1", None]),
    (Int(0, 9), [0, 9], [-1, 10]),
    (Float(), [0, 1.5, -1e308, 2**60], ["1", True, float("nan"), float("inf"), 10**400, None]),
    (Str(), ["", "ä\n😀"], [1, None, "\ud800"]),
    (Bytes(), ["", "AAE=", "//8+"], ["AAE", "__8-", "ä", 1]),
    (Decimal(5, 2), ["0", "-1.50", "999.99", "0.1"], ["1.505", "1000", "1E+2", "01", ".5", 1, ""]),
    (Decimal(2, 2), ["0.99", "0"], ["1", "0.999"]),
    (Uuid(), ["00000000-0000-4000-8000-0000000000ff"], ["0000", "0" * 32, 1]),
    (Date(), ["2026-01-31", "0001-01-01"], ["2026-02-30", "2026-1-3", "20260131", 1]),
    (Time(), ["12:30:00", "23:59:59.000001"], ["12:30", "24:00:00", "12:30:00Z", 1]),
    (
        Timestamp(),
        ["2026-01-31T12:30:00Z", "2026-01-31T12:30:00.000001+05:30"],
        ["2026-01-31T12:30:00", "2026-01-31", "2026-13-31T12:30:00Z", 0],
    ),
    (
        Duration(),
        ["P0D", "P1D", "PT0S", "P1DT2.5S", "-PT0.000001S", "PT23H59M1S"],
        ["P", "PT", "P1Y", "1D", "P1DT", "PT1.0000001S", 5],
    ),
    (Nullable(Int()), [None, 1], ["1"]),
    (List(Int()), [[], [1, 1]], [[None], {}, "1", None]),
    (Set(List(Int())), [[], [[1], [2]]], [[[1], [1]]]),
    (Map(Int()), [{}, {"": 1}], [{"a": "b"}, [], {1: 1}]),
    (Named("Colour"), ["red"], ["blue", 1, None]),
]


@pytest.mark.parametrize(("type", "good", "bad"), VALUES, ids=lambda v: type(v).__name__)
def test_values(type: Type, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert list(type_problems(TREE, type, value)) == [], value
    for value in bad:
        assert list(type_problems(TREE, type, value)), value


def test_a_tree() -> None:
    leaf = {"name": "leaf"}
    tree = {"name": "oak", "note": None, "branches": [leaf], "fruit": {"kind": "nut"}}
    assert list(problems(TREE, tree)) == []
    for wrong, path in (
        ({"name": 1}, "$.name"),
        ({}, "$.name"),
        ([], "$"),
        (leaf | {"wind": 1}, "$.wind"),
        (leaf | {"branches": [leaf, {}]}, "$.branches[1].name"),
        (leaf | {"fruit": {"kind": "pear"}}, "$.fruit.kind"),
        (leaf | {"fruit": {"kind": "apple", "grams": 501}}, "$.fruit.grams"),
        (leaf | {"fruit": {"kind": "nut", "grams": 1}}, "$.fruit.grams"),
        (leaf | {"colour": "blue"}, "$.colour"),
    ):
        assert [problem.path for problem in problems(TREE, wrong)] == [path]


def test_readers_are_open() -> None:
    newer = {"name": "oak", "wind": 1, "colour": "blue", "fruit": {"kind": "nut", "grams": 1}}
    assert list(problems(TREE, newer, open=True)) == []
    assert [p.path for p in problems(TREE, newer | {"colour": 1}, open=True)] == ["$.colour"]
    assert [p.path for p in problems(TREE, {"fruit": {"kind": "pear"}}, open=True)] == [
        "$.name", "$.fruit.kind",
    ]  # fmt: skip
