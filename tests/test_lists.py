"""Batch handlers: lists in order, with every guarantee that single events have."""

from __future__ import annotations

from typing import Any

import pytest

from chains import TOPIC, Noted, Paid, World
from oncebox.consumer.others import foreign
from oncebox.consumer.reading import Handler
from oncebox.context import Context
from oncebox.errors import ConfigurationError
from oncebox.operate.rewind import rebuild
from oncebox.program import drive
from oncebox.service.service import Consumer, Service
from operating import desk_of


class Projection:
    """A batch handler that writes its events by one statement; `lists` are those that it got."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lists: list[list[int]] = []
        self.broken: set[str] = set()
        self.failure: Exception = ValueError("no account")
        world.consumer.on_batch(Paid)(self.pay)

    def pay(self, tx: Any, events: list[Paid]) -> None:
        self.lists.append([paid.cents for paid in events])
        insert(self.world, tx, [(paid.order, paid.cents) for paid in events])
        if self.broken.intersection(paid.order for paid in events):
            raise self.failure


def insert(world: World, tx: Any, rows: list[tuple[str, int]]) -> None:
    tx.cursor().executemany(world.insert, rows)


@pytest.fixture
def projection(world: World) -> Projection:
    return Projection(world)


def test_a_list_has_events_in_order_and_each_once(projection: Projection) -> None:
    world = projection.world
    a, b = world.producer.paid("a", 1, 2, 3), world.producer.paid("b", 10, 20)
    world.deliver(a[0], b[0], a[0], a[2], b[1], a[1], b[1])
    loop = world.settle()
    assert projection.lists == [[1, 10, 20, 2, 3]]
    assert world.ledger() == [("a", 1), ("b", 10), ("b", 20), ("a", 2), ("a", 3)]
    assert (world.count("applied"), world.count("duplicates"), world.kept()) == (5, 2, 0)
    world.deliver(*a, *b)
    world.settle(loop)
    assert len(world.ledger()) == 5


def test_a_list_is_no_longer_than_its_bound(projection: Projection) -> None:
    world = projection.world
    world.deliver(*world.producer.paid("a", *range(7)))
    world.settle(world.loop(list_max=3))
    assert projection.lists == [[0, 1, 2], [3, 4, 5], [6]]


def test_the_failing_event_parks_alone_and_is_found_by_halving(projection: Projection) -> None:
    world = projection.world
    projection.broken = {"k77"}
    for number in range(200):
        world.deliver(*world.producer.paid(f"k{number}", number))
    world.deliver(*world.producer.paid("k77", 1000))
    loop = world.settle()
    assert {what for _, what in world.ledger()} == set(range(200)) - {77}
    assert world.parked() == {"k77": ("poison", "ValueError: no account", 1)}
    assert len(projection.lists) < 40
    projection.broken.clear()
    world.after(2.0, loop)
    assert world.of("k77") == [77, 1000]
    assert world.count("applied") == 201


def test_where_all_events_fail_few_are_tried_again_and_again(projection: Projection) -> None:
    world = projection.world
    projection.broken = {f"k{number}" for number in range(100)}
    world.deliver(*(world.producer.paid(key, 1)[0] for key in sorted(projection.broken)))
    loop = world.settle()
    assert len(world.parked()) == 100
    assert sum(map(len, projection.lists)) < 1000
    projection.broken.clear()
    world.after(2.0, loop)
    assert len(world.ledger()) == 100


def test_events_of_a_key_stay_in_order_between_handlers(projection: Projection) -> None:
    """Lists are cut where another handler's event of a key comes between, and only there."""
    world = projection.world

    @world.consumer.on(Noted)
    def note(tx: Any, noted: Noted) -> None:
        world.record(tx, noted.order, -1)

    producer = world.producer
    world.deliver(
        *producer.paid("a", 1), *producer.paid("b", 10), producer.commit(Noted("c", "")),
        *producer.paid("a", 2), producer.commit(Noted("a", "")), *producer.paid("a", 3),
        *producer.paid("b", 20),
    )  # fmt: skip
    world.settle()
    assert projection.lists == [[1, 10, 2], [3, 20]]
    assert world.of("a") == [1, 2, -1, 3]
    assert world.of("b") == [10, 20]


def test_events_of_a_key_stay_in_order_between_two_lists(projection: Projection) -> None:
    world = projection.world
    notes: list[list[str]] = []

    @world.consumer.on_batch(Noted)
    def note(tx: Any, events: list[Noted], contexts: list[Context[None]]) -> None:
        notes.append([context.key or "" for context in contexts])
        insert(world, tx, [(noted.order, -1) for noted in events])

    producer = world.producer
    world.deliver(
        *producer.paid("a", 1), producer.commit(Noted("b", "")), producer.commit(Noted("a", "")),
        *producer.paid("a", 2), *producer.paid("b", 20), producer.commit(Noted("c", "")),
    )  # fmt: skip
    world.settle()
    assert projection.lists == [[1], [2, 20]]
    assert notes == [["b", "a"], ["c"]]
    assert world.of("a") == [1, -1, 2]
    assert world.of("b") == [-1, 20]


def test_what_an_event_waits_for_is_done_before_it(projection: Projection) -> None:
    world = projection.world

    @world.consumer.on(Noted)
    def note(tx: Any, noted: Noted) -> None:
        world.record(tx, noted.order, -1)

    (a,) = world.producer.paid("a", 1)
    waits = world.producer.commit(Noted("b", ""), after=a.reference)
    world.deliver(*world.producer.paid("c", 5), a, waits)
    world.settle()
    assert world.ledger() == [("c", 5), ("a", 1), ("b", -1)]


def test_a_payload_that_does_not_fit_holds_its_key_and_no_list(projection: Projection) -> None:
    world = projection.world
    a, b = world.producer.paid("a", 1, 2, 3), world.producer.paid("b", 10, 20)
    bad = a[1].altered(value=b'{"order":"a","cents":"many"}')
    world.deliver(a[0], b[0], bad, a[2], b[1])
    world.settle()
    assert projection.lists == [[1, 10, 20]]
    assert "$.cents" in world.parked()["a"][1]
    assert world.kept() == 2


def test_a_list_that_meets_an_outage_spends_no_attempts(projection: Projection) -> None:
    world = projection.world
    projection.broken, projection.failure = {"a"}, ConnectionError("no route to a's server")
    a, b = world.producer.paid("a", 1, 2), world.producer.paid("b", 10, 20)
    world.deliver(b[0], a[0], b[1])
    loop = world.settle()
    assert world.of("b") == [10, 20]
    assert world.parked() == {"a": ("poison", "ConnectionError: no route to a's server", 0)}
    projection.broken.clear()
    world.deliver(a[1])
    world.after(400.0, loop)
    assert world.of("a") == [1, 2]


def test_who_commits_in_a_list_is_named_and_parked(world: World) -> None:
    @world.consumer.on_batch(Paid)
    def pay(tx: Any, events: list[Paid]) -> None:
        insert(world, tx, [(paid.order, paid.cents) for paid in events])
        if any(paid.order == "a" for paid in events):
            tx.commit()

    a, b = world.producer.paid("a", 1), world.producer.paid("b", 10, 20)
    world.deliver(b[0], a[0], b[1])
    loop = world.settle()
    for _ in range(3):
        world.after(60.0, loop)
    assert world.ledger() == [("b", 10), ("b", 20)]
    assert world.parked()["a"][0] == "poison"


def test_the_event_that_kills_in_a_list_is_found_and_parked(world: World) -> None:
    @world.consumer.on_batch(Paid)
    def pay(tx: Any, events: list[Paid]) -> None:
        if any(paid.order == "a" for paid in events):
            raise SystemExit(137)
        insert(world, tx, [(paid.order, paid.cents) for paid in events])

    a, b = world.producer.paid("a", 1), world.producer.paid("b", 10, 20)
    world.deliver(b[0], a[0], b[1])
    world.lives()
    assert world.of("b") == [10, 20]
    assert "died" in world.parked()["a"][1]


def test_once_is_refused_in_a_list(world: World) -> None:
    @world.consumer.on_batch(Paid)
    def pay(tx: Any, events: list[Paid], contexts: list[Context[None]]) -> None:
        contexts[0].once("charge", lambda _: None)

    world.deliver(*world.producer.paid("a", 1))
    world.settle()
    reason = world.parked()["a"][1]
    assert reason.startswith("ConfigurationError: once() in a batch handler")
    assert "on()" in reason


def test_a_rebuild_is_quiet_in_lists_of_their_own(world: World) -> None:
    """What was had before and what was not are in different lists."""
    service = Service("billing")
    lists: list[list[tuple[int, bool]]] = []

    @world.consumer.on_batch(Paid)
    def pay(tx: Any, events: list[Paid], contexts: list[Context[None]]) -> None:
        lists.append([(paid.cents, c.rebuilding) for paid, c in zip(events, contexts, strict=True)])
        insert(world, tx, [(paid.order, paid.cents) for paid in events])
        service.emit_many(tx, [Noted(paid.order, "paid") for paid in events])

    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 10))
    loop = world.settle()
    ends = {(TOPIC, 0): 3}
    drive(rebuild(desk_of(world), ends, ["DELETE FROM ledger"], "new rules", perform=False))
    world.deliver(*world.producer.paid("a", 3), *world.producer.paid("b", 20))
    lists.clear()
    world.after(2, loop)
    assert lists == [[(1, True), (2, True), (10, True)], [(3, False), (20, False)]]
    assert world.ledger() == [("a", 1), ("a", 2), ("b", 10), ("a", 3), ("b", 20)]
    assert world.rows("SELECT count(*) FROM oncebox.event") == [(5,)]


def test_a_function_that_cannot_be_called_as_handlers_are_is_refused() -> None:
    consumer = Consumer[Any]("billing")
    for wrong in (lambda paid: None, lambda tx, paid, context, more: None, lambda: None):
        for register in (consumer.on(Paid), consumer.on_batch(Paid)):
            made: Any = register
            with pytest.raises(ConfigurationError, match="cannot be a handler"):
                made(wrong)
    assert consumer.handlers == {}
    any_of_them: Any = lambda *given: None  # noqa: E731
    assert consumer.on(Paid)(any_of_them) is any_of_them


def test_a_type_has_one_handler_of_either_kind() -> None:
    consumer = Consumer[Any]("billing")

    @consumer.on_batch(Paid)
    def pay(tx: Any, events: list[Paid]) -> None: ...

    assert consumer.on_batch(Paid)(pay) is pay
    assert isinstance(consumer.handlers["order.paid"], Handler)
    with pytest.raises(ConfigurationError, match=r"order\.paid already"):

        @consumer.on(Paid)
        def one(tx: Any, paid: Paid) -> None: ...

    with pytest.raises(ConfigurationError, match="mixes plain functions and coroutines"):

        @consumer.on_batch(Noted)
        async def note(tx: Any, events: list[Noted]) -> None: ...


def test_others_events_come_in_lists_in_the_order_of_their_topic(world: World) -> None:
    lists: list[list[int]] = []
    paid = foreign(TOPIC, Paid, key="$.order", id="header:ce_id")

    @world.consumer.on_batch(paid)
    def pay(tx: Any, events: list[Paid]) -> None:
        lists.append([one.cents for one in events])
        insert(world, tx, [(one.order, one.cents) for one in events])

    a, b = world.producer.paid("a", 1, 2), world.producer.paid("b", 10)
    world.deliver(a[0], b[0], a[0], a[1])
    world.settle()
    assert lists == [[1, 10, 2]]
    assert world.ledger() == [("a", 1), ("b", 10), ("a", 2)]
