"""Handlers in a pipeline, as psycopg has one: their statements travel together, and look as if not."""

from __future__ import annotations

from typing import Any

import psycopg

from chains import Paid, World
from oncebox.stores.gathering import GATHERS, TOGETHER_MAX
from operating import only


@only("postgres")
def test_in_a_pipeline_rowcount_and_caught_errors_are_as_without(world: World) -> None:
    world.session.run("CREATE TABLE account (id text primary key, owed int not null)")
    world.session.run("INSERT INTO account VALUES ('a', 0)")
    counts = []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        update = tx.execute("UPDATE account SET owed = owed + 1 WHERE id = %s", (paid.order,))
        counts.append(update.rowcount)
        cursor = tx.cursor()
        cursor.executemany("UPDATE account SET owed = owed + %s", [(1,), (2,), (-3,)])
        counts.append(cursor.rowcount)
        assert [c.name for c in tx.execute("SELECT 1 AS one").description] == ["one"]
        assert tx.execute("SELECT 1").statusmessage == "SELECT 1"
        try:
            with tx.transaction():
                tx.execute("INSERT INTO account VALUES ('a', 0)")
        except psycopg.errors.UniqueViolation:
            world.record(tx, paid.order, paid.cents)
        assert tx.execute("SELECT owed FROM account WHERE id = 'a'").fetchone() is not None

    a, b = world.producer.paid("a", 1, 2), world.producer.paid("b", 10)
    world.deliver(a[0], b[0], a[1])
    world.settle()
    assert counts == [1, 3, 0, 3, 1, 3]
    assert world.ledger() == [("a", 1), ("b", 10), ("a", 2)]
    assert world.parked() == {}


@only("postgres")
def test_statements_of_handlers_travel_together(world: World) -> None:
    """Whoever asks has his answer, or lock; what was written before is seen."""
    assert GATHERS, "this release of psycopg has other methods"
    waiting, seen = [], []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        tx.execute("WITH late AS (DELETE FROM ledger WHERE false RETURNING 1) SELECT 1 FROM late")
        waiting.append(tx._pipeline._count)
        if paid.cents == TOGETHER_MAX // 4:
            tx.execute("SELECT pg_advisory_xact_lock(7)")
            seen.append(world.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
        if paid.cents == 5 * TOGETHER_MAX // 2:
            seen.append(tx.execute("SELECT count(*) FROM ledger").fetchone()[0])

    count = 3 * TOGETHER_MAX
    world.deliver(*world.producer.paid("a", *range(1, count + 1)))
    world.settle()
    assert world.of("a") == [*range(1, count + 1)]
    assert seen == [[(1,)], 5 * TOGETHER_MAX // 2]
    assert TOGETHER_MAX // 2 < max(waiting) < TOGETHER_MAX


@only("postgres")
def test_what_cannot_be_decoded_ahead_is_not_the_fault_of_the_batch_at_work(world: World) -> None:
    """The second batch is decoded while the first one commits."""
    world.handles_paid()
    handlers = world.consumer.handlers
    (kind, handler), decode = next(iter(handlers.items())), next(iter(handlers.values())).decode

    def odd(payload: bytes) -> Any:
        if b'"c"' in payload:
            raise KeyError("a bug of a decoder")
        return decode(payload)

    handlers[kind] = handler._replace(decode=odd)
    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 3, 4))
    world.deliver(*world.producer.paid("c", 5), *world.producer.paid("d", 6))
    world.settle(world.loop(batch_max=4))
    assert world.of("a") == [1, 2]
    assert world.of("b") == [3, 4]
    assert world.of("d") == [6]
    assert "a bug of a decoder" in world.parked()["c"][1]
    assert not {"a", "b"} & world.parked().keys()
