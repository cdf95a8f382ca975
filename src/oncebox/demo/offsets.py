"""What a broker keeps for a consumer group: how far it has acknowledged. For the half by hand.

Partitions are dealt out for good, so that nothing here is worse than a real broker's groups.
"""

from __future__ import annotations

from pathlib import Path

from oncebox.ports import Log, Record, TopicPartition

from .tables import open_file

FILE = "offsets.db"
BYTES_MAX = 1024 * 1024
WAIT_S = 0.05


def make_offsets(folder: Path) -> None:
    """Make the file in which the groups' offsets are."""
    db = open_file(folder / FILE)
    db.execute(
        'CREATE TABLE acknowledged ("group" TEXT, topic TEXT, part INTEGER, next INTEGER,'
        ' PRIMARY KEY ("group", topic, part))'
    )
    db.close()


def acknowledged(folder: Path) -> dict[tuple[str, str, int], int]:
    """The next offset by group, topic and partition."""
    db = open_file(folder / FILE)
    rows = db.execute('SELECT "group", topic, part, next FROM acknowledged').fetchall()
    db.close()
    return {(group, topic, part): next for group, topic, part, next in rows}


class Offsets:
    """The `index`-th of `members` readers of a group: it begins where the group acknowledged."""

    def __init__(
        self, log: Log, group: str, topics: tuple[str, ...], index: int = 0, members: int = 1
    ) -> None:
        self.group = group
        self.db = open_file(Path(FILE))
        self.reader = log.reader(group)
        known = acknowledged(Path())
        self.next: dict[TopicPartition, int] = {
            (topic, part): known.get((group, topic, part), 0)
            for topic in topics
            for part in range(len(log.extents(topic)))
            if part % members == index
        }
        self.noted = dict(self.next)
        self.reader.assign(self.next)

    def poll(self, count_max: int) -> list[Record]:
        """Records that are there, or none after a short wait."""
        records = self.reader.fetch(count_max, BYTES_MAX, WAIT_S)
        for record in records:
            self.next[record.topic, record.partition] = record.offset + 1
        return records

    def acknowledge(self) -> None:
        """What was polled is done with: a restarted reader goes on behind it."""
        moved = [
            (self.group, topic, part, offset)
            for (topic, part), offset in self.next.items()
            if self.noted[topic, part] != offset
        ]
        if moved:
            self.db.execute("BEGIN IMMEDIATE")
            self.db.executemany("INSERT OR REPLACE INTO acknowledged VALUES (?, ?, ?, ?)", moved)
            self.db.execute("COMMIT")
            self.noted = dict(self.next)
