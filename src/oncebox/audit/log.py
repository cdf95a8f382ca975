"""The log as audits read it: every record up to an end, while something else goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ..envelope import STAMP_UNITS_PER_US
from ..errors import LogTruncated, Unreachable
from ..operate.desk import now_ms
from ..ports import Extent, Log, Record

RECORDS_MAX = 1_000
"""Records with all their headers that are held at once."""

RECORDS_BYTES_MAX = 8 * 1024 * 1024
"""The same in bytes of values."""

STALL_S = 30.0
"""When a log brings nothing for so long before its end, it is taken for unreachable."""

QUIET_S = 5.0
"""The same for a log of others, which is then at its end."""


@contextmanager
def aside(work: Callable[[Callable[[], bool]], None]) -> Iterator[Callable[[], None]]:
    """Perform something in a thread meanwhile; it is told whether to stop. What is yielded waits
    until it is done, and raises what it raised.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1, "oncebox-audit") as pool:
        try:
            yield pool.submit(work, stop.is_set).result
        finally:
            stop.set()


def read_log(
    log: Log, extents: Mapping[str, list[Extent]], *, strict: bool = True
) -> Iterator[list[Record]]:
    """All records from the starts to the ends. Raises Unreachable where nothing more comes before
    an end, unless not `strict` and there were some: others' transactions leave marks at ends.
    """
    places = {(topic, n): e for topic, of in extents.items() for n, e in enumerate(of)}
    left = {place: extent.end for place, extent in places.items() if extent.start < extent.end}
    at = {place: places[place].start for place in left}
    reader = log.reader("oncebox-audit")
    try:
        reader.assign(at)
        while left:
            try:
                records = reader.fetch(
                    RECORDS_MAX, RECORDS_BYTES_MAX, STALL_S if strict else QUIET_S
                )
            except LogTruncated:  # retention went on meanwhile, or it is damaged
                starts = {p: log.extents(p[0])[p[1]].start for p in left}
                if all(at[place] >= start for place, start in starts.items()):
                    raise
                at.update({place: max(at[place], start) for place, start in starts.items()})
            else:
                unread = [place for place in left if strict or at[place] == places[place].start]
                if not records and not unread:
                    return
                if not records:
                    (topic, number), end = unread[0], left[unread[0]]
                    raise Unreachable(
                        f"the log brings nothing more before its end at {end}",
                        position=f"{topic}/{number}@{at[topic, number]}",
                    )
                yield [record for record in records if record.offset < left.get(record[:2], 0)]
                for record in records:
                    at[record[:2]] = record.offset + 1
                if all(at[place] < end for place, end in left.items()):
                    continue
            left = {place: end for place, end in left.items() if at[place] < end}
            reader.assign({place: at[place] for place in left})
    finally:
        reader.close()


def covers(log: Log, topic: str) -> tuple[int, int, list[int]]:
    """Since which stamp the log has all of a topic, 0 where it never dropped anything; the same
    (now) for what was in partitions that stand empty, since they have dropped all; and these.
    """
    latest, extents = 0, log.extents(topic)
    empty = [number for number, (start, end) in enumerate(extents) if start == end > 0]
    for number, extent in enumerate(extents):
        if not 0 < extent.start < extent.end:
            continue
        reader = log.reader("oncebox-audit")
        try:
            reader.assign({(topic, number): extent.start})
            for record in reader.fetch(1, RECORDS_BYTES_MAX, STALL_S)[:1]:
                latest = max(latest, record.time_ms)
        except LogTruncated:  # just now
            latest = max(latest, now_ms())
        finally:
            reader.close()
    units = 1000 * STAMP_UNITS_PER_US
    return latest * units, (now_ms() if empty else latest) * units, empty
