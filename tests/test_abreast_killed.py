"""Processes of a concurrent consumer, killed and started again: each effect once, in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chains import Producer, Sent
from oncebox.program import drive
from oncebox.service.connect import open_log
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate
from producing import await_true

APP = """
import asyncio, os, random, signal, time
from dataclasses import dataclass
from oncebox import Service, event
from oncebox.consumer.reading import Settings
from oncebox.service.running import running

@event("order.paid", stream="{topic}", key="order", version=1)
@dataclass(frozen=True)
class Paid:
    order: str
    cents: int

service = Service("billing", store="{store}", log="{log}", settings=Settings(lease_s=0.5))
consumer = service.consumer(concurrency=16)

@consumer.on(Paid)
{declared} pay(tx, paid):
    if paid.order == "deadly":
        os._exit(137)
    {wait}
    {wait_for}tx.execute("INSERT INTO ledger (who, what) VALUES (%s, %s)", (paid.order, paid.cents))

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with running([service], relay=False) as work:
        print("running", flush=True)
        waits = [asyncio.create_task(e.wait()) for e in (stop, work.ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)

asyncio.run(main())
"""
PLAIN = {"declared": "def", "wait": "time.sleep(random.random() / 50)", "wait_for": ""}
COROUTINE = {
    "declared": "async def",
    "wait": "await asyncio.sleep(random.random() / 50)",
    "wait_for": "await ",
}
KEYS, EVENTS, KILLS = 40, 40, 6
WAIT_S = 60.0
ONE_BY_ONE_S = 120.0
"""For all events, each with a note before it and a transaction of its own."""


class Place:
    """A consumer's program in a folder, its database and its topic."""

    def __init__(
        self, folder: Path, store: str, log: str, topic: str, kind: dict[str, str]
    ) -> None:
        self.folder = folder
        (folder / "app.py").write_text(APP.format(topic=topic, store=store, log=log, **kind))
        session: Any = open_store(store).open()
        drive(migrate(session))
        self.session = session
        self.session.run("CREATE TABLE ledger (n bigserial PRIMARY KEY, who text, what int)")
        self.topic = topic
        self.log = open_log(log)
        self.log.create(topic, 4 if log.startswith("kafka") else 1)
        self.running: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        with (self.folder / "errors.txt").open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, "app.py"], cwd=self.folder, text=True,
                stdout=subprocess.PIPE, stderr=errors, env=dict(os.environ),
            )  # fmt: skip
        assert process.stdout is not None
        with process.stdout as lines:
            assert lines.readline() == "running\n", (self.folder / "errors.txt").read_text()
        self.running.append(process)

    def kill(self, victim: subprocess.Popen[str]) -> None:
        assert victim.poll() is None, (self.folder / "errors.txt").read_text()[-3000:]
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        self.running.remove(victim)

    def deliver(self, sent: list[Sent]) -> None:
        out = [one.outgoing._replace(topic=self.topic) for one in sent]
        assert self.log.publish(out, 30.0) == []

    def done(self) -> int:
        return int(self.session.run("SELECT count(*) FROM ledger")[0][0])

    def has_more_than(self, count: int) -> bool:
        return self.done() > count

    def of(self, who: str) -> list[int]:
        sql = "SELECT what FROM ledger WHERE who = $1 ORDER BY n"
        return [what for (what,) in self.session.run(sql, (who,))]

    def stop(self) -> None:
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(WAIT_S) for process in self.running]
        self.log.close()
        self.session.close()
        assert set(codes) <= {0}, (self.folder / "errors.txt").read_text()[-3000:]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> Iterator[Place]:
    log, kind = request.param
    if log == "kafka":
        url, topic = request.getfixturevalue("kafka_url"), request.getfixturevalue("topic") + "-o"
    else:
        url, topic = f"sqlite:///{tmp_path}/events.db", "orders"
    made = Place(tmp_path, postgres_url, url, topic, kind)
    yield made
    made.stop()


def orders(keys: int, events: int) -> list[Sent]:
    producer = Producer()
    sent = [producer.paid(f"k{key}", *range(events)) for key in range(keys)]
    return [one[n] for n in range(events) for one in sent]


@pytest.mark.parametrize(
    "place", [("kafka", PLAIN), ("kafka", COROUTINE)], ids=["plain", "coroutine"], indirect=True
)
def test_owners_that_are_killed_do_each_event_once_and_in_order(place: Place, rng: Random) -> None:
    sent = orders(KEYS, EVENTS)
    share = len(sent) // KILLS
    place.start()
    place.start()
    for kill in range(KILLS):
        done = place.done()
        place.deliver(sent[kill * share : (kill + 1) * share if kill < KILLS - 1 else None])
        await_true(partial(place.has_more_than, done), "something to be done")
        time.sleep(rng.random() * 0.3)
        place.kill(rng.choice(place.running))
        place.start()
    # Where three owners died at one position, the events from there on run one by one.
    await_true(lambda: place.done() >= KEYS * EVENTS, "all to be done", ONE_BY_ONE_S)
    for key in range(KEYS):
        assert place.of(f"k{key}") == list(range(EVENTS))
    assert place.session.run("SELECT count(*) FROM oncebox.kept") == [(0,)]


@pytest.mark.parametrize("place", [("embedded", PLAIN)], ids=["plain"], indirect=True)
def test_the_event_that_kills_beside_others_is_found_and_parked(place: Place) -> None:
    sent = orders(10, 5)
    sent[20:20] = Producer().paid("deadly", 1, 2)
    place.deliver(sent)
    parked = "SELECT key, due_ms FROM oncebox.key WHERE park = 'poison'"
    while place.session.run(parked) != [("deadly", None)] or place.done() < 50:
        if not place.running:
            place.start()
        (process,) = place.running
        if process.poll() is not None:
            assert process.returncode == 137, (place.folder / "errors.txt").read_text()[-3000:]
            place.running.clear()
        time.sleep(0.05)
    for key in range(10):
        assert place.of(f"k{key}") == list(range(5))
    assert place.of("deadly") == []
