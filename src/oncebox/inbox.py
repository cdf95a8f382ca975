"""Claim: effect once for anything that has an id (a webhook, a task, another framework's message).

The claim is one row, written in the caller's own transaction, so it exists if and only if the
effects beside it do. Ids that are claimed twice at the same time wait for each other.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Mapping
from datetime import datetime
from typing import Any, NoReturn, overload
from uuid import RFC_4122, UUID

from .envelope import ATTRIBUTE_BYTES_MAX, NUMBER_MAX, STAMP_UNITS_PER_US
from .errors import BadEvent, ConfigurationError, StoreUnavailable, UnknownId
from .event import check_name, key_text
from .program import Program, call, drive, drive_async
from .session import Session, in_transaction
from .statements import statements
from .stores.adapt import adapt
from .stores.base import raise_explained
from .transaction import AsyncTransaction, SyncTransaction

CLAIM_TRIES_MAX = 3
"""The first claim of a consumer and source makes their row, then claims; so does its rival."""

PRUNE_MAX = 10_000
"""Claims that are looked at in one transaction."""

CLAIMED = "#claim"
"""Claims have a subscription of their own per source, so that their floor is their own."""


class Claiming(Coroutine[Any, Any, bool]):
    """What `claim` returns on an asynchronous connection: await it.

    It refuses to be a condition: `if claim(tx, …)` without `await` would always be true.
    """

    def __init__(self, inner: Coroutine[Any, Any, bool]) -> None:
        self._inner = inner

    def __await__(self) -> Generator[Any, None, bool]:
        return self._inner.__await__()

    def __bool__(self) -> NoReturn:
        self._inner.close()
        raise TypeError("claim() of an asynchronous connection has to be awaited: await claim(…)")

    def send(self, value: Any) -> Any:
        return self._inner.send(value)

    def throw(self, *args: Any) -> Any:
        return self._inner.throw(*args)

    def close(self) -> None:
        self._inner.close()


@overload
def claim(
    tx: SyncTransaction,
    consumer: str,
    *,
    source: str,
    id: str | int | UUID,
    time: datetime | None = None,
    schema: str = "oncebox",
) -> bool: ...
@overload
def claim(
    tx: AsyncTransaction,
    consumer: str,
    *,
    source: str,
    id: str | int | UUID,
    time: datetime | None = None,
    schema: str = "oncebox",
) -> Claiming: ...
def claim(
    tx: Any,
    consumer: str,
    *,
    source: str,
    id: str | int | UUID,
    time: datetime | None = None,
    schema: str = "oncebox",
) -> Any:
    """Claim an id in the open transaction of `tx`. True: the first time. False: done before.

    `consumer` names who has the effect, `source` who made the id ("stripe"). With an asynchronous
    connection, await it. A claim that is rolled back was never made.

    Claims are kept until they are pruned below a floor, which is 0 until somebody prunes: a running
    consumer of that name by its setting `claims_s`, anybody by `oncebox db prune`. Then an id has
    to show its age: by `time` (aware; when its sender made it, no later than it was first sent), or
    by being a UUIDv7. One that is older than the floor, or does not show its age and is not found,
    raises UnknownId: it may have been done.

    Raises NoTransaction, UnknownId, BadEvent (id), ConfigurationError (consumer, source, time),
    MissingTables, MissingRight; the driver's own errors pass.
    """
    check_name("consumer", consumer)
    if not 0 < len(source) <= ATTRIBUTE_BYTES_MAX or not source.isprintable():
        raise ConfigurationError(f"source {source[:60]!r}", expected="1 to 2048 printable letters")
    session = adapt(tx)
    program = _claim(session, schema, consumer, source, _text(id), _stamp(id, time))
    return Claiming(drive_async(program)) if session.asynchronous else drive(program)


def prune_claims(
    session: Session, schema: str, consumer: str, source: str | None, before: datetime
) -> Program[int]:
    """Forget claims of one source, or of all, made before a time, and refuse older ids from now
    on; how many were forgotten. For those who run no consumer, which does it by `claims_s`.

    In transactions of its own, each over at most PRUNE_MAX rows. The floor is raised in the first
    of them, so nothing is forgotten that could be claimed again.
    """
    sql = statements(session.dialect, schema)
    before_ms = int(before.timestamp() * 1000)
    claimed = None if source is None else source + CLAIMED
    raising = raise_claim_floors(session, sql, consumer, claimed, before_ms)
    forgotten = 0
    for subscription in (yield from in_transaction(session, raising)):
        until: str | None = ""
        while until is not None:
            page = prune_page(session, sql, CLAIMS, subscription, until, PRUNE_MAX)
            until, gone = yield from in_transaction(session, page)
            forgotten += gone
    return forgotten


def raise_claim_floors(
    session: Session, sql: Mapping[str, str], consumer: str, source: str | None, before_ms: int
) -> Program[list[int]]:
    """Refuse ids made before a time (Unix ms) from now on, of one source or of all; returns their
    subscriptions. Waits for claims that are open, and other claims wait for it.
    """
    floor = before_ms * 1000 * STAMP_UNITS_PER_US
    parameters = (consumer, source, floor)
    rows = yield from call(session.run, sql["raise_claim_floors"], parameters)
    return [id for (id,) in rows]


KEYS = ("key_page", "prune_keys")
CLAIMS = ("claim_page", "prune_claims")


def prune_page(
    session: Session,
    sql: Mapping[str, str],
    what: tuple[str, str],
    subscription: int,
    after: str,
    count: int,
) -> Program[tuple[str | None, int]]:
    """Look at the next rows behind `after`. Returns where the page ends (None: it was the last),
    and how many rows were forgotten.
    """
    page, prune = what
    ends = yield from call(session.run, sql[page], (subscription, after, count))
    until = ends[0][0] if ends else None
    gone = yield from call(session.run, sql[prune], (subscription, after, until))
    return until, len(gone)


def _claim(
    session: Session, schema: str, consumer: str, source: str, id: str, stamp: int | None
) -> Program[bool]:
    sql = statements(session.dialect, schema)
    claimed = source + CLAIMED
    yield from call(session.require_transaction)
    try:
        for _ in range(CLAIM_TRIES_MAX):
            rows = yield from call(session.run, sql["claim"], (consumer, claimed, id, stamp))
            if rows:
                return True
            rows = yield from call(session.run, sql["claim_state"], (consumer, claimed, id))
            if not rows:
                yield from call(session.send, sql["subscribe"], (consumer, claimed, 0))
                continue
            ((floor, done),) = rows
            if done:
                return False
            _refuse_below(floor, consumer, source, id, stamp)
    except Exception as error:
        raise_explained(error, session)
    raise StoreUnavailable(f"{consumer} and {source}: their claims keep changing", event=id)


def _text(id: str | int | UUID) -> str:
    try:
        return key_text(id)
    except BadEvent as error:
        what = error.what.replace("key", "id", 1)
        raise BadEvent(f"claim: {what}", expected=error.expected) from error


def _stamp(id: str | int | UUID, time: datetime | None) -> int | None:
    """When an id was made, in units of stamps, or None where nothing is known of it."""
    if time is not None:
        if time.tzinfo is None:
            raise ConfigurationError(f"time {time} of a claim", expected="a time with an offset")
        return min(max(int(time.timestamp() * 1_000_000), 0) * STAMP_UNITS_PER_US, NUMBER_MAX)
    if isinstance(id, str):
        if len(id) != 36:
            return None
        try:
            id = UUID(id)
        except ValueError:
            return None
    if isinstance(id, UUID) and id.variant == RFC_4122 and id.version == 7:
        return min((id.int >> 80) * 1000 * STAMP_UNITS_PER_US, NUMBER_MAX)
    return None


def _refuse_below(floor: int, consumer: str, source: str, id: str, stamp: int | None) -> None:
    """Raises UnknownId for an id that may have been done and forgotten."""
    if floor > 0 and stamp is None:
        raise UnknownId(
            f"{consumer} cannot tell whether this id was done: claims were pruned, and the id "
            "does not show its age",
            event=id,
            source=source,
            expected="time=, or an id that is a UUIDv7",
            hint="pass time=: when the sender made the id",
        )
    if stamp is not None and stamp < floor:
        raise UnknownId(
            f"{consumer} cannot tell whether this id was done: it is older than the claims kept",
            event=id,
            source=source,
            expected="an id made after the pruning floor",
            hint="find out by other means whether its effect is there",
        )
