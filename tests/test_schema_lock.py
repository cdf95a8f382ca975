"""oncebox.lock: numbers that stay, text that git merges, errors with their line."""

from __future__ import annotations

import random
import subprocess
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from every_type import ALL
from oncebox import add, convert, each, remove, rename
from oncebox.errors import NotFound, SchemaBreak, SchemaError
from oncebox.lens.chain import Edge
from oncebox.lens.steps import Convert, Step
from oncebox.schema.check import Code, broken, locked, refuse_changes, renames, unlocked, unreleased
from oncebox.schema.derive import schema_of
from oncebox.schema.lock import Known, Lock, lock_text, read_lock
from oncebox.schema.model import (
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
    Str,
    Symbol,
    Union,
)  # fmt: skip
from oncebox.schema.numbers import numbered, same


def schema(version: int, type: Any = "order.placed", **fields: Any) -> Schema:
    made = (Field(name, at, t) for at, (name, t) in enumerate(fields.items(), 1))
    return Schema(type, version, "Placed", {"Placed": Record(tuple(made))}, "orders", ())


def code(*schemas: Schema, edges: Any = (), **consumers: Any) -> Code:
    found = {(s.type, s.version): s for s in schemas}
    return Code(found, consumers, {("order.placed", e.newer): e for e in edges})


def grown(*codes: Code) -> Lock:
    lock = Lock()
    for one in codes:
        lock = locked(lock, one)
    return lock


def numbers(lock: Lock, version: int, type: str = "order.placed") -> dict[str, int]:
    return {f.name: f.number for f in lock.schemas[type, version].record.fields}


# ---- numbers


def test_numbers_stay_with_their_names_and_are_never_given_again() -> None:
    lock = grown(
        code(schema(1, a=Int(), b=Str(), c=Str())),
        code(schema(2, c=Str(), a=Int(), d=Int())),
        code(schema(3, d=Int(), b=Str(), e=Int())),
    )
    assert numbers(lock, 1) == {"a": 1, "b": 2, "c": 3}
    assert numbers(lock, 2) == {"a": 1, "c": 3, "d": 4}
    assert numbers(lock, 3) == {"d": 4, "b": 5, "e": 6}
    second, third = (lock.schemas["order.placed", v].record for v in (2, 3))
    assert (second.retired_numbers, second.retired_names) == ((2,), ("b",))
    assert (third.retired_numbers, third.retired_names) == ((1, 2, 3), ("a", "c"))


def test_a_number_means_one_type() -> None:
    lock = grown(
        code(schema(1, a=Int(0, 9), b=Int(), c=List(Str()), d=Str())),
        code(schema(2, a=Int(), b=Float(), c=List(Int()), d=Nullable(Str()))),
    )
    assert numbers(lock, 2) == {"a": 1, "d": 4, "b": 5, "c": 6}
    assert lock.schemas["order.placed", 2].record.retired_numbers == (2, 3)


def test_a_field_that_is_renamed_by_a_lens_keeps_its_number() -> None:
    line, item = Record((Field("qty", 1, Int()),)), Record((Field("amount", 1, Int()),))
    old = replace(schema(1, cust=Str(), lines=List(Named("Line"))))
    new = replace(schema(2, lines=List(Named("Item")), customer=Str()))
    old.definitions["Line"], new.definitions["Item"] = line, item
    steps = (
        rename("cust", "client"),
        rename("client", "customer"),
        rename("lines[].qty", "amount"),
    )
    lock = grown(code(old), code(new, edges=[Edge(1, 2, steps)]))
    assert numbers(lock, 2) == {"customer": 1, "lines": 2}
    inner = lock.schemas["order.placed", 2].definitions["Item"]
    assert isinstance(inner, Record) and inner.fields[0].number == 1
    assert renames((rename("a.b", "c"), each("l", rename("x", "y")))) == {
        ("a", "c"): "b",
        ("l", "y"): "x",
    }


def test_inner_definitions_go_by_where_they_are_and_not_by_name() -> None:
    def order(version: int, name: str, *fields: str) -> Schema:
        made = schema(version, item=Nullable(Named(name)), more=Map(Named("Kind")))
        made.definitions[name] = Record(
            tuple(Field(f, at, Int()) for at, f in enumerate(fields, 1))
        )
        symbols = ("a", "b", "c")[version - 1 :]
        made.definitions["Kind"] = Enum(tuple(Symbol(s, at) for at, s in enumerate(symbols, 1)))
        return made

    lock = grown(code(order(1, "Line", "x", "y")), code(order(2, "Item", "y", "z")))
    found: Any = lock.schemas["order.placed", 2].definitions
    assert {f.name: f.number for f in found["Item"].fields} == {"y": 2, "z": 3}
    assert {s.value: s.number for s in found["Kind"].symbols} == {"b": 2, "c": 3}
    assert (found["Kind"].retired_numbers, found["Kind"].retired_names) == ((1,), ("a",))


def test_members_of_unions_have_numbers_too() -> None:
    def paid(version: int, *tags: str) -> Schema:
        made = schema(version, by=Named("By"))
        members = (Member(tag, tag.title(), at) for at, tag in enumerate(tags, 1))
        made.definitions["By"] = Union("kind", tuple(members))
        made.definitions.update({tag.title(): Record(()) for tag in tags})
        return made

    lock = grown(code(paid(1, "card", "cash")), code(paid(2, "gift", "cash")))
    found: Any = lock.schemas["order.placed", 2].definitions["By"]
    assert {m.tag: m.number for m in found.members} == {"cash": 2, "gift": 3}


def test_an_older_version_that_comes_late_takes_no_number_of_a_newer_one() -> None:
    lock = grown(code(schema(2, a=Int(), b=Int())), code(schema(1, a=Int(), z=Int())))
    assert numbers(lock, 1) == {"a": 1, "z": 3}


NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NAMES, st.sampled_from([Int(), Str()])), min_size=1, max_size=6))
def test_over_any_history_a_number_has_one_meaning(history: list[tuple[list[str], Any]]) -> None:
    lock = Lock()
    alive: dict[int, tuple[str, Any]] = {}
    for version, (names, type) in enumerate(history, 1):
        lock = locked(lock, code(schema(version, **dict.fromkeys(names, type))))
        record = lock.schemas["order.placed", version].record
        assert not {f.number for f in record.fields} & {*record.retired_numbers}
        assert not {f.name for f in record.fields} & {*record.retired_names}
        for field in record.fields:
            assert alive.setdefault(field.number, (field.name, field.type)) == (
                field.name,
                field.type,
            )
    again = read_lock(lock_text(lock))
    assert again == lock
    assert (
        locked(
            again, code(*(schema(v, **dict.fromkeys(n, t)) for v, (n, t) in enumerate(history, 1)))
        )
        == lock
    )


# ---- identity


def test_identity_is_of_what_readers_and_writers_go_by() -> None:
    one = schema(1, a=Int(), b=Str())

    def changed(**more: Any) -> Schema:
        first, second = one.record.fields
        record = replace(one.record, fields=(replace(first, **more), second))
        return replace(one, definitions={"Placed": record})

    alike = [changed(doc="x"), changed(deprecated="x"), changed(pii=True)]
    other = [
        changed(number=5),
        changed(default=1),
        changed(absent=True),
        changed(type=Int(0)),
        changed(name="z"),
    ]
    assert all(same(one, changed) for changed in alike)
    assert not any(same(a, b) for a, b in combinations((one, *other), 2))
    assert not same(replace(one, stream="x"), one)


# ---- text


def whole() -> Lock:
    lock = locked(Lock(), Code({(s.type, s.version): s for s in map(schema_of, ALL)}, {}, {}))
    steps = (rename("a", "b"), add("x", default=None), remove("y", default="it's"))
    lock.edges["all.dataclass", 3] = Edge(2, 3, steps)
    lock.consumers = {
        "billing": {"all.struct": 1, "all.dataclass": 3},
        "billing.mail": {"all.struct": 1},
    }
    return lock


def test_a_lock_is_toml_whose_lines_stand_for_themselves() -> None:
    lock, text = whole(), lock_text(whole())
    assert read_lock(text) == lock
    assert tomllib.loads(text)["all.struct"]["1"]["in"]["AllStruct"]["cents"] == {
        "number": 4,
        "type": "int",
    }
    lines = text.splitlines(keepends=True)
    random.Random(7).shuffle(lines)
    assert lock_text(read_lock("".join(lines))) == text
    assert lock_text(read_lock(text)) == text


def test_functions_cannot_travel_in_it_and_say_so() -> None:
    steps: tuple[Step, ...] = (convert("a", up=str, down=int),)
    lock = grown(code(schema(1, a=Int())), code(schema(2, a=Str()), edges=[Edge(1, 2, steps)]))
    (step,) = read_lock(lock_text(lock)).edges["order.placed", 2].steps
    with pytest.raises(LookupError, match="only the code that declares it has"):
        step.up(1)  # type: ignore[attr-defined]


def test_functions_inside_elements_are_told_by_their_place() -> None:
    step = convert("lines[].price", up=str, down=int)
    lock = Lock({}, {("order.placed", 2): Edge(1, 2, (step,))}, {})
    (again,) = read_lock(lock_text(lock)).edges["order.placed", 2].steps
    assert again == each("lines", Convert("price"))


def test_functions_that_the_code_does_not_have_any_more_break_who_needs_them() -> None:
    edge = Edge(1, 2, (each("a", convert("b", up=str, down=int)),))
    of: dict[str, Any] = {"a": List(Named("Line"))}
    versions = schema(1, **of), schema(2, **of)
    types: tuple[Any, ...] = (Int(), Str())
    for made, b in zip(versions, types, strict=True):
        made.definitions["Line"] = Record((Field("b", 1, b),))
    lock = grown(code(*versions, edges=[edge], billing={"order.placed": 2}))
    assert list(broken(lock)) == []
    later = read_lock(lock_text(lock))
    (trouble,) = broken(later)
    assert (trouble.error, trouble.who) == (True, ("billing",))
    assert trouble.finding is not None and trouble.finding.rule == "functions-missing"
    later.consumers.clear()
    assert [trouble.error for trouble in broken(later)] == [False]


def test_names_and_texts_of_any_kind(tmp_path: Path) -> None:
    odd = 'a "b"\\\x7f\n\u2028 ä.c\'d'
    made = schema(1, **{odd: Str()})
    field = replace(made.record.fields[0], default=odd, doc=odd, deprecated=odd)
    made.definitions["Placed"] = Record((field,), doc=odd)
    made.definitions["Odd"] = Enum((Symbol(odd, 1), Symbol("", 2)), default="")
    lock = Lock({("a-b.c_d", 1): replace(made, type="a-b.c_d")}, {}, {odd: {"a-b.c_d": 1}})
    assert read_lock(lock_text(lock)) == lock


def test_unchanged_versions_are_read_once() -> None:
    known: Known = {}
    first = read_lock(lock_text(whole()), known=known)
    second = read_lock(lock_text(whole()) + 'consumer."x"."all.struct" = 1\n', known=known)
    assert len(known) == 3
    assert all(second.schemas[p] is first.schemas[p] for p in first.schemas)


GOOD = lock_text(grown(code(schema(1, a=Int(), b=Int()))))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("lock = 1\n", "", "oncebox.lock is of format None"),
        ("lock = 1\n", "lock = 2\n", "oncebox.lock is of format 2"),
        ('"order', "<<<<<<< HEAD\n\"order", "line 6: '<<<<<<< HEAD'"),
        ("number = 1, type", "number = 1 type", "line 10: "),
        ("a = {", "a = { number = 1 }\n\"order.placed\".1.in.Placed.a = {", "line 11: "),
        ("number = 1", "number = 2", "order.placed 1: Placed gives number 2 to b, which is that of a"),
        ("number = 1", "number = 0", "gives number 0 to a, which is below 1"),
        ("number = 1", 'number = "1"', "Expected `int`, got `str`"),
        ('type = "int"', 'type = "text"', "Placed refers to text, which is not defined"),
        ('type = "int"', 'type = "int(1"', "'int(1' is no type"),
        ('type = "int"', 'type = "int", default = \'"x"\'', "the default of Placed.a"),
        ('type = "int"', 'type = "int", colour = 1', "unknown field `colour`"),
        ('kind = "record"', 'kind = "thing"', "kind = 'thing'"),
        ('root = "Placed"', 'root = "Other"', "root 'Other' is no record of it"),
        ('key = []', 'key = 5', "Expected `array`, got `int`"),
        ('.stream = "orders"', '.from = "x"', "Expected `int`, got `str`"),
        ('.stream = "orders"', '.from = 1\n"order.placed".1.step.1 = \'{"step":"fly"}\'', "Invalid value 'fly'"),
        ('"order.placed".1.define', '"order.placed".0.define', "line 9: "),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(old: str, new: str, error: str) -> None:
    text = GOOD
    assert read_lock(text).schemas
    assert old in text
    with pytest.raises(SchemaError) as raised:
        read_lock(text.replace(old, new, 1))
    assert error in str(raised.value)
    assert "oncebox.lock" in str(raised.value)


def test_hostile_locks_are_refused_or_read(rng: random.Random) -> None:
    lines = lock_text(whole()).split("\n")
    read = 0
    for _ in range(150):
        mutated = lines[:]
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(mutated))
            line = mutated[at]
            start, end = sorted(rng.randint(0, len(line)) for _ in range(2))
            put = rng.choice(
                ["", line[start:end] * 2, *"\"'{}[]=.,\\09-\x00\u2028é", "true", "9" * 25]
            )
            mutated[at] = line[:start] + put + line[end:]
            mutated.insert(rng.randrange(len(mutated)), rng.choice(["", *lines]))
        try:
            lock = read_lock("\n".join(mutated))
        except SchemaError:
            continue
        read += 1
        assert read_lock(lock_text(lock)) == lock
    assert read < 150


# ---- what is locked stays


def test_a_locked_version_is_not_rewritten() -> None:
    lock = grown(code(schema(1, a=Int(), b=Str())))
    new = locked(lock, code(schema(1, a=Int(0), c=Str())))
    with pytest.raises(SchemaBreak) as raised:
        refuse_changes(lock, new)
    text = str(raised.value)
    assert '- "order.placed".1.in.Placed.b = { number = 2, type = "str" }' in text
    assert '+ "order.placed".1.in.Placed.c = { number = 2, type = "str" }' in text
    assert "make it version 2" in text
    documented = schema(1, a=Int(), b=Str())
    documented.definitions["Placed"] = replace(documented.record, doc="What it is.")
    refuse_changes(lock, locked(lock, code(documented)))


def test_what_the_code_does_not_have_any_more_stays() -> None:
    old = code(schema(1, a=Int()), billing={"order.placed": 1}, mail={"order.placed": 1})
    lock = grown(old, code(schema(2, a=Int()), billing={"order.placed": 2}))
    assert lock.versions("order.placed") == [1, 2]
    assert lock.consumers == {"billing": {"order.placed": 2}, "mail": {"order.placed": 1}}
    assert locked(lock, code(), forget=["mail"]).consumers == {"billing": {"order.placed": 2}}
    with pytest.raises(NotFound, match="post cannot be forgotten: unknown") as raised:
        locked(lock, code(), forget=["post"])
    assert raised.value.expected == "who is in oncebox.lock only: billing, mail"
    with pytest.raises(NotFound, match="mail cannot be forgotten: in the code"):
        locked(lock, old, forget=["mail"])


def test_the_class_of_an_event_may_be_called_otherwise() -> None:
    was, now = (
        Schema(
            "order.placed",
            1,
            name,
            {name: Record((Field("of", 0, List(Named(name))), Field("a", 0, Int())))},
        )
        for name in ("OrderPlaced", "Placed")
    )
    lock = grown(code(was))
    new = locked(lock, code(now))
    refuse_changes(lock, new)
    assert [*unlocked(lock, new), *unreleased(lock, new, "main")] == []
    assert same(new.schemas["order.placed", 1], lock.schemas["order.placed", 1])


# ---- git merges it


def git(folder: Path, *arguments: str) -> int:
    who = ("-c", "user.name=n", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", *who, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


def merged(folder: Path, base: Lock, ours: Lock, theirs: Lock) -> str | None:
    """What git makes of two branches; None where it leaves a conflict."""
    path = folder / "oncebox.lock"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / ".gitattributes").write_text("oncebox.lock merge=union\n")
    for branch, lock in (("main", base), ("theirs", theirs), ("ours", ours)):
        git(folder, "checkout", "-q", "main")
        git(folder, "checkout", "-q", "-b", branch)
        path.write_text(lock_text(lock))
        git(folder, "add", ".")
        assert git(folder, "commit", "-q", "-m", branch) == 0
    return path.read_text() if git(folder, "merge", "-q", "theirs", "-m", "m") == 0 else None


def test_branches_that_add_types_versions_and_consumers_merge(tmp_path: Path) -> None:
    base = grown(code(schema(1, a=Int(), b=Str()), billing={"order.placed": 1}))
    ours = locked(base, code(schema(1, "order.moved", a=Int()), mail={"order.moved": 1}))
    theirs = locked(
        base, code(schema(1, "order.lost", a=Int()), schema(2, a=Int()), news={"order.lost": 1})
    )
    text = merged(tmp_path / "a", base, ours, theirs)
    assert text is not None
    both = read_lock(text)
    assert both.schemas == ours.schemas | theirs.schemas
    assert both.consumers == ours.consumers | theirs.consumers
    assert locked(both, code()) == both


def test_branches_that_add_different_fields_to_a_version_in_work(tmp_path: Path) -> None:
    base = grown(code(schema(1, a=Int(), m=Str())))
    ours, theirs = (
        locked(base, code(schema(1, a=Int(), m=Str(), **{n: Int()}))) for n in ("b", "c")
    )
    text = merged(tmp_path / "a", base, ours, theirs)
    assert text is not None
    with pytest.raises(SchemaError, match="gives number 3 to c, which is that of b") as raised:
        read_lock(text)
    assert raised.value.expected is not None and raised.value.expected.endswith("such as 4")
    mended = text.replace("in.Placed.c = { number = 3", "in.Placed.c = { number = 4")
    assert numbers(read_lock(mended), 1) == {"a": 1, "m": 2, "b": 3, "c": 4}


def test_branches_that_say_different_things_of_a_field_are_noticed(tmp_path: Path) -> None:
    base = grown(code(schema(1, a=Int())))
    ours, theirs = (locked(base, code(schema(1, a=t))) for t in (Int(0), Int(1)))
    text = merged(tmp_path / "a", base, ours, theirs)
    assert text is not None
    with pytest.raises(SchemaError, match="oncebox.lock, line 11: a line above says"):
        read_lock(text)


def test_lines_that_a_merge_left_twice_say_nothing_more() -> None:
    text = lock_text(grown(code(schema(1, a=Int(), b=Str()))))
    lines = text.splitlines(keepends=True)
    assert read_lock(text + "".join(lines[-3:])) == read_lock(text)


def test_numbered_is_stable() -> None:
    one = numbered(schema(1, a=Int(), b=Str()))
    assert same(numbered(one, own=one), one)
