"""Emit: an event is written in the transaction that the caller has open, and nowhere else.

So it exists if and only if that transaction commits. One statement, one round trip; no hooks of
an ORM, nothing at commit, nothing in the background.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload
from uuid import UUID

from .codecs.payload import codec_of, encode
from .context import rebuilding
from .envelope import Reference
from .errors import BadEvent, ConfigurationError
from .event import EventType, event_type, new_id_and_text, source_name, stream_of
from .program import Program, perform
from .session import Session
from .statements import statements
from .stores.adapt import adapt
from .stores.base import raise_explained
from .telemetry.spans import created
from .transaction import AsyncTransaction, SyncTransaction

if TYPE_CHECKING:
    from .codecs.events import EventCodec

EMIT_COUNT_MAX = 10_000
EMIT_BYTES_MAX = 64 * 1024 * 1024
"""Events and payload bytes in one statement of `emit_many`; more are sent in several."""

Row = tuple[Any, ...]


class Emitted(NamedTuple):
    """What was emitted. For `after=` of an event that has to take effect later than this one."""

    id: UUID
    source: str
    key: str | None


class Plan(NamedTuple):
    """How events of one class are emitted by one service."""

    source: str
    type: str
    version: int
    key_of: Callable[[object], str | None]
    key_fields: str
    encode: Callable[[object], bytes] = encode
    content: str | None = None
    """The content type; None: JSON."""


class Emitter:
    """The emitting half of a service: its name, instance and schema are all that it needs."""

    name: str
    instance: str | None
    schema: str

    @overload
    def emit(
        self, tx: SyncTransaction, event: object, *, after: Emitted | Reference | None = None
    ) -> Emitted: ...
    @overload
    def emit(
        self, tx: AsyncTransaction, event: object, *, after: Emitted | Reference | None = None
    ) -> Coroutine[Any, Any, Emitted]: ...
    def emit(self, tx: Any, event: object, *, after: Emitted | Reference | None = None) -> Any:
        """Write an event in the open transaction of `tx`; with an asynchronous one, await it.

        `tx`: a connection, session or cursor of sqlite3, aiosqlite, psycopg, asyncpg, SQLAlchemy
        or Django. `after`: an event of another key, from `emit` or a handler's
        `context.reference`, that has to take effect first wherever both are consumed.
        In a handler that runs again (see `oncebox rebuild`) nothing is written.

        SQLAlchemy on sqlite3 sends no BEGIN before a SAVEPOINT: where `begin_nested` is the first
        statement of a transaction, its release commits, and the event with it. Let a change come
        before it, or have SQLAlchemy send BEGIN (its pages on pysqlite say how).

        Raises NoTransaction, BadEvent, MissingTables, MissingRight; the driver's own errors pass.
        """
        session = adapt(tx)
        row, emitted = _row(self._plan(type(event)), event, after)
        program = _append(session, self.schema, row, emitted)
        return perform(program, asynchronous=session.asynchronous)

    @overload
    def emit_many(
        self,
        tx: SyncTransaction,
        events: Iterable[object],
        *,
        after: Emitted | Reference | None = None,
    ) -> list[Emitted]: ...
    @overload
    def emit_many(
        self,
        tx: AsyncTransaction,
        events: Iterable[object],
        *,
        after: Emitted | Reference | None = None,
    ) -> Coroutine[Any, Any, list[Emitted]]: ...
    def emit_many(
        self, tx: Any, events: Iterable[object], *, after: Emitted | Reference | None = None
    ) -> Any:
        """Write events in this order, in one statement; otherwise as `emit`.

        `after` holds for each of them. All or none: an event that cannot be emitted raises
        before anything is written.
        """
        session = adapt(tx)
        rows, emitted = [], []
        for event in events:
            row, reference = _row(self._plan(type(event)), event, after)
            rows.append(row)
            emitted.append(reference)
        program = _append_many(session, self.schema, rows, emitted)
        return perform(program, asynchronous=session.asynchronous)

    def _plan(self, cls: type) -> Plan:
        plan = _plans.get((cls, self.name, self.instance))
        if plan is None:
            plan = _plans[cls, self.name, self.instance] = _planned(cls, self.name, self.instance)
        return plan


_plans: dict[tuple[type, str, str | None], Plan] = {}


def _planned(cls: type, service: str, instance: str | None) -> Plan:
    try:
        declared = event_type(cls)
        codec_of(cls)
        write: Callable[[object], bytes] = encode
        content: str | None = None
        if declared.format != "json" or declared.schema_id is not None:
            content, write = _codec(declared)
    except ConfigurationError as error:
        raise BadEvent(error.what, expected=error.expected, hint=error.hint) from error
    return Plan(
        source_name(service, instance, declared.stream),
        declared.type,
        declared.version,
        declared.key_of,
        ", ".join(declared.key or ()),
        write,
        content,
    )


def _codec(declared: EventType) -> EventCodec:
    from .codecs.events import event_codec

    return event_codec(declared)


def _row(plan: Plan, event: object, after: Emitted | Reference | None) -> tuple[Row, Emitted]:
    """An event as the parameters of `append`, or of `append_with` if it carries more."""
    try:
        key = plan.key_of(event)
    except BadEvent as error:
        raise BadEvent(
            f"{plan.type}, field {plan.key_fields}: {error.what}",
            source=plan.source,
            expected=error.expected,
            hint="the key orders events; it is part of every record",
        ) from error
    id, text = new_id_and_text()
    row: Row = (plan.source, text, key, plan.type, plan.version, plan.encode(event))
    attributes = _attributes(plan, text, key) if "opentelemetry.trace" in sys.modules else None
    if after is not None or attributes is not None or plan.content is not None:
        row = (*row, plan.content, attributes, *_awaited(plan, key, after))
    return row, Emitted(id, plan.source, key)


def _awaited(
    plan: Plan, key: str | None, after: Emitted | Reference | None
) -> tuple[str | None, str | None, int | None]:
    """Source, key and stamp of the event that has to be first; the key's last one if no stamp."""
    if after is None or (after.source == plan.source and after.key == key):
        return None, None, None  # events of one key are in order anyway
    if after.key is None:
        raise BadEvent(
            f"{plan.type}: after= names an event without a key",
            source=plan.source,
            expected="an event of a keyed type: only those can be waited for",
        )
    return after.source, after.key, after.stamp if isinstance(after, Reference) else None


def _attributes(plan: Plan, id: str, key: str | None) -> str | None:
    """The trace context that travels with an event, as a JSON object; None without one."""
    parent = created(stream_of(plan.source), id, key)
    return None if parent is None else f'{{"traceparent":"{parent}"}}'


def _append(session: Session, schema: str, row: Row, emitted: Emitted) -> Program[Emitted]:
    statement = "append" if len(row) == 6 else "append_with"
    yield session.require_transaction, ()
    if not rebuilding.get():
        try:
            yield session.send, (statements(session.dialect, schema)[statement], row)
        except Exception as error:
            raise_explained(error, session)
    return emitted


def _append_many(
    session: Session, schema: str, rows: Sequence[Row], emitted: list[Emitted]
) -> Program[list[Emitted]]:
    width = max(map(len, rows), default=6)
    statement = "append_many" if width == 6 else "append_many_with"
    sql = statements(session.dialect, schema)[statement]
    yield session.require_transaction, ()
    for part in () if rebuilding.get() else _chunks(rows):
        chunk = [row + (None,) * (width - len(row)) for row in part] if width > 6 else part
        try:
            if session.dialect == "postgres":
                yield session.send, (sql, [list(column) for column in zip(*chunk, strict=True)])
            else:
                yield session.run_many, (sql, chunk)
        except Exception as error:
            raise_explained(error, session)
    return emitted


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Rows in statements of at most EMIT_COUNT_MAX events and about EMIT_BYTES_MAX bytes."""
    start = size = 0
    for index, row in enumerate(rows):
        size += len(row[5])
        if index - start == EMIT_COUNT_MAX or (size > EMIT_BYTES_MAX and index > start):
            yield rows[start:index]
            start, size = index, len(row[5])
    if start < len(rows):
        yield rows[start:]
