"""Emit, relay, consume: real processes on each store and log, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from oncebox.program import drive
from oncebox.service.connect import open_log
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

APP = """
from dataclasses import dataclass
from oncebox import Service, event

@event("order.placed", stream="{topic}", key="order_id", version=1)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    cents: int

@event("order.billed", stream="{topic}-bills", key="order_id", version=1)
@dataclass(frozen=True)
class OrderBilled:
    order_id: str
    cents: int

shop = Service("shop", store="{shop}", log="{log}")
billing = Service("billing", store="{billing}", log="{log}")
mail = Service("mail", store="{billing}", log="{log}")

@billing.on(OrderPlaced)
def owe(tx, placed: OrderPlaced) -> None:
    tx.execute("INSERT INTO owed (order_id, cents) VALUES ({marks})", (placed.order_id, placed.cents))
    billing.emit(tx, OrderBilled(placed.order_id, placed.cents))

@mail.on(OrderBilled)
def write(tx, billed: OrderBilled) -> None:
    tx.execute("INSERT INTO letter (order_id, cents) VALUES ({marks})", (billed.order_id, billed.cents))
"""

RUN = """
import asyncio, signal, sys
import app
from oncebox.service.running import running

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with running([app.shop, app.billing, app.mail]) as work:
        print("running", flush=True)
        waits = [asyncio.create_task(e.wait()) for e in (stop, work.ended)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)

asyncio.run(main())
"""

WAIT_S = 60.0
ORDERS, CENTS = 8, 240


@dataclass
class Place:
    """An application in a folder, its databases made."""

    folder: Path
    shop: Any
    billing: Any
    topic: str

    def start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        with (self.folder / "errors.txt").open("a") as errors:
            process = subprocess.Popen(
                [sys.executable, "run.py"], cwd=self.folder, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        assert process.stdout is not None
        with process.stdout as lines:
            assert lines.readline() == "running\n", (self.folder / "errors.txt").read_text()
        return process

    def rows(self, table: str) -> list[tuple[str, int]]:
        session = self.billing.open()
        rows = session.run(f"SELECT order_id, cents FROM {table} ORDER BY n")
        session.close()
        return [(order, cents) for order, cents in rows]

    def wait(self, table: str, count: int) -> None:
        deadline = time.monotonic() + WAIT_S
        while len(self.rows(table)) < count:
            assert time.monotonic() < deadline, (
                f"{len(self.rows(table))} of {count} in {table}\n"
                + (self.folder / "errors.txt").read_text()[-3000:]
            )
            time.sleep(0.05)


@pytest.fixture(params=["sqlite embedded", "postgres embedded", "postgres kafka", "sqlite kafka"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    store, log = request.param.split()
    topic = "orders"
    if store == "postgres":
        url = request.getfixturevalue("postgres_url")
        shop = billing = url
    else:
        shop, billing = f"sqlite:///{tmp_path}/shop.db", f"sqlite:///{tmp_path}/billing.db"
    if log == "kafka":
        log_url = request.getfixturevalue("kafka_url")
        topic = request.getfixturevalue("topic") + "-orders"
    else:
        log_url = f"sqlite:///{tmp_path}/events.db"
    marks = "%s, %s" if store == "postgres" else "?, ?"
    (tmp_path / "app.py").write_text(
        APP.format(topic=topic, shop=shop, billing=billing, log=log_url, marks=marks)
    )
    (tmp_path / "run.py").write_text(RUN)
    stores = [open_store(shop), open_store(billing)]
    number = "bigserial" if store == "postgres" else "INTEGER"
    for one in dict.fromkeys((shop, billing)):
        session: Any = open_store(one).open()
        drive(migrate(session))
        for table in ("owed", "letter", "orders"):
            session.handle.execute(
                f"CREATE TABLE {table} (n {number} PRIMARY KEY, order_id text, cents int)"
            )
        session.close()
    made = open_log(log_url)
    made.create(topic, 3)
    made.create(f"{topic}-bills", 3)
    made.close()
    yield Place(tmp_path, stores[0], stores[1], topic)


def place_orders(place: Place, rng: Random) -> None:
    sys.path.insert(0, str(place.folder))
    try:
        sys.modules.pop("app", None)
        import app  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(place.folder))
        sys.modules.pop("app", None)
    session: Any = place.shop.open()
    for cents in range(CENTS):
        order = f"o-{cents % ORDERS}"
        session.begin()
        app.shop.emit(session.handle, app.OrderPlaced(order, cents))
        if rng.random() < 0.1:
            session.rollback()
            session.begin()
            app.shop.emit(session.handle, app.OrderPlaced(order, cents))
        session.commit()
    session.close()


def check(place: Place) -> None:
    for table in ("owed", "letter"):
        rows = place.rows(table)
        assert len(rows) == CENTS
        for order in range(ORDERS):
            cents = [c for name, c in rows if name == f"o-{order}"]
            assert cents == list(range(order, CENTS, ORDERS))


def test_processes_that_are_killed_change_nothing(place: Place, rng: Random) -> None:
    running = [place.start(), place.start()]
    try:
        place_orders(place, rng)
        for _ in range(4):
            victim = rng.randrange(2)
            time.sleep(rng.random() * 0.3)
            assert running[victim].poll() is None
            running[victim].send_signal(signal.SIGKILL)
            assert running[victim].wait() == -signal.SIGKILL
            running[victim] = place.start()
        place.wait("letter", CENTS)
        place.wait("owed", CENTS)
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(WAIT_S) for process in running]
    check(place)
    assert codes == [0, 0]
