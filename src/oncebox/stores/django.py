"""Django: sessions over `connections[alias]` inside `atomic()`, and the store `django://alias`.

Statements go through Django's own cursor, so its instrumentation sees them and errors are its
own. Connections are per thread: a store's session is used in the thread that opened it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import django
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionDoesNotExist

from ..errors import ConfigurationError
from ..session import Dialect, Rows, Session, Store
from .base import ended, outside_transaction, refuse_end
from .placeholders import prepared

_DIALECTS: dict[str, Dialect] = {"sqlite": "sqlite", "postgresql": "postgres"}


def set_up() -> None:
    """Load the project's applications, in a process that Django itself did not start."""
    if not apps.ready:
        django.setup()


class Undone(Exception):
    """Leaves an `atomic` block so that it rolls back."""


class DjangoSession(Session):
    """A connection of Django's, in the thread that it belongs to."""

    kind = "this Django connection"
    asynchronous = False

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        vendor = connection.vendor
        if vendor not in _DIALECTS:
            raise ConfigurationError(f"Django on {vendor}", expected="postgresql or sqlite")
        self.handle = connection
        self.how_to_begin = f"Open one: with transaction.atomic(using={connection.alias!r}): …"
        self.dialect = _DIALECTS[vendor]
        self._style = "format" if vendor == "sqlite" else "pyformat"
        self._blocks: list[transaction.Atomic] = []
        self._ran = False  # on PostgreSQL, the driver begins with the first statement
        self.lost = lambda: self._ran and outside_transaction(connection.connection)

    def begin(self) -> None:
        # Django's default, an age of 0, ends a connection with its request; here that would be
        # with every batch.
        self.handle.close_at = None
        self.handle.close_if_unusable_or_obsolete()
        self._ran = False
        self._enter()

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        statement = prepared(sql, self._style)
        with self.handle.cursor() as cursor:
            cursor.execute(statement.sql, statement.arguments(parameters))
            self._ran = True
            return list(cursor.fetchall()) if cursor.description else []

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        statement = prepared(sql, self._style)
        with self.handle.cursor() as cursor:
            cursor.executemany(statement.sql, [statement.arguments(row) for row in rows])

    def commit(self) -> None:
        self._leave(undo=self.handle.needs_rollback)

    def rollback(self) -> None:
        while self._blocks:
            self._leave(undo=True)

    def savepoint(self) -> None:
        self._enter()

    def release(self) -> None:
        if self.handle.needs_rollback:
            raise transaction.TransactionManagementError("a database error was swallowed")
        self._leave(undo=False)

    def rollback_to(self) -> None:
        if len(self._blocks) > 1:  # else `release` has failed, and undone it
            self._leave(undo=True)
        if self.handle.needs_rollback:
            raise transaction.TransactionManagementError("the savepoint is gone")

    def _refuse_the_end(self, execute: Any, sql: str, *more: Any) -> Any:
        """What a handler writes behind a COMMIT or ROLLBACK of its own, in SQL, would be in another
        transaction, or in none.
        """
        refuse_end(sql)
        if self._ran and outside_transaction(self.handle.connection):
            raise ended()
        return execute(sql, *more)

    def _enter(self) -> None:
        block = transaction.atomic(using=self.handle.alias)
        block.__enter__()
        if not self._blocks:
            self.handle.execute_wrappers.append(self._refuse_the_end)
        self._blocks.append(block)

    def _leave(self, *, undo: bool) -> None:
        block = self._blocks.pop()
        if not self._blocks:
            self.handle.execute_wrappers.remove(self._refuse_the_end)
        if undo:
            block.__exit__(Undone, Undone(), None)
        else:
            block.__exit__(None, None, None)

    def in_transaction(self) -> bool:
        return self.handle.in_atomic_block

    def role(self) -> str | None:
        return self.handle.settings_dict.get("USER") or None

    def close(self) -> None:
        self.rollback()
        self.handle.close()


class DjangoStore(Store):
    """A database of Django's settings, by alias; handlers receive `connections[alias]`."""

    def __init__(self, alias: str, schema: str = "oncebox") -> None:
        self.alias = alias
        self.schema = schema
        self.dialect = self.open().dialect

    def open(self) -> DjangoSession:
        try:
            return DjangoSession(connections[self.alias])
        except ConnectionDoesNotExist as error:
            raise ConfigurationError(
                f"Django has no database {self.alias!r}",
                expected=f"one of {', '.join(connections)}",
            ) from error
        except ImproperlyConfigured as error:
            what = str(error).partition(". ")[0]
            hint = "set DJANGO_SETTINGS_MODULE, to something like shop.settings"
            raise ConfigurationError(f"Django: {what}", hint=hint) from error
