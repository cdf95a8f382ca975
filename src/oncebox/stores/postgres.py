"""PostgreSQL through psycopg 3: sessions over its connections, and the store `postgresql://…`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.array import ListBinaryDumper

from ..errors import Unreachable
from ..session import Dialect, Rows, Trouble
from .base import SessionBase, trouble

CONNECT_TIMEOUT_S = 10

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]


ADAPTERS = AdaptersMap(psycopg.adapters)
"""How our statements' values travel, whatever the caller's connection is set to. Arrays go as
binary: as text, each byte of a payload is four to write and to read back."""
ADAPTERS.register_dumper(list, ListBinaryDumper)


class OwnCursor(psycopg.RawCursor[tuple[Any, ...]]):
    """A cursor for our statements on any connection."""

    @property
    def adapters(self) -> AdaptersMap:
        return ADAPTERS


class AsyncOwnCursor(psycopg.AsyncRawCursor[tuple[Any, ...]]):
    """The same, asynchronous."""

    @property
    def adapters(self) -> AdaptersMap:
        return ADAPTERS


class ExactCursor(psycopg.Cursor[Any]):
    """What handlers on our own connections get: `rowcount` waits for the answer in a pipeline,
    where the driver alone would say -1, and a handler that compares it would go wrong silently.
    """

    @property
    def rowcount(self) -> int:
        known = super().rowcount
        if known < 0 and in_pipeline(self.connection):
            with self.connection.pipeline():  # leaving an inner one waits for the answers
                pass
            known = super().rowcount
        return known


class PsycopgSession(SessionBase):
    """A `psycopg.Connection` of ours or the caller's, of any row and cursor factory.

    `send` in a pipeline waits for nothing; `run` waits for all that was sent, to have its rows.
    """

    kind = "this psycopg connection"
    how_to_begin = "Open one: with connection.transaction(): …"
    dialect: Dialect = "postgres"
    asynchronous = False

    def __init__(self, connection: Connection) -> None:
        self.handle = connection
        self._cursor = OwnCursor(connection, row_factory=tuple_row)
        self._pipeline: Any = None
        self._autocommit = connection.autocommit

    def begin(self) -> None:
        # The driver sends BEGIN before the first statement, and again if a handler ends the
        # transaction: so nothing that comes after it commits by itself.
        self.handle.autocommit = False

    def send(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self._cursor.execute(sql.encode(), parameters)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        cursor = self._cursor
        if not in_pipeline(self.handle):
            cursor.execute(sql.encode(), parameters)
            return cursor.fetchall() if cursor.description else []
        # What was sent before on the same cursor may still be answered: another one.
        with OwnCursor(self.handle, row_factory=tuple_row) as cursor:
            cursor.execute(sql.encode(), parameters)
            try:
                return cursor.fetchall()
            except psycopg.ProgrammingError as error:
                if error.sqlstate is None:  # the driver's own: this statement has no rows
                    return []
                raise

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._cursor.executemany(sql.encode(), rows)

    def commit(self) -> None:
        self.handle.commit()
        self.handle.autocommit = self._autocommit

    def rollback(self) -> None:
        self.handle.rollback()
        self.handle.autocommit = self._autocommit

    def pipeline(self, on: bool) -> None:
        if on and self._pipeline is None and self.handle.cursor_factory is ExactCursor:
            self._pipeline = self.handle.pipeline()
            self._pipeline.__enter__()
        elif not on and self._pipeline is not None:
            pipeline, self._pipeline = self._pipeline, None
            pipeline.__exit__(None, None, None)

    def in_transaction(self) -> bool:
        return in_transaction(self.handle) is True

    def require_transaction(self) -> None:
        known = in_transaction(self.handle)
        if known is None:
            with self.handle.pipeline():  # leaving an inner one waits for the answers
                pass
            known = in_transaction(self.handle)
        if known is not True:
            raise self.no_transaction()

    def role(self) -> str:
        return self.handle.info.user

    def close(self) -> None:
        self.handle.close()


class AsyncPsycopgSession(SessionBase):
    """A `psycopg.AsyncConnection`, likewise. Handlers are not pipelined: `rowcount`, which has to
    wait for its answer then, cannot wait here.
    """

    kind = "this asynchronous psycopg connection"
    how_to_begin = "Open one: async with connection.transaction(): …"
    dialect: Dialect = "postgres"
    asynchronous = True

    def __init__(self, connection: AsyncConnection) -> None:
        self.handle = connection
        self._cursor = AsyncOwnCursor(connection, row_factory=tuple_row)
        self._autocommit = connection.autocommit

    async def begin(self) -> None:
        await self.handle.set_autocommit(False)  # as in PsycopgSession.begin

    async def send(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        await self._cursor.execute(sql.encode(), parameters)

    async def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        cursor = self._cursor
        if not in_pipeline(self.handle):
            await cursor.execute(sql.encode(), parameters)
            return await cursor.fetchall() if cursor.description else []
        async with AsyncOwnCursor(self.handle, row_factory=tuple_row) as cursor:
            await cursor.execute(sql.encode(), parameters)
            try:
                return await cursor.fetchall()
            except psycopg.ProgrammingError as error:
                if error.sqlstate is None:
                    return []
                raise

    async def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._cursor.executemany(sql.encode(), rows)

    async def commit(self) -> None:
        await self.handle.commit()
        await self.handle.set_autocommit(self._autocommit)

    async def rollback(self) -> None:
        await self.handle.rollback()
        await self.handle.set_autocommit(self._autocommit)

    def in_transaction(self) -> bool:
        return in_transaction(self.handle) is True

    async def require_transaction(self) -> None:
        known = in_transaction(self.handle)
        if known is None:
            async with self.handle.pipeline():
                pass
            known = in_transaction(self.handle)
        if known is not True:
            raise self.no_transaction()

    def role(self) -> str:
        return self.handle.info.user

    async def close(self) -> None:
        await self.handle.close()


def in_pipeline(connection: Connection | AsyncConnection) -> bool:
    """Whether statements are sent without waiting for each."""
    return connection.pgconn.pipeline_status != PipelineStatus.OFF


def in_transaction(connection: Connection | AsyncConnection) -> bool | None:
    """Whether a statement would be part of a transaction; None: only the server knows now."""
    if not connection.autocommit:
        return True  # psycopg opens one before any statement
    status = connection.info.transaction_status
    if status == TransactionStatus.ACTIVE and in_pipeline(connection):
        # The counter of open `transaction()` blocks saves a round trip; nothing rests on it.
        if getattr(connection, "_num_transactions", None):
            return True
        return None
    return status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)


class PostgresStore:
    """A database named by a URL; handlers receive `psycopg.Connection`."""

    dialect: Dialect = "postgres"
    asynchronous = False

    def __init__(self, url: str, schema: str = "oncebox") -> None:
        self.url = url
        self.schema = schema

    def open(self) -> PsycopgSession:
        try:
            connection = psycopg.connect(
                self.url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
            )
        except psycopg.Error as error:
            raise unreachable(error) from error
        connection.cursor_factory = ExactCursor
        return PsycopgSession(connection)

    def trouble(self, error: BaseException) -> Trouble:
        return trouble(error)

    def close(self) -> None:
        return None


class AsyncPostgresStore:
    """A database named by a URL; handlers receive `psycopg.AsyncConnection`."""

    dialect: Dialect = "postgres"
    asynchronous = True

    def __init__(self, url: str, schema: str = "oncebox") -> None:
        self.url = url
        self.schema = schema

    async def open(self) -> AsyncPsycopgSession:
        try:
            connection = await psycopg.AsyncConnection.connect(
                self.url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
            )
        except psycopg.Error as error:
            raise unreachable(error) from error
        return AsyncPsycopgSession(connection)

    def trouble(self, error: BaseException) -> Trouble:
        return trouble(error)

    def close(self) -> None:
        return None


def unreachable(error: psycopg.Error) -> Unreachable:
    """A failure to connect as ours. libpq's text names host, port and user, never the password."""
    text = str(error).strip()
    hint = "is the server running, and the URL's host and port right?"
    if "authentication failed" in text or "no password supplied" in text:
        hint = "check user and password in the URL"
    elif "does not exist" in text:
        hint = "check the names of database and user in the URL"
    elif "pg_hba.conf" in text:
        hint = "the server's pg_hba.conf does not let this user in from here"
    return Unreachable(f"PostgreSQL: {text}", hint=hint)
