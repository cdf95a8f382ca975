"""What emit leaves in the tables: numbers without holes, in the order of commits."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engines.postgres import postgres as own_postgres
from producing import SOURCE, Outbox, await_true, check_chains

US = 1024
DAY_US = 24 * 3600 * 1_000_000


@pytest.fixture
def postgres(postgres_url: str, tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(postgres_url, tmp_path)
    yield made
    made.close()


def sequences(outbox: Outbox, key: str) -> list[int]:
    return [sequence for sequence, _, _ in outbox.chains(key)]


def check_chain(outbox: Outbox, key: str, length: int) -> None:
    """1 to `length`, stamps that rise, each naming the one before."""
    chain = outbox.chains(key)
    assert [sequence for sequence, _, _ in chain] == list(range(1, length + 1))
    stamps = [stamp for _, stamp, _ in chain]
    assert stamps == sorted(set(stamps))
    assert [previous for _, _, previous in chain] == [None, *stamps][:length]


def test_numbers_along_keys_in_one_and_in_many_transactions(outbox: Outbox) -> None:
    outbox.emit("a")
    outbox.emit("b", "a", "a", None, "b")
    outbox.emit_many(["a", None, "c", "a", "b"])
    outbox.emit("c")
    check_chain(outbox, "a", 5)
    check_chain(outbox, "b", 3)
    check_chain(outbox, "c", 2)
    unkeyed = outbox.chains(None)
    assert [(s, p) for s, _, p in unkeyed] == [(None, None)] * 2


def test_a_rollback_gives_the_numbers_back(outbox: Outbox) -> None:
    outbox.emit("a")
    outbox.session.begin()
    outbox.put(outbox.session, "a")
    outbox.put(outbox.session, "b")
    outbox.session.rollback()
    outbox.emit("a", "b")
    check_chain(outbox, "a", 2)
    check_chain(outbox, "b", 1)


def test_a_savepoint_that_is_rolled_back_leaves_nothing(outbox: Outbox) -> None:
    session = outbox.session
    session.begin()
    outbox.put(session, "a")
    for undone in (True, False, True):
        session.savepoint()
        outbox.put(session, "a")
        outbox.put(session, "b")
        if undone:
            session.rollback_to()
        session.release()
    session.commit()
    session.begin()
    session.savepoint()
    outbox.put(session, "c")
    session.rollback_to()
    session.release()
    session.commit()
    check_chain(outbox, "a", 2)
    check_chain(outbox, "b", 1)
    check_chain(outbox, "c", 0)


def test_sources_have_chains_of_their_own(outbox: Outbox) -> None:
    outbox.emit("a", source="/shop/orders")
    outbox.emit("a", source="/shop/payments")
    outbox.emit("a", source="/shop/orders")
    assert sequences(outbox, "a") == [1, 1, 2]


def test_a_stamp_is_the_clock_and_never_falls(outbox: Outbox) -> None:
    before = time.time_ns() // 1000
    outbox.emit("a")
    ahead = (before + DAY_US) * US + 5
    outbox.run("update oncebox.counter set stamp = $1 where key = 'a'", ahead)
    outbox.emit("a", "a")
    outbox.emit("a")
    after = time.time_ns() // 1000
    (_, first, _), *later = outbox.chains("a")
    assert before - 1000 <= first // US <= after + 1000
    stamps = [stamp for _, stamp, _ in later]
    assert [stamp // US for stamp in stamps] == [before + DAY_US + i for i in (1, 2, 3)]
    assert [previous for _, _, previous in later] == [ahead, *stamps[:-1]]


def test_low_bits_are_random_also_behind_the_clock(outbox: Outbox) -> None:
    outbox.emit("a")
    low = (time.time_ns() // 1000 + DAY_US) * US
    for _ in range(8):
        outbox.run("update oncebox.counter set stamp = $1", low)
        outbox.emit("a")
    stamps = [stamp for _, stamp, _ in outbox.chains("a")[1:]]
    assert len({stamp - low for stamp in stamps}) > 1


def test_stamps_begin_above_low(outbox: Outbox) -> None:
    outbox.emit("a")
    low = (time.time_ns() // 1000 + DAY_US) * US
    outbox.run("update oncebox.source set low = $1", low)
    outbox.emit("a", "b")
    outbox.emit("a")
    outbox.emit("c")
    stamps = [stamp for key in "abc" for _, stamp, _ in outbox.chains(key)]
    assert [stamp > low for stamp in stamps] == [False, True, True, True, True]


def test_after_takes_the_stamp_of_the_last_event_of_that_key(outbox: Outbox) -> None:
    outbox.emit("p", "p")
    session = outbox.session
    session.begin()
    outbox.put(session, "x", after=(SOURCE, "p", None))  # the one before this transaction
    outbox.put(session, "p")
    outbox.put(session, "y", after=(SOURCE, "p", None))  # the one just now
    outbox.put(session, "p")
    outbox.put(session, None, after=("/elsewhere/payments", "q", 77))
    session.commit()
    outbox.session.begin()
    outbox.put(session, "z", after=(SOURCE, "p", None))
    outbox.session.commit()
    stamps = [stamp for _, stamp, _ in outbox.chains("p")]
    found = after_stamps(outbox)
    assert found == {"x": stamps[1], "y": stamps[2], None: 77, "z": stamps[3]}


def after_stamps(outbox: Outbox) -> dict[str | None, int]:
    table = "oncebox.event e"
    if outbox.dialect == "postgres":
        table = "oncebox.chain e join oncebox.event f on f.n = e.n"
    rows = outbox.run(f"select key, e.after_stamp from {table} where e.after_stamp is not null")
    return dict(rows)


@pytest.mark.parametrize("how", ["alone", "among others", "itself"])
def test_after_an_unknown_event_is_an_error(outbox: Outbox, how: str) -> None:
    outbox.emit("p")
    session = outbox.session
    session.begin()
    if how == "among others":
        outbox.put(session, "y")

    def emit() -> None:
        outbox.put(session, "x", after=(SOURCE, "x" if how == "itself" else "nobody", None))
        session.commit()

    with pytest.raises(Exception, match="oncebox: after= names"):
        emit()
    session.rollback()
    assert sequences(outbox, "x") == []
    outbox.emit("x", "p")
    check_chain(outbox, "p", 2)


def test_numbers_do_not_begin_again_when_events_are_deleted(outbox: Outbox) -> None:
    """On SQLite an event's number is its row's: the next one would be below the relay's cursor."""
    outbox.emit("a", "a", "b")
    relay = outbox.rest(outbox.relay())
    for where in ("true", "n = 3"):
        if outbox.dialect == "sqlite":
            with pytest.raises(sqlite3.IntegrityError, match="newest event stays"):
                outbox.run(f"delete from oncebox.event where {where}")
            outbox.run("delete from oncebox.event where n < (select max(n) from oncebox.event)")
        else:
            outbox.run(f"delete from oncebox.event where {where}")
    outbox.emit("a")
    outbox.settle(relay)
    assert [one.chain.sequence for one in outbox.of_key("a")] == [1, 2, 3]


# ---- PostgreSQL's ways to end a transaction


def test_constraints_made_immediate(postgres: Outbox) -> None:
    session = postgres.session
    session.begin()
    postgres.put(session, "b")
    postgres.put(session, "a")
    session.run("set constraints all immediate")
    postgres.put(session, "a")
    session.savepoint()
    postgres.put(session, "a")
    session.rollback_to()
    session.release()
    session.run("set constraints all deferred")
    postgres.put(session, "a")
    postgres.put(session, "b")
    session.commit()
    check_chain(postgres, "a", 3)
    check_chain(postgres, "b", 2)
    postgres.emit("b", "a")
    check_chain(postgres, "a", 4)
    check_chain(postgres, "b", 3)


def test_a_prepared_transaction_keeps_its_place(postgres: Outbox) -> None:
    session = postgres.open()
    session.begin()
    postgres.put(session, "a")
    postgres.put(session, "b")
    session.run("prepare transaction 'one'")
    session.rollback()
    assert sequences(postgres, "a") == []
    postgres.run("commit prepared 'one'")
    postgres.emit("a", "b")
    check_chain(postgres, "a", 2)
    check_chain(postgres, "b", 2)


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_stricter_isolation_fails_rather_than_numbers_twice(
    postgres: Outbox, isolation: str
) -> None:
    postgres.emit("a", "b")
    for keys in (["a"], ["b", "a"]):
        session = postgres.open()
        session.begin()
        session.run(f"set transaction isolation level {isolation}")
        session.run("select 1 from oncebox.event")
        for key in keys:
            postgres.put(session, key)
        postgres.emit("a")  # commits first, so the other's view of the key is old
        with pytest.raises(psycopg.errors.SerializationFailure):
            session.commit()
        session.rollback()
        session.begin()
        session.run(f"set transaction isolation level {isolation}")
        for key in keys:
            postgres.put(session, key)
        session.commit()
    check_chain(postgres, "a", 5)
    check_chain(postgres, "b", 2)


def test_many_sessions_at_once_on_one_key(postgres: Outbox) -> None:
    def write(keys: list[str]) -> None:
        session: Any = postgres.store.open()
        for _ in range(60):
            session.begin()
            for key in keys:
                postgres.put(session, key)
            session.commit()
        session.close()

    kinds = [["hot"], ["hot", "hot"], ["hot", "new"], ["hot"]]
    threads = [threading.Thread(target=write, args=(keys,)) for keys in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_chain(postgres, "hot", 60 * 5)
    check_chain(postgres, "new", 60)


def test_a_key_that_two_sessions_make_at_once(postgres: Outbox) -> None:
    postgres.emit("a")  # makes the source, which others wait for
    sessions = [postgres.open() for _ in range(4)]
    barrier = threading.Barrier(len(sessions))

    def write(session: Any, number: int) -> None:
        for i in range(40):
            session.begin()
            postgres.put(session, f"fresh-{i}")
            barrier.wait()
            if (i + number) % 5 == 0:
                session.rollback()
            else:
                session.commit()

    threads = [threading.Thread(target=write, args=(s, i)) for i, s in enumerate(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(40):
        check_chain(postgres, f"fresh-{i}", sum((i + number) % 5 != 0 for number in range(4)))


def test_other_languages_emit_by_a_function(postgres: Outbox) -> None:
    postgres.run("create table shop (id text, cents int)")
    postgres.run(
        "create function placed() returns trigger language plpgsql as $body$ begin perform"
        " oncebox.emit('/shop/orders', 'order.placed', new.id, to_jsonb(new), version => 2);"
        " return null; end $body$"
    )
    postgres.run("create trigger t after insert on shop for each row execute function placed()")
    postgres.run("insert into shop values ('o-1', 5), ('o-2', 6), ('o-1', 7)")
    check_chain(postgres, "o-1", 2)
    postgres.settle(postgres.relay())
    first, *_ = postgres.of_key("o-1")
    assert first.record.value == b'{"id": "o-1", "cents": 5}'
    assert first.envelope.version == 2
    assert first.envelope.id[14] == "7", "a UUIDv7"
    check_chains(postgres.published())


GOOD = {
    "source": "'/shop/eu/orders'", "type": "'a.b'", "key": "'k'", "data": "'{}'", "version": "1",
    "after_source": "null", "after_key": "null", "attributes": """'{"subject": "s"}'""",
}  # fmt: skip
WRONG = [
    ("source", "null", "/service/stream"),
    ("source", "''", "/service/stream"),
    ("source", "'shop/orders'", "/service/stream"),
    ("source", "'/shop'", "/service/stream"),
    ("source", "'/shop/a/b/orders'", "/service/stream"),
    ("source", "'/shop/my orders'", "/service/stream"),
    ("source", "'/shop/orders' || chr(10)", "/service/stream"),
    ("source", "'/shop/../orders'", "/service/stream"),
    ("source", "'/shop/' || repeat('o', 201)", "/service/stream"),
    ("type", "null", "dotted words"),
    ("type", "'a b'", "dotted words"),
    ("type", "repeat('a', 201)", "dotted words"),
    ("version", "null", "1 to 9999"),
    ("version", "0", "1 to 9999"),
    ("key", "''", "1 to 1024 bytes"),
    ("key", "repeat('ü', 513)", "1 to 1024 bytes"),
    ("data", "null", "null is not"),
    ("data", "to_jsonb(repeat('x', 8388607))", "8388609"),
    ("data", "(repeat('[', 101) || repeat(']', 101))::jsonb", "100 levels"),
    ("data", """(repeat('{"a":[', 50) || '{}' || repeat(']}', 50))::jsonb""", "100 levels"),
    ("after_key", "'k'", "after_source"),
    ("after_source", "'/shop/orders'", "after_source"),
    ("attributes", "'[]'", "object of up to 32 texts"),
    ("attributes", "'5'", "object of up to 32 texts"),
    ("attributes", "'null'", "object of up to 32 texts"),
    ("attributes", """'{"a": 5}'""", "object of up to 32 texts"),
    ("attributes", """'{"a": null}'""", "object of up to 32 texts"),
    ("attributes", """'{"A": "b"}'""", "lower-case"),
    ("attributes", """'{"": "b"}'""", "lower-case"),
    ("attributes", """'{"a-b": "b"}'""", "lower-case"),
    ("attributes", """'{"chain": "1:2:"}'""", "not oncebox's own"),
    ("attributes", """'{"id": "1"}'""", "not oncebox's own"),
    ("attributes", "json_build_object('a', repeat('x', 9000))", "8192 bytes"),
    ("attributes", "(select json_object_agg('a' || i, 'b') from generate_series(1, 33) i)", "32"),
]


def test_the_function_refuses_what_emit_would(postgres: Outbox) -> None:
    for name, value, says in WRONG:
        arguments = ", ".join(f"{n} => {v}" for n, v in {**GOOD, name: value}.items())
        with pytest.raises(psycopg.errors.CheckViolation) as refused:
            postgres.run(f"select oncebox.emit({arguments})")
        assert says in (refused.value.diag.message_hint or ""), (name, value)
        assert "oncebox: event" in str(refused.value)
    postgres.run(f"select oncebox.emit({', '.join(f'{n} => {v}' for n, v in GOOD.items())})")
    bounds = {
        **GOOD, "key": "repeat('ü', 512)", "data": "to_jsonb(repeat('x', 8388606))",
        "attributes": "(select json_object_agg('a' || i, 'b') from generate_series(1, 32) i)",
    }  # fmt: skip
    postgres.run(f"select oncebox.emit({', '.join(f'{n} => {v}' for n, v in bounds.items())})")
    bounds["data"] = """(repeat('{"a":[', 50) || '1, 2' || repeat(']}', 50))::jsonb"""
    postgres.run(f"select oncebox.emit({', '.join(f'{n} => {v}' for n, v in bounds.items())})")
    postgres.settle(postgres.relay())
    published = postgres.published()
    check_chains(published)
    (first,) = [one.record for one in published if one.key == "k"]
    assert dict(first.headers)["ce_subject"] == b"s"
    assert {one.key for one in published} == {"k", "ü" * 512}


# ---- sessions that only replay


def test_what_is_emitted_as_a_replica_is_numbered_and_published(postgres: Outbox) -> None:
    """session_replication_role = replica switches ordinary triggers off."""
    postgres.emit("a")
    session = postgres.open()
    session.run("set session_replication_role = replica")
    for keys in (["a"], ["b", "a", "b"], ["new"]):
        session.begin()
        for key in keys:
            postgres.put(session, key)
        session.commit()
    check_chain(postgres, "a", 3)
    check_chain(postgres, "b", 2)
    postgres.run("select oncebox.add_partition('event', 1000000, 2000000)")
    postgres.run("select setval('oncebox.event_n', 1500000)")
    session.begin()
    postgres.put(session, "b")
    session.commit()
    check_chain(postgres, "b", 3)
    postgres.settle(postgres.relay())
    check_chains(postgres.published())
    assert len(postgres.ids()) == 7


@pytest.mark.parametrize("role", ["replica", "origin"])
def test_rows_that_are_copied_are_not_numbered(postgres: Outbox, role: str) -> None:
    """By a subscription, or a restore: they may have the very transaction id of their copying."""
    columns = "n, xid, id, source, version, type, key, data"
    for others in (False, True):
        session = postgres.open()
        session.run(f"set session_replication_role = {role}")
        if others:  # this session has drawn numbers of its own
            session.begin()
            postgres.put(session, "mine")
            session.commit()
        session.begin()
        session.run(
            f"insert into oncebox.event ({columns}) values ({5_000 + others},"
            " pg_current_xact_id(), gen_random_uuid(), '/shop/orders', 1, 'a.b', 'copied', '')"
        )
        session.commit()
    assert sequences(postgres, "copied") == []
    assert sequences(postgres, "mine") == [1]


def test_a_subscriber_of_the_events_numbers_its_own_only(tmp_path: Path) -> None:
    """What logical replication brings, at first and later, is left as it is; what a trigger of the
    subscriber's emits for it there is numbered, since it would be lost.
    """
    with own_postgres(settings={"wal_level": "logical"}) as server:
        (tmp_path / "copy").mkdir()
        there = Outbox(server.url_of(server.create_database()), tmp_path)
        here = Outbox(server.url_of(server.create_database()), tmp_path / "copy")
        for outbox in (there, here):
            outbox.run("create table shop (id int primary key)")
        here.run("select setval('oncebox.event_n', 50000)")  # whoever mixes both keeps them apart
        there.emit("a", "b")
        there.run("insert into shop values (1)")
        here.run(
            "create function told() returns trigger language plpgsql as $b$ begin perform"
            " oncebox.emit('/copy/shop', 'shop.told', new.id::text, '{}'); return null; end $b$"
        )
        here.run("create trigger told after insert on shop for each row execute function told()")
        here.run("alter table shop enable replica trigger told")
        there.run(
            "create publication p for table oncebox.event, shop"
            " with (publish_via_partition_root = true)"
        )
        there.run("select pg_create_logical_replication_slot('p', 'pgoutput')")
        connection = there.url.replace("'", "''")
        here.run(
            f"create subscription p connection '{connection}' publication p"
            " with (create_slot = false, slot_name = 'p')"
        )
        events = "select count(*) from oncebox.event"
        await_true(lambda: here.run(f"{events} where source = '/copy/shop'") == [(1,)], "a copy")
        there.emit("a", "a")
        there.run("insert into shop values (2)")
        await_true(lambda: here.run(events) == [(6,)], "what came later")
        assert sequences(here, "a") == sequences(here, "b") == []
        assert sequences(here, "1") == sequences(here, "2") == [1]
        here.run("alter subscription p disable")
        here.run("alter subscription p set (slot_name = none)")
        here.run("drop subscription p")
        there.close()
        here.close()


def test_events_go_somewhere_when_nobody_made_partitions(postgres: Outbox) -> None:
    postgres.emit("a")
    for sequence in ("event_n", "chain_position"):
        postgres.run(f"select setval('oncebox.{sequence}', 1500000)")
    postgres.emit("a", "b")
    postgres.emit("a")
    check_chain(postgres, "a", 3)
    assert postgres.run("select count(*) from oncebox.event_default") == [(3,)]
    postgres.settle(postgres.relay())
    check_chains(postgres.published())
    assert len(postgres.ids()) == 4


def test_rows_that_a_restore_copies_keep_their_numbers(postgres: Outbox) -> None:
    postgres.emit("a", "b")
    columns = "n, xid, id, source, version, type, key, data"
    postgres.run(
        f"insert into oncebox.event ({columns}) select n + 100, '7'::xid8, id, source, version,"
        " type, key, data from oncebox.event"
    )
    assert postgres.run("select count(*) from oncebox.chain") == [(2,)]
    assert postgres.run("select max(sequence) from oncebox.counter") == [(1,)]
