"""The independent checker: `python -m torture.checker FILE`. It shares no code with oncebox: plain
SQL, and a plain consumer of the topics. It prints what is wrong, a line each, and exits 1 if
anything is.

FILE is JSON: `shop`, `stock`, `ledger` (database URLs), `kafka` (host:port), `topics` (by stream),
`folder` (with the files that outside effects wrote).
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import confluent_kafka
import psycopg

READ_S = 60.0
SHOWN_MAX = 10

Change = tuple[str, int]
"""Account and number."""


def main() -> int:
    given = json.loads(Path(sys.argv[1]).read_text())
    made = changes(given["shop"])
    wrong, counts = [], {"changes": len(made)}
    wrong += numbers_without_holes(made)
    chains = dict(ask(given["shop"], "select name, chain from account"))
    for follower, streams in (("stock", ("moves",)), ("ledger", ("moves", "bookings"))):
        for stream in streams:
            where = f"{follower}, {stream}"
            wrong += effects(where, given[follower], stream, made)
            wrong += states(where, given[follower], stream, made, chains)
        wrong += outside(follower, given, made)
    for stream, topic in given["topics"].items():
        records = read(given["kafka"], topic)
        counts[f"records, {stream}"] = len(records)
        wrong += logged(stream, records, made)
    assert not any(name.partition(".")[0] == "oncebox" for name in sys.modules)
    for line in wrong[:SHOWN_MAX]:
        print(line)
    print(json.dumps({"wrong": len(wrong), **counts}))
    return 1 if wrong else 0


def ask(url: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def changes(url: str) -> dict[Change, tuple[Any, ...]]:
    """What producers committed: cents, charged, after account and number."""
    rows = ask(url, "select account, n, cents, charged, after_account, after_n from made")
    return {(account, n): tuple(rest) for account, n, *rest in rows}


def numbers_without_holes(made: dict[Change, tuple[Any, ...]]) -> list[str]:
    """Whether the producers themselves counted rightly."""
    counts = Counter(account for account, _ in made)
    return [
        f"shop: {account} has {count} changes, and number {n} is not among them"
        for account, count in counts.items()
        for n in range(1, count + 1)
        if (account, n) not in made
    ]


def effects(where: str, url: str, stream: str, made: dict[Change, tuple[Any, ...]]) -> list[str]:
    """Every change took effect once, in the order of its account, and after what it waited for."""
    wrong = []
    found = ask(
        url,
        "select serial, account, n, cents, after_account, after_n from effect"
        f" where stream = '{stream}' order by serial",
    )
    done: set[Change] = set()
    last: dict[str, int] = defaultdict(int)
    for serial, account, n, cents, after_account, after_n in found:
        change = (account, n)
        if change in done:
            wrong.append(f"{where}: {change} took effect twice, again at {serial}")
        elif n != last[account] + 1:
            wrong.append(f"{where}: {change} took effect after number {last[account]}, at {serial}")
        if change not in made or made[change][0] != cents:
            wrong.append(f"{where}: {change} {cents} took effect and was not made so")
        if after_n and (after_account, after_n) not in done:
            wrong.append(f"{where}: {change} took effect before ({after_account}, {after_n})")
        done.add(change)
        last[account] = n
    wrong += [f"{where}: {change} took no effect" for change in sorted(made.keys() - done)]
    return wrong


def states(
    where: str, url: str, stream: str, made: dict[Change, tuple[Any, ...]], chains: dict[str, str]
) -> list[str]:
    """Every account's sums are those of its changes, the one that depends on their order too."""
    counts, cents = Counter[str](), Counter[str]()
    for (account, _), (amount, *_) in made.items():
        counts[account] += 1
        cents[account] += amount
    found = ask(url, f"select account, count, cents, chain from state where stream = '{stream}'")
    here = {account: tuple(rest) for account, *rest in found}
    return [
        f"{where}: {account} is {here.get(account)}, at the shop {expected}"
        for account in sorted(here.keys() | counts.keys())
        if here.get(account) != (expected := (counts[account], cents[account], chains.get(account)))
    ]


def outside(follower: str, given: dict[str, Any], made: dict[Change, tuple[Any, ...]]) -> list[str]:
    """Every charged change had its outside effect, with one idempotency key on every try."""
    path, keys = Path(given["folder"], f"outside.{follower}"), defaultdict(set)
    for line in path.read_text().splitlines() if path.exists() else ():
        name, key = line.split()
        keys[name].add(key)
    expected = {f"{account}/{n}" for (account, n), rest in made.items() if rest[1]}
    wrong = [f"{follower}: no outside effect of {name}" for name in sorted(expected - keys.keys())]
    wrong += [f"{follower}: outside effect of {name}" for name in sorted(keys.keys() - expected)]
    wrong += [
        f"{follower}: outside effect of {name} under {len(several)} keys"
        for name, several in sorted(keys.items())
        if len(several) > 1
    ]
    return wrong


def read(kafka: str, topic: str) -> list[tuple[str, dict[str, Any]]]:
    """All records of a topic, id and value, partition by partition; by a plain consumer."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": kafka, "group.id": "checker", "enable.auto.commit": False,
         "enable.partition.eof": False}
    )  # fmt: skip
    records = []
    try:
        partitions = consumer.list_topics(topic, timeout=READ_S).topics[topic].partitions
        places = [confluent_kafka.TopicPartition(topic, number, 0) for number in partitions]
        ends = [consumer.get_watermark_offsets(place, timeout=READ_S) for place in places]
        left = sum(high - low for low, high in ends)
        consumer.assign(places)
        deadline = time.monotonic() + READ_S
        while left:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{left} records of {topic} did not come")
            for record in consumer.consume(10_000, 0.2):
                if record.error():
                    raise confluent_kafka.KafkaException(record.error())
                headers: dict[str, Any] = dict(record.headers() or ())
                value = json.loads(record.value() or b"")
                if record.key() != value["account"].encode():
                    raise ValueError(f"{topic}: key {record.key()!r} of {value}")
                records.append((headers["ce_id"].decode(), value))
                left -= 1
    finally:
        consumer.close()
    return records


def logged(
    stream: str, records: list[tuple[str, dict[str, Any]]], made: dict[Change, tuple[Any, ...]]
) -> list[str]:
    """Every change is in the log, as it was made, under one id; nothing else is."""
    ids: dict[Change, set[str]] = defaultdict(set)
    wrong = []
    for id, value in records:
        change = (value["account"], value["n"])
        ids[change].add(id)
        if change not in made or made[change][0] != value["cents"]:
            wrong.append(f"log, {stream}: {value} was never made")
    wrong += [
        f"log, {stream}: {change} is not there" for change in sorted(made.keys() - ids.keys())
    ]
    wrong += [
        f"log, {stream}: {change} has ids {sorted(several)}"
        for change, several in sorted(ids.items())
        if len(several) > 1
    ]
    return wrong


if __name__ == "__main__":
    sys.exit(main())
