"""What the checks of `log_contract` are written with: the engine under test, records, processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from ..errors import LogTruncated
from ..operate.desk import now_ms
from ..ports import Extent, Log, Outgoing, Reader, Record, TopicPartition

PATIENCE_S = 60.0
"""How long a condition may take that has to come true."""

COUNT_MAX = 500
BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True)
class LogEngine:
    """A log and what its owner can do to it. `open` must be picklable: processes call it too."""

    open: Callable[[], Log]
    drop: Callable[[str], None]
    """Delete the topic with its records; returns when nobody sees it any more."""
    grow: Callable[[str, int], None]
    """Add partitions to the topic, up to that number."""
    truncate: Callable[[str, int, int], None]
    """(topic, partition, before): give up the records below that offset, as retention does."""
    crash: Callable[[], None]
    """Kill what serves the log, without warning, and start it again. Nothing, if it has none."""
    record_bytes_max: int
    """A value of this size or larger is refused for good."""
    calls_are_atomic: bool
    """A call of a publisher that was killed is in the log as a whole or not at all."""


def new_topic() -> str:
    """A name that no topic has."""
    return f"contract-{uuid.uuid4().hex[:12]}"


def record(topic: str, key: str | None, number: int) -> Outgoing:
    """A small record that carries `number`."""
    value = json.dumps({"n": number}).encode()
    raw = None if key is None else key.encode()
    return Outgoing(topic, raw, value, [("n", str(number)), ("of", "contract")], now_ms())


def publish(log: Log, records: Sequence[Outgoing]) -> None:
    """Publish; nothing may be refused."""
    assert log.publish(records, PATIENCE_S) == []


def starts(log: Log, topic: str) -> dict[TopicPartition, int]:
    """Positions at the start of every partition."""
    return {(topic, n): extent.start for n, extent in enumerate(log.extents(topic))}


def read(reader: Reader, count: int) -> list[Record]:
    """So many records, and not one more."""
    records: list[Record] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} records came instead of {count}"
        records += reader.fetch(COUNT_MAX, BYTES_MAX, 1.0)
    assert len(records) == count, f"{len(records)} records came instead of {count}"
    return records


def numbers(records: Sequence[Record]) -> list[int]:
    """What the records carry."""
    return [json.loads(r.value or b"{}")["n"] for r in records]


def by_key(records: Sequence[Record]) -> dict[bytes | None, list[int]]:
    """What the records carry, in order, by key."""
    found: dict[bytes | None, list[int]] = defaultdict(list)
    for r, number in zip(records, numbers(records), strict=True):
        found[r.key].append(number)
    return dict(found)


@contextmanager
def filled(
    engine: LogEngine, *, partitions: int, count: int, call: int = 500
) -> Iterator[tuple[Log, str]]:
    """A log and a new topic with so many records, over 20 keys, published in such calls."""
    with closing(engine.open()) as log:
        topic = new_topic()
        log.create(topic, partitions)
        for begin in range(0, count, call):
            numbers_ = range(begin, min(begin + call, count))
            publish(log, [record(topic, f"key-{n % 20}", n) for n in numbers_])
        yield log, topic


def everything(log: Log, topic: str) -> list[Record]:
    """All that is in the topic now."""
    extents = log.extents(topic)
    with closing(log.reader("everything")) as reader:
        reader.assign(starts(log, topic))
        return read(reader, sum(extent.end - extent.start for extent in extents))


def everything_at_rest(log: Log, topic: str) -> list[Record]:
    """Everything, once nothing of a dead publisher arrives any more."""
    extents: list[Extent] = []
    while extents != (extents := log.extents(topic)):
        time.sleep(0.2)
    return everything(log, topic)


def check_offsets_rise(records: Sequence[Record]) -> None:
    """By partition 0, 1, 2 …, and each key in one partition only."""
    next_: dict[TopicPartition, int] = {}
    homes: dict[bytes | None, int] = {}
    for r in records:
        place = (r.topic, r.partition)
        assert r.offset == next_.get(place, 0), f"{place}: offset {r.offset}"
        next_[place] = r.offset + 1
        assert r.key is None or homes.setdefault(r.key, r.partition) == r.partition


def check_calls(
    engine: LogEngine, records: Sequence[Record], calls: Mapping[str, int], size: int
) -> None:
    """Acknowledged calls are there, once and in order; of later ones what the engine says."""
    check_offsets_rise(records)
    for found in by_key(records).values():
        assert found == sorted(set(found)), "doubled or out of order"
    for name, acknowledged in calls.items():
        mine = {n for r, n in zip(records, numbers(records), strict=True) if _owner(r) == name}
        missing = set(range(acknowledged * size)) - mine
        assert not missing, f"{len(missing)} acknowledged records are not there"
        if engine.calls_are_atomic:
            assert len(mine) % size == 0, "part of a call"


def _owner(found: Record) -> str:
    return (found.key or b"").decode().partition("-")[0]


def publish_calls(
    open_: Callable[[], Log],
    topic: str,
    name: str,
    size: int,
    calls: int | None,
    report: Connection | None = None,
) -> None:
    """A publisher: so many calls (None: for ever) over ten keys, each reported when done."""
    with closing(open_()) as log:
        done = 0
        while calls is None or done < calls:
            numbers_ = range(done * size, (done + 1) * size)
            publish(log, [record(topic, f"{name}-{n % 10}", n) for n in numbers_])
            done += 1
            if report is not None:
                report.send(done)


@contextmanager
def publisher(engine: LogEngine, topic: str, name: str, size: int) -> Iterator[Callable[[], int]]:
    """A process that publishes until the block ends, which kills it; tells the calls done."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    arguments = (engine.open, topic, name, size, None, sender)
    process = context.Process(target=publish_calls, args=arguments)
    process.start()
    sender.close()
    done = 0

    def acknowledged() -> int:
        nonlocal done
        try:
            while receiver.poll():  # not waiting: a fast publisher always has more to tell
                done = receiver.recv()
        except (EOFError, OSError):  # it was killed, perhaps in the middle of a report
            pass
        return done

    try:
        yield acknowledged
    finally:
        assert process.pid is not None, "it was started"
        assert process.exitcode is None, "the publisher ended by itself"
        os.kill(process.pid, signal.SIGKILL)
        process.join()


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Run `work` beside the block; its failure is the block's."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # raised again where it is seen
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    for failure in failures:
        raise failure


def until(condition: Callable[[], bool]) -> None:
    """Return when it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "a condition did not come true"
        time.sleep(0.005)


def until_truncated(reader: Reader, position: str, *, records_come: bool = False) -> None:
    """Fetch until LogTruncated comes, for that position; before it only if `records_come`."""
    deadline = time.monotonic() + PATIENCE_S
    error: LogTruncated | None = None
    while error is None:
        assert time.monotonic() < deadline, f"no LogTruncated for {position}"
        try:
            came = reader.fetch(COUNT_MAX, BYTES_MAX, 0.5)
        except LogTruncated as raised:
            error = raised
        else:
            assert records_come or not came, (
                f"{len(came)} records of a position that is not in the log"
            )
    assert (error.position or "").startswith(position), f"{error.position}, not {position}"


def raises(kind: type[BaseException], call: Callable[[], object]) -> None:
    """The call raises that error, or one of its kind."""
    try:
        call()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")
