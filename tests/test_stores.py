"""What an application has already as a service's store: each kind keeps the session's contract."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import orm
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from engines.postgres import Postgres
from kinds import django_alias
from made_stores import STORES, Made, engine
from oncebox.emit import Emitter
from oncebox.errors import ConfigurationError, CorruptStore, MissingDependency, Unreachable
from oncebox.event import event, new_id
from oncebox.inbox import claim
from oncebox.operate.desk import at_store
from oncebox.program import Program, call, drive, drive_async
from oncebox.session import Session, Store
from oncebox.stores.adapt import open_store
from oncebox.stores.base import refused, trouble, unreachable
from oncebox.tables.migrate import check, migrate
from tables import Tables


@event("order.placed", stream="orders", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


class Shop(Emitter):
    name, instance, schema = "shop", None, "oncebox"


class Base(orm.DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "shop"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    parent: orm.Mapped[int | None]


@pytest.fixture(scope="module")
def postgres_tables(postgres_server: Postgres) -> Iterator[Tables]:
    with postgres_server.database() as url:
        made = Tables("postgres", url)
        yield made
        made.close()


@dataclass
class Case:
    tables: Tables
    asynchronous: bool
    make: Callable[[str], Any]

    def go(self, body: Callable[[Store, Made], Program[None]]) -> None:
        """Run a test's program over a store of this kind."""

        def opened() -> Program[None]:
            made: Made = yield from call(self.make, self.tables.place)
            store = open_store(made.source, asynchronous=made.asynchronous)
            assert store.asynchronous == self.asynchronous
            assert store.dialect == self.tables.dialect
            try:
                yield from body(store, made)
            finally:
                yield from call(made.close)

        if self.asynchronous:
            asyncio.run(drive_async(opened()))
        else:
            drive(opened())


@pytest.fixture(params=STORES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    dialect, asynchronous, make = STORES[request.param]
    if dialect == "postgres":
        tables: Tables = request.getfixturevalue("postgres_tables")
        tables.clear()
        yield Case(tables, asynchronous, make)
    else:
        tables = Tables("sqlite", str(tmp_path / "shop.db"))
        yield Case(tables, asynchronous, make)
        tables.close()


def insert(session: Session, id: int) -> Program[None]:
    yield from call(session.run, f"insert into shop values ({id}, null)")


def test_transactions_and_handles(case: Case) -> None:
    def body(store: Store, made: Made) -> Program[None]:
        session = yield from call(store.open)
        yield from call(session.begin)
        assert isinstance(session.handle, made.handle)
        assert session.in_transaction()
        yield from insert(session, 1)
        assert case.tables.shop() == []
        yield from call(session.commit)
        yield from call(session.begin)
        yield from insert(session, 2)
        yield from call(session.rollback)
        yield from call(session.rollback)  # harmless
        yield from insert(session, 3)  # outside: a transaction of its own
        assert case.tables.shop() == [1, 3]
        rows = yield from call(session.run, "select id, parent from shop order by id")
        assert rows == [(1, None), (3, None)]
        assert all(type(row) is tuple for row in rows)
        yield from call(session.close)

    case.go(body)
    assert case.tables.shop() == [1, 3]


def test_statements_with_parameters(case: Case) -> None:
    one, percent = ("$1", "$2") if case.tables.dialect == "postgres" else ("?1", "?2")

    def body(store: Store, made: Made) -> Program[None]:
        session = yield from call(store.open)
        yield from call(session.begin)
        sql = (
            f"-- a comment with {one} and a %\n"
            f"select cast({one} as text), '100 % of {one}', cast({percent} as text) || '%',"
            f" cast({one} as text) where {percent} like 'a%' -- the end?"
        )
        rows = yield from call(session.run, sql, ("x", "abc"))
        assert rows == [("x", f"100 % of {one}", "abc%", "x")]
        many = f"insert into shop values ({one}, null)"
        if case.tables.dialect == "sqlite":
            yield from call(session.run_many, many, [(n,) for n in range(5)])
        else:
            yield from call(session.send, many.replace(one, f"{one}::int"), (4,))
        yield from call(session.commit)
        yield from call(session.close)

    case.go(body)
    assert case.tables.shop()[-1] == 4


def test_tables_are_made_through_any_of_them(case: Case) -> None:
    """Function bodies, percent signs and all; `db migrate` takes the store that a service has."""
    schema = f"own_{new_id().hex}"

    def body(store: Store, made: Made) -> Program[None]:
        session = yield from call(store.open)
        assert (yield from migrate(session, schema))
        assert (yield from migrate(session, schema)) == []
        yield from check(session, schema)
        yield from call(session.close)

    case.go(body)
    if case.tables.dialect == "postgres":
        case.tables.run(f"drop schema {schema} cascade")


def test_savepoints(case: Case) -> None:
    def body(store: Store, made: Made) -> Program[None]:
        session = yield from call(store.open)
        yield from call(session.begin)
        for id, keep in ((1, True), (2, False), (3, True), (4, False)):
            yield from call(session.savepoint)
            yield from insert(session, id)
            yield from call(session.release if keep else session.rollback_to)
        yield from call(session.savepoint)
        with pytest.raises(Exception, match=r"(?i)unique"):
            yield from insert(session, 1)
        yield from call(session.rollback_to)
        yield from insert(session, 5)
        yield from call(session.commit)
        yield from call(session.close)

    case.go(body)
    assert case.tables.shop() == [1, 3, 5]


def test_a_failed_commit_is_a_rollback(case: Case) -> None:
    def body(store: Store, made: Made) -> Program[None]:
        session = yield from call(store.open)
        yield from call(session.begin)
        yield from call(session.run, "insert into shop values (1, 99)")
        with pytest.raises(Exception, match=r"(?i)foreign key") as failed:
            yield from call(session.commit)
        assert trouble(failed.value) == "other"
        yield from call(session.rollback)
        yield from call(session.begin)
        yield from insert(session, 2)
        yield from call(session.commit)
        yield from call(session.close)

    case.go(body)
    assert case.tables.shop() == [2]


def test_emits_and_claims_of_a_handler_join(case: Case) -> None:
    """Through what the handler receives, which finds its own way back to a session."""
    shop = Shop()

    def handler(session: Session, key: str) -> Program[None]:
        yield from call(lambda: shop.emit(session.handle, OrderPlaced(key)))
        done = yield from call(lambda: claim(session.handle, "shop", source="x", id=key))
        assert done

    def body(store: Store, made: Made) -> Program[None]:
        session = yield from call(store.open)
        for key, end in (("a", "commit"), ("b", "rollback"), ("c", "commit")):
            yield from call(session.begin)
            yield from call(session.pipeline, True)
            yield from handler(session, key)
            yield from call(session.pipeline, False)
            yield from call(getattr(session, end))
        yield from call(session.close)

    case.go(body)
    assert case.tables.counters() == {"a": 1, "c": 1}
    assert case.tables.claims() == ["a", "c"]


ENDS: dict[type, Callable[[Any], Any]] = {
    BaseDatabaseWrapper: lambda tx: tx.cursor().execute("ROLLBACK"),
    asyncpg.pool.PoolConnectionProxy: lambda tx: tx.execute("ROLLBACK"),
}


def test_a_handler_that_ends_the_transaction_is_refused_or_noticed(case: Case) -> None:
    def body(store: Store, made: Made) -> Program[None]:
        session = yield from call(store.open)
        yield from call(session.begin)
        yield from insert(session, 1)
        yield from call(session.savepoint)
        end = ENDS.get(made.handle, lambda tx: tx.rollback())
        refusal: Exception | None = None
        try:
            yield from call(end, session.handle)
        except Exception as error:
            refusal = error
        if refusal is not None:
            assert refused(refusal), "nothing has ended"
            assert session.lost is None or not session.lost()
            yield from call(session.release)
        else:
            assert session.lost is None or session.lost()
            with pytest.raises(Exception, match=r"(?i)savepoint|transaction|closed|inactive"):
                yield from call(session.release)
        yield from call(session.rollback)
        yield from call(session.begin)
        assert session.lost is None or not session.lost()
        yield from insert(session, 2)
        yield from call(session.commit)
        yield from call(session.close)

    case.go(body)
    assert case.tables.shop() == [2]


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_objects_of_an_orm_belong_to_their_savepoint(
    dialect: str, postgres_tables: Tables, tmp_path: Path
) -> None:
    """What a handler adds is flushed when its savepoint is released: the failure is its own."""
    if dialect == "sqlite":
        tables, driver = Tables("sqlite", str(tmp_path / "shop.db")), "sqlite"
    else:
        tables, driver = postgres_tables, "postgresql+psycopg"
        tables.clear()
    made = engine(driver, tables.place)
    session: Any = open_store(orm.sessionmaker(made)).open()
    session.begin()
    for id, parent in ((1, None), (1, None), (2, 1)):
        session.savepoint()
        session.handle.add(Row(id=id, parent=parent))
        try:
            session.release()
        except IntegrityError:
            session.rollback_to()
    session.commit()
    session.close()
    made.dispose()
    assert tables.shop() == [1, 2]
    if dialect == "sqlite":
        tables.close()


def test_a_connection_of_django_serves_many_batches(postgres_tables: Tables) -> None:
    """As Django comes (CONN_MAX_AGE is 0), it ends with each request; here there are none."""
    session: Any = open_store(f"django://{django_alias('postgres', postgres_tables.place)}").open()
    backends = set()
    for _ in range(3):
        session.begin()
        backends.update(session.run("select pg_backend_pid()"))
        session.commit()
    session.close()
    assert len(backends) == 1


# ---- what a failure means


def test_a_killed_connection_is_an_outage(case: Case) -> None:
    if case.tables.dialect == "sqlite":
        return

    def body(store: Store, made: Made) -> Program[None]:
        session = yield from call(store.open)
        yield from call(session.begin)
        yield from insert(session, 1)
        case.tables.run(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where state = 'idle in transaction' and datname = current_database()"
        )
        with pytest.raises(Exception) as failed:  # noqa: PT011 - each driver has its own
            yield from insert(session, 2)
        gone = [trouble(failed.value)]
        try:
            yield from call(session.rollback)
        except Exception as error:
            gone.append(trouble(error))
        yield from call(session.close)
        again = yield from call(store.open)
        try:
            yield from insert(again, 3)
        except Exception as error:  # a pool may still hold the dead one
            gone.append(trouble(error))
            yield from insert(again, 3)
        yield from call(again.close)
        assert set(gone) == {"unavailable"}

    case.go(body)
    assert case.tables.shop() == [3]


def test_a_deadlock_is_to_be_tried_again(case: Case) -> None:
    if case.tables.dialect == "sqlite":
        return
    case.tables.run("insert into shop values (1, null), (2, null)")

    def lock(session: Session, id: int) -> Program[None]:
        yield from call(session.run, f"update shop set parent = null where id = {id}")

    def body(store: Store, made: Made) -> Program[None]:
        session = yield from call(store.open)
        yield from call(session.begin)
        yield from call(session.run, "set local deadlock_timeout = '10ms'")
        yield from lock(session, 1)
        with psycopg.connect(case.tables.place) as other:
            other.execute("set deadlock_timeout = '1h'")  # so the victim is the other one
            other.execute("update shop set parent = null where id = 2")
            waiting = "set lock_timeout = 0; update shop set parent = null where id = 1"
            other.pgconn.send_query(waiting.encode())
            with pytest.raises(Exception, match="deadlock") as failed:
                yield from lock(session, 2)
            assert trouble(failed.value) == "retry"
            yield from call(session.rollback)
            while other.pgconn.get_result() is not None:
                pass
        yield from call(session.close)

    case.go(body)


def test_locked_read_only_and_full_files_are_outages(tmp_path: Path) -> None:
    tables = Tables("sqlite", str(tmp_path / "shop.db"))
    store: Any = open_store(f"sqlite:///{tables.place}")
    session = store.open()
    session.handle.execute("PRAGMA busy_timeout = 1")

    tables.connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked") as failed:
        session.begin()
    assert trouble(failed.value) == "unavailable"
    tables.connection.execute("ROLLBACK")

    session.handle.execute("BEGIN")
    session.run("select * from shop")
    tables.run("insert into shop values (1, null)")
    with pytest.raises(sqlite3.OperationalError, match="locked") as failed:
        session.run("insert into shop values (2, null)")
    assert trouble(failed.value) == "retry"  # it read before another wrote: begin again
    session.rollback()

    pages = session.run("PRAGMA page_count")[0][0]
    session.run(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full") as failed:
        session.run("insert into oncebox_quarantine values (1,1,'','',1,1,'',zeroblob(1000000))")
    assert trouble(failed.value) == "unavailable"

    session.run("PRAGMA query_only = on")
    with pytest.raises(sqlite3.OperationalError, match="readonly") as failed:
        session.run("insert into shop values (3, null)")
    assert trouble(failed.value) == "unavailable"
    assert trouble(ValueError("a handler's own")) == "other"
    session.close()
    tables.close()


# ---- what cannot be opened


def test_nobody_listens() -> None:
    url = "postgresql://someone:secret@127.0.0.1:1/nothing"
    with pytest.raises(Unreachable, match="is the server running") as refused:
        drive(call(open_store(url).open))
    assert "secret" not in str(refused.value)
    store = open_store(url, asynchronous=True)
    with pytest.raises(Unreachable, match="is the server running"):
        asyncio.run(drive_async(call(store.open)))
    made = sqlalchemy.create_engine(url.replace("postgresql", "postgresql+psycopg"))
    pooled = open_store(made)
    session = drive(call(pooled.open))
    with pytest.raises(OperationalError) as failed:
        drive(call(session.begin))
    assert trouble(failed.value) == "unavailable"


def test_wrong_credentials_say_so(postgres_server: Postgres) -> None:
    parts = sqlalchemy.engine.make_url(postgres_server.url)
    wrong = parts.set(password="wrong").render_as_string(hide_password=False)
    with pytest.raises(Unreachable, match="check user and password"):
        drive(call(open_store(wrong).open))
    nowhere = parts.set(database="nowhere").render_as_string(hide_password=False)
    with pytest.raises(Unreachable, match="check the names of database"):
        drive(call(open_store(nowhere).open))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_files_that_are_no_database(tmp_path: Path, *, asynchronous: bool) -> None:
    def opening(name: str) -> Callable[[], object]:
        store = open_store(f"sqlite:///{tmp_path}/{name}", asynchronous=asynchronous)
        if asynchronous:
            return lambda: asyncio.run(drive_async(call(store.open)))
        return lambda: drive(call(store.open))

    (tmp_path / "text.db").write_text("not a database, but long enough to be read as one" * 50)
    with pytest.raises(CorruptStore, match=r"text\.db is damaged"):
        opening("text.db")()
    with pytest.raises(Unreachable, match="check that the folder exists"):
        opening("no/such/folder.db")()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("mysql://x", "no store for mysql"),
        ("shop.db", "what is not a URL"),
        ("sqlite://shop.db", "three slashes"),
        ("sqlite:///", "SQLite path"),
        (42, "store=builtins.int"),
        (orm.sessionmaker(), "no engine"),
        (sqlalchemy.create_engine("sqlite://").connect, "store=builtins.method"),
    ],
)
def test_what_is_no_store(source: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        open_store(source)


def test_unknown_aliases_and_schemas() -> None:
    known = django_alias("sqlite", ":memory:")
    with pytest.raises(ConfigurationError, match=f"one of .*{known}"):
        open_store("django://nowhere")
    with pytest.raises(ConfigurationError, match="no asynchronous store for django"):
        open_store(f"django://{known}", asynchronous=True)
    with pytest.raises(ConfigurationError, match="schema"):
        open_store("sqlite:///x.db", 'x"; drop table shop')
    connections[known].close()


def test_a_missing_client_library_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, url in (("psycopg", "postgresql://x"), ("django", "django://x")):
        with monkeypatch.context() as without:
            name = {"psycopg": "postgres"}.get(module, module)
            without.delitem(sys.modules, f"oncebox.stores.{name}", raising=False)
            for loaded in [m for m in sys.modules if m.split(".")[0] == module]:
                without.delitem(sys.modules, loaded)
            without.setitem(sys.modules, module, None)
            with pytest.raises(MissingDependency, match=rf"pip install 'oncebox\[{name}\]'"):
                open_store(url)


def test_answers_that_the_driver_did_not_expect_are_an_outage() -> None:
    """Seen where PgBouncer says why it goes, and is gone, while a COMMIT is answered."""
    error = psycopg.InternalError("received 2 results from command 'COMMIT'")
    assert trouble(error) == "unavailable"


NOBODY = "u:geheim@127.0.0.1:1/x"


@pytest.mark.parametrize(
    "make",
    [
        lambda: sqlalchemy.create_engine(f"postgresql+psycopg://{NOBODY}"),
        lambda: create_async_engine(f"postgresql+psycopg://{NOBODY}"),
        lambda: create_async_engine(f"postgresql+asyncpg://{NOBODY}"),
        lambda: async_sessionmaker(create_async_engine(f"postgresql+asyncpg://{NOBODY}")),
    ],
    ids=["psycopg", "async psycopg", "asyncpg", "asyncpg sessions"],
)
def test_an_engine_whose_server_is_away_is_unreachable(make: Callable[[], Any]) -> None:
    store = open_store(make())
    look = at_store(store, partial(check, schema="oncebox"))
    with pytest.raises(Unreachable, match="host and port right") as away:
        asyncio.run(drive_async(look)) if store.asynchronous else drive(look)
    assert "geheim" not in str(away.value)


def test_a_timeout_without_words_is_named() -> None:
    assert "PostgreSQL: TimeoutError" in str(unreachable(TimeoutError()))


def test_a_password_that_asyncpg_refuses_is_named(postgres_server: Postgres) -> None:
    url = sqlalchemy.make_url(postgres_server.url).set(
        drivername="postgresql+asyncpg", password="wrong"
    )
    look = at_store(open_store(create_async_engine(url)), partial(check, schema="oncebox"))
    with pytest.raises(Unreachable, match="check user and password in the URL"):
        asyncio.run(drive_async(look))


def test_a_pool_that_nobody_opened_is_opened(postgres_tables: Tables) -> None:
    async def asked() -> Any:
        pool = AsyncConnectionPool(postgres_tables.place, open=False)
        session: Any = open_store(pool).open()
        try:
            return await session.run("select 1")
        finally:
            await pool.close()

    assert asyncio.run(asked()) == [(1,)]


def test_a_pool_of_another_loop_is_refused() -> None:
    async def asked() -> None:
        session: Any = open_store(asyncpg.create_pool(f"postgresql://{NOBODY}")).open()
        with pytest.raises(ConfigurationError, match="takes a URL instead"):
            await session.run("select 1")

    asyncio.run(asked())
