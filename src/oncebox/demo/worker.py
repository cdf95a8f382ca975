"""One process of the demo: `python -m oncebox.demo.worker ROLE`, in the folder of its half.

`setting.json` there says which half it is. All that injects faults is put around the shop's code
here, so that neither half contains any of it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from oncebox.errors import OnceboxError
from oncebox.ports import Log
from oncebox.service.connect import open_log
from oncebox.stores import sqlite

from . import tables
from .contracts import STREAMS, Ordered
from .customers import Line, Size, Workload, workload
from .faults import FOLDER, FaultyLog, Injector

PARTITIONS = 4
CUSTOMERS_PER_S = 1500
MOVES_AT = 0.5
"""When this share of the customers was served, the shop speaks version 2."""
RETRY_TOPICS = ("payments.retry", "stock.retry", "shipping.retry", "shop.retry")
TURN = Path("turn")
"""Which customer is next: eight bytes, moved before the customer is served."""


class Process:
    """What every role needs."""

    def __init__(self, role: str) -> None:
        setting = json.loads(Path("setting.json").read_text())
        self.role = role
        self.by_hand: bool = setting["half"] == "naive"
        self.parent: int = setting["parent"]
        self.workload: Workload = workload(Size(*setting["size"]))
        self.injector = Injector(self.workload.faults, role.partition("-")[0])
        self.url = os.environ.get("DEMO_LOG", "sqlite:///events.db")
        self.prefix: str = setting["prefix"]
        self.stop = threading.Event()

    def stopping(self) -> bool:
        """Whether the demo said so, or is gone."""
        return self.stop.is_set() or os.getppid() != self.parent

    def open_log(self, url: str) -> Log:
        """The log with its faults. By hand, a file of it is not synced for every record: nobody
        cuts the power here, and the wait would be most of that half's time. oncebox's half does.
        """
        if self.by_hand:
            sqlite.PRAGMAS = ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON")
        return FaultyLog(open_log(url), self.injector, self.prefix, by_hand=self.by_hand)


def main(role: str) -> None:
    """Play a role until told to stop."""
    process = Process(role)
    signal.signal(signal.SIGTERM, lambda *_: process.stop.set())
    if role == "open":
        open_shop(process)
    elif role == "web":
        serve_customers(process)
    elif process.by_hand:
        run_by_hand(process)
    else:
        from asyncio import run

        run(run_oncebox(process))


def open_shop(process: Process) -> None:
    """Tables and topics, before anybody works."""
    FOLDER.mkdir()
    TURN.write_bytes(bytes(8))
    tables.open_shop(process.workload.articles, by_hand=process.by_hand)
    log = process.open_log(process.url)
    for topic in (*STREAMS, *(RETRY_TOPICS if process.by_hand else ())):
        log.create(topic, PARTITIONS)
    if process.by_hand:
        from .offsets import make_offsets

        make_offsets(Path())
    else:
        make_oncebox_tables()


def make_oncebox_tables() -> None:
    """What `oncebox db migrate` does."""
    from oncebox.program import call, drive
    from oncebox.stores.adapt import open_store
    from oncebox.tables.migrate import migrate

    from . import with_oncebox

    for name in tables.SERVICES:
        service = getattr(with_oncebox, name)
        session = drive(call(open_store(service.store, service.schema).open))
        drive(migrate(session))
        session.close()


# ---- customers


def serve_customers(process: Process) -> None:
    """One customer after another. Whoever is cut off by a crash gives up."""
    turn = os.open(TURN, os.O_RDWR)
    place = customers_by_hand(process) if process.by_hand else customers_with_oncebox(process)
    first = next_customer = int.from_bytes(os.pread(turn, 8, 0), "big")
    begun = time.monotonic()
    actions = process.workload.actions
    while next_customer < len(actions) and not process.stopping():
        early_s = begun + (next_customer - first) / CUSTOMERS_PER_S - time.monotonic()
        if early_s > 0:
            process.stop.wait(early_s)
        version = 1 if next_customer < len(actions) * MOVES_AT else 2
        action, next_customer = actions[next_customer], next_customer + 1
        os.pwrite(turn, next_customer.to_bytes(8, "big"), 0)
        place(action, version)


def customers_by_hand(process: Process) -> Callable[[Any, int], None]:
    """How a customer is served by hand; the log knows where to die."""
    from . import without

    db, log = tables.connect("shop"), process.open_log(process.url)

    def place(action: Any, version: int) -> None:
        if isinstance(action, Ordered):
            without.order(db, log, action, version)
        else:
            without.send_back(db, log, action)

    return place


def customers_with_oncebox(process: Process) -> Callable[[Any, int], None]:
    """How a customer is served with oncebox: before or after the commit is where to die."""
    from . import with_oncebox

    db, injector = tables.connect("shop"), process.injector

    def place(action: Any, version: int) -> None:
        line = (action.order_id, action.line)
        ordering = isinstance(action, Ordered)
        with tables.transaction(db) as tx:
            if ordering:
                with_oncebox.order(tx, action, version)
            else:
                with_oncebox.send_back(tx, action)
            if ordering and line in injector.faults.between:
                injector.die("between", f"{line[0]}.{line[1]}")
        if not ordering and line in injector.faults.between_returned:
            injector.die("between", f"returned.{line[0]}.{line[1]}")

    return place


# ---- services by hand


def run_by_hand(process: Process) -> None:
    """A poller, or a service: its consumer, and beside it the consumer of its retry topic."""
    from . import without

    if process.role == "poller":
        log = process.open_log(process.url)
        without.poll_outbox(tables.connect("payments"), log, process.stopping)
        return
    retry = threading.Thread(
        target=consume_by_hand, args=(process,), kwargs={"again": True}, daemon=True
    )
    retry.start()
    consume_by_hand(process, again=False)
    retry.join()


def consume_by_hand(process: Process, *, again: bool) -> None:
    """A service's consumer, or (`again`) the consumer of its retry topic."""
    from . import without
    from .offsets import Offsets

    service, _, index = process.role.partition("-")
    log = process.open_log(process.url)
    wiring: dict[str, tuple[tuple[str, ...], dict[str, without.Handler]]] = {
        "shop": (("parcels",), {"parcel.sent": without.note}),
        "payments": (
            ("orders", "returns"),
            {"order.placed": without.charge, "order.returned": without.refund},
        ),
        "stock": (
            ("orders", "returns"),
            {"order.placed": without.take, "order.returned": without.put_back},
        ),
        "shipping": (("payments",), {"payment.taken": partial(without.send, log=log)}),
    }
    topics, handlers = wiring[service]
    injected = {"order.placed", "payment.taken"}
    around = partial(process.injector.around, name_of=lambda e: (e["order_id"], e["line"]))
    without.consume(
        tables.connect(service),
        log,
        Offsets(
            log,
            f"{service}.retry" if again else service,
            (f"{service}.retry",) if again else topics,
            int(index or 0),
            2 if index else 1,
        ),
        {type: around(f) if type in injected else f for type, f in handlers.items()},
        retry_topic=f"{service}.retry",
        stopping=process.stopping,
        acknowledge_first=service == "shipping",
        remember=service == "payments",
        delay_s=without.RETRY_DELAY_S if again else 0.0,
    )


# ---- services with oncebox


async def run_oncebox(process: Process) -> None:
    """What `oncebox run` does, with faults around the handlers and the log."""
    from asyncio import sleep

    from oncebox.relay import RelaySettings
    from oncebox.service import running, work

    from . import with_oncebox

    service = getattr(with_oncebox, process.role.partition("-")[0])
    settings = partial(RelaySettings, lease_s=service.settings.lease_s)
    for module, name, ours in (
        (running, "RelaySettings", settings), (work, "open_log", process.open_log)
    ):  # fmt: skip
        assert hasattr(module, name), f"{module.__name__} uses no {name}"
        setattr(module, name, ours)
    injected = {"order.placed", "payment.taken"}

    def name_of(event: Any) -> Line:
        return event.order_id, event.line

    for consumer in service.consumers.values():
        for type, handler in consumer.handlers.items():
            if type in injected:
                function = process.injector.around(handler.function, name_of)
                consumer.handlers[type] = handler._replace(function=function)
    async with running.running([service]) as going:
        while not process.stopping() and not going.ended.is_set():
            await sleep(0.05)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except OnceboxError as error:
        sys.exit(f"{type(error).__name__}: {error}")
