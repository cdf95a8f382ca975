"""Somebody's own outbox table as a source: rows become events in their own transaction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from oncebox import Context, Service, event
from oncebox.event import new_id
from oncebox.logs.embedded import EmbeddedLog
from oncebox.program import drive
from oncebox.stores.adapt import open_store
from oncebox.tables import roles
from oncebox.tables.adopt import Backlog, Columns, adopt
from oncebox.tables.migrate import migrate
from oncebox.testing import drain, emitted
from operating import Run

TABLE = """CREATE TABLE outbox (
  id {number} PRIMARY KEY, order_id text NOT NULL, "kind" text NOT NULL, topic text NOT NULL,
  payload {data}, published_at text)"""


@event("order.paid", stream="orders", key="order")
@dataclass(frozen=True)
class Paid:
    order: str
    cents: int


class Theirs:
    """A service that writes an outbox table of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.log = url, f"sqlite:///{folder}/log.db"
        opened: Any = open_store(url).open()
        self.session = opened
        drive(migrate(opened))

    def make(self, data: str) -> None:
        number = "INTEGER" if self.session.dialect == "sqlite" else "bigserial"
        self.session.run(TABLE.format(number=number, data=data))

    def insert(self, *texts: str, published: str = "NULL") -> None:
        """Rows `order cents`."""
        for text in texts:
            order, cents = text.split()
            payload = f'{{"order": "{order}", "cents": {cents}}}'
            self.session.run(
                "INSERT INTO outbox (order_id, kind, topic, payload, published_at)"
                f" VALUES ('{order}', 'order.paid', 'orders', '{payload}', {published})"
            )

    def emitted(self) -> list[tuple[str, str, str, int]]:
        found = emitted(self.session.handle)
        if self.session.dialect == "postgres":
            self.session.run("ROLLBACK")
        return [(one.source, one.type, one.key, one.data["cents"]) for one in found]


@pytest.fixture(params=["sqlite", "postgres"])
def theirs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Theirs]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    made = Theirs(url or f"sqlite:///{tmp_path}/shop.db", tmp_path)
    yield made
    made.session.close()


ADOPT = ("db", "adopt-table", "outbox", "--service", "shop", "--key", "order_id",
         "--data", "payload", "--type", "kind", "--id", "id")  # fmt: skip


@pytest.mark.parametrize("data", ["text", "bytea", "jsonb"])
@pytest.mark.parametrize("stream", ["=orders", "topic"])
def test_rows_become_events_if_and_only_if_they_commit(
    theirs: Theirs, oncebox: Run, data: str, stream: str
) -> None:
    theirs.make(data)
    theirs.insert("a 1", "a 2", published="'now'")
    theirs.insert("a 3", "b 4")
    asked = (*ADOPT, "--store", theirs.url, "--stream", stream)
    done = oncebox(*asked, "--where", "published_at is null", "--order", "id", "--json")
    assert done.code == 0, done
    assert done.rows()[-1]["emitted"] == 2
    theirs.session.begin()
    theirs.insert("a 5", "b 6")
    theirs.session.commit()
    theirs.session.begin()
    theirs.insert("a 7")
    theirs.session.rollback()
    theirs.insert("a 8")
    expected = [("a", 3), ("b", 4), ("a", 5), ("b", 6), ("a", 8)]
    assert [(key, cents) for *_, key, cents in theirs.emitted()] == expected
    assert {one[:2] for one in theirs.emitted()} == {("/shop/orders", "order.paid")}

    billing: Service[Any] = Service("billing", store=theirs.url, log=theirs.log)
    shop: Service[Any] = Service("shop", store=theirs.url, log=theirs.log)
    seen: list[tuple[str, int]] = []
    chains: list[tuple[str | None, int]] = []

    @billing.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[Any]) -> None:
        assert context.chain is not None
        seen.append((paid.order, paid.cents))
        chains.append((context.key, context.chain.sequence))
        assert min(header for header in context.record.headers if header[0] == "ce_outboxid") > (
            "ce_outboxid",
            b"",
        )

    log = EmbeddedLog(theirs.log.removeprefix("sqlite:///"))
    log.create("orders", 3)
    log.close()
    assert drain(shop, billing) == []
    for key in "ab":
        assert [c for k, c in seen if k == key] == [c for k, c in expected if k == key]
    assert sorted(chains) == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)]
    assert oncebox("audit", "--store", theirs.url, "--log", theirs.log).code == 0


def test_what_cannot_be_an_event_fails_where_it_is_inserted(theirs: Theirs, oncebox: Run) -> None:
    theirs.make("text")
    asked = (*ADOPT, "--store", theirs.url, "--stream", "=orders")
    assert oncebox(*asked).code == 0
    assert oncebox(*asked).code == 0  # again: the trigger is made anew, not twice
    with pytest.raises(Exception, match="(?i)json"):
        theirs.session.run(
            "INSERT INTO outbox (order_id, kind, topic, payload) VALUES ('a', 'order.paid', 'o', '{')"
        )
    theirs.insert("a 1")
    assert len(theirs.emitted()) == 1


def test_names_that_are_not_there_change_nothing(theirs: Theirs, oncebox: Run) -> None:
    theirs.make("text")
    asked = (*ADOPT, "--store", theirs.url, "--stream", "=orders")
    for name, other in (("payload", "nowhere"), ("=orders", "no_column"), ("outbox", "gone")):
        bad = [other if word == name else word for word in asked]
        done = oncebox(*bad)
        assert (done.code, "nothing was changed" in done.err) == (2, True), done
    theirs.insert("a 1")
    assert theirs.emitted() == []


COLUMNS = Columns(key="order_id", data="payload", type="kind", stream="topic")


def test_a_row_that_is_being_inserted_meanwhile_is_emitted_once(postgres_url: str) -> None:
    """Its writer commits after the command began: it is among what was there, and no other time."""
    theirs = Theirs(postgres_url, Path())
    theirs.make("text")
    theirs.session.begin()
    theirs.insert("a 1")
    counts: list[int] = []

    def work() -> None:
        session: Any = open_store(postgres_url).open()
        session.run("SET default_transaction_isolation = 'repeatable read'")
        backlog = Backlog("true", "id")
        counts.append(drive(adopt(session, "oncebox", "shop", "outbox", COLUMNS, backlog)))
        session.close()

    thread = threading.Thread(target=work)
    thread.start()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while not other.execute(waiting).fetchall():
            assert thread.is_alive()
        theirs.session.commit()
        thread.join()
    theirs.insert("a 2")
    assert counts == [1]
    assert [cents for *_, cents in theirs.emitted()] == [1, 2]
    theirs.session.close()


def test_who_inserts_needs_the_rights_of_a_producer(postgres_url: str) -> None:
    theirs = Theirs(postgres_url, Path())
    theirs.make("text")
    name = "writer_" + new_id().hex
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        drive(adopt(theirs.session, "oncebox", "shop", "outbox", COLUMNS))
        owner.execute(roles.script("oncebox").encode())
        owner.execute(f"CREATE ROLE {name}".encode())
        owner.execute(f"GRANT INSERT ON outbox TO {name}".encode())
        owner.execute(f"GRANT USAGE ON SEQUENCE outbox_id_seq TO {name}".encode())
        try:
            theirs.session.run(f"SET ROLE {name}")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                theirs.insert("a 1")
            owner.execute(f"GRANT oncebox_producer TO {name}".encode())
            theirs.insert("a 2")
            theirs.session.run("RESET ROLE")
            assert [cents for *_, cents in theirs.emitted()] == [2]
        finally:
            theirs.session.close()
            owner.execute(f"DROP OWNED BY {name}".encode())
            owner.execute(f"DROP ROLE {name}".encode())
