"""Where a consumer begins: from which moment on, at which offset; and whether it ever did."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from ..envelope import STAMP_UNITS_PER_US
from ..errors import Fenced, Refused, Unreachable
from ..lease import Held
from ..ports import Extent, Log, Reader, TopicPartition
from ..program import Program, T, call
from .reading import Reading, Settings, load_subscriptions, subscribe_first, transact

logger = logging.getLogger("oncebox.consumer")

AskLog = Callable[..., Program[Any]]
"""Calls what the log says, in no transaction: see `ConsumerLoop.ask_log`."""


def begin(reading: Reading, log: Log, reader: Reader, ask_log: AskLog) -> Program[None]:
    """Know the floor: fixed at the consumer's first start, in the subscription without name.

    Raises Refused for a consumer that its database does not know and its log does: that is another
    database than before, or one that was restored without oncebox's tables. To begin at the start
    would do everything again that is done there.
    """
    yield from transact(reading, load_subscriptions(reading))
    if not reading.subscriptions:
        unknown = yield from _look_back(reading, log, reader, ask_log)
        if unknown is not None:
            # Another process may have begun in between: the database knows it before the log does.
            yield from transact(reading, load_subscriptions(reading))
            if not reading.subscriptions:
                raise unknown
    start = reading.settings.start
    if start is not None:
        reading.floor = int(start.timestamp() * 1_000_000) * STAMP_UNITS_PER_US
    yield from transact(reading, subscribe_first(reading))


def _look_back(
    reading: Reading, log: Log, reader: Reader, ask_log: AskLog
) -> Program[Refused | None]:
    """What is wrong where the log knows this consumer, and its database does not."""
    places: list[TopicPartition] = []
    for topic in reading.topics:
        found = yield from ask_log(log.describe, topic)
        places += [(topic, n) for n in range(0 if found is None else found.partitions)]
    known: dict[TopicPartition, int] = yield from ask_log(reader.acknowledged, places)
    if not known:
        return None
    (topic, partition), offset = max(known.items(), key=itemgetter(1))
    name = reading.consumer
    return Refused(
        f"{name} has read this log before, and this database knows nothing of it",
        position=f"{topic}/{partition}@{offset}",
        expected="the database that it worked in, with oncebox's tables",
        hint=f"oncebox rebuild {name} --adopt TIME, if what was emitted before that time is "
        f"done here; oncebox rebuild {name} --adopt start, if nothing is",
    )


def first_offset(
    settings: Settings, log: Log, place: TopicPartition, ask_log: AskLog
) -> Program[int]:
    """Where to begin in a partition that was never read. Raises Unreachable."""
    topic, _ = place
    if settings.start is None:
        extents: list[Extent] = yield from ask_log(log.extents, topic)
        return of_partition(extents, place).start
    safe_ms = int((settings.start.timestamp() - settings.start_margin_s) * 1000)
    offsets: list[int] = yield from ask_log(log.offsets_at, topic, max(safe_ms, 0))
    return of_partition(offsets, place)


def of_partition(found: Sequence[T], place: TopicPartition) -> T:
    """What is known of a partition. Raises Unreachable where it has just been added, and whoever
    was asked does not know of it yet.
    """
    topic, partition = place
    if partition >= len(found):
        raise Unreachable(f"partition {partition} of topic {topic} is too new")
    return found[partition]


def set_position(
    reading: Reading,
    place: TopicPartition,
    held: Held,
    offset: int,
    identity: str,
    why: str | None,
) -> Program[None]:
    """Begin to read here. `why`: something before it was perhaps never read; that is noted.
    Chains show what is missing, and what is read again is dropped; events without a chain
    have the note alone. Raises Fenced.
    """
    at = f"{place[0]}/{place[1]}"
    parameters = (reading.consumer, *place, held.term, str(offset), identity)
    rows = yield from call(reading.session.run, reading.sql["begin_position"], parameters)
    if not rows:
        raise Fenced(f"{at} has another owner")
    if why is not None:
        detail = f"{at}@{held.position} and what follows may be missing: {why}; read from {offset}"
        logger.error("%s: %s", reading.consumer, detail)
        note = (reading.now_ms(), "truncated", reading.consumer, "", at, *[None] * 3, detail)
        yield from call(reading.session.run, reading.sql["note"], note)
