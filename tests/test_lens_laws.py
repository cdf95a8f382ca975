"""The laws of lenses: for each operation, and for chains of up to ten versions, at random."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from lensing import Placed1, Placed2, Placed3, lenses
from oncebox import (
    add,
    each,
    evolve,
    hoist,
    member,
    merge,
    nest,
    remove,
    rename,
    retype,
    split,
    unwrap,
    wrap,
)
from oncebox.errors import SchemaError
from oncebox.lens.chain import Edge, Lenses
from oncebox.lens.compile import RUNTIME
from oncebox.lens.residue import Residue, read_residue, through, write_residue
from oncebox.schema.model import (
    Decimal,
    Enum,
    Field,
    Int,
    List,
    Map,
    Member,
    Named,
    Nullable,
    Record,
    Schema,
    Str,
    Type,
    Union,
)  # fmt: skip
from oncebox.testing import check_laws
from oncebox.testing.laws import broken_laws, try_laws
from versions import OPERATIONS, TYPE, Made, make_versions

__all__ = ["lenses"]


def try_all(made: Made, pairs: list[tuple[int, int]], examples: int) -> None:
    made.lenses.check(TYPE)
    for was, now in pairs:
        try_laws(made.lenses, made.schemas[was - 1], made.schemas[now - 1], examples=examples)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_keeps_the_laws(operation: str, rng: Random) -> None:
    for _ in range(2):
        found = make_versions(rng, 3, (operation, "nest") if operation in NEEDS else (operation,))
        try_all(found, [(1, 2), (2, 1), (1, 3), (3, 1)], 8)


NEEDS = {"hoist", "unwrap"}
"""What has nothing to work on unless something was nested before."""


def test_chains_of_up_to_ten_versions_keep_the_laws(rng: Random) -> None:
    for count in (4, 7, 10):
        try_all(make_versions(rng, count), [(1, count), (count, 1), (2, count - 1)], 10)


def test_one_line_for_users() -> None:
    evolve(
        "order.placed", 2, 3, split("customer", into=("first", "last")),
        add("channel", default="web"),
    )  # fmt: skip
    check_laws(Placed1, Placed2, Placed3, examples=20)


def test_a_lens_that_leaves_a_field_out_is_refused_with_the_field() -> None:
    evolve("order.placed", 2, 3, split("customer", into=("first", "last")))
    with pytest.raises(SchemaError, match="version 2 has no field channel"):
        check_laws(Placed1, Placed2, Placed3)


def test_a_way_that_is_missing_is_refused() -> None:
    with pytest.raises(SchemaError, match="nothing leads from version 2 to 3"):
        check_laws(Placed1, Placed2, Placed3)


def no_witness(given: Residue, lost: Residue, id: str, value: Any, there: Any, back: Any) -> Any:
    """Puts back what was lost, whatever has become of it since."""
    return given.pop(id)[1] if id in given else through(given, lost, id, value, there, back)


def nothing_kept(given: Residue, lost: Residue, id: str, value: Any, there: Any, back: Any) -> Any:
    return through(given, {}, id, value, there, back)


def forgets(lost: Residue, id: str, record: Any, name: str, default: Any, inside: bool) -> None:
    record.pop(name, None)


def texts(version: int, *names: str) -> Schema:
    fields = tuple(Field(name, number, Str()) for number, name in enumerate(names, 1))
    return Schema(TYPE, version, "Order", {"Order": Record(fields)})


@pytest.mark.parametrize(
    ("name", "bug"),
    [("through", no_witness), ("through", nothing_kept), ("note_gone", forgets)],
)
def test_a_bug_in_what_is_kept_breaks_a_law(
    name: str, bug: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, old, new = Lenses(), texts(1, "name"), texts(2, "first", "last", "lang")
    for schema in (old, new):
        made.know(schema)
    steps = split("name", into=("first", "last")), add("lang", default="en")
    made.add(TYPE, Edge(1, 2, steps))
    document, other = ({"first": f, "last": "c", "lang": "de"} for f in ("a b", "x"))
    assert list(broken_laws(made, new, old, document, other)) == []
    monkeypatch.setitem(RUNTIME, name, bug)
    made.forget()
    assert list(broken_laws(made, new, old, document, other))


def test_what_a_writer_left_out_means_what_its_own_version_says() -> None:
    made = Lenses()
    for version, default in ((1, "web"), (2, "app")):
        fields = Field("id", 1, Str()), Field("channel", 2, Str(), default=default)
        made.know(Schema(TYPE, version, "Order", {"Order": Record(fields)}))
    translation = made.translation(TYPE, 1, 2)
    assert translation is not None
    assert translation({"id": "o-1"}) == {"id": "o-1", "channel": "web"}


def of_two(version: int, default: str) -> Schema:
    """A record that may hold itself, a list of lists, a list with nulls, a union: with a default
    in each.
    """
    leaf = Record((Field("channel", 1, Str(), default=default),))
    return Schema(
        TYPE,
        version,
        "Order",
        {
            "Order": Record(
                (
                    Field("grid", 1, List(Map(Named("Leaf")))),
                    Field("some", 2, List(Nullable(Named("Leaf")))),
                    Field("paid", 3, Named("Paid")),
                    Field("tree", 4, Named("Tree")),
                )
            ),
            "Leaf": leaf,
            "Paid": Union("kind", (Member("card", "Leaf", 1), Member("cash", "Cash", 2))),
            "Cash": Record(()),
            "Tree": Record(
                (
                    Field("inner", 1, Nullable(Named("Tree"))),
                    Field("channel", 2, Str(), default=default),
                )
            ),
        },
    )


def test_what_was_left_out_means_the_same_wherever_it_was() -> None:
    made = Lenses()
    for version, default in ((1, "web"), (2, "app")):
        made.know(of_two(version, default))
    document = {
        "grid": [{"a": {}}], "some": [None, {}], "paid": {"kind": "card"},
        "tree": {"inner": {"inner": None}},
    }  # fmt: skip
    translation = made.translation(TYPE, 1, 2)
    assert translation is not None
    web = {"channel": "web"}
    assert translation(document) == {
        "grid": [{"a": web}], "some": [None, web], "paid": {"kind": "card", **web},
        "tree": {"inner": {"inner": None, **web}, **web},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("step", "more"),
    [
        (add("at", absent=True), {"at": "a"}),
        (add("place", default={}), {"place": {"at": "a"}}),
        (add("places", default=[{}]), {"places": [{"at": "a"}]}),
    ],
)
def test_what_steps_leave_out_means_what_their_version_says(step: Any, more: Any) -> None:
    made = Lenses()
    for version, default in ((2, "a"), (3, "b")):
        at = Field("at", 1, Str(), default=default)
        fields = (
            at,
            Field("place", 2, Named("Place"), absent=True),
            Field("places", 3, List(Named("Place")), absent=True),
        )
        definitions: Any = {"Order": Record(fields), "Place": Record((at,))}
        made.know(Schema(TYPE, version, "Order", definitions))
    made.add(TYPE, Edge(1, 2, (step,)))
    made.add(TYPE, Edge(2, 3, ()))
    whole = made.translation(TYPE, 1, 3)
    assert whole is not None
    expected: Any = {"at": "a"}
    assert whole({}) == expected | more


@pytest.mark.parametrize(
    "held",
    [
        Named("Paid"),
        Nullable(Named("Paid")),
        List(Named("Paid")),
        List(Nullable(Named("Card"))),
        Map(Nullable(Named("Paid"))),
    ],
)
def test_a_field_more_inside_needs_no_steps(held: Type) -> None:
    """In a member of a union, and where elements may be null."""
    made, schemas = Lenses(), []
    fields = Field("number", 1, Str()), Field("expires", 2, Str(), default="never")
    for version, card in ((1, fields[:1]), (2, fields)):
        members = Member("card", "Card", 1), Member("cash", "Cash", 2)
        definitions: Any = {
            "Order": Record((Field("paid", 1, held),)), "Paid": Union("kind", members),
            "Card": Record(card), "Cash": Record(()),
        }  # fmt: skip
        schemas.append(Schema(TYPE, version, "Order", definitions))
        made.know(schemas[-1])
    try_all(Made(made, schemas, []), [(1, 2), (2, 1)], 15)


def of_one(version: int, type: Type) -> Schema:
    return Schema(TYPE, version, "Order", {"Order": Record((Field("x", 1, type),))})


def test_whole_cents_become_a_decimal() -> None:
    made, schemas = Lenses(), [of_one(1, Int()), of_one(2, Decimal(12, 2))]
    for schema in schemas:
        made.know(schema)
    step = retype("x", "int", "decimal", scale=2, precision=12, default="0.00")
    made.add(TYPE, Edge(1, 2, (step,)))
    try_all(Made(made, schemas, []), [(1, 2), (2, 1)], 20)
    up = made.translation(TYPE, 1, 2)
    assert up is not None
    assert [up({"x": cents})["x"] for cents in (1250, 10**12 - 1, 10**12)] == [
        "12.50", "9999999999.99", "0.00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("was", "now", "step", "found"),
    [
        (Str(), Int(), retype("x", "str", "int", default="none"), "default 'none' is not a whole"),
        (Int(), Decimal(12, 2), retype("x", "int", "decimal", scale=2),
         r"x is decimal\(19, 2\), and version 2 needs \(12, 2\)"),
        (Int(), Decimal(5, 2), retype("x", "int", "decimal", scale=2, precision=5, default="1000"),
         "default '1000' is not a string with a decimal number"),
    ],
)  # fmt: skip
def test_retypes_that_are_refused(was: Type, now: Type, step: Any, found: str) -> None:
    made = Lenses()
    for schema in (of_one(1, was), of_one(2, now)):
        made.know(schema)
    made.add(TYPE, Edge(1, 2, (step,)))
    with pytest.raises(SchemaError, match=found):
        made.check(TYPE)


def test_a_member_that_is_not_there_is_refused() -> None:
    made = Lenses()
    for version, default in ((1, "web"), (2, "web")):
        made.know(of_two(version, default))
    made.add(TYPE, Edge(1, 2, (member("paid", "cart", rename("channel", "way"), by="kind"),)))
    with pytest.raises(SchemaError, match="there is no member whose kind is 'cart'"):
        made.check(TYPE)


def test_a_change_of_a_zeros_sign_is_a_change() -> None:
    made = Lenses()
    made.add(TYPE, Edge(1, 2, (unwrap("all[]", into="one"),)))
    up, down = made.translation(TYPE, 1, 2), made.translation(TYPE, 2, 1)
    assert up is not None
    assert down is not None
    _, residue = up.with_residue({"all": [0.0, 3]}, {})
    assert repr(down.with_residue({"one": -0.0}, residue)[0]) == "{'all': [-0.0]}"


def test_a_default_is_nobody_elses() -> None:
    made = Lenses()
    tags: list[str] = []
    made.add(TYPE, Edge(1, 2, (add("tags", default=tags),)))
    translation = made.translation(TYPE, 1, 2)
    assert translation is not None
    first, second = translation({}), translation({})
    first["tags"].append("new")
    tags.append("old")
    made.forget()
    again = made.translation(TYPE, 1, 2)
    assert again is not None
    assert second == again({}) == {"tags": []}


def nested(name: str, type: Type, *, absent: bool = False) -> dict[str, Record | Enum | Union]:
    line = Record((Field(name, 1, type, absent=absent),))
    return {"Order": Record((Field("lines", 1, List(Named("Line"))),)), "Line": line}


@pytest.mark.parametrize(
    ("steps", "now"),
    [
        ((add("tags", default=["x"]), unwrap("tags[]", into="tag")), Nullable(Str())),
        ((add("note", default=None), wrap("note", into="tag[]")), List(Str())),
        ((add("at", default={"tag": "x"}), unwrap("at.tag", into="tag")), Str()),
        ((add("at", default={"tag": "x"}), rename("at.tag", "name"), hoist("at", "name"),
          rename("name", "tag")), Str()),
        ((add("all", default=[{"a": "x"}]), each("all", rename("a", "b")), remove("all", default=[{"b": "y"}]),
          add("tag", default="")), Str()),
        ((add("all", default=None), each("all", rename("a", "b")), remove("all", default=None),
          add("tag", default="")), Str()),
        ((add("tags", absent=True), unwrap("tags[]", into="at"), remove("at", absent=True),
          add("tag", default="")), Str()),
        ((add("note", absent=True), add("tag", default=""), nest("note", "tag", into="at"),
          remove("at", default={"tag": ""}), add("tag", default="")), Str()),
    ],
    ids=["list", "null", "record", "hoisted", "each", "each of null", "never there", "partly there"],
)  # fmt: skip
def test_steps_work_inside_what_a_default_brings(steps: Any, now: Type) -> None:
    made = Lenses()
    old = Schema(TYPE, 1, "Order", nested("id", Str(), absent=True))
    definitions = nested("id", Str(), absent=True)
    fields = Field("id", 1, Str(), absent=True), Field("tag", 2, now)
    definitions["Line"] = Record(fields)
    new = Schema(TYPE, 2, "Order", definitions)
    for schema in (old, new):
        made.know(schema)
    made.add(TYPE, Edge(1, 2, (each("lines", *steps),)))
    try_all(Made(made, [old, new], []), [(1, 2), (2, 1)], 20)


@pytest.mark.parametrize(
    ("steps", "lost"),
    [
        ((remove("a", default=0), remove("b", default=0)), {"a": 1, "b": 2}),
        ((remove("a", default=0), remove("b", default=0)), {"b": 2}),
        ((retype("a", "float", "int", default=0), remove("b", default=0)), {"a": -0.0, "b": 2}),
        ((retype("a", "int", "float", default=0), remove("b", default=0)), {"a": 3, "b": 2}),
    ],
    ids=["two steps", "a field that is left out", "a zero below zero", "a whole number"],
)
def test_what_several_steps_lose_in_an_element_is_put_back(steps: Any, lost: Any) -> None:
    made = Lenses()
    made.add(TYPE, Edge(1, 2, (each("lines", *steps),)))
    up, down = made.translation(TYPE, 1, 2), made.translation(TYPE, 2, 1)
    assert up is not None
    assert down is not None
    document, residue = up.with_residue({"lines": [dict(lost)]}, {})
    header = write_residue(residue)
    assert header is not None
    again, _ = down.with_residue(document, read_residue(header.encode()))
    assert repr(again["lines"][0]["b"]) == "2"
    assert repr(dict(sorted(again["lines"][0].items()))) == repr(lost)


def test_what_a_default_brings_is_checked() -> None:
    made = Lenses()
    for version, type in ((1, Str()), (2, List(Int()))):
        made.know(Schema(TYPE, version, "Order", nested("id", type)))
    made.add(TYPE, Edge(1, 2, (each("lines", remove("id", default=""), add("id", default=["x"])),)))
    with pytest.raises(SchemaError, match=r"lines\[\]\.id is \['x'\], and version 2 needs a whole"):
        made.check(TYPE)


def placed(version: int, **fields: Type) -> Schema:
    """Fields of an order; `Money` has minor units from version 2 on."""
    money = Field("currency", 1, Str()), Field("minor", 2, Int())
    record = Record(tuple(Field(name, n, type) for n, (name, type) in enumerate(fields.items(), 1)))
    return Schema(TYPE, version, "Order", {"Order": record, "Money": Record(money[:version])})


def test_texts_that_are_null_by_default_do_not_become_a_text() -> None:
    made = Lenses()
    steps = add("a", default=None), add("b", default=None), merge(("a", "b"), into="c")
    made.know(placed(1, id=Int()))
    made.know(placed(2, id=Int(), c=Str()))
    made.add(TYPE, Edge(1, 2, steps))
    with pytest.raises(SchemaError, match="c may be null"):
        made.check(TYPE)


@pytest.mark.parametrize(
    ("old", "new", "step"),
    [
        (placed(1, cents=Int(), amount=Named("Money")), placed(2, amount=Named("Money")),
         wrap("cents", into="amount.minor")),
        (placed(1, tags=List(Nullable(Str()))), placed(2, tag=Nullable(Str())),
         unwrap("tags[]", into="tag")),
    ],
    ids=["into a record that is there", "elements that may be null"],
)  # fmt: skip
def test_wrap_and_unwrap_take_what_is_there(old: Schema, new: Schema, step: Any) -> None:
    made = Lenses()
    for schema in (old, new):
        made.know(schema)
    made.add(TYPE, Edge(1, 2, (step,)))
    try_all(Made(made, [old, new], []), [(1, 2), (2, 1)], 5)


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
def test_many_chains_keep_the_laws(part: int, rng: Random) -> None:
    del part
    for _ in range(20):
        count = rng.randint(2, 10)
        ends = sorted(rng.sample(range(1, count + 1), 2))
        try_all(make_versions(rng, count), [(ends[0], ends[1]), (ends[1], ends[0])], 50)
