"""The embedded log: append-only and partitioned, in a SQLite file that processes share.

The file may be somebody's store as well: the log's tables are called `oncebox_log_…`. WAL and
`synchronous=FULL`: what is acknowledged is on the disk. A call of `publish` is one transaction: all
of it, or nothing. Offsets of a partition are 0, 1, 2 … without holes; its times never fall.

The partition of a key is `zlib.crc32(key) % partitions`; records without a key go round. When
partitions are added, keys move: chains keep their order, readers without chains lose it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import msgspec

from ..errors import (
    ConfigurationError,
    CorruptStore,
    LogTruncated,
    MissingTables,
    NotFound,
    OnceboxError,
)
from ..ports import Extent, Outgoing, Record, Refusal, Topic, TopicPartition, truncated
from ..statements import migrations, statements
from ..stores.sqlite import checked_path, connect, translated

PARTITIONS = 4
PARTITIONS_MAX = 1024
TOPIC_NAME_MAX = 249
RETENTION_S = 7 * 24 * 3600.0
RETENTION_ADVISED_S = 24 * 3600.0

RECORD_BYTES_MAX = 10 * 1024 * 1024
"""A record with headers; above the envelope's bound, so that a good event always fits."""

POLL_S = 0.002
POLL_MAX_S = 0.003
"""A waiting reader looks for commits this often: rarely when nothing came for a while."""

WRITE_TIMEOUT_S = 10.0
"""How long work on topics waits for other writers of the file."""

EXPIRED_MAX = 16
"""Records that a call gives up per partition, beyond twice what it added: it keeps up, bounded."""

OFFSET_BITS = 40
"""A record's row id is its partition's id and, in so many bits, its offset."""

FORMAT = 1
DAMAGED = "the file is damaged: restore it from a copy, or republish from the outbox"

_sql = statements("embedded")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[str, bytes | None]]).decode


@dataclass(slots=True)
class _Partition:
    """`time_ms` is the time of its last record; `added`: so many in this call."""

    id: int
    start: int
    next: int
    time_ms: int
    retention_ms: int | None
    added: int = 0

    def row_id(self, offset: int) -> int:
        return self.id << OFFSET_BITS | offset

    def add(self, time_ms: int) -> int:
        """The row id of one more record; its time is `self.time_ms`, which never falls."""
        self.time_ms = max(self.time_ms, time_ms)
        self.added += 1
        self.next += 1
        return self.row_id(self.next - 1)


class EmbeddedLog:
    """The log in the file `path`. Safe for threads; each reader has a connection of its own.

    `retention_s`, since a record was written, is that of topics that this object creates; None
    keeps for ever. Raises StoreUnavailable (locked, read-only, full, no such folder),
    CorruptStore, MissingTables (a newer format), here and in every method. Do not publish while
    the same thread has a write transaction open in this file.
    """

    def __init__(self, path: str | Path, *, retention_s: float | None = RETENTION_S) -> None:
        self.path = checked_path(str(path))
        self._retention_ms = _ms(retention_s)
        self._lock = threading.Lock()
        self._round = count()
        self._connection = _open(self.path)

    def __repr__(self) -> str:
        return f"EmbeddedLog({str(self.path)!r})"

    # ---- topics

    def describe(self, topic: str) -> Topic | None:
        with self._reading() as connection:
            row = connection.execute(_sql["describe"], (topic,)).fetchone()
        return None if row is None else Topic(*row)

    def create(self, topic: str, partitions: int = PARTITIONS) -> None:
        if not 0 < len(topic) <= TOPIC_NAME_MAX or "\0" in topic:
            raise ConfigurationError(
                f"topic {topic[:40]!r}", expected=f"1 to {TOPIC_NAME_MAX} characters without NUL"
            )
        with self._writing() as connection:
            values = (topic, str(uuid.uuid4()), self._retention_ms)
            if connection.execute(_sql["add_topic"], values).rowcount:
                _add_partitions(connection, topic, 0, partitions)

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions up to that number. Keys move: see the module's docstring."""
        with self._writing() as connection:
            present = len(_known(connection, topic))
            _add_partitions(connection, topic, present, partitions)

    def retain(self, topic: str, retention_s: float | None) -> None:
        """Change how long (seconds since written) records are kept."""
        with self._writing() as connection:
            connection.execute(_sql["retain"], (topic, _ms(retention_s)))

    def truncate(self, topic: str, partition: int, before: int) -> None:
        """Give up the records below offset `before`, as retention does."""
        with self._writing() as connection:
            at = _known(connection, topic)[partition]
            _give_up(connection, at, min(max(before, at.start), at.next))

    def drop(self, topic: str) -> None:
        """Delete the topic with its records; nothing happens when it does not exist."""
        with self._writing() as connection:
            for at in _partitions(connection, topic):
                _give_up(connection, at, at.next)
            connection.execute(_sql["drop_partitions"], (topic,))
            connection.execute(_sql["drop_topic"], (topic,))

    def home(self, key: bytes, partitions: int) -> int:
        return zlib.crc32(key) % partitions

    def extents(self, topic: str) -> list[Extent]:
        with self._reading() as connection:
            return [Extent(at.start, at.next) for at in _known(connection, topic)]

    def offsets_at(self, topic: str, time_ms: int) -> list[int]:
        with self._reading() as connection:
            partitions = _known(connection, topic)
            return [_first_at(connection, at, "time_at", time_ms, at.next) for at in partitions]

    def check(self, topic: str) -> list[str]:
        with self._reading() as connection:
            kept_ms = _known(connection, topic)[0].retention_ms
        if kept_ms is None or kept_ms >= RETENTION_ADVISED_S * 1000:
            return []
        kept = f"topic {topic} keeps records for {kept_ms / 1000:g} s only"
        return [f"{kept}: a consumer that stands still for longer loses them"]

    def retention_s(self, topic: str) -> float | None:
        """How long a topic keeps records; None: for ever. Raises NotFound."""
        with self._reading() as connection:
            kept_ms = _known(connection, topic)[0].retention_ms
        return None if kept_ms is None else kept_ms / 1000

    # ---- records

    def publish(self, records: Sequence[Outgoing], timeout_s: float) -> list[Refusal]:
        """Append in one transaction; what is not refused is on the disk when this returns.

        Waits up to `timeout_s` for other writers of the file. A record's time that is ahead of
        this machine's clock is taken as now, one behind the partition's last as that. Raises
        TypeError for what is not bytes.
        """
        with self._writing(timeout_s) as connection:
            return self._append(connection, records, time.time_ns() // 1_000_000)

    def _append(
        self, connection: sqlite3.Connection, records: Sequence[Outgoing], now_ms: int
    ) -> list[Refusal]:
        topics: dict[str, list[_Partition]] = {}
        refusals: list[Refusal] = []
        held: set[tuple[str, bytes | None]] = set()
        rows = []
        for index, (topic, key, value, headers, time_ms) in enumerate(records):
            partitions = topics.get(topic)
            if partitions is None:
                partitions = topics[topic] = _partitions(connection, topic)
            packed, problem, permanent = b"", "", False
            if not partitions:
                problem = f"topic {topic} does not exist"
            elif held and key is not None and (topic, key) in held:
                problem = "an earlier record of its key was refused"
            else:
                try:
                    packed = _packed(key, value, headers)
                except ValueError as error:
                    problem, permanent = f"it cannot be stored: {error}", True
            if problem:
                refusals.append(Refusal(index, problem, permanent))
                held.add((topic, key))
                continue
            many = len(partitions)
            at = partitions[next(self._round) % many if key is None else self.home(key, many)]
            id = at.add(min(time_ms, now_ms))
            rows.append((id, at.time_ms, now_ms, key, value, packed))
        rows.sort()
        connection.executemany(_sql["add_record"], rows)
        for at in chain.from_iterable(topics.values()):
            if at.added:
                connection.execute(_sql["set_end"], (at.id, at.next, at.time_ms))
                _expire(connection, at, now_ms)
        return refusals

    def reader(self, group: str) -> EmbeddedReader:
        """A new reading end; `group` is not used: the consumers' cursors say how far they are."""
        del group
        return EmbeddedReader(self.path)

    def close(self) -> None:
        """Close the log's own connection; its readers stay open."""
        with self._lock:
            self._connection.close()

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


class EmbeddedReader:
    """A reading end. A waiting `fetch` watches SQLite's `data_version`, which is cheap."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = _open(path)
        self._next: dict[TopicPartition, int] = {}
        self._ids: dict[TopicPartition, int] = {}  # of partitions that were found
        self._turn: deque[TopicPartition] = deque()
        self._lost: LogTruncated | None = None
        self._woken = threading.Event()

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        kept = {place for place, offset in positions.items() if self._next.get(place) == offset}
        self._ids = {place: id for place, id in self._ids.items() if place in kept}
        self._next = dict(positions)
        self._turn = deque(positions)
        self._lost = None

    def fetch(self, count_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        """Partitions take turns."""
        deadline = time.monotonic() + wait_s
        with _typed_errors(self._path):
            while True:
                version = self._version()
                records = self._read(count_max, bytes_max)
                if records or not self._changes(version, deadline):
                    self._woken.clear()
                    return records

    def wake(self) -> None:
        self._woken.set()

    def acknowledge(self, positions: Mapping[TopicPartition, int]) -> None:
        """Nothing: the embedded log has no tools of its own, the consumers' cursors say it."""

    def acknowledged(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:  # noqa: ARG002
        return {}

    def close(self) -> None:
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
            for done, (place, end) in enumerate(ready):
                waiting = len(ready) - done
                share = -(-(count_max - len(records)) // waiting)
                used += self._take(place, end, records, share, (bytes_max - used) // waiting)
        except (sqlite3.Error, OnceboxError):
            if not records:  # else what was taken comes first; the error comes again
                raise
        return records

    def _ready(self) -> list[tuple[TopicPartition, int]]:
        """The places that have records and where they end, the one whose turn it is first."""
        if self._lost is not None:
            raise self._lost
        ready = []
        for place in self._turn:
            known = (*place, self._ids.get(place))
            row = self._connection.execute(_sql["partition"], known).fetchone()
            if row is None:
                raise self._lose(place, "a topic and partition that exist, and are the same")
            self._ids[place], start, end = row
            if not start <= self._next[place] <= end:
                raise self._lose(place, f"an offset from {start} to {end}")
            if self._next[place] < end:
                ready.append((place, end))
        return ready

    def _take(
        self, place: TopicPartition, end: int, records: list[Record], count_max: int, bytes_max: int
    ) -> int:
        """Add the place's next records within bounds; their bytes."""
        (topic, number), begin, used = place, self._next[place], 0
        base, end = self._ids[place] << OFFSET_BITS, min(end, begin + count_max)
        rows = self._connection.execute(_sql["records"], (base + begin, base + end))
        with closing(rows):
            for offset, (id, time_ms, key, value, packed) in enumerate(rows, begin):
                if id != base + offset:
                    break
                size = len(key or b"") + len(value or b"") + len(packed)
                if used + size > bytes_max and records:
                    return used
                try:
                    headers = _decode(packed)
                except msgspec.MsgspecError as error:
                    raise CorruptStore(
                        f"{self._path}: a record of topic {topic} cannot be read: {error}",
                        position=f"{topic}/{number}@{offset}",
                        hint=DAMAGED,
                    ) from error
                records.append(Record(topic, number, offset, key, value, headers, time_ms))
                self._next[place] = offset + 1
                used += size
        if self._next[place] < end:
            raise self._lose(place, "every offset from its start to its end")
        return used

    def _lose(self, place: TopicPartition, expected: str) -> LogTruncated:
        self._ids.pop(place, None)
        self._lost = truncated(str(self._path), place, self._next[place], expected)
        return self._lost


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


# ---- partitions and records, inside the caller's transaction


def _partitions(connection: sqlite3.Connection, topic: str) -> list[_Partition]:
    """By number; none where the topic does not exist."""
    return [_Partition(*row) for row in connection.execute(_sql["partitions"], (topic,))]


def _known(connection: sqlite3.Connection, topic: str) -> list[_Partition]:
    found = _partitions(connection, topic)
    if not found:
        raise NotFound(f"topic {topic} does not exist", hint="make it: oncebox topics create")
    return found


def _add_partitions(
    connection: sqlite3.Connection, topic: str, present: int, partitions: int
) -> None:
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise ConfigurationError(f"{partitions} partitions", expected=f"1 to {PARTITIONS_MAX}")
    rows = [(topic, number) for number in range(present, partitions)]
    connection.executemany(_sql["add_partition"], rows)


def _packed(
    key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, str | bytes | None]]
) -> bytes:
    """The headers as msgpack. Raises ValueError for a record that cannot be stored, TypeError."""
    packed = _encode([(name, v.encode() if isinstance(v, str) else _raw(v)) for name, v in headers])
    size = len(_raw(key) or b"") + len(_raw(value) or b"") + len(packed)
    if size > RECORD_BYTES_MAX:
        raise ValueError(f"{size} bytes; the log takes up to {RECORD_BYTES_MAX}")
    return packed


def _raw(part: bytes | None) -> bytes | None:
    if part is None or isinstance(part, bytes):
        return part
    raise TypeError("a record's key and value are bytes or None, its headers text, bytes or None")


def _give_up(connection: sqlite3.Connection, at: _Partition, before: int) -> None:
    """Delete a partition's records below an offset that is not beyond its end."""
    if before > at.start:
        connection.execute(_sql["delete_records"], (at.row_id(at.start), at.row_id(before)))
        connection.execute(_sql["set_start"], (at.id, before))


def _expire(connection: sqlite3.Connection, at: _Partition, now_ms: int) -> None:
    """Give up what is older than the topic keeps, as far as EXPIRED_MAX lets a call."""
    if at.retention_ms is not None:
        end = min(at.next, at.start + EXPIRED_MAX + 2 * at.added)
        before_ms = now_ms - at.retention_ms
        _give_up(connection, at, _first_at(connection, at, "written_at", before_ms, end))


def _first_at(
    connection: sqlite3.Connection, at: _Partition, what: str, time_ms: int, end: int
) -> int:
    """The first offset below `end` whose `time_at` or `written_at` is that or later, else `end`:
    by halving, since neither falls.
    """

    def time_of(offset: int) -> int:
        row = connection.execute(_sql[what], (at.row_id(offset),)).fetchone()
        if row is None:
            raise CorruptStore(f"record {offset} of a partition is missing", hint=DAMAGED)
        found: int = row[0]
        return found

    return at.start + bisect_left(range(at.start, end), time_ms, key=time_of)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
