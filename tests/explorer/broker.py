"""A log in memory whose every freedom is the tape's: the environment, not what is tested.

Per partition it keeps its order and loses nothing. Between partitions a reader may get records in
any order, and fewer than there are.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from zlib import crc32

from oncebox.explorer import Run, arrivals
from oncebox.ports import Extent, Outgoing, Record, Refusal, Topic, TopicPartition

SHORT = "short fetch"
LOST, HALF, REFUSAL = "lost answer", "half publish", "refusal"


class Broker:
    """Implements `oncebox.ports.Log`."""

    def __init__(self, topic: str, partitions: int) -> None:
        self.topic = topic
        self.partition_by_key: dict[bytes | None, int] = {}
        self.parts: list[list[Record]] = [[] for _ in range(partitions)]
        self.run: Run | None = None
        self.readers: list[BrokerReader] = []
        self.count = 0
        self.reorders = True
        self.short = False
        self.faulty = False

    def begin(self, run: Run) -> None:
        """Empty, and at the service of a new run."""
        self.run = run
        self.count = 0
        self.readers.clear()
        for part in self.parts:
            part.clear()

    def state(self) -> Hashable:
        return tuple(
            (record.key, record.value, *record.headers) for part in self.parts for record in part
        )

    def partition_of(self, key: bytes | None) -> int:
        known = self.partition_by_key.get(key)
        return crc32(key or b"") % len(self.parts) if known is None else known

    def append(self, record: Outgoing, partition: int | None = None) -> None:
        at = self.partition_of(record.key) if partition is None else partition
        part = self.parts[at]
        headers = [(n, v.encode() if isinstance(v, str) else v) for n, v in record.headers]
        self.count += 1
        part.append(
            Record(self.topic, at, len(part), record.key, record.value, headers, self.count)
        )

    # ---- the port

    def describe(self, topic: str) -> Topic | None:
        return Topic("first", len(self.parts)) if topic == self.topic else None

    def create(self, topic: str, partitions: int) -> None:
        assert (topic, partitions) == (self.topic, len(self.parts))

    def home(self, key: bytes, partitions: int) -> int:
        return crc32(key) % partitions

    def extents(self, topic: str) -> list[Extent]:
        return [Extent(0, len(part)) for part in self.parts]

    def offsets_at(self, topic: str, time_ms: int) -> list[int]:
        return [0] * len(self.parts)

    def publish(self, records: Sequence[Outgoing], timeout_s: float) -> list[Refusal]:
        """All, or what a broker may do instead: an answer that gets lost behind all or half of
        the records, a record that is refused, and with it those of its key behind it.
        """
        assert self.run is not None
        count = len(records)
        kinds = (LOST,) + (HALF,) * (count - 1) + (REFUSAL,) * count
        picked = self.run.choose(kinds) if self.faulty else 0
        taken = count if picked <= 1 else picked - 1 if picked <= count else count
        refused = records[picked - count - 1].key if picked > count else b""
        refusals = []
        for at, record in enumerate(records[:taken]):
            if picked > count and at >= picked - count - 1 and record.key == refused:
                refusals.append(Refusal(at, "not now", permanent=False))
            else:
                self.append(record)
        if 0 < picked <= count:
            raise ConnectionError("the answer was lost")
        return refusals

    def reader(self, group: str) -> BrokerReader:
        made = BrokerReader(self)
        self.readers.append(made)
        return made

    def check(self, topic: str) -> list[str]:
        return []

    def close(self) -> None:
        pass


class BrokerReader:
    """Implements `oncebox.ports.Reader`."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.positions: dict[TopicPartition, int] = {}

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self.positions = {p: self.positions.get(p, at) for p, at in positions.items()}
        self.positions.update(positions)

    def fetch(self, count_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        broker, run = self.broker, self.broker.run
        assert run is not None
        waiting: list[Record] = []
        for (_, partition), at in self.positions.items():
            waiting += broker.parts[partition][at:]
        if len(waiting) > 1:
            waiting.sort(key=_first_come)
            if broker.reorders:
                waiting = list(arrivals(run.choose, waiting, _lane, duplicates=False))
            if broker.short and run.choose((SHORT,)):
                waiting = waiting[:1]
        found = waiting[:count_max]
        for record in found:
            self.positions[record.topic, record.partition] = record.offset + 1
        return found

    def wake(self) -> None:
        pass

    def acknowledge(self, positions: Mapping[TopicPartition, int]) -> None:
        pass

    def acknowledged(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return {}

    def close(self) -> None:
        pass


def _lane(record: Record) -> int:
    return record.partition


def _first_come(record: Record) -> int:
    return record.time_ms
