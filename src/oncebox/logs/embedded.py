"""The embedded log: append-only and partitioned, in a SQLite file that processes share.

The file may be somebody's store as well: the log's tables are called `oncebox_log_…`. What a
`publish` call brings for a partition is packed into blocks, a row each, so that a record costs no
row of its own. WAL and `synchronous=FULL`: what is acknowledged is on the disk. A call is one
transaction: all of it, or nothing. Offsets of a partition are 0, 1, 2 … without holes.

The partition of a key is `zlib.crc32(key) % partitions`; records without a key go round. When
partitions are added, keys move: chains keep their order, readers without chains lose it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
import zlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ..errors import (
    ConfigurationError,
    CorruptStore,
    LogTruncated,
    MissingTables,
    NotFound,
    OnceboxError,
)
from ..ports import Extent, Outgoing, Record, Refusal, Topic, TopicPartition
from ..statements import migrations, statements
from ..stores.sqlite import connect, translated
from .blocks import RECORD_BYTES_MAX, BadBlock, Entry, Unpacked, blocks, pack, unpack

PARTITIONS = 4
PARTITIONS_MAX = 1024
TOPIC_NAME_MAX = 249
RETENTION_S = 7 * 24 * 3600.0
RETENTION_ADVISED_S = 24 * 3600.0

POLL_S = 0.002
POLL_MAX_S = 0.003
"""A waiting reader looks for commits this often: rarely when nothing came for a while."""

WRITE_TIMEOUT_S = 10.0
"""How long work on topics waits for other writers of the file."""

EXPIRED_MAX = 16
"""Blocks that a call deletes per partition, beyond twice what it added: it keeps up, bounded."""

DELETED_MAX = 1024
"""Blocks that one transaction of `truncate` and `drop` deletes."""

FORMAT = 1
DAMAGED = "the file is damaged: restore it from a copy, or republish from the outbox"

_sql = statements("embedded")


class _Partition(NamedTuple):
    id: int
    start: int
    next: int
    bytes: int
    time_max: int
    retention_ms: int | None
    retention_bytes: int | None


class EmbeddedLog:
    """The log in the file `path`. Safe for threads; each reader has a connection of its own.

    `retention_s` (since it was written) and `retention_bytes` (of a partition) are those of
    topics that this object creates; None keeps for ever. Raises StoreUnavailable (locked,
    read-only, full, no such folder), CorruptStore, MissingTables (a newer format), here and in
    every method. Do not publish while the same thread has a write transaction open in this file.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        retention_s: float | None = RETENTION_S,
        retention_bytes: int | None = None,
    ) -> None:
        if not str(path) or "\0" in str(path):
            raise ConfigurationError(f"SQLite path {str(path)!r}", expected="sqlite:///file.db")
        self.path = Path(path)
        self._retention = (_ms(retention_s), retention_bytes)
        self._lock = threading.Lock()
        self._round = count()
        self._connection = _open(self.path)

    def __repr__(self) -> str:
        return f"EmbeddedLog({str(self.path)!r})"

    # ---- topics

    def describe(self, topic: str) -> Topic | None:
        """The topic, or None when it does not exist."""
        with self._reading() as connection:
            row = connection.execute(_sql["describe"], (topic,)).fetchone()
        return None if row is None else Topic(*row)

    def create(self, topic: str, partitions: int = PARTITIONS) -> None:
        """Make the topic; nothing happens when it exists."""
        if not 0 < len(topic) <= TOPIC_NAME_MAX or "\0" in topic:
            raise ConfigurationError(
                f"topic {topic[:40]!r}", expected=f"1 to {TOPIC_NAME_MAX} characters without NUL"
            )
        with self._writing() as connection:
            values = (topic, str(uuid.uuid4()), *self._retention)
            if connection.execute(_sql["add_topic"], values).rowcount:
                _add_partitions(connection, topic, range(_checked(partitions)))

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions up to that number. Keys move: see the module's docstring."""
        with self._writing() as connection:
            present = len(_partitions(connection, topic))
            _add_partitions(connection, topic, range(present, _checked(partitions)))

    def retain(self, topic: str, *, retention_s: float | None, retention_bytes: int | None) -> None:
        """Change how long (seconds since written) and how much (bytes per partition) is kept."""
        with self._writing() as connection:
            connection.execute(_sql["retain"], (topic, _ms(retention_s), retention_bytes))

    def truncate(self, topic: str, partition: int, before: int) -> None:
        """Give up the records below offset `before`, as retention does."""
        done = False
        while not done:
            with self._writing() as connection:
                row = _partitions(connection, topic)[partition]
                offset = min(max(before, row.start), row.next)
                done = _delete_below(connection, row, offset)

    def drop(self, topic: str) -> None:
        """Delete the topic with its records; nothing happens when it does not exist."""
        found = self.describe(topic)
        if found is None:
            return
        for number, extent in enumerate(self.extents(topic)):
            self.truncate(topic, number, extent.end)
        with self._writing() as connection:
            for row in _partitions(connection, topic):
                connection.execute(_sql["delete_blocks"], (row.id, row.next))
            connection.execute(_sql["drop_partitions"], (topic,))
            connection.execute(_sql["drop_topic"], (topic,))

    def extents(self, topic: str) -> list[Extent]:
        """What can be read now, by partition number. Raises NotFound."""
        with self._reading() as connection:
            return [Extent(row.start, row.next) for row in _partitions(connection, topic)]

    def offsets_at(self, topic: str, time_ms: int) -> list[int]:
        """By partition, the first offset whose log time is `time_ms` or later, else the end.

        Raises NotFound.
        """
        with self._reading() as connection:
            rows = _partitions(connection, topic)
            return [_offset_at(connection, row, time_ms) for row in rows]

    def check(self, topic: str) -> list[str]:
        """Settings of the topic that cannot keep the promises, as sentences. Raises NotFound."""
        with self._reading() as connection:
            row = _partitions(connection, topic)[0]
        found = []
        if row.retention_ms is not None and row.retention_ms < RETENTION_ADVISED_S * 1000:
            found.append(
                f"topic {topic} keeps records for {row.retention_ms / 1000:g} s only: a consumer"
                " that stands still for longer loses them"
            )
        if row.retention_bytes is not None:
            found.append(
                f"topic {topic} keeps {row.retention_bytes} bytes per partition, however far its"
                " consumers are"
            )
        return found

    # ---- records

    def publish(self, records: Sequence[Outgoing], timeout_s: float) -> list[Refusal]:
        """Append in one transaction; what is not refused is on the disk when this returns.

        Waits up to `timeout_s` for other writers of the file. A record's time that is ahead of
        this machine's clock is taken as now, so that one wrong clock cannot bend `offsets_at`.
        """
        packed, refusals = pack(records, _now_ms())
        with self._writing(timeout_s) as connection:
            for topic, entries in packed.items():
                rows = [
                    _Partition(*row) for row in connection.execute(_sql["partitions"], (topic,))
                ]
                if rows:
                    self._route(connection, rows, entries)
                else:
                    reason = f"topic {topic} does not exist"
                    refusals += [Refusal(e[0], reason, permanent=False) for e in entries]
        refusals.sort()
        return refusals

    def reader(self, group: str) -> EmbeddedReader:
        """A new reading end; `group` is not used: the consumers' cursors say how far they are."""
        del group
        return EmbeddedReader(self.path)

    def close(self) -> None:
        """Close the log's own connection; its readers stay open."""
        with self._lock:
            self._connection.close()

    def _route(
        self, connection: sqlite3.Connection, rows: list[_Partition], entries: list[Entry]
    ) -> None:
        routed: list[list[Entry]] = [[] for _ in rows]
        partitions, crc32 = len(rows), zlib.crc32
        for entry in entries:
            key = entry[1]
            hashed = next(self._round) if key is None else crc32(key)
            routed[hashed % partitions].append(entry)
        now_ms = _now_ms()
        for row, run in zip(rows, routed, strict=True):
            if run:
                _append(connection, row, run, now_ms)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _typed_errors(self.path):
            yield self._connection

    @contextmanager
    def _writing(self, timeout_s: float = WRITE_TIMEOUT_S) -> Iterator[sqlite3.Connection]:
        with self._lock, _typed_errors(self.path):
            connection = self._connection
            connection.execute(f"PRAGMA busy_timeout = {int(timeout_s * 1000)}")
            connection.execute("BEGIN IMMEDIATE")
            with connection:  # commits, or rolls back
                yield connection


class _Place(Unpacked):
    """`id` is the partition's, None until it is looked up; `lost`: to be assigned anew."""

    __slots__ = ("id", "lost")

    def __init__(self, topic: str, number: int, offset: int) -> None:
        super().__init__(topic, number, offset)
        self.id: int | None = None
        self.lost = False


class EmbeddedReader:
    """A reading end. A waiting `fetch` watches SQLite's `data_version`, which is cheap."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = _open(path)
        self._places: dict[TopicPartition, _Place] = {}
        self._turn: deque[_Place] = deque()
        self._woken = threading.Event()

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets, and no others.

        A partition where the reader stands at that offset already goes on undisturbed.
        """
        before = self._places
        self._places = {}
        for (topic, number), offset in positions.items():
            place = before.get((topic, number))
            if place is None or place.next != offset or place.lost:
                place = _Place(topic, number, offset)
            self._places[topic, number] = place
        self._turn = deque(self._places.values())

    def fetch(self, count_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        """Records in offset order per partition; returns at once when there are any.

        Partitions take turns. A record larger than `bytes_max` still comes, when it is first.
        Waits up to `wait_s` for the first record. Raises LogTruncated when an assigned offset,
        partition or topic is not in the log; again until it is assigned anew.
        """
        deadline = time.monotonic() + wait_s
        with _typed_errors(self._path):
            while True:
                version = self._version()
                records = self._read(count_max, bytes_max)
                if records or not self._changes(version, deadline):
                    self._woken.clear()
                    return records

    def wake(self) -> None:
        """Make a waiting `fetch`, or the next one that would wait, return early."""
        self._woken.set()

    def acknowledge(self, positions: Mapping[TopicPartition, int]) -> None:
        """Nothing: the embedded log has no tools of its own, the consumers' cursors say it."""

    def close(self) -> None:
        """Close the reader's connection."""
        self._connection.close()

    def _version(self) -> int:
        row = self._connection.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    def _changes(self, version: int, deadline: float) -> bool:
        """Wait for a commit; False when the time is over or somebody woke us."""
        pause_s = POLL_S
        while True:
            left_s = deadline - time.monotonic()
            if self._woken.wait(max(min(pause_s, left_s), 0)) or left_s <= 0:
                return False
            if self._version() != version:
                return True
            pause_s = min(pause_s * 1.5, POLL_MAX_S)

    def _read(self, count_max: int, bytes_max: int) -> list[Record]:
        self._turn.rotate(-1)
        ready = self._ready()
        records: list[Record] = []
        used = 0
        try:
            for done, place in enumerate(ready):
                waiting = len(ready) - done
                share = -(-(count_max - len(records)) // waiting)
                used += self._take(place, records, share, (bytes_max - used) // waiting)
                if not records:  # whose turn it is goes on, also with a giant
                    records, used = place.take(1, RECORD_BYTES_MAX)
        except (sqlite3.Error, OnceboxError):
            if not records:  # else what was taken comes first; the error comes again
                raise
        return records

    def _take(self, place: _Place, records: list[Record], count_max: int, bytes_max: int) -> int:
        """Add the place's next records within bounds; their bytes."""
        used = 0
        with closing(self._load(place)) as loading:
            while count_max > 0:
                if not place.records and not next(loading, False):
                    break
                taken, size = place.take(count_max, bytes_max - used)
                if not taken:
                    break
                records += taken
                count_max -= len(taken)
                used += size
        return used

    def _load(self, place: _Place) -> Generator[bool, None, None]:
        """Unpack the place's next block at each step; begun when nothing is unpacked."""
        found = self._connection.execute(_sql["blocks_from"], (place.id, place.next))
        with closing(found):
            for base, data in found:
                if base > place.next:
                    raise self._lost(place, f"an offset from {base} on")
                try:
                    place.load(base, data)
                except BadBlock as error:
                    raise _damaged(self._path, place, error) from error
                if place.records:
                    yield True

    def _ready(self) -> list[_Place]:
        """The places that have records, the one whose turn it is first."""
        for place in self._turn:
            if place.id is None:
                self._find(place)
        ids = [place.id for place in self._turn]
        rows = self._connection.execute(
            "SELECT id, start, next FROM oncebox_log_partition"
            f" WHERE id IN ({','.join('?' * len(ids))})",
            ids,
        )
        extents: dict[int | None, Extent] = {id: Extent(*ends) for id, *ends in rows}
        ready = []
        for place in self._turn:
            extent = extents.get(place.id)
            if extent is None:
                raise self._lost(place, "a topic that was not deleted or made anew")
            if place.records or extent.start <= place.next < extent.end:
                ready.append(place)
            elif place.next != extent.end:
                raise self._lost(place, f"an offset from {extent.start} to {extent.end}")
        return ready

    def _find(self, place: _Place) -> None:
        parameters = (place.topic, place.number)
        row = self._connection.execute(_sql["partition_id"], parameters).fetchone()
        if row is None:
            raise self._lost(place, "a topic and partition that exist")
        place.id = row[0]

    def _lost(self, place: _Place, expected: str) -> LogTruncated:
        place.lost = True
        return LogTruncated(
            f"{self._path} has no record of topic {place.topic} there",
            position=f"{place.topic}/{place.number}@{place.next}",
            expected=expected,
            hint="records expired, or the topic was made anew; chains show what is missing",
        )


# ---- opening and errors


def _open(path: Path) -> sqlite3.Connection:
    """A connection to the file, in which the log's tables are."""
    connection = connect(path)
    try:
        with _typed_errors(path):
            _ensure_tables(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _ensure_tables(connection: sqlite3.Connection) -> None:
    if connection.execute(_sql["has_tables"]).fetchone() is None:
        connection.execute("BEGIN IMMEDIATE")
        with connection:  # commits, or rolls back
            if connection.execute(_sql["has_tables"]).fetchone() is None:
                for statement in migrations("embedded")[0].sql.split(";\n"):
                    connection.execute(statement)
    version = connection.execute(_sql["format"]).fetchone()[0]
    if version != FORMAT:
        raise MissingTables(
            f"the log's tables have format {version}",
            expected=f"format {FORMAT}",
            hint="a newer oncebox wrote this file: upgrade this one",
        )


@contextmanager
def _typed_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise translated(error, path) from error
    except BadBlock as error:
        raise CorruptStore(f"{path}: a block cannot be read: {error}", hint=DAMAGED) from error


def _damaged(path: Path, place: _Place, error: Exception) -> CorruptStore:
    return CorruptStore(
        f"{path}: a block of topic {place.topic} cannot be read: {error}",
        position=f"{place.topic}/{place.number}@{place.next}",
        hint=DAMAGED,
    )


# ---- partitions and blocks, inside the caller's transaction


def _partitions(connection: sqlite3.Connection, topic: str) -> list[_Partition]:
    rows = [_Partition(*row) for row in connection.execute(_sql["partitions"], (topic,))]
    if not rows:
        raise NotFound(f"topic {topic} does not exist", hint="make it: oncebox topics create")
    return rows


def _add_partitions(connection: sqlite3.Connection, topic: str, numbers: range) -> None:
    connection.executemany(_sql["add_partition"], [(topic, number) for number in numbers])


def _append(
    connection: sqlite3.Connection, row: _Partition, entries: list[Entry], now_ms: int
) -> None:
    """Append entries to a partition, and delete what has expired there."""
    base, size, time_max = row.next, row.bytes, row.time_max
    rows = []
    for block in blocks(entries):
        time_max = max(time_max, block.time_max)
        rows.append((row.id, base, block.length, block.size, now_ms, time_max, block.data))
        base += block.length
        size += block.size
    connection.executemany(_sql["add_block"], rows)
    connection.execute(_sql["set_end"], (row.id, base, size, time_max))
    if row.retention_ms is not None or row.retention_bytes is not None:
        grown = row._replace(next=base, bytes=size)
        _expire(connection, grown, now_ms, EXPIRED_MAX + 2 * len(rows))


def _expire(connection: sqlite3.Connection, row: _Partition, now_ms: int, blocks_max: int) -> None:
    """Delete the oldest blocks beyond retention; the newest one always stays."""
    left, keep_from = row.bytes, row.start
    oldest = connection.execute(_sql["oldest_blocks"], (row.id, row.next - 1, blocks_max))
    with closing(oldest):
        for _, end, size, written_ms in oldest:
            old = row.retention_ms is not None and written_ms < now_ms - row.retention_ms
            big = row.retention_bytes is not None and left > row.retention_bytes
            if not old and not big:
                break
            left -= size
            keep_from = end
    if keep_from > row.start:
        _delete_below(connection, row, keep_from)


def _delete_below(connection: sqlite3.Connection, row: _Partition, offset: int) -> bool:
    """Move a partition's start and delete whole blocks below it; False: there are more."""
    found = connection.execute(_sql["oldest_blocks"], (row.id, offset, DELETED_MAX)).fetchall()
    if found:
        connection.execute(_sql["delete_blocks"], (row.id, found[-1][0]))
    freed = sum(size for _, _, size, _ in found)
    connection.execute(_sql["set_start"], (row.id, offset, freed))
    return len(found) < DELETED_MAX


def _offset_at(connection: sqlite3.Connection, row: _Partition, time_ms: int) -> int:
    """Blocks' `time_max` never falls, so the first that may hold the time is found by halving."""
    low, high = row.start, row.next
    while low < high:
        parameters = (row.id, (low + high) // 2)
        base, length, time_max = connection.execute(_sql["block_at"], parameters).fetchone()
        if time_max < time_ms:
            low = base + length
        else:
            high = base
    # The record with that time may have expired since: then the search goes on from here.
    with closing(connection.execute(_sql["blocks_from"], (row.id, low))) as found:
        for base, data in found:
            for offset, (_, _, _, record_ms) in enumerate(unpack(data)[1], base):
                if record_ms >= time_ms and offset >= row.start:
                    return offset
    return row.next


def _checked(partitions: int) -> int:
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise ConfigurationError(f"{partitions} partitions", expected=f"1 to {PARTITIONS_MAX}")
    return partitions


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
