"""Sessions that borrow a connection for each transaction and give it back at its end.

Where from: the application's pool, engine or session factory.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..session import Dialect, Rows, Session, Trouble
from .base import trouble


class PooledSession:
    """Borrows by `take` and gives back by `give`.

    `handle` is what was borrowed; there is none between transactions. A statement outside one is
    a transaction of its own.
    """

    asynchronous = False

    def __init__(
        self, dialect: Dialect, take: Callable[[], Any], give: Callable[[Any], None]
    ) -> None:
        self.dialect: Dialect = dialect
        self._take = take
        self._give = give
        self._lent: Any = None
        self.lost: Callable[[], bool] | None = None

    @property
    def handle(self) -> Any:
        return None if self._lent is None else self._lent.handle

    def begin(self) -> None:
        self._lent = self._take()
        self.lost = self._lent.lost
        try:
            self._lent.begin()
        except BaseException:
            self._return()
            raise

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        rows: Rows
        if self._lent is not None:
            rows = self._lent.run(sql, parameters)
            return rows
        rows = self._alone(lambda: self.run(sql, parameters))
        return rows

    def send(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        if self._lent is not None:
            self._lent.send(sql, parameters)
        else:
            self._alone(lambda: self.send(sql, parameters))

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        if self._lent is not None:
            self._lent.run_many(sql, rows)
        else:
            self._alone(lambda: self.run_many(sql, rows))

    def _alone(self, work: Callable[[], Any]) -> Any:
        self.begin()
        try:
            result = work()
            self.commit()
        except BaseException:
            self.rollback()
            raise
        return result

    def commit(self) -> None:
        try:
            self._lent.commit()
        except BaseException:
            self.rollback()
            raise
        self._return()

    def rollback(self) -> None:
        if self._lent is not None:
            try:
                self._lent.rollback()
            finally:
                self._return()

    def _return(self) -> None:
        lent, self._lent = self._lent, None
        self._give(lent)

    def in_transaction(self) -> bool:
        return self._lent is not None and self._lent.in_transaction()

    def require_transaction(self) -> None:
        self._lent.require_transaction()

    def savepoint(self) -> Any:
        return self._lent.savepoint()

    def release(self) -> Any:
        return self._lent.release()

    def rollback_to(self) -> Any:
        return self._lent.rollback_to()

    def pipeline(self, on: bool) -> None:
        if self._lent is not None:
            self._lent.pipeline(on)

    def close(self) -> None:
        self.rollback()


class AsyncPooledSession:
    """The same for asynchronous pools."""

    asynchronous = True

    def __init__(
        self,
        dialect: Dialect,
        take: Callable[[], Awaitable[Any]],
        give: Callable[[Any], Awaitable[None]],
    ) -> None:
        self.dialect: Dialect = dialect
        self._take = take
        self._give = give
        self._lent: Any = None
        self.lost: Callable[[], bool] | None = None

    @property
    def handle(self) -> Any:
        return None if self._lent is None else self._lent.handle

    async def begin(self) -> None:
        self._lent = await self._take()
        self.lost = self._lent.lost
        try:
            await self._lent.begin()
        except BaseException:
            await self._return()
            raise

    async def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        rows: Rows
        if self._lent is not None:
            rows = await self._lent.run(sql, parameters)
            return rows
        rows = await self._alone(lambda: self.run(sql, parameters))
        return rows

    async def send(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        if self._lent is not None:
            await self._lent.send(sql, parameters)
        else:
            await self._alone(lambda: self.send(sql, parameters))

    async def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        if self._lent is not None:
            await self._lent.run_many(sql, rows)
        else:
            await self._alone(lambda: self.run_many(sql, rows))

    async def _alone(self, work: Callable[[], Awaitable[Any]]) -> Any:
        await self.begin()
        try:
            result = await work()
            await self.commit()
        except BaseException:
            await self.rollback()
            raise
        return result

    async def commit(self) -> None:
        try:
            await self._lent.commit()
        except BaseException:
            await self.rollback()
            raise
        await self._return()

    async def rollback(self) -> None:
        if self._lent is not None:
            try:
                await self._lent.rollback()
            finally:
                await self._return()

    async def _return(self) -> None:
        lent, self._lent = self._lent, None
        await self._give(lent)

    def in_transaction(self) -> bool:
        return self._lent is not None and self._lent.in_transaction()

    def require_transaction(self) -> Any:
        return self._lent.require_transaction()

    def savepoint(self) -> Any:
        return self._lent.savepoint()

    def release(self) -> Any:
        return self._lent.release()

    def rollback_to(self) -> Any:
        return self._lent.rollback_to()

    async def pipeline(self, on: bool) -> None:
        if self._lent is not None:
            piped = self._lent.pipeline(on)
            if piped is not None:
                await piped

    async def close(self) -> None:
        await self.rollback()


class PooledStore:
    """A pool, engine or session factory of the application, which it closes itself."""

    def __init__(
        self,
        dialect: Dialect,
        schema: str,
        take: Callable[[], Any],
        give: Callable[[Any], Any],
        *,
        asynchronous: bool,
    ) -> None:
        self.dialect: Dialect = dialect
        self.schema = schema
        self.asynchronous = asynchronous
        self._take = take
        self._give = give

    def open(self) -> Session:
        if self.asynchronous:
            return AsyncPooledSession(self.dialect, self._take, self._give)
        return PooledSession(self.dialect, self._take, self._give)

    def trouble(self, error: BaseException) -> Trouble:
        return trouble(error)

    def close(self) -> None:
        return None
