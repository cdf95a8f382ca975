"""Services at work in this process, in an event loop on a thread, with what operators see of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from oncebox import Service, event
from oncebox.endpoints import serving
from oncebox.program import drive
from oncebox.service.connect import open_log
from oncebox.service.running import running
from oncebox.service.watching import watch
from oncebox.service.work import Running
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

WAIT_S = 60.0
TICK_S = 0.02

Samples = dict[tuple[str, ...], float]
"""A metric's values by the values of its labels, in the order of their names."""


def until(what: Callable[[], Any], shown: Callable[[], Any] = lambda: "") -> Any:
    """Wait for a condition; what it gave."""
    pause = threading.Event()
    for _ in range(int(WAIT_S / TICK_S)):
        found = what()
        if found:
            return found
        pause.wait(TICK_S)
    raise AssertionError(f"not within {WAIT_S} s: {shown()}")


def make_tables(*urls: str) -> None:
    for url in set(urls):
        session: Any = open_store(url).open()
        drive(migrate(session))
        session.close()


def run_sql(url: str, sql: str) -> list[tuple[Any, ...]]:
    """A statement in a transaction of its own."""
    session: Any = open_store(url).open()
    try:
        session.begin()
        rows: list[tuple[Any, ...]] = session.run(sql)
        session.commit()
    finally:
        session.close()
    return rows


def emit(service: Service, *events: object) -> None:
    """Each in a transaction of its own."""
    session: Any = open_store(service.store, service.schema).open()
    try:
        for one in events:
            session.begin()
            service.emit(session.handle, one)
            session.commit()
    finally:
        session.close()


class AtWork:
    """`work`, and what its endpoints answer on `port`."""

    def __init__(self, work: Running, port: int) -> None:
        self.work, self.port = work, port

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    def fine(self, path: str) -> bool:
        return self.get(path)[0] == 200

    def metrics(self) -> dict[str, Samples]:
        status, text = self.get("/metrics")
        assert status == 200, text
        return parsed(text)

    def metric(self, name: str, *labels: str) -> float | None:
        return self.metrics().get(name, {}).get(labels)


def parsed(text: str) -> dict[str, Samples]:
    found: dict[str, Samples] = {}
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            found.setdefault(name, {})[tuple(labels[label] for label in sorted(labels))] = value
    return found


@contextmanager
def at_work(*services: Service, relay: bool = True) -> Iterator[AtWork]:
    """Relays and consumers of services, as `oncebox run --http 0` has them."""
    ready, stop = threading.Event(), threading.Event()
    found: list[AtWork] = []
    failed: list[BaseException] = []

    async def main() -> None:
        async with running(services, relay=relay) as work:
            watch(work, services, lag=True)
            with serving("0", work) as port:
                found.append(AtWork(work, port))
                ready.set()
                while not stop.is_set():
                    await asyncio.sleep(TICK_S)

    def target() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=target, name="at work")
    thread.start()
    try:
        assert ready.wait(WAIT_S)
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        stop.set()
        thread.join(WAIT_S)
    if failed:
        raise failed[0]


class Place(NamedTuple):
    """Where services are: a store each, and a log with a stream of this test's own."""

    shop: str
    billing: str
    log: str
    stream: str

    def make(self, partitions: int = 4) -> None:
        make_tables(self.shop, self.billing)
        log = open_log(self.log)
        log.create(self.stream, partitions)
        log.close()

    @classmethod
    def of_files(cls, folder: Path) -> Place:
        base = f"sqlite:///{folder}"
        return cls(f"{base}/shop.db", f"{base}/billing.db", f"{base}/log.db", "orders")

    def event(self) -> Any:
        @event("order.paid", stream=self.stream, key="order", version=1)
        @dataclass(frozen=True)
        class Paid:
            order: str
            cents: int

        return Paid

    def services(self, handle: Callable[[Any, Any], Any]) -> tuple[Service, Service, Any]:
        """Shop, billing whose handler is `handle`, and the event class."""
        paid = self.event()
        shop = Service("shop", store=self.shop, log=self.log)
        billing = Service("billing", store=self.billing, log=self.log)
        billing.on(paid)(handle)
        return shop, billing, paid
