"""Steps come from files, too: whatever stands in them, nothing of it becomes code."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from oncebox.errors import SchemaError
from oncebox.lens.chain import Edge
from oncebox.lens.compile import compile_stages
from oncebox.lens.steps import AnyStep, Step

EVIL = "x\n    raise SystemExit\n    #'\"{[()"

texts = st.sampled_from(
    [EVIL, EVIL + ".y", EVIL + "[]", "a.b", "a", "a[]", "'", '"""', "\\", "{0}"]
)
values = st.none() | st.booleans() | st.integers(-3, 3) | texts
pairs = st.lists(st.tuples(values, values), max_size=3)
names = st.lists(texts, min_size=1, max_size=3)


def step(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"step": st.just(kind), "path": texts, **fields})


SIMPLE = (
    step("rename", name=texts)
    | step("add", default=values)
    | step("add", absent=st.just(True))
    | step("remove", default=values)
    | step("remove", absent=st.just(True))
    | step("split", into=names, sep=texts)
    | step("merge", names=names, sep=texts)
    | step("values", up=pairs, down=pairs)
    | step("wrap", into=texts, empty=values)
    | step("unwrap", into=texts, empty=values)
    | step("retype", was=st.just("int"), now=st.just("str"))
    | step("nest", names=names)
    | step("hoist", names=names)
)
INSIDE = st.lists(SIMPLE, max_size=3)
STEPS = SIMPLE | step("each", steps=INSIDE) | step("member", by=texts, name=texts, steps=INSIDE)


def made(raw: list[dict[str, Any]]) -> Edge:
    steps: list[Step] = [json.decode(json.encode(one), type=AnyStep) for one in raw]
    return Edge(1, 2, tuple(steps))


@given(raw=st.lists(STEPS, max_size=4))
def test_what_a_file_says_stays_data(raw: list[dict[str, Any]]) -> None:
    try:
        edge = made(raw)
    except SchemaError:
        return
    for up in (True, False):
        source = compile_stages("lens", [edge.stage(up=up)]).source
        assert not any(isinstance(node, ast.Raise) for node in ast.walk(ast.parse(source)))


@pytest.mark.parametrize("kind", ["add", "remove"])
def test_a_path_with_a_line_of_code_is_refused(kind: str) -> None:
    with pytest.raises(SchemaError, match="path"):
        made([{"step": kind, "path": EVIL, "absent": True}])
