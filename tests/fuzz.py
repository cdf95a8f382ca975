"""Hostile records through the real consumer: `python tests/fuzz.py --count 1000000 --seed 7`.

Valid streams of some keys are mutated (bits, headers, chains, order) and delivered between the
streams of keys that nobody touches. Then: what was not touched has taken effect once, in order and
completely; no key's effects are out of order or twice; every delivered record is accounted for;
nothing raised. Work is cut into campaigns with files of their own; a campaign follows from
the seed and its number. At the end a table says what each mutation did. The suite runs a few
thousand (`test_fuzz.py`), its long mode 100,000.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from chains import SOURCE, Noted, Opened, Paid, Sent, World, make_store
from oncebox.consumer.batch import COUNTS
from oncebox.consumer.reading import record_of
from oncebox.context import Context
from oncebox.envelope import Reference, after_text, chain_text
from oncebox.ports import Outgoing, Record
from oncebox.program import drive

RECORDS_MAX = 10_000
"""Records of a campaign: what waits behind a key is read with it, so files stay small."""

UNTOUCHED = 6
TOUCHED = 12
LENGTH_MAX = 7
"""Keys of a round, and events of a key in it."""

OWNERS = 3
"""Every so many rounds the consumer stops and another goes on with what it left."""

START_MS = 1_767_225_600_000  # 2026-01-01
YEAR_US = 365 * 24 * 3600 * 1_000_000

Headers = list[tuple[str, str | bytes | None]]
Mutation = Callable[[Random, Outgoing, Outgoing], Outgoing]

MUTATIONS: dict[str, Mutation] = {}
"""What is done to one record; the second record is another one of a touched key."""

Shape = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
"""Key, value and headers: what a record is known by, wherever it lies."""


def mutation(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__] = function
    return function


def flipped(rng: Random, data: bytes) -> bytes:
    """The same bytes with one bit changed."""
    if not data:
        return b"\x01"
    at, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def cut(rng: Random, data: bytes) -> bytes:
    """Some of the bytes, from the left."""
    return data[: rng.randrange(len(data))] if data else data


def raw(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def shape(record: Outgoing | Record) -> Shape:
    headers = ((n, v.encode() if isinstance(v, str) else v) for n, v in record.headers)
    return record.key, record.value, tuple(headers)


def with_header(record: Outgoing, name: str, value: str | bytes | None) -> Outgoing:
    headers = [(n, v) for n, v in record.headers if n != name]
    return record._replace(headers=[*headers, (name, value)])


def header(record: Outgoing, name: str) -> bytes:
    return raw(dict(record.headers).get(name))


# ---- payloads


@mutation
def flip_value(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    return record._replace(value=flipped(rng, record.value or b""))


@mutation
def cut_value(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    return record._replace(value=cut(rng, record.value or b""))


@mutation
def other_value(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    return record._replace(value=other.value)


@mutation
def odd_value(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    deep = 10 ** rng.randrange(1, 5)
    odd: list[bytes | None] = [
        None, b"", b"null", b"[" * deep, b'{"order":' * deep, b"[" * deep + b"]" * deep,
        b'{"order":"m","cents":' + b"9" * 5000 + b"}", b'{"order":"\\u0000","cents":"\\u0000"}',
        b'{"order":"\\ud800","cents":1}', b"\xff\xfe", b'{"order":"m","order":"n","cents":1}',
        b'{"order":"m","cents":NaN}', b"x" * rng.randrange(200_000),
    ]  # fmt: skip
    return record._replace(value=rng.choice(odd))


# ---- headers


def changed_header(
    rng: Random, record: Outgoing, change: Callable[[str, bytes], tuple[str, bytes | None]]
) -> Outgoing:
    headers: Headers = list(record.headers)
    if headers:
        at = rng.randrange(len(headers))
        headers[at] = change(headers[at][0], raw(headers[at][1]))
    return record._replace(headers=headers)


@mutation
def flip_header(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    return changed_header(rng, record, lambda name, value: (name, flipped(rng, value)))


@mutation
def cut_header(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    return changed_header(rng, record, lambda name, value: (name, cut(rng, value)))


@mutation
def null_header(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    return changed_header(rng, record, lambda name, value: (name, None))


@mutation
def long_header(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    size = 10 ** rng.randrange(1, 6)
    return changed_header(rng, record, lambda name, value: (name, value * size))


@mutation
def renamed_header(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    names = ["ce_id", "ce_typ", "CE_TYPE", "ce_größe", "", " ", "content-type", "ce_chain\0"]
    return changed_header(rng, record, lambda name, value: (rng.choice(names), value))


@mutation
def drop_header(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    headers = list(record.headers)
    del headers[rng.randrange(len(headers))]
    return record._replace(headers=headers)


@mutation
def repeat_header(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    name = rng.choice(record.headers)[0]
    values = (dict(record.headers)[name], dict(other.headers).get(name), b"\xff")
    return record._replace(headers=[*record.headers, (name, rng.choice(values))])


@mutation
def swap_header(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    name = rng.choice(record.headers)[0]
    return with_header(record, name, dict(other.headers).get(name))


@mutation
def swap_all_headers(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    return record._replace(headers=other.headers)


@mutation
def foreign_header(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    odd: list[tuple[str, bytes | None]] = [
        ("größe", "ü".encode()), ("ce_überschrift", b"\xc3\x28"), ("x\0y", b"\0"), ("x", None),
        ("traceparent", b"\0\xff" * 100), ("content-type", b"\xff\0"), ("ce_void", b""),
        ("ce_dataschema", b"https://example.com/schema"), ("ce_specversion", b"2.0"),
    ]  # fmt: skip
    return with_header(record, *rng.choice(odd))


@mutation
def many_headers(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    more: Headers = [(f"x-{n}", b"x") for n in range(rng.choice((10, 57, 100, 1000)))]
    return record._replace(headers=[*record.headers, *more])


# ---- keys


@mutation
def odd_key(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    key = record.key or b""
    odd = [None, b"", b"k" * 10_000, key + b"\0", b"\xff\xfe", other.key, flipped(rng, key)]
    return record._replace(key=rng.choice(odd))


# ---- chains and times


def numbers(record: Outgoing) -> tuple[int, int, int | None]:
    """A record's chain as it says; (0, 0, None) if it does not."""
    parts = header(record, "ce_chain").split(b":")
    if len(parts) == 3 and all(part.isdigit() for part in parts[:2]):
        return int(parts[0]), int(parts[1]), int(parts[2]) if parts[2].isdigit() else None
    return 0, 0, None


@mutation
def odd_chain(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    sequence, stamp, previous = numbers(record)
    year = YEAR_US * 1024
    odd = [
        (sequence + 1, stamp, previous), (sequence - 1, stamp, previous),
        (sequence + 5, stamp + 5000, previous), (0, stamp, previous), (-1, stamp, previous),
        (2**63, stamp, previous), (2**63 - 1, 2**63 - 1, stamp), (sequence, stamp + 1, previous),
        (sequence, stamp + year, previous), (sequence, 2**63 - 1, previous),
        (sequence, stamp, (previous or 0) + 1), (sequence, stamp, None), (1, stamp, None),
        (sequence, 0, previous), (sequence, stamp, stamp), (10**40, 10**40, 10**40),
        numbers(other),
    ]  # fmt: skip
    return with_header(record, "ce_chain", chain_text(*rng.choice(odd)))


@mutation
def malformed_chain(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    odd: list[str | bytes] = [
        "", ":", "::", ":::", "1:1:", "1:2:3:4", "1 :2:", "+1:2:", "1:0x2:", "１:２:", b"\xb2:1:",
        "1:1e9:", "٣:4:", "1\n:2:", "00001:00002:", "1:2", "-1:2:", "1:" + "9" * 1000 + ":",
    ]  # fmt: skip
    return with_header(record, "ce_chain", rng.choice(odd))


@mutation
def odd_time(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    odd = (
        "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59",
        "1969-07-20T20:17:40Z", "2026-02-30T00:00:00Z", "2026-01-01T00:00:00", "now", "", "1",
    )  # fmt: skip
    time_ms = rng.choice((record.time_ms, 0, -1, -(2**63), 2**63 - 1))
    return with_header(record, "ce_time", rng.choice(odd))._replace(time_ms=time_ms)


@mutation
def odd_after(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    own = raw(record.key).decode("utf-8", "replace") or "m"
    stamp = numbers(other)[1]
    odd: list[str | bytes] = [
        after_text(Reference(SOURCE, own, stamp)), after_text(Reference(SOURCE, own, 2**63 - 1)),
        after_text(Reference("/bank/orders", "t", stamp)), f"{stamp}:{SOURCE}:m\0m",
        f"{stamp}:/shop\0/orders:m", f"{2**64}:{SOURCE}:m", f"{stamp}:{SOURCE}:" + "ü" * 1000,
        f"{stamp}:{'s' * 100_000}/orders:m", f"{stamp}:{SOURCE}#id:m", b"\xff", "", "::",
        after_text(Reference(SOURCE, "a key that never comes", stamp)),
        f"{stamp}:{SOURCE}:{raw(other.key).decode('utf-8', 'replace')}",
    ]  # fmt: skip
    return with_header(record, "ce_after", rng.choice(odd))


@mutation
def void(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    return with_header(record, "ce_void", "1")._replace(value=rng.choice((None, record.value)))


@mutation
def other_version(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    type = header(record, "ce_type").decode("latin-1")
    odd = (
        f"oncebox:{type}/2",
        f"oncebox:{type}/0",
        "oncebox:",
        f"oncebox:{type}/1/1",
        "oncebox:x/1",
    )
    return with_header(record, "ce_dataschema", rng.choice(odd))


@mutation
def random_record(rng: Random, record: Outgoing, other: Outgoing) -> Outgoing:
    headers: Headers = [(f"h{n}", rng.randbytes(5)) for n in range(rng.randrange(4))]
    value = rng.choice((None, rng.randbytes(rng.randrange(60))))
    return record._replace(key=rng.randbytes(3), value=value, headers=headers)


# ---- streams


@dataclass
class Campaign:
    """One world under attack, and what was done to it."""

    world: World
    rng: Random
    with_context: bool
    delivered: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    expected: dict[str, list[int]] = field(default_factory=dict)
    made: dict[Shape, str] = field(default_factory=dict)
    rounds: int = 0

    def prepare(self) -> None:
        """The table of effects, and handlers that write to it, or fail. All follows from the seed:
        the producer's ids and clock too.
        """
        world = self.world
        world.now_ms, world.producer.clock = START_MS, START_MS * 1000
        world.producer.new_id = lambda: UUID(int=self.rng.getrandbits(128), version=4)
        big = "INTEGER" if world.store.dialect == "sqlite" else "bigint"
        world.session.run(
            f"CREATE TABLE effect (n {'INTEGER' if big == 'INTEGER' else 'bigserial'} PRIMARY KEY,"
            f" source text, key text, id text, sequence {big}, stamp {big}, previous {big})"
        )
        mark = "?" if world.store.dialect == "sqlite" else "%s"
        insert = (
            "INSERT INTO effect (source, key, id, sequence, stamp, previous)"
            f" VALUES ({', '.join([mark] * 6)})"
        )

        def note(tx: Any, event: object, context: Context[None]) -> None:
            chain = context.chain or (None, None, None)
            tx.execute(insert, (context.source, context.key, context.id, *chain))

        def pay(tx: Any, paid: Paid) -> None:
            if paid.cents < 0:
                raise ValueError(f"a reason with \0 and \ud800 in it: {paid.order}")
            world.record(tx, paid.order, paid.cents)

        def pay_and_note(tx: Any, paid: Paid, context: Context[None]) -> None:
            pay(tx, paid)
            note(tx, paid, context)

        world.consumer.on(Paid)(pay_and_note if self.with_context else pay)
        world.consumer.on(Opened)(note)

    def run(self, count: int) -> None:
        """Rounds until that many records were delivered."""
        loop = self.world.loop(**BOUNDS)
        while self.delivered < count:
            self.world.deliver(*self.round())
            loop = self.world.settle(loop)
            self.rounds += 1
            if self.rounds % OWNERS == 0:
                drive(loop.leave())
                loop.reading.session.close()
                self.world.loops.remove(loop)
                self.world.now_ms += 60_000
                loop = self.world.loop(f"owner {self.rounds}", **BOUNDS)
        self.world.now_ms += 60_000
        self.world.settle(loop)
        assert not loop.paused

    def round(self) -> list[Sent]:
        """Untouched streams with a few repetitions, and touched ones between them."""
        rng = self.rng
        streams: list[list[Sent]] = []
        for n in range(UNTOUCHED):
            key = f"untouched-{n}"
            done = self.expected.setdefault(key, [])
            cents = range(len(done), len(done) + rng.randrange(1, LENGTH_MAX))
            streams.append(self.world.producer.paid(key, *cents))
            done += cents
        for n in range(TOUCHED):
            streams.append(self.touched(f"m-{self.rounds}-{n}"))
        mixed = list(interleaved(rng, streams))
        again = [one for one in mixed if rng.random() < 0.05]
        mixed += again
        self.delivered += len(mixed)
        return mixed

    def touched(self, key: str) -> list[Sent]:
        """A stream of one key of every kind of event, with something done to most of it."""
        rng, producer = self.rng, self.world.producer
        valid: list[Sent] = []
        for n in range(rng.randrange(2, LENGTH_MAX)):
            what: object = Paid(key, rng.choice((n, n, n, -1)))
            what = rng.choice((what, what, Noted(key, "x"), Opened(n)))
            valid.append(producer.commit(what))
            if rng.random() < 0.05 and producer.history.get(key):
                self.fired["restore"] += 1
                producer.restore(key, rng.randrange(len(producer.history[key])))
        stream: list[Sent] = []
        for one in valid:
            if rng.random() < 0.6:
                stream.append(one)
                continue
            name = rng.choice(list(MUTATIONS))
            self.fired[name] += 1
            hostile = MUTATIONS[name](rng, one.outgoing, rng.choice(valid).outgoing)
            self.made.setdefault(shape(hostile), name)
            changed = Sent(hostile, one.key, None, one.id)
            stream += rng.choice(([changed], [changed], [one, changed], [changed, one]))
        return self.disordered(stream)

    def disordered(self, stream: list[Sent]) -> list[Sent]:
        """Some records dropped, repeated, swapped with their neighbour."""
        rng, found = self.rng, []
        for one in stream:
            what = rng.choice(("", "", "", "", "", "", "", "drop", "repeat", "swap"))
            self.fired[what] += 1
            if what != "drop":
                found.append(one)
            if what == "repeat":
                found.append(one)
            if what == "swap" and len(found) > 1:
                found[-2:] = found[-1], found[-2]
        return found

    # ---- what must hold

    def check(self) -> Counter[str]:
        """All that is promised of such a world; what became of the records."""
        world = self.world
        for key, cents in self.expected.items():
            assert world.of(key) == cents, f"{key} was touched"
        self.check_order()
        counts = Counter({name: world.count(name) for name in COUNTS})
        counts["kept"] = world.kept()
        accounted = counts.total() - counts["forks"]  # a fork is counted, and kept
        assert accounted == self.delivered, f"{self.delivered} delivered: {counts}"
        ((rows, reasons),) = world.rows(
            "SELECT count(*), sum(CASE WHEN length(reason) > 10 THEN 1 ELSE 0 END)"
            " FROM oncebox.quarantine"
        )
        assert rows == reasons == counts["quarantined"]
        self.check_kept()
        outages = [pause for pause in world.slept if pause]
        assert not outages, f"{len(outages)} outages"
        counts["parked"] = len(world.parked())
        return counts

    def waiting(self) -> Counter[tuple[str, str]]:
        """By mutation: how many of its records wait in quarantine, and how many are kept."""
        found: Counter[tuple[str, str]] = Counter()
        for state in ("quarantine", "kept"):
            for (stored,) in self.world.rows(f"SELECT record FROM oncebox.{state}"):
                name = self.made.get(shape(record_of(stored)))
                if name is not None:
                    found[name, state] += 1
        return found

    def check_order(self) -> None:
        """Each key's effects rise along its chain; each id without a chain has one."""
        last: dict[tuple[str, str | None], tuple[int, int]] = {}
        rows = self.world.rows(
            "SELECT source, key, id, sequence, stamp, previous FROM effect ORDER BY n"
        )
        for source, key, id, sequence, stamp, previous in rows:
            place = (source, key) if sequence is not None else (source + "#id", id)
            before = last.get(place)
            if sequence is None:
                assert before is None, f"{place} twice"
                last[place] = 1, 1
                continue
            if before is not None:
                assert sequence > before[0], f"{place}: {before} then {sequence}"
                assert stamp > before[1], f"{place}: {before} then {stamp}"
                assert sequence > before[0] + 1 or previous == before[1], f"{place}: {previous}"
            last[place] = sequence, stamp

    def check_kept(self) -> None:
        """Every row knows what is kept behind it, and every parked one says why."""
        wrong = self.world.rows(
            "SELECT k.subscription, k.key, k.kept FROM oncebox.key k WHERE k.kept <>"
            " (SELECT count(*) FROM oncebox.kept e"
            "  WHERE e.subscription = k.subscription AND e.key = k.key)"
            " OR (k.park IS NOT NULL AND (k.reason IS NULL OR k.kept = 0))"
        )
        assert wrong == []


BOUNDS: dict[str, Any] = {
    "attempts_max": 2,
    "parked_max": 10**9,
    "kept_bytes_max": 10**12,
    "batch_bytes_max": 2**30,
    "batch_time_s": 3600.0,
}


def interleaved(rng: Random, streams: Sequence[list[Sent]]) -> list[Sent]:
    """One stream of all of them, each in its own order."""
    turns = [n for n, stream in enumerate(streams) for _ in stream]
    rng.shuffle(turns)
    iterators = [iter(stream) for stream in streams]
    return [next(iterators[n]) for n in turns]


@dataclass
class Tally:
    """What was done to records and what they became, over campaigns. `waiting`: how many of a
    mutation's records are in quarantine or kept; the others were done, or dropped as duplicates.
    """

    delivered: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    became: Counter[str] = field(default_factory=Counter)
    waiting: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        self.delivered += other.delivered
        self.fired += other.fired
        self.became += other.became
        self.waiting += other.waiting

    def __str__(self) -> str:
        lines = [f"{'mutation':<20}{'made':>10}{'quarantined':>14}{'kept':>10}"]
        for name in sorted(MUTATIONS):
            quarantined, kept = self.waiting[name, "quarantine"], self.waiting[name, "kept"]
            lines.append(f"{name:<20}{self.fired[name]:>10}{quarantined:>14}{kept:>10}")
        for name in ("drop", "repeat", "swap", "restore"):
            lines.append(f"{name:<20}{self.fired[name]:>10}")
        became = ", ".join(f"{n} {name}" for name, n in sorted(self.became.items()))
        return "\n".join([*lines, f"{self.delivered} delivered: {became}"])


def campaign(
    folder: Path, seed: str, count: int, store: str = "sqlite", url: str | None = None
) -> Tally:
    """Run and check one campaign in an empty folder."""
    rng = Random(seed)
    world = World(make_store(store, folder, url), folder, partitions=rng.randrange(1, 5))
    try:
        made = Campaign(world, rng, with_context=rng.random() < 0.5)
        made.prepare()
        made.run(count)
        return Tally(made.delivered, made.fired, made.check(), made.waiting())
    finally:
        world.close()


def fuzz(count: int, seed: int, first: int = 0, *, progress: bool = False) -> Tally:
    """Campaigns until `count` records were delivered."""
    tally = Tally()
    number, begun = first, time.monotonic()
    while tally.delivered < count:
        folder = Path(tempfile.mkdtemp(prefix="oncebox-fuzz-"))
        size = min(RECORDS_MAX, count - tally.delivered)
        try:
            tally.add(campaign(folder, f"{seed} {number}", size))
        except BaseException as error:
            command = f"--seed {seed} --first {number} --count {size}"
            error.add_note(f"again: python tests/fuzz.py {command}")
            raise
        finally:
            shutil.rmtree(folder)
        if progress:
            rate = tally.delivered / (time.monotonic() - begun)
            print(f"campaign {number}: {tally.delivered} records, {rate:.0f}/s", flush=True)
        number += 1
    return tally


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Hostile records through the real consumer.")
    parser.add_argument("--count", type=int, default=1_000_000, help="records, about")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--first", type=int, default=0, help="number of the first campaign")
    given = parser.parse_args(arguments)
    print(f"seed {given.seed}", flush=True)
    print(fuzz(given.count, given.seed, given.first, progress=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
