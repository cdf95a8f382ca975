"""Sessions that borrow a connection for each transaction and give it back at its end.

Where from: the application's pool, engine or session factory, plain or asynchronous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..program import Program, call, perform
from ..session import Dialect, Store
from .base import Forwarded, cannot_connect, unreachable


class PooledStore(Store):
    """A pool, engine or session factory of the application, which it closes itself.

    `take` lends a connection, `give` takes it back, both may have to be awaited; `session` makes
    a session of what is lent.
    """

    def __init__(
        self,
        dialect: Dialect,
        schema: str,
        take: Callable[[], Any],
        session: Callable[[Any], Any],
        give: Callable[[Any], Any],
        *,
        asynchronous: bool,
    ) -> None:
        self.dialect: Dialect = dialect
        self.schema = schema
        self.asynchronous = asynchronous
        self.take, self.session, self.give = take, session, give

    def open(self) -> PooledSession:
        return PooledSession(self)


class PooledSession(Forwarded):
    """`handle` is what was borrowed; there is none between transactions. A statement outside one
    is a transaction of its own.
    """

    kind = "a connection that is lent for a transaction"
    how_to_begin = "session.begin()"

    def __init__(self, store: PooledStore) -> None:
        self.dialect: Dialect = store.dialect
        self.asynchronous = store.asynchronous
        self.handle = None
        self._store = store
        self._lent: Any = None

    def forward(self, method: str, *arguments: Any) -> Any:
        if self._lent is not None:
            return getattr(self._lent, method)(*arguments)
        return self._perform(self._alone(method, *arguments))

    def begin(self) -> Any:
        return self._perform(self._begin())

    def commit(self) -> Any:
        return self._perform(self._commit())

    def rollback(self) -> Any:
        return self._perform(self._rollback())

    def in_transaction(self) -> bool:
        return self._lent is not None and self._lent.in_transaction()

    def require_transaction(self) -> Any:
        return self._lent.require_transaction()

    def pipeline(self, on: bool) -> Any:
        return None if self._lent is None else self._lent.pipeline(on)

    def role(self) -> str | None:
        return None if self._lent is None else self._lent.role()

    def close(self) -> Any:
        return self.rollback()

    # ---- programs, for both worlds

    def _perform(self, program: Program[Any]) -> Any:
        return perform(program, asynchronous=self.asynchronous)

    def _alone(self, method: str, *arguments: Any) -> Program[Any]:
        yield from self._begin()
        try:
            result = yield from call(getattr(self._lent, method), *arguments)
            yield from self._commit()
        except BaseException:
            yield from self._rollback()
            raise
        return result

    def _begin(self) -> Program[None]:
        try:
            self._lent = self._store.session((yield from call(self._store.take)))
            self.handle, self.lost = self._lent.handle, self._lent.lost
            yield from call(self._lent.begin)
        except BaseException as error:
            yield from self._return()
            if cannot_connect(error):
                raise unreachable(error) from error
            raise

    def _commit(self) -> Program[None]:
        try:
            yield from call(self._lent.commit)
        except BaseException:
            yield from self._rollback()
            raise
        yield from self._return()

    def _rollback(self) -> Program[None]:
        if self._lent is not None:
            try:
                yield from call(self._lent.rollback)
            finally:
                yield from self._return()

    def _return(self) -> Program[None]:
        lent, self._lent, self.handle = self._lent, None, None
        if lent is not None:
            yield from call(self._store.give, lent.handle)
