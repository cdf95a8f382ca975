"""PostgreSQL under the explorer: production sessions, each driven by hand, on a real server.

A statement that has to wait for another session's lock is found by asking the server, as its own
isolation tester does: `pg_isolation_test_session_is_blocked`. Then its actor is blocked, and the
explorer goes on with the others. No threads, no event loop: a connection's `wait` hands what it
waits for to the explorer.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Generator, Sequence
from typing import Any

import psycopg
from psycopg.waiting import Ready, Wait

from oncebox.explorer import Actor, Blocked
from oncebox.explorer.run import BEGIN_MS
from oncebox.session import Dialect, Rows, Store
from oncebox.statements import migrations, statements
from oncebox.stores.postgres import PsycopgSession

WAIT_MAX_S = 20.0
"""A statement that takes longer and is not blocked by another session: something is wrong."""

LOOK_MS = 1
DEADLOCK_MS = 3
"""A statement that waits is first given the time to find a deadlock, which takes the server 1 ms;
so which of two sessions has to give way is always the one that came last."""

READY = {
    (True, True): Ready.RW, (True, False): Ready.R,
    (False, True): Ready.W, (False, False): Ready.NONE,
}  # fmt: skip

SESSION = """
set search_path = explorer, pg_catalog, public;
set synchronous_commit = off;
set deadlock_timeout = '1ms';
set plan_cache_mode = force_generic_plan
"""

# The clock of the explorer comes before the server's in the search path.
TABLES = """
create schema explorer;
create sequence explorer.clock;
create function explorer.clock_timestamp() returns timestamptz language sql volatile as
  'select pg_catalog.to_timestamp(last_value / 1000.0) from explorer.clock';
create table ledger (n bigserial primary key, key text not null, value bigint not null);
create table account (key text primary key, total bigint not null);
create table placed (n bigserial primary key, key text not null, value bigint not null);
create table violation (what text not null);
create function explorer.watch_cursor() returns trigger language plpgsql as $$
declare actor text := current_setting('application_name');
begin
  if actor is distinct from new.holder then
    insert into public.violation
      values (format('%s moved a position that %s owns', actor, new.holder));
  end if;
  if new.position ~ '^[0-9]+$' and new.position::bigint < old.position::bigint then
    insert into public.violation values ('a position went back from ' || old.position);
  end if;
  return null;
end $$;
create trigger watch_cursor after update of position on oncebox.cursor for each row
  when (new.position is distinct from old.position) execute function explorer.watch_cursor();
create table bound (attempts int not null);
insert into bound values (2);
create function explorer.watch_key() returns trigger language plpgsql as $$
begin
  insert into public.violation
    select format('try %s of key %s', new.attempts, new.key)
    from public.bound where new.attempts > attempts;
  return null;
end $$;
create trigger watch_attempts after update of attempts on oncebox.key for each row
  when (new.attempts > old.attempts) execute function explorer.watch_key();
"""

COPIED = """
select format('%I.%I', n.nspname, c.relname), format('explorer.%I', 'copy_' || c.relname)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname in ('oncebox', 'public') and c.relkind in ('r', 'p') and not c.relispartition
"""
SEQUENCES = """
select format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value),
       last_value is not null
from pg_sequences where schemaname in ('oncebox', 'public')
"""

# A function, since its statements are planned once.
RESTORE = """
create or replace function explorer.restore() returns void language plpgsql as $$
begin ...; end $$
"""


class Readiness:
    """What a statement waits for: its connection's socket."""

    def __init__(self, connection: Explored, state: Wait) -> None:
        self.connection = connection
        self.state = state
        self.ready = Ready.NONE
        self.looked = False

    def __await__(self) -> Generator[Readiness, None, Ready]:
        yield self
        return self.ready


class Explored(psycopg.AsyncConnection[Any]):
    """A connection that waits for its socket by yielding, whoever drives it."""

    async def wait(self, gen: Any, interval: float = 0.0, timeout: float | None = None) -> Any:
        try:
            state = next(gen)
            while True:
                state = gen.send(await Readiness(self, state))
        except StopIteration as stop:
            return stop.value


class PostgresEngine:
    """A database of a running server; its superuser's URL."""

    dialect: Dialect = "postgres"
    asynchronous = True
    last_position = "select coalesce(max(position), 0) from oncebox.chain"

    def __init__(self, url: str) -> None:
        self.url = url
        self.sql = statements("postgres", "oncebox")  # as the relay asks for them
        self.sessions: dict[str, list[Explored]] = {}
        self.free: list[Explored] = []
        self.admin = psycopg.connect(url, autocommit=True)
        self.admin.execute("create schema oncebox")
        for migration in migrations("postgres"):
            self.admin.execute(migration.sql.encode())
        self.admin.execute(TABLES)
        # Restoring is not the application's business: no triggers, no foreign keys.
        self.admin.execute("set session_replication_role = replica")
        self.admin.execute("set synchronous_commit = off")
        self.remember()

    def state(self) -> None:
        raise Blocked  # reading all of it costs as much as a run

    def native(self, sql: str) -> str:
        parts = sql.split("?")
        return parts[0] + "".join(f"${at}{part}" for at, part in enumerate(parts[1:], 1))

    # ---- the beginning

    def remember(self) -> None:
        restore = []
        for table, copy in self.admin.execute(COPIED).fetchall():
            self.admin.execute(f"drop table if exists {copy}".encode())
            self.admin.execute(f"create table {copy} as table {table}".encode())
            restore.append(f"delete from {table}")
            if self.admin.execute(f"select from {copy} limit 1".encode()).fetchall():
                restore.append(f"insert into {table} overriding system value table {copy}")
        for sequence, last, called in self.admin.execute(SEQUENCES).fetchall():
            restore.append(f"perform setval('{sequence}', {last}, {called})")
        restore.append(f"perform setval('explorer.clock', {BEGIN_MS})")
        self.admin.execute(RESTORE.replace("...", "; ".join(restore)).encode())

    def begin(self) -> None:
        for name in list(self.sessions):
            self._take_back(name)
        self.admin.execute("select explorer.restore()")

    def change(self, sql: str) -> None:
        self.admin.execute(sql.encode())

    def clock(self, now_ms: int) -> None:
        self.admin.execute("select setval('explorer.clock', %s)", (now_ms,))

    # ---- sessions

    def store(self, actor: Actor) -> Store:
        return _PostgresStore(self, actor.name)

    def open(self, actor: str) -> PsycopgSession:
        connection = self.free.pop() if self.free else self._connect()
        connection.pgconn.exec_(f"set application_name = '{actor}'".encode())
        self.sessions.setdefault(actor, []).append(connection)
        return PsycopgSession(connection)

    def _connect(self) -> Explored:
        async def connect() -> Explored:
            return await Explored.connect(self.url, autocommit=True, prepare_threshold=2)

        # Connecting needs an event loop, for names; from then on there is none.
        connection = asyncio.run(connect())
        connection.pgconn.exec_(SESSION.encode())
        return connection

    def crashed(self, actor: Actor) -> None:
        self._take_back(actor.name)

    def _take_back(self, actor: str) -> None:
        """What the server does when a client has gone: its transaction ends, its locks too."""
        for connection in self.sessions.pop(actor, ()):
            if connection.closed:  # by the program
                continue
            if connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                pid = connection.pgconn.backend_pid
                connection.pgconn.finish()
                self.admin.execute("select pg_terminate_backend(%s, 10000)", (pid,))
                continue
            connection.pgconn.exec_(b"rollback")
            self._autocommit(connection)
            self.free.append(connection)

    def _autocommit(self, connection: Explored) -> None:
        try:
            connection.set_autocommit(True).send(None)
        except StopIteration:
            return
        raise AssertionError("this waits for nothing outside a transaction")

    def excludes(self, actor: Actor) -> bool:
        return False

    # ---- waiting

    def ready(self, waits_for: Readiness) -> bool:
        """Whether the server has answered; False when another session is in the way."""
        pgconn = waits_for.connection.pgconn
        poll = select.poll()
        write = select.POLLOUT if waits_for.state & Wait.W else 0
        poll.register(pgconn.socket, (select.POLLIN if waits_for.state & Wait.R else 0) | write)
        found = poll.poll(0 if waits_for.looked else DEADLOCK_MS)
        for _ in range(int(WAIT_MAX_S * 1000 / LOOK_MS)):
            if found:
                event = found[0][1]
                can_write = bool(event & select.POLLOUT)
                can_read = bool(event & ~select.POLLOUT)  # an error shows when it is read
                waits_for.ready = READY[can_read, can_write]
                return True
            if self._is_blocked(pgconn.backend_pid):
                waits_for.looked = True
                return False
            found = poll.poll(LOOK_MS)
        raise AssertionError(f"no answer within {WAIT_MAX_S:.0f} s, and nobody is in the way")

    def _is_blocked(self, pid: int) -> bool:
        pids = [
            connection.pgconn.backend_pid
            for own in self.sessions.values()
            for connection in own
            if not connection.closed
        ]
        row = self.admin.execute(
            "select pg_isolation_test_session_is_blocked(%s, %s)", (pid, pids)
        ).fetchone()
        return row is not None and bool(row[0])

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        return self.admin.execute(sql.encode(), parameters).fetchall()

    def close(self) -> None:
        for name in list(self.sessions):
            self._take_back(name)
        for connection in self.free:
            connection.pgconn.finish()
        self.admin.close()


class _PostgresStore:
    dialect: Dialect = "postgres"
    asynchronous = True
    schema = "oncebox"

    def __init__(self, engine: PostgresEngine, actor: str) -> None:
        self.engine = engine
        self.actor = actor

    async def open(self) -> PsycopgSession:
        return self.engine.open(self.actor)
