"""What a consumer holds while it reads: its handlers, settings, subscriptions, its transactions;
and records taken in: envelope read, link made, handler found. No decision is taken here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, NoReturn

from msgspec import Struct, msgpack

from ..context import Effect
from ..envelope import (
    JSON,
    NUMBER_MAX,
    STAMP_UNITS_PER_US,
    Envelope,
    Reference,
    digest,
    is_sampled,
    read_core,
    read_envelope,
)
from ..errors import BadRecord, ConfigurationError, DecodeFailed
from ..event import EventType, stream_of
from ..order import Link
from ..ports import Record
from ..program import Program, T, call
from ..session import Session, Statement
from ..telemetry.tally import Done
from .others import IN_LINE, Foreign

logger = logging.getLogger("oncebox.consumer")

Place = tuple[int, str]
"""A key's row: (subscription id, key)."""

BY_ID = "#id"
"""Events without a chain have a subscription of their own per source, where the key is the id."""


EVERY = "*"
"""In place of a type: whatever no other handler takes."""

ANY_EVENT = (-1, -1)
"""In place of an event's sequence and stamp: whichever of its key is next."""

IDLE_MARGIN_S = 5.0
"""How much longer than handlers may take a transaction may be idle, until the database ends it."""

OUTAGES_MAX = 10_000
"""Events whose outages are counted."""


def no_other(version: int | None, record: Record, content: str) -> NoReturn:
    """Of a handler that reads no other version. Raises DecodeFailed."""
    raise DecodeFailed(f"an event of topic {record.topic} came in version {version} ({content})")


class Handler(NamedTuple):
    """A user's function for one event type, in the version that its class names. `listed`: it takes
    events in lists. `translate` reads events that say another version, from that, the record and
    its content type; `read` those of this version in another format than JSON, from content type
    and record.
    `voids`: it takes events that were erased, too. `untraced`: in place of this one, for events of
    traces that are not kept.
    """

    function: Callable[..., Any]
    type: EventType
    decode: Callable[[bytes], Any]
    with_context: bool
    listed: bool = False
    translate: Callable[[int | None, Record, str], Any] = no_other
    voids: bool = False
    read: Callable[[str, Record], Any] | None = None
    untraced: Handler | None = None

    @property
    def name(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))


class Subscription(NamedTuple):
    """A source as this consumer reads it."""

    id: int
    floor: int
    had: int = -1
    """Up to this stamp handlers run again: what they emit, or ask for by `once`, was had before."""


MAY_BE_ZERO = {
    "batch_time_s", "fetch_wait_s", "backoff_s", "backoff_max_s", "forget_s", "claims_s",
    "journal_s", "quarantine_s", "start_margin_s",
}  # fmt: skip
"""Settings that make sense as 0: do not wait, do not keep."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Bounds of a consumer. Times in seconds, sizes in bytes."""

    concurrency: int = 1
    """Events of different keys that are handled at the same time, each in its own transaction."""
    batch_max: int = 500
    """Events in one transaction."""
    batch_bytes_max: int = 8 * 1024 * 1024
    """Bytes of events in one transaction."""
    list_max: int = 1000
    """Events in one call of a batch handler."""
    batch_time_s: float = 2.0
    """How long a transaction's handlers may take together before it is closed."""
    fetch_wait_s: float = 0.5
    """How long to wait for events before looking what is due."""
    lease_s: float = 3.0
    """How long a process that died keeps its partitions."""
    handler_timeout_s: float = 30.0
    """How long one handler may take, and one effect of `once`."""
    attempts_max: int = 8
    """How often a failing event is tried before it waits for somebody."""
    backoff_s: float = 0.5
    """How long after the first failure it is tried again; then twice as long each time."""
    backoff_max_s: float = 300.0
    """The longest time between two tries."""
    outage_tries_max: int = 10
    """How often an event meets an outage before its key waits alone, and all others go on."""
    parked_max: int = 1000
    """Parked keys at which the consumer pauses."""
    kept_bytes_max: int = 256 * 1024 * 1024
    """Bytes of kept events at which it pauses."""
    forget_s: float = 30 * 24 * 3600.0
    """What was done longer ago is forgotten, but nothing that the log still holds: see `prune`."""
    claims_s: float | None = None
    """When claims are forgotten; None: never. Then ids have to show their age: see `claim`."""
    journal_s: float = 90 * 24 * 3600.0
    """How long what was noted can be read."""
    quarantine_s: float | None = None
    """How long unreadable records are kept; None: until somebody decides."""
    start: datetime | None = None
    """From the beginning of the log; or a time: events committed before it are not run."""
    start_margin_s: float = 600.0
    """How long before that time the log is read, since clocks differ."""

    def __post_init__(self) -> None:
        """Raises ConfigurationError for a bound that would let nothing through."""
        for name, value in vars(self).items():
            if not isinstance(value, int | float) or value > 0:
                continue
            if value != 0 or name not in MAY_BE_ZERO:
                least = "0 or more" if name in MAY_BE_ZERO else "more than 0"
                raise ConfigurationError(f"setting {name} = {value}", expected=least)

    @property
    def longest_s(self) -> float:
        """How long a transaction may stand still until others end it. Handlers that run no
        statement are one such time together.
        """
        return self.batch_time_s + self.handler_timeout_s + IDLE_MARGIN_S

    @property
    def times(self) -> tuple[float, float]:
        """How long leases last, and for how long more a transaction may stand still."""
        return self.lease_s, self.longest_s


class Item(Struct, gc=False):
    """A record taken in: its place in a chain, the row of its key, who handles it.

    `after`: the event of another key that it waits for. `chained`: it has a place in a chain, and
    is not known by its id alone. `bad`: it cannot be read, and why; then all else but `record` says
    nothing. `foreign`: how to read it, if others wrote it. `content`: its content type.
    `event`: what it says, once, where there was time to decode it.
    """

    record: Record
    type: str
    version: int | None
    handler: Handler | None
    link: Link
    place: Place
    chained: bool
    after: Reference | None
    bad: str | None = None
    foreign: Foreign[Any] | None = None
    content: str = JSON
    event: Any = None

    @property
    def envelope(self) -> Envelope:
        """All that its headers say."""
        return (
            read_envelope(self.record)
            if self.foreign is None
            else self.foreign.envelope(self.record)
        )

    @property
    def in_line(self) -> bool:
        """Whether it takes effect behind all that came of its key before: see `foreign`."""
        return self.after is not None and self.after.stamp == IN_LINE


_NO_LINK = Link(0, 0, None, "")


@dataclass
class Reading:
    """One consumer in one process: what batches need to know."""

    consumer: str
    session: Session
    sql: Mapping[str, str]
    handlers: Mapping[str, Handler]
    topics: tuple[str, ...]
    settings: Settings
    now_ms: Callable[[], int]
    state: Any = None
    foreign: Mapping[str, Foreign[Any]] = field(default_factory=dict)
    """How to read the topics that others write."""
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    sources: dict[int, str] = field(default_factory=dict)
    floor: int = 0
    condemned: dict[tuple[Place, int, int], tuple[str, bool]] = field(default_factory=dict)
    """Events (by place, sequence, stamp) that must not run in this batch: what they did, and
    whether they may be tried again without anybody looking."""
    outages: dict[tuple[Place, int, int], int] = field(default_factory=dict)
    """How often an event (by place, sequence, stamp) met an outage since it was last done."""
    effects: dict[tuple[str, str], dict[str, Effect]] = field(default_factory=dict)
    """Known results of `once`, by (source, id), of events about to run again."""
    done: Done = field(default_factory=Done)
    """What this process has done of it."""
    suspending: set[str] = field(default_factory=set)
    """Types whose handlers use `once`: they run inside a savepoint from the start."""
    limited: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda effect: effect
    """Effects of `once` as they are called: within a time (see `timeouts.py`)."""

    def subscription(self, id: int) -> Subscription | None:
        """By its id, if it is known."""
        return self.subscriptions.get(self.sources.get(id, "?"))

    def condemn(self, item: Item, reason: str, *, again: bool) -> None:
        """Have an event parked instead of run; not `again`: somebody has to look at it first."""
        if item.bad is None:
            self.condemned[item.place, *item.link[:2]] = (reason, again)

    def doom(self, place: Place, link: Link) -> tuple[str, bool] | None:
        """Why an event must not run in this batch, and whether it may be tried again."""
        if not self.condemned:
            return None
        return self.condemned.get((place, *link[:2])) or self.condemned.get((place, *ANY_EVENT))

    def gives_up(self, place: Place, link: Link) -> bool:
        """Whether an event that meets an outage once more has met enough: perhaps what it needs is
        away for it alone.
        """
        if len(self.outages) > OUTAGES_MAX:
            self.outages.clear()
        name = (place, link.sequence, link.stamp)
        self.outages[name] = self.outages.get(name, 0) + 1
        return self.outages[name] > self.settings.outage_tries_max

    def reads(self, source: str) -> bool:
        return stream_of(source.removesuffix(BY_ID)) in self.topics


class Taken(NamedTuple):
    """Records as items, in order; `new` are items of sources that are not subscribed to yet."""

    items: list[Item]
    new: list[tuple[str, Item]]


def take_in(reading: Reading, records: Iterable[Record]) -> Taken:
    """Read headers, make links, find handlers and rows. No I/O."""
    items, new = [], []
    subscriptions, handlers, others = reading.subscriptions, reading.handlers, reading.foreign
    every = handlers.get(EVERY)
    for record in records:
        foreign = others.get(record.topic) if others else None
        try:
            if foreign is not None:
                item = take_in_foreign(reading, foreign, record)
                items.append(item)
                if not item.place[0]:
                    new.append((foreign.topic + BY_ID, item))
                continue
            labels, id, key, chain, trace, more = read_core(record)
            envelope = read_envelope(record) if more or chain is None else None
        except BadRecord as error:
            items.append(Item(record, "", None, None, _NO_LINK, (0, ""), False, None, str(error)))
            continue
        source, type, version, content = labels
        if envelope is None:
            after, void, hashed = None, False, digest(type, False, record.value)
        else:
            after, void, said = envelope.after, envelope.void, envelope.digest
            hashed = digest(type, void, record.value) if said is None else said
        chained = chain is not None and key is not None
        if chain is not None and key is not None:
            link = Link._make((*chain, id, hashed, void))
        else:
            source, key = source + BY_ID, id
            time_us = 0 if envelope is None else envelope.time_us
            stamp = min(max(time_us, 0) * STAMP_UNITS_PER_US, NUMBER_MAX)  # others' times: any
            link = Link(1, stamp, None, id, hashed, void)
        known = subscriptions.get(source)
        place = (0 if known is None else known.id, key)
        handler = handlers.get(type, every)
        if trace is not None and handler is not None and handler.untraced is not None:
            handler = handler if is_sampled(trace) else handler.untraced
        item = Item(record, type, version, handler, link, place, chained, after)
        if content is not JSON:
            item.content = content
        items.append(item)
        if known is None:
            new.append((source, item))
    return Taken(items, new)


def take_in_foreign(reading: Reading, foreign: Foreign[Any], record: Record) -> Item:
    """The same for a record of others. Raises BadRecord."""
    envelope = foreign.envelope(record)
    hashed = digest(envelope.type, void=False, value=record.value)
    link = Link(1, envelope.time_us * STAMP_UNITS_PER_US, None, envelope.id, hashed)
    known = reading.subscriptions.get(foreign.topic + BY_ID)
    place = (0 if known is None else known.id, envelope.id)
    handler = reading.handlers.get(envelope.type)
    return Item(
        record, envelope.type, None, handler, link, place, False, envelope.after,
        foreign=foreign, content=foreign.content,
    )  # fmt: skip


def subscribe(reading: Reading, source: str) -> Program[Subscription]:
    """Begin to read a source, from the consumer's floor on; known from then on."""
    session, sql = reading.session, reading.sql
    yield from call(session.run, sql["subscribe"], (reading.consumer, source, reading.floor))
    yield from load_subscriptions(reading)
    return reading.subscriptions[source]


def subscribe_first(reading: Reading) -> Program[None]:
    """Know the floor, and have the subscriptions that no record may be the first to ask for: what
    a batch makes is gone if it is undone.
    """
    yield from subscribe(reading, "")
    reading.floor = reading.subscriptions[""].floor
    for topic in reading.foreign:
        for source in (topic + BY_ID, topic):  # its ids, and its keys
            yield from subscribe(reading, source)


def load_subscriptions(reading: Reading) -> Program[None]:
    """Read which sources this consumer reads, and from where."""
    rows = yield from call(reading.session.run, reading.sql["subscriptions"], (reading.consumer,))
    for source, id, floor, had in rows:
        reading.subscriptions[source] = Subscription(id, floor, had)
        reading.sources[id] = source


def know_subscriptions(reading: Reading) -> Program[None]:
    """What a transaction that was rolled back has made us forget."""
    if not reading.subscriptions:
        yield from transact(reading, load_subscriptions(reading))


def items_of(reading: Reading, taken: Taken) -> Program[list[Item]]:
    """Items whose sources are subscribed to."""
    items, new = taken
    for source in sorted({source for source, _ in new}):
        yield from transact(reading, subscribe(reading, source))
    for source, item in new:
        item.place = (reading.subscriptions[source].id, item.place[1])
    return items


_encode = msgpack.Encoder().encode
_decode = msgpack.Decoder(Record).decode


def record_bytes(record: Record) -> bytes:
    """A record as it is stored while it waits."""
    return _encode(record)


def record_of(stored: bytes) -> Record:
    """The record that `record_bytes` stored."""
    return _decode(bytes(stored))


def transact(reading: Reading, program: Program[T]) -> Program[T]:
    """A program inside a transaction of its own on the consumer's session."""
    yield from call(reading.session.begin)
    try:
        for statement in limits_of(reading):
            yield from call(reading.session.send, *statement)
        result = yield from program
        yield from call(reading.session.commit)
    except BaseException:
        yield from abandon(reading)
        raise
    return result


def limits_of(reading: Reading) -> list[Statement]:
    """So that no statement of this transaction waits for ever for whoever holds a lock."""
    if reading.session.dialect != "postgres":
        return []
    settings = reading.settings
    # The second ends the connection, which is an outage: so only if the handler's own limit
    # has not. In a pipeline it does not hold: see `end_stuck`.
    limits = (f"{int(s * 1000)}ms" for s in (settings.handler_timeout_s, settings.longest_s))
    return [(reading.sql["limits"], (*limits,))]


def abandon(reading: Reading) -> Program[None]:
    """Roll back, whatever state the connection is in; what was learned inside is forgotten."""
    reading.subscriptions.clear()
    for step in (partial(reading.session.pipeline, False), reading.session.rollback):
        try:
            yield from call(step)
        except Exception:  # a dead connection has rolled back by itself
            logger.debug("giving up a transaction failed", exc_info=True)


def decode_ahead(items: Iterable[Item]) -> None:
    """Decode what takes no more than that; what cannot be read says so when its turn comes."""
    for item in items:
        handler = item.handler
        if (
            handler is not None
            and item.version == handler.type.version
            and item.content is JSON
            and item.bad is None
            and not item.link.void
        ):
            try:
                item.event = handler.decode(item.record.value or b"")
            except Exception:  # this event's own, and not the fault of the batch at work
                logger.debug("decoding ahead failed", exc_info=True)


def decoded(handler: Handler, item: Item) -> Any:
    """The event in the version that its handler names. Raises DecodeFailed."""
    if item.event is not None:  # for this call alone: a handler may change it
        event, item.event = item.event, None
        return event
    try:
        if item.version == handler.type.version and item.content is JSON:
            return handler.decode(item.record.value or b"")
        return _decoded_otherwise(handler, item)
    except DecodeFailed as error:
        kind, what, expected, hint = type(error), error.what, error.expected, error.hint
    record, envelope = item.record, item.envelope
    raise kind(
        what, event=envelope.id, source=envelope.source, key=envelope.key, expected=expected,
        position=f"{record.topic}/{record.partition}@{record.offset}",
        hint=hint or "the event is kept: deploy a handler that takes it, then oncebox redrive",
    )  # fmt: skip


def _decoded_otherwise(handler: Handler, item: Item) -> Any:
    """The same of an event in another version, in another format, or without a version."""
    version, translate = item.version, handler.translate
    if version != handler.type.version and (version is not None or translate is not no_other):
        return translate(version, item.record, item.content)
    if item.content is not JSON and handler.read is not None:
        return handler.read(item.content, item.record)
    return handler.decode(item.record.value or b"")
