"""Properties 1 to 4 and 8 to 10 of the outbox: what commits is read, in order; nobody waits for it.

On real engines; see `docs/design.md`.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engines.lookup import postgres_programs
from engines.postgres import OwnPostgres, Postgres, postgres
from oncebox.program import drive
from oncebox.statements import statements
from oncebox.tables.migrate import split
from producing import Outbox, await_true, check_chains

STRESS_S = 3.0


# ---- 1


class Writers:
    """Writers that commit, roll back, undo savepoints, repeat keys, wait in between, take their
    transaction id before they emit, have their numbers before they commit, commit in two phases.
    """

    def __init__(self, outbox: Outbox, rng: random.Random, count: int) -> None:
        self.outbox = outbox
        self.stop = time.monotonic() + STRESS_S
        self.committed: set[str] = set()
        self.failures: list[BaseException] = []
        seeds = [rng.random() for _ in range(count)]
        self.threads = [threading.Thread(target=self.write, args=(seed,)) for seed in seeds]
        for thread in self.threads:
            thread.start()

    def write(self, seed: float) -> None:
        rng, mine = random.Random(seed), set()
        session: Any = self.outbox.store.open()
        try:
            while time.monotonic() < self.stop:
                mine |= self.transaction(session, rng)
        except BaseException as error:
            self.failures.append(error)
        self.committed |= mine
        session.close()

    def transaction(self, session: Any, rng: random.Random) -> set[str]:
        ids: set[str] = set()
        session.begin()
        if self.outbox.dialect == "postgres" and rng.random() < 0.5:
            session.run("select pg_current_xact_id()")
            self.wait(rng, 0.05)
        for _ in range(rng.choice([1, 1, 2, 3])):
            key = rng.choice([None, *(f"k{i}" for i in range(40))])
            if rng.random() < 0.2:
                session.savepoint()
                id = self.outbox.put(session, key)
                if rng.random() < 0.5:
                    session.rollback_to()
                else:
                    ids.add(id)
                session.release()
            else:
                ids.add(self.outbox.put(session, key))
        self.wait(rng, 0.05)
        if self.outbox.dialect == "postgres" and rng.random() < 0.1:
            session.run("set constraints all immediate")
            self.wait(rng, 0.2)
            if rng.random() < 0.3:
                return self.two_phases(session, rng, ids)
        if rng.random() < 0.1:
            session.rollback()
            return set()
        session.commit()
        return ids

    def two_phases(self, session: Any, rng: random.Random, ids: set[str]) -> set[str]:
        name = f"writer-{threading.get_ident()}"
        session.run(f"prepare transaction '{name}'")
        session.rollback()  # the driver's own idea of it
        self.wait(rng, 0.5)
        if rng.random() < 0.3:
            session.run(f"rollback prepared '{name}'")
            return set()
        session.run(f"commit prepared '{name}'")
        return ids

    def wait(self, rng: random.Random, share: float) -> None:
        if self.outbox.dialect == "postgres" and rng.random() < share:
            time.sleep(rng.random() * 0.1)


def test_property_01_concurrent_writers_lose_nothing(outbox: Outbox, rng: random.Random) -> None:
    outbox.emit("k0")
    relay = outbox.relay(batch_max=300)
    writers = Writers(outbox, rng, 16 if outbox.dialect == "postgres" else 4)
    while any(thread.is_alive() for thread in writers.threads):
        if not drive(relay.turn()):
            time.sleep(0.002)
        outbox.clock.now = time.time()
    for thread in writers.threads:
        thread.join()
    outbox.settle_holes(relay)
    assert writers.failures == []
    published = outbox.published()
    ids = [one.envelope.id for one in published]
    assert len(ids) == len(set(ids)), "published twice"
    assert writers.committed - set(ids) == set(), "lost"
    assert len(set(ids) - writers.committed) == 1, "phantoms, besides the one emitted before"
    assert len(ids) > 200
    check_chains(published)


def test_property_01_a_position_is_waited_for_from_the_moment_it_is_drawn(
    on_postgres: Outbox,
) -> None:
    """The one that drew it is stopped before its row is there."""
    outbox = on_postgres
    outbox.emit("slow", "quick")
    outbox.run(
        "create function stall() returns trigger language plpgsql as $body$ begin"
        " perform pg_advisory_xact_lock(7); return null; end $body$"
    )
    outbox.run(
        "create trigger stall after update on oncebox.counter for each row"
        " when (new.key = 'slow') execute function stall()"
    )
    relay = outbox.settle(outbox.relay())
    gate, stalled = outbox.open(), outbox.open()
    gate.begin()
    gate.run("select pg_advisory_xact_lock(7)")
    stalled.begin()
    outbox.put(stalled, "slow")
    committing = threading.Thread(target=stalled.commit)
    committing.start()
    waits = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
    await_true(lambda: outbox.run(waits) == [(True,)], "the commit to stand still")
    outbox.emit("quick")
    for _ in range(3):
        outbox.settle(relay)
        outbox.clock.sleep(1.0)
    gate.rollback()
    committing.join()
    outbox.settle_holes(relay)
    assert [one.chain.sequence for one in outbox.of_key("slow")] == [1, 2]
    check_chains(outbox.published())


def test_property_01_a_prepared_transaction_is_waited_for(on_postgres: Outbox) -> None:
    """It was seen before it was prepared, so it must be known again under its new name."""
    outbox = on_postgres
    relay = outbox.settle(outbox.relay())
    session = outbox.open()
    session.begin()
    outbox.put(session, "k")
    outbox.emit("a")
    session.run("set constraints all immediate")
    outbox.emit("a")
    for _ in range(3):
        outbox.settle(relay)
        outbox.clock.sleep(1.0)
    session.run("prepare transaction 'it'")
    session.rollback()
    for _ in range(3):
        outbox.settle(relay)
        outbox.clock.sleep(1.0)
    assert len(relay.reached.holes) == 1
    outbox.run("commit prepared 'it'")
    outbox.settle_holes(relay)
    assert len(outbox.of_key("k")) == 1


# ---- 2


@pytest.mark.parametrize("batches", [1, 2])
def test_property_02_keys_are_in_the_order_of_commits(on_postgres: Outbox, batches: int) -> None:
    """The first to have a transaction id, and to emit, commits last."""
    outbox = on_postgres
    relay = outbox.settle(outbox.relay())
    early, late = outbox.open(), outbox.open()
    early.begin()
    early.run("select pg_current_xact_id()")
    first = outbox.put(early, "k")
    late.begin()
    second = outbox.put(late, "k")
    late.commit()
    if batches == 2:
        outbox.settle(relay)
    early.commit()
    outbox.settle(relay)
    assert [one.envelope.id for one in outbox.of_key("k")] == [second, first]
    check_chains(outbox.published())


def test_property_02_a_position_is_drawn_once_the_key_is_locked(on_postgres: Outbox) -> None:
    """Else one who waits for the key has drawn before another who goes first; and who draws again
    then leaves a hole for each that waits.
    """
    outbox = on_postgres
    ids = outbox.emit("k")
    relay = outbox.settle(outbox.relay())
    holder, waiter = outbox.open(), outbox.open()
    holder.begin()
    ids.append(outbox.put(holder, "k"))
    holder.run("set constraints all immediate")
    waiter.begin()
    last = outbox.put(waiter, "k")
    committing = threading.Thread(target=waiter.commit)
    committing.start()
    await_true(lambda: waits_for(outbox, 1), "the commit to wait for the key")
    ids.append(outbox.put(holder, "k"))
    holder.commit()
    committing.join()
    outbox.settle_holes(relay)
    assert [sequence for sequence, _, _ in outbox.chains("k")] == [1, 2, 3, 4]
    assert [one.envelope.id for one in outbox.of_key("k")] == [*ids, last]
    assert outbox.run("select max(position) from oncebox.chain") == [(4,)], "no holes"
    check_chains(outbox.published())


# ---- 3


def test_property_03_open_transactions_delay_nothing(
    on_postgres: Outbox, postgres_server: Postgres
) -> None:
    outbox = on_postgres
    outbox.emit("s")  # nobody can number events of a source that another is just making
    relay = outbox.settle(outbox.relay())
    with postgres_server.database() as other, psycopg.connect(other) as elsewhere:
        elsewhere.execute("select pg_current_xact_id()")
        here, numbered = outbox.open(), outbox.open()
        here.begin()
        outbox.put(here, "k")  # emitted, and open
        numbered.begin()
        outbox.put(numbered, "h")
        numbered.run("set constraints all immediate")  # has its position, and is open
        for i in range(3):
            outbox.emit("a", "b", None)
            outbox.settle(relay)
            assert len(outbox.ids()) == 1 + (i + 1) * 3
        assert len(relay.reached.holes) == 1
        numbered.commit()
        outbox.settle(relay)
        assert len(outbox.of_key("h")) == 1
        assert not len(relay.reached.holes)
        here.commit()
        outbox.settle(relay)
    assert len(outbox.ids()) == 12
    check_chains(outbox.published())


def test_property_03_a_position_of_a_rollback_is_given_up_while_others_are_open(
    on_postgres: Outbox,
) -> None:
    outbox = on_postgres
    outbox.emit("s")
    relay = outbox.settle(outbox.relay())
    open_still, session = outbox.open(), outbox.open()
    open_still.begin()
    outbox.put(open_still, "k")
    session.begin()
    outbox.put(session, "h")
    session.run("set constraints all immediate")
    outbox.emit("a")
    outbox.settle(relay)
    assert len(relay.reached.holes) == 1
    outbox.clock.sleep(1.0)
    outbox.settle(relay)
    assert relay.reached.holes[0].suspects, "its transaction could commit still"
    session.rollback()
    outbox.settle_holes(relay)
    open_still.commit()
    outbox.settle(relay)
    assert len(outbox.ids()) == 3


@pytest.mark.parametrize("how", ["prepared", "idle", "running"])
def test_property_03_holes_do_not_pile_up_behind_a_transaction_that_draws_nothing(
    on_postgres: Outbox, how: str
) -> None:
    """It could own each position that a rollback leaves, for all that its lock tells: it stays open
    over many of them, and there were more than the relay holds. One that runs something may own
    them, and is waited for.
    """
    outbox = on_postgres
    outbox.emit("s")
    relay = outbox.settle(outbox.relay(holes_max=5))
    session, rolling = outbox.open(), outbox.open()
    session.begin()
    outbox.put(session, "k")
    session.run("set constraints all immediate")
    if how == "prepared":
        session.run("prepare transaction 'it'")
        session.rollback()
    for number in range(20):
        if how == "running":
            session.run("select 1")
        rolling.begin()
        outbox.put(rolling, "r")
        rolling.run("set constraints all immediate")
        outbox.emit("a", f"b{number}")
        if how != "running" or number < 4:
            outbox.settle(relay)
        rolling.rollback()
        outbox.clock.sleep(1.0)
        outbox.settle(relay)
    if how == "running":
        assert len(relay.reached.holes) > 5
    else:
        assert len(outbox.ids()) == 41, "all but what is open"
        assert len(relay.reached.holes) <= 4
        assert next(iter(relay.reached.holes)).suspects, "what it drew is waited for"
    if how == "prepared":
        outbox.run("commit prepared 'it'")
    else:
        outbox.put(session, "k")  # it goes on, and draws once more
        session.commit()
    outbox.settle(outbox.settle_holes(relay))
    assert len(outbox.of_key("k")) == (1 if how == "prepared" else 2)
    check_chains(outbox.published())
    assert len(outbox.ids()) == len(set(outbox.ids())) == 42 + (how != "prepared")


def test_property_03_who_went_on_between_two_looks_is_suspected_again(on_postgres: Outbox) -> None:
    outbox = on_postgres
    outbox.emit("s")
    relay = outbox.settle(outbox.relay())
    session = outbox.open()
    session.begin()
    outbox.put(session, "k")
    session.run("set constraints all immediate")
    outbox.emit("a")
    for _ in range(4):  # seen to be still
        outbox.settle(relay)
        outbox.clock.sleep(1.0)
    outbox.put(session, "l")
    outbox.emit("a")
    for _ in range(4):
        outbox.settle(relay)
        outbox.clock.sleep(1.0)
    assert len(relay.reached.holes) == 2
    session.commit()
    outbox.settle_holes(relay)
    assert len(outbox.of_key("k")) == len(outbox.of_key("l")) == 1


# ---- 4


def test_property_04_only_what_is_durable_is_published(tmp_path: Path) -> None:
    with postgres(settings={"wal_writer_delay": "10s", "synchronous_commit": "off"}) as server:
        outbox = Outbox(server.url, tmp_path)
        relay = outbox.settle(outbox.relay())
        behind = []

        def look(records: Any) -> None:
            sql = "select pg_current_wal_flush_lsn() < $1::pg_lsn"
            behind.append(watch.run(sql, (committed,))[0][0])
            assert records

        watch = outbox.open()
        outbox.log.before = look
        for i in range(5):
            outbox.emit(f"k{i}", "x")
            ((committed,),) = watch.run("select pg_current_wal_insert_lsn()::text")
            drive(relay.turn())
        assert behind == [False] * 5
        ids = outbox.ids()
        for session in (relay.session, watch, outbox.session):
            session.close()
        server.restart(immediate=True)  # as a loss of power: what was not flushed is gone
        with psycopg.connect(server.url) as after:
            rows = after.execute("select id::text from oncebox.event").fetchall()
        assert set(ids) <= {id for (id,) in rows}
        assert len(ids) == 10
        relay.is_open = False
        outbox.close()


@pytest.mark.parametrize("how", ["dumped", "copied"])
def test_property_04_a_restored_database_is_published_again(
    on_postgres: Outbox, postgres_server: Postgres, tmp_path: Path, how: str
) -> None:
    """Dumped, so that identities and transaction ids are others; or copied with all of them."""
    outbox = on_postgres
    outbox.emit("a", "b", "a", None)
    relay = outbox.settle(outbox.relay())
    outbox.rest(relay)
    outbox.emit("a")
    outbox.close()
    with postgres_server.database(outbox.url.rsplit("/")[-1] if how == "copied" else None) as url:
        if how == "dumped":
            restore(outbox.url, url)
        (tmp_path / "second").mkdir()
        restored = Outbox(url, tmp_path / "second")
        restored.emit("a", "b")
        again = restored.settle_holes(restored.relay())
        published = restored.published()
        check_chains(published)
        assert sorted(one.chain.sequence for one in published if one.key == "a") == [1, 2, 3, 4]
        assert len(published) == 7
        restored.settle(again)
        assert len(restored.ids()) == 7
        ((low,),) = restored.run("select low from oncebox.source")
        assert low > 0, "what is emitted from now on cannot be taken for what was lost"
        restored.close()


def restore(old: str, new: str) -> None:
    programs = postgres_programs()
    command = [str(programs / "pg_dump"), "-Fc", old]
    dump = subprocess.run(command, capture_output=True, check=True).stdout
    command = [str(programs / "pg_restore"), "--no-owner", "-d", new]
    subprocess.run(command, input=dump, capture_output=True, check=True)


def test_property_04_a_promoted_standby_is_published_again(tmp_path: Path) -> None:
    with postgres() as server:
        outbox = Outbox(server.url, tmp_path)
        outbox.emit("a", "b")
        relay = outbox.settle(outbox.relay())
        drive(relay._leave())
        promote(server, outbox)
        outbox.session = outbox.open()
        outbox.emit("a")
        outbox.settle_holes(outbox.relay())
        ids = outbox.ids()
        assert len(ids) == 5
        assert len(set(ids)) == 3
        outbox.close()


def promote(server: OwnPostgres, outbox: Outbox) -> None:
    """The server on a new timeline, as after a failover."""
    outbox.session.close()
    server.stop()
    (server.data / "standby.signal").touch(mode=0o666)
    server.start()
    with psycopg.connect(server.url, autocommit=True) as c:
        c.execute("select pg_promote()")


# ---- 8


def test_property_08_no_notify_in_transactions_of_users(outbox: Outbox) -> None:
    text = " ".join(statements(outbox.dialect).values())
    rows = []
    if outbox.dialect == "postgres":
        rows = outbox.run("select prosrc from pg_proc where pronamespace = 'oncebox'::regnamespace")
    assert "notify" not in (text + " ".join(source for (source,) in rows)).lower()


# ---- 9


def test_property_09_one_statement_in_the_callers_transaction(outbox: Outbox) -> None:
    for name in [name for name in outbox.sql if name.startswith("append")]:
        statement = outbox.sql[name]
        assert statement.lower().startswith("insert"), "Python opens transactions before DML only"
        assert list(split(statement + ";")) == [statement + ";"]
    session, watch = outbox.session, outbox.open()
    dot = "." if outbox.dialect == "postgres" else "_"
    seen = f"select count(*) from oncebox{dot}event"
    session.begin()
    outbox.put(session, "a")
    assert watch.run(seen) == [(0,)]
    session.commit()
    assert watch.run(seen) == [(1,)]


# ---- 10


def test_property_10_opposite_orders_do_not_deadlock(on_postgres: Outbox) -> None:
    outbox = on_postgres
    outbox.emit(*"abcdefgh")
    failures: list[BaseException] = []

    def write(keys: str) -> None:
        session: Any = outbox.store.open()
        try:
            for _ in range(50):
                session.begin()
                for key in keys:
                    outbox.put(session, key)
                session.commit()
        except BaseException as error:
            failures.append(error)
        session.close()

    orders = ["abcdefgh", "hgfedcba", "hagbfced", "bdfhaceg"]
    threads = [threading.Thread(target=write, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert outbox.run("select min(sequence), max(sequence) from oncebox.counter") == [(201, 201)]


def test_property_10_few_and_many_do_not_deadlock_over_a_new_key(on_postgres: Outbox) -> None:
    """Both make new keys and lock old ones in one order. Who made all new ones first would not."""
    outbox = on_postgres
    outbox.emit("a", "b")
    gate, few, many = outbox.open(), outbox.open(), outbox.open()
    gate.begin()
    outbox.put(gate, "b")
    gate.run("set constraints all immediate")
    committing = []
    for waiting, (session, keys) in enumerate(((few, "abz"), (many, ["z", "a", *["y"] * 40])), 1):
        session.begin()
        for key in keys:
            outbox.put(session, key)
        committing.append(threading.Thread(target=session.commit))
        committing[-1].start()
        await_true(partial(waits_for, outbox, waiting), "the commit to wait for a key")
    gate.commit()
    for thread in committing:
        thread.join()
    assert [len(outbox.chains(key)) for key in "abyz"] == [3, 3, 40, 2]


def waits_for(outbox: Outbox, count: int) -> bool:
    """Whether so many transactions wait for another one."""
    waits = "select count(*) from pg_locks where locktype = 'transactionid' and not granted"
    return outbox.run(waits) == [(count,)]


def test_property_10_new_sources_in_opposite_orders_hold_nobody(on_postgres: Outbox) -> None:
    outbox = on_postgres
    one, other = outbox.open(), outbox.open()
    for session, order in ((one, "ab"), (other, "ba")):
        session.begin()
        session.run("set local lock_timeout = '1s'")
        for stream in order:
            outbox.put(session, "k", source=f"/new/{stream}")
    one.commit()
    other.commit()
    assert [sequence for sequence, _, _ in outbox.chains("k")] == [1, 1, 2, 2]


def test_property_10_work_after_emit_does_not_hold_the_key(on_postgres: Outbox) -> None:
    outbox = on_postgres
    outbox.emit("k")
    slow, quick = outbox.open(), outbox.open()
    slow.begin()
    outbox.put(slow, "k")
    quick.begin()
    quick.run("set local lock_timeout = '1s'")
    outbox.put(quick, "k")
    quick.commit()
    slow.commit()
    assert [sequence for sequence, _, _ in outbox.chains("k")] == [1, 2, 3]
