"""What a lock tells code that is older than it, and what is refused at the start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lensing import Amount, Placed1, Placed2, Shop, lenses, note, redriven, shop
from oncebox import Service, add, convert, event, rename, values
from oncebox.cli import main
from oncebox.errors import SchemaError
from oncebox.lens.chain import Edge, declared
from oncebox.lens.file import use_lock
from oncebox.lens.steps import Step
from oncebox.schema.derive import schema_of
from oncebox.schema.lock import Lock, lock_text
from oncebox.schema.model import Field, Record, Schema, Str
from oncebox.service.running import running
from oncebox.testing import drain

__all__ = ["lenses", "shop"]

TYPE = "order.noted"


def schema(version: int, **defaults: Any) -> Schema:
    """Version of an event with an id and texts: with a default, or without (None)."""
    fields = [Field("order_id", 1, Str())]
    for number, (name, default) in enumerate(defaults.items(), 2):
        more = {} if default is None else {"default": default}
        fields.append(Field(name, number, Str(), **more))
    record = Record(tuple(fields))
    return Schema(TYPE, version, "Noted", {"Noted": record}, "orders", ("order_id",))


@event(TYPE, stream="orders", key="order_id", version=1)
@dataclass(frozen=True)
class Noted1:
    order_id: str
    text: str


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oncebox.lock"


def write(path: Path, schemas: list[Schema], *edges: Edge) -> None:
    lock = Lock({(s.type, s.version): s for s in schemas}, {(TYPE, e.newer): e for e in edges})
    path.write_text(lock_text(lock))


def published(shop: Shop, version: int, **document: str) -> None:
    """An event of a version that no code here has."""
    made: Any = event(TYPE, stream="orders", key="order_id", version=version)(
        dataclass(frozen=True)(type("Noted", (), {"__annotations__": dict.fromkeys(document, str)}))
    )
    shop.emit(made(**document))


def noting(shop: Shop) -> Service:
    billing = shop.billing()
    billing.on(Noted1)(note)
    return billing


STEPS: tuple[Step, ...] = (rename("text", "words"), add("lang", default="en"))


def test_a_newer_event_comes_down_by_the_steps_of_the_lock(shop: Shop, path: Path) -> None:
    write(path, [schema(1, text=None), schema(2, words=None, lang=None)], Edge(1, 2, STEPS))
    use_lock(str(path))
    published(shop, 2, order_id="o-1", words="hello", lang="de")
    assert drain(shop.shop, noting(shop)) == []
    assert shop.seen == [repr(Noted1("o-1", "hello"))]


def test_a_lock_that_comes_later_releases_what_waits(shop: Shop, path: Path) -> None:
    write(path, [schema(1, text=None)])
    use_lock(str(path))
    billing = noting(shop)
    published(shop, 7, order_id="o-1", words="hello", lang="de")
    shop.emit(Noted1("o-1", "second"))
    (waiting,) = drain(shop.shop, billing)
    assert "deploy me" in str(waiting.reason)
    write(path, [schema(1, text=None), schema(7, words=None, lang=None)], Edge(1, 7, STEPS))
    redriven(shop, "o-1")
    assert drain(shop.shop, billing) == []
    assert shop.seen == [repr(Noted1("o-1", "hello")), repr(Noted1("o-1", "second"))]


def test_what_only_adds_fields_with_defaults_needs_no_step(shop: Shop, path: Path) -> None:
    write(path, [schema(1, text=None), schema(2, text=None, lang="en")])
    use_lock(str(path))
    published(shop, 2, order_id="o-1", text="hello", lang="de")
    assert drain(shop.shop, noting(shop)) == []
    assert shop.seen == [repr(Noted1("o-1", "hello"))]


def test_functions_cannot_travel_and_say_so(shop: Shop, path: Path) -> None:
    step = convert("text", up=str.upper, down=str.lower)
    write(path, [schema(1, text=None), schema(2, text=None)], Edge(1, 2, (step,)))
    use_lock(str(path))
    published(shop, 2, order_id="o-1", text="HELLO")
    (waiting,) = drain(shop.shop, noting(shop))
    assert "has functions" in str(waiting.reason)


def test_explain_shows_the_function(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write(path, [schema(1, text=None), schema(2, words=None, lang=None)], Edge(1, 2, STEPS))
    assert main(["schema", "explain", TYPE, "2", "1", "--file", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "d['text'] = d.pop('words')" in shown and "d.pop('lang', None)" in shown
    space: dict[str, Any] = {}
    exec(shown, space)
    document = {"order_id": "o", "words": "hello", "lang": "de"}
    assert space["order_noted_2_to_1"](document) == {"order_id": "o", "text": "hello"}
    assert main(["schema", "explain", TYPE, "2", "9", "--file", str(path)]) == 1


# ---- refused at the start


async def begin(service: Service, path: Path) -> None:
    async with running([service], lock=str(path)):
        raise AssertionError("it runs")


async def test_a_way_that_is_missing_in_the_lock(shop: Shop, path: Path) -> None:
    write(path, [schema(1, text=None), schema(2, words=None)])
    with pytest.raises(SchemaError, match="nothing leads from version 1 to 2"):
        await begin(noting(shop), path)


async def test_steps_that_do_not_end_where_the_lock_says(shop: Shop, path: Path) -> None:
    wrong = Edge(1, 2, (rename("text", "speech"),))
    write(path, [schema(1, text=None), schema(2, words=None)], wrong)
    with pytest.raises(SchemaError, match="words is not there, and version 2 needs it"):
        await begin(noting(shop), path)


async def test_a_class_that_is_not_what_the_lock_has(shop: Shop, path: Path) -> None:
    write(path, [schema(1, words=None)])
    with pytest.raises(SchemaError, match="Noted1 is not what the lock has.*text is not there"):
        await begin(noting(shop), path)


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ((rename("text", "order_id"),), "there is a field order_id already"),
        ((rename("texts", "words"),), "there is no field texts"),
        ((add("words", default=7), rename("text", "w")), "words is 7"),
        ((values("text", {"a": "b"}),), "more values than can be named"),
        ((), "words is not there"),
    ],
)
def test_steps_that_cannot_work_are_refused_with_the_step(
    steps: tuple[Step, ...], problem: str
) -> None:
    declared.learn([schema(1, text=None), schema(2, words=None)], [(TYPE, Edge(1, 2, steps))])
    with pytest.raises(SchemaError, match=problem):
        declared.check(TYPE)


def test_the_lock_has_what_classes_and_lenses_say(shop: Shop, path: Path) -> None:
    """A lock that is written of the code says the same as the code."""
    both = {
        ("order.placed", cls_version): schema_of(cls)
        for cls, cls_version in ((Placed1, 1), (Placed2, 2))
    }
    edge = declared.edges["order.placed"][1]
    path.write_text(lock_text(Lock(both, {("order.placed", 2): edge})))
    declared.edges.clear()
    use_lock(str(path))
    billing = shop.billing()
    billing.on(Placed1)(note)
    shop.emit(Placed2("o-1", Amount(5, "USD"), "ada"))
    assert drain(shop.shop, billing) == []
    assert shop.seen == [repr(Placed1("o-1", 5, "ada"))]
