"""SQLite under the explorer: production sessions on a database in memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Hashable, Sequence
from typing import Any, Protocol, cast

from oncebox.explorer import Actor, MemoryDatabase
from oncebox.explorer.run import BEGIN_MS
from oncebox.explorer.sqlite import waiting
from oncebox.session import Dialect, Rows, Session, Store
from oncebox.statements import migrations, statements
from oncebox.stores.sqlite import SqliteSession

UNIX_EPOCH_JULIAN = 2440587.5

TABLES = """
CREATE TABLE ledger (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, value INTEGER NOT NULL);
CREATE TABLE account (key TEXT PRIMARY KEY, total INTEGER NOT NULL);
CREATE TABLE placed (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, value INTEGER NOT NULL);
CREATE TABLE violation (what TEXT NOT NULL);
CREATE TRIGGER watch_owner AFTER UPDATE OF position ON oncebox_cursor
WHEN NEW.position IS NOT OLD.position AND actor() IS NOT NEW.holder
BEGIN
  INSERT INTO violation VALUES (actor() || ' moved a position that ' || NEW.holder || ' owns');
END;
CREATE TRIGGER watch_way AFTER UPDATE OF position ON oncebox_cursor
WHEN CAST(NEW.position AS INTEGER) < CAST(OLD.position AS INTEGER)
BEGIN
  INSERT INTO violation VALUES ('a position went back from ' || OLD.position);
END;
CREATE TABLE bound (attempts INTEGER NOT NULL);
INSERT INTO bound VALUES (2);
CREATE TRIGGER watch_attempts AFTER UPDATE OF attempts ON oncebox_key
WHEN NEW.attempts > (SELECT attempts FROM bound)
BEGIN
  INSERT INTO violation VALUES ('try ' || NEW.attempts || ' of key ' || NEW.key);
END;
"""
"""The application's tables; and watchmen, who speak only in transactions that commit."""


class Engine(Protocol):
    """A database that worlds run on."""

    dialect: Dialect
    asynchronous: bool
    sql: dict[str, str]
    last_position: str
    """A query for the last event's place in the outbox."""

    def native(self, sql: str) -> str:
        """SQL with `?` in the dialect's own form."""
        ...

    def remember(self) -> None:
        """What is there now is the beginning of every run."""
        ...

    def begin(self) -> None:
        """Back to the beginning."""
        ...

    def clock(self, now_ms: int) -> None: ...

    def store(self, actor: Actor) -> Store:
        """For the actor's sessions; they end with it."""
        ...

    def crashed(self, actor: Actor) -> None: ...

    def state(self) -> Hashable:
        """What is committed, as a value. Raises Blocked where it cannot be read."""
        ...

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        """What is committed. Raises Blocked where a writer keeps readers out."""
        ...

    def change(self, sql: str) -> None:
        """Change the beginning, before `remember`."""
        ...

    def excludes(self, actor: Actor) -> bool:
        """Whether the actor's open transaction keeps all others from doing anything."""
        ...

    def ready(self, waits_for: Any) -> bool: ...

    def close(self) -> None: ...


class SqliteExplored(SqliteSession):
    """A production session whose lock conflicts wait for the other actor instead of failing."""

    def __init__(self, engine: SqliteEngine, actor: str, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.engine = engine
        self.actor = actor

    @waiting
    def begin(self) -> None:
        super().begin()

    @waiting
    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        self.engine.actor = self.actor
        return super().run(sql, parameters)

    @waiting
    def commit(self) -> None:
        super().commit()

    def close(self) -> None:
        self.engine.sessions[self.actor].remove(self.handle)
        self.engine.database.release(self.handle)


class SqliteEngine:
    """SQLite: a connection per session, one writer."""

    dialect: Dialect = "sqlite"
    asynchronous = False
    last_position = "SELECT coalesce(max(n), 0) FROM oncebox.event"

    def __init__(self) -> None:
        self.now_ms = BEGIN_MS
        self.actor: str | None = None
        self.drawn = 0
        self.sessions: dict[str, list[sqlite3.Connection]] = {}
        self.database = MemoryDatabase(self._prepare)
        owner = self.database.owner
        for migration in migrations("sqlite"):
            owner.executescript(migration.sql)
        owner.executescript("DROP TRIGGER oncebox_newest")  # `restore` empties the tables
        owner.executescript(TABLES)
        self.sql = statements("sqlite", "oncebox")  # as the relay asks for them

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Clock and random numbers under control; and who it is that changes a row."""
        connection.create_function("julianday", 1, self._julianday)
        connection.create_function("random", 0, self._random)
        connection.create_function("randomblob", 1, bytes)
        connection.create_function("actor", 0, lambda: self.actor)

    def _julianday(self, _: str) -> float:
        return self.now_ms / 86_400_000 + UNIX_EPOCH_JULIAN

    def _random(self) -> int:
        self.drawn += 1
        return self.drawn

    def state(self) -> Hashable:
        return self.drawn, self.database.state()

    def native(self, sql: str) -> str:
        return sql

    def remember(self) -> None:
        self.database.remember()

    def begin(self) -> None:
        self.now_ms, self.drawn = BEGIN_MS, 0
        self.sessions.clear()
        self.database.restore()

    def clock(self, now_ms: int) -> None:
        self.now_ms = now_ms

    def store(self, actor: Actor) -> Store:
        return _SqliteStore(self, actor.name)

    def crashed(self, actor: Actor) -> None:
        for connection in self.sessions.pop(actor.name, ()):
            self.database.release(connection)

    @waiting
    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        sql = sql.replace("oncebox.", "oncebox_")
        return self.database.owner.execute(sql, parameters).fetchall()

    def change(self, sql: str) -> None:
        self.database.owner.execute(sql.replace("oncebox.", "oncebox_"))

    def excludes(self, actor: Actor) -> bool:
        return any(session.in_transaction for session in self.sessions.get(actor.name, ()))

    def ready(self, waits_for: Any) -> bool:
        raise AssertionError(f"{waits_for}: there are no coroutines on this engine")

    def close(self) -> None:
        self.database.close()


class _SqliteStore:
    dialect: Dialect = "sqlite"
    asynchronous = False
    schema = "oncebox"

    def __init__(self, engine: SqliteEngine, actor: str) -> None:
        self.engine = engine
        self.actor = actor

    def open(self) -> Session:
        connection = self.engine.database.connect()
        self.engine.sessions.setdefault(self.actor, []).append(connection)
        session: Any = SqliteExplored(self.engine, self.actor, connection)
        return cast("Session", session)
