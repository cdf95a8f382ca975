"""The native rules, attacked: what is readable is read, whatever is written; what is not has a
document that the reader refuses or reads as something else.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oncebox.schema.compare import unreadable
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
    Union,
    Uuid,
)  # fmt: skip
from oncebox.schema.sample import smallest
from oncebox.schema.valid import problems
from oncebox.testing.documents import documents

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
PLAIN: list[Any] = [
    Bool(), Int(), Int(0, 9), Int(-5, 5), Float(), Str(), Bytes(), Decimal(4, 2), Decimal(5, 1),
    Decimal(2, 2), Uuid(), Date(), Time(), Timestamp(), Duration(), Named("E"), Named("U"), Named("R"),
]  # fmt: skip
TYPES = st.recursive(
    st.sampled_from(PLAIN),
    lambda inner: (
        st.builds(Nullable, inner.filter(lambda t: not isinstance(t, Nullable)))
        | st.builds(List, inner)
        | st.builds(Set, inner)
        | st.builds(Map, inner)
    ),
    max_leaves=2,
)


@st.composite
def fields(draw: st.DrawFn, number: int) -> Field:
    type = draw(TYPES)
    kind = draw(st.sampled_from(["required", "required", "default", "absent"]))
    if kind == "default":
        least = schema_with((Field("x", 1, type),), "a", U=Union("tag", (Member("r", "R", 1),)))
        default = draw(documents(least))["x"]
        return Field(f"f{number}", number, type, default)
    return Field(f"f{number}", number, type, absent=kind == "absent")


def schema_with(
    fields: tuple[Field, ...], symbols: str = "ab", *, omits: bool = False, **more: Any
) -> Schema:
    definitions: dict[str, Any] = {
        "Root": Record(fields, omits=omits),
        "E": Enum(tuple(Symbol(s, n) for n, s in enumerate(symbols, 1))),
        "U": Union("tag", (Member("r", "R", 1), Member("n", "None_", 2))),
        "R": Record((Field("next", 1, Nullable(Named("R"))),)),
        "None_": Record(()),
    }
    return Schema("a.b", 1, "Root", definitions | more)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    which = draw(st.sets(st.integers(1, 3), min_size=1))
    made = tuple([draw(fields(number)) for number in sorted(which)])
    more: dict[str, Any] = {}
    if draw(st.booleans()):
        more["U"] = Union("tag", (Member("r", "R", 1),))
    if draw(st.booleans()):
        more["R"] = Record((Field("next", 1, Nullable(Named("R"))), Field("x", 2, Str(), "")))
    symbols = draw(st.sampled_from(["a", "ab", "abc"]))
    return schema_with(made, symbols, omits=draw(st.booleans()), **more)


@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
@given(writer=schemas(), reader=schemas(), data=st.data())
def test_whatever_is_called_readable_is_read(
    writer: Schema, reader: Schema, data: st.DataObject
) -> None:
    found = unreadable(writer, reader, "new readers")
    if not found:
        document = data.draw(documents(writer))
        for field in writer.record.fields:  # who does not omit writes its defaults
            if not writer.record.omits and not field.absent:
                document.setdefault(field.name, field.default)
        assert list(problems(reader, document, open=True)) == []
    for finding in found:
        assert finding.witness is not None
        document, outcome = finding.witness.document, finding.witness.outcome
        assert list(problems(writer, document)) == []
        if outcome.startswith("refused"):
            assert list(problems(reader, document, open=True))
        else:
            assert finding.rule in ("type-changed", "default-changed")


def pair(one: Any, other: Any) -> list[str]:
    old, new = (schema_with((field,)) for field in (one, other))
    return [f.rule for f in unreadable(old, new, "new readers")]


def test_each_rule_by_name() -> None:
    x = Field("x", 1, Int())
    assert pair(x, x) == []
    assert pair(x, Field("y", 1, Int())) == ["field-missing"]
    assert pair(x, Field("y", 1, Int(), 0)) == []
    assert pair(x, Field("x", 1, Int(0, 9))) == ["narrowed"]
    assert pair(x, Field("x", 1, Str())) == ["type-changed"]
    assert pair(x, Field("x", 1, Float())) == ["type-changed"]
    assert pair(Field("x", 1, Int(0, 2**53)), Field("x", 1, Float())) == []
    assert pair(Field("x", 1, Decimal(4, 2)), Field("x", 1, Decimal(4, 1))) == ["narrowed"]
    assert pair(Field("x", 1, Decimal(4, 2)), Field("x", 1, Decimal(5, 3))) == []
    assert pair(Field("x", 1, Nullable(Int())), x) == ["may-be-null"]
    assert pair(Field("x", 1, Int(), absent=True), x) == ["field-may-be-left-out"]
    assert pair(Field("x", 1, List(Int())), Field("x", 1, Set(Int()))) == ["type-changed"]
    assert pair(Field("x", 1, Set(Int())), Field("x", 1, List(Int()))) == []
    assert pair(Field("x", 1, Timestamp()), Field("x", 1, Str())) == []
    assert pair(Field("x", 1, Bytes()), Field("x", 1, Str())) == ["type-changed"]


def test_symbols_members_and_tags() -> None:
    field = (Field("x", 1, Nullable(Named("E"))), Field("u", 2, List(Named("U"))))
    old = schema_with(field, "abc")
    assert [f.rule for f in unreadable(old, schema_with(field, "ab"), "old readers")] == [
        "symbol-unknown"
    ]
    taking = Enum((Symbol("a", 1),), default="a")
    assert unreadable(old, schema_with(field, E=taking), "old readers") == []
    one = schema_with(field, "abc", U=Union("tag", (Member("n", "None_", 2),)))
    (found,) = unreadable(old, one, "old readers")
    assert found.rule == "member-unknown" and found.witness is not None
    assert found.witness.document == {"x": None, "u": [{"tag": "r", "next": None}]}
    other = schema_with(field, U=Union("kind", (Member("r", "R", 1), Member("n", "None_", 2))))
    assert {f.rule for f in unreadable(old, other, "old readers")} == {
        "symbol-unknown",
        "tag-field-changed",
    }


def test_defaults_count_only_where_writers_leave_them_out() -> None:
    old, new = Field("x", 1, Int(), 1), Field("x", 1, Int(), 2)
    assert pair(old, new) == []
    omits = schema_with((old,), omits=True)
    (found,) = unreadable(omits, schema_with((new,)), "new readers")
    assert (found.rule, found.old, found.new) == ("default-changed", 1, 2)
    required = schema_with((Field("x", 1, Int()),))
    assert [f.rule for f in unreadable(omits, required, "new readers")] == ["field-may-be-left-out"]


def test_the_smallest_document_is_one() -> None:
    every = tuple(Field(f"f{n}", n, type) for n, type in enumerate(PLAIN, 1))
    schema = schema_with(every)
    assert list(problems(schema, smallest(schema))) == []
