"""Helpers for the tests of applications: the real consumer on the real store, no fakes.

    deliver(billing, OrderPlaced("o-1", 1250))     the handlers run, as in production
    deliver(billing, record("legacy.payments", b"{…}", key=b"o-1"))   what others write
    emitted(tx)                                    what this database has emitted so far

Both have the asynchronous forms that their subjects need: `await deliver_async(…)` for coroutine
handlers, `await emitted(tx)` on asynchronous connections. Tables must be there: `oncebox db
migrate`, or `migrate` below.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec import json

from ..codecs.events import document_in, event_codec
from ..codecs.payload import encode
from ..consumer.batch import Batch
from ..consumer.calling import Setback
from ..consumer.effects import have_effect
from ..consumer.loop import CAREFUL_MAX
from ..consumer.reading import BY_ID, Reading, subscribe, subscribe_first, take_in, transact
from ..envelope import JSON, STAMP_UNITS_PER_US, chain_text, event_headers
from ..errors import BadRecord, NotFound
from ..event import EventType, event_type, new_id
from ..ports import Outgoing, Record
from ..program import Program, call, drive, drive_async, perform
from ..service.running import reading_of
from ..service.service import Consumer, Service
from ..session import Session, keys_value
from ..statements import statements
from ..stores.adapt import adapt, open_store

EFFECTS_MAX = CAREFUL_MAX
"""`once` steps of one handler that a delivery goes through."""


class EmittedEvent(NamedTuple):
    """An event in the outbox: `data` is its payload as JSON values."""

    id: str
    source: str
    type: str
    version: int | None
    key: str | None
    data: Any


def record(
    topic: str,
    value: bytes | None,
    *,
    key: bytes | None = None,
    headers: Sequence[tuple[str, str | bytes]] = (),
) -> Outgoing:
    """A record of a topic that others write (`foreign`), for `deliver`."""
    return Outgoing(topic, key, value, list(headers), time.time_ns() // 1_000_000)


def deliver(service: Service, *events: object, state: Any = None) -> None:
    """Run a service's plain handlers for events, each as the next of its key, and commit; and for
    what `record` makes, as the next of its topic.

    Raises what a handler raises (then nothing of that event is committed), and NotFound when no
    handler takes the event's type, or reads the topic; BadRecord and DecodeFailed for a record that
    cannot be read. `state` is what handlers get as `context.state`.
    """
    drive(_deliver(service, events, state))


async def deliver_async(service: Service, *events: object, state: Any = None) -> None:
    """The same for coroutine handlers."""
    await drive_async(_deliver(service, events, state))


def emitted(tx: Any) -> Any:
    """The events in the outbox that `tx` is connected to, in order, as `EmittedEvent`s.

    Those of the transaction that `tx` has open are among them. Awaitable for an asynchronous
    connection.
    """
    session = adapt(tx)
    program = _emitted(session)
    return perform(program, asynchronous=session.asynchronous)


def _emitted(session: Session) -> Program[list[EmittedEvent]]:
    rows = yield from call(session.run, statements(session.dialect)["emitted"])
    return [
        EmittedEvent(
            str(id), source, type, version, key,
            None if data is None
            else json.decode(data) if content is None
            else document_in(content, data, type, version),
        )
        for id, source, type, version, key, data, content in rows
    ]  # fmt: skip


def _deliver(service: Service, events: tuple[object, ...], state: Any) -> Program[None]:
    for event in events:
        if isinstance(event, Outgoing):
            what, takes = f"topic {event.topic}", f"foreign({event.topic!r}, …)"
            takers = [c for c in service.consumers.values() if event.topic in c.foreign]
        else:
            declared, takes = event_type(type(event)), type(event).__name__
            what = declared.type
            takers = [c for c in service.consumers.values() if what in c.handlers]
        if not takers:
            raise NotFound(
                f"{service.name} has no handler for {what}", hint=f"@{service.name}.on({takes})"
            )
        for consumer in takers:
            yield from _deliver_to(service, consumer, event, state)


def _deliver_to(service: Service, consumer: Consumer, event: object, state: Any) -> Program[None]:
    store = open_store(service.store, service.schema, asynchronous=consumer.asynchronous)
    session = yield from call(store.open)
    try:
        reading = reading_of(service, consumer, store, session, state)
        if isinstance(event, Outgoing):
            yield from transact(reading, subscribe_first(reading))
            headers = [(n, v.encode() if isinstance(v, str) else v) for n, v in event.headers]
            offset = time.time_ns()  # as if behind whatever was delivered before
            made = Record(event.topic, 0, offset, event.key, event.value, headers, event.time_ms)
        else:
            next_one = _next_record(reading, event_type(type(event)), event)
            made = yield from transact(reading, next_one)
        yield from _settle(reading, made)
    finally:
        yield from call(session.close)


def _next_record(reading: Reading, declared: EventType, event: object) -> Program[Record]:
    """The event as the next of its key, whatever this consumer has had of it before."""
    source = f"/test/{declared.stream}"
    key = declared.key_of(event)
    stamp = time.time_ns() // 1000 * STAMP_UNITS_PER_US
    chain = None
    subscription = yield from subscribe(reading, source if key is not None else source + BY_ID)
    if key is not None:
        keys = keys_value(reading.session, [key])
        rows = yield from call(
            reading.session.run, reading.sql["lock_keys"], (subscription.id, keys)
        )
        sequence, last = (max(rows[0][1], 0), rows[0][2]) if rows else (0, -1)
        stamp = max(stamp, last + 1)
        chain = chain_text(sequence + 1, stamp, last if sequence else None)
    content = JSON
    write: Callable[[object], bytes] = encode
    if declared.format != "json" or declared.schema_id is not None:
        content, write = event_codec(declared)
    headers = event_headers(
        str(new_id()), source, declared.type, declared.version, chain, content_type=content
    )
    raw = [(name, value.encode()) for name, value in headers]
    raw_key = None if key is None else key.encode()
    time_ms = stamp // STAMP_UNITS_PER_US // 1000
    return Record(declared.stream, 0, 0, raw_key, write(event), raw, time_ms)


def _settle(reading: Reading, record: Record) -> Program[None]:
    """Run one record as a batch of its own; `once` is had and the handler runs again."""
    items, _ = take_in(reading, [record])
    if items[0].bad is not None:
        raise BadRecord(items[0].bad)
    drains: dict[Any, bool] = {}
    for _ in range(EFFECTS_MAX):
        batch = Batch(reading, items, {}, drains, careful=bool(reading.suspending))
        try:
            outcome = yield from batch.run()
        except Setback as setback:
            if setback.__cause__ is not None:
                raise setback.__cause__ from None
            continue  # the handler uses `once`: now it runs inside a savepoint
        if batch.failures:
            raise batch.failures[0]
        if not outcome.wanted:
            return
        for one in outcome.wanted:
            failure = yield from have_effect(reading, one)
            if failure is not None:
                raise RuntimeError(failure)
            drains[one.item.place] = False
        items = []
