"""A producer: transactions that change accounts and emit, until it is told to end."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from typing import Any

import psycopg

from .points import Trap
from .services import Charged, Moved, shop

ACCOUNTS = 48
PAUSE_S = 0.12
"""Between two transactions, on average."""

CONNECT_TIMEOUT_S = 5
PAUSE_AFTER_OUTAGE_S = 0.2
ROLLED_BACK, CHARGED, AFTER = 0.05, 0.06, 0.3
"""How many transactions are given up; events that are Charged; that wait for another account's."""


def produce(role: str, trap: Trap) -> int:
    """Change accounts until SIGTERM; outages are waited out."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    rng = random.Random()  # what is emitted need not be the same again: it is in `made`
    url = os.environ["TORTURE_SHOP"]
    while not stop.is_set():
        try:
            with psycopg.connect(
                url, connect_timeout=CONNECT_TIMEOUT_S, prepare_threshold=None
            ) as connection:
                while not stop.wait(rng.expovariate(1 / PAUSE_S)):
                    change(connection, rng, trap)
        except (psycopg.OperationalError, psycopg.InternalError, psycopg.Rollback) as error:
            # Rollback: that could not be sent any more.
            print(f"{role}: waiting: {str(error).strip()}", file=sys.stderr, flush=True)
            stop.wait(PAUSE_AFTER_OUTAGE_S)
    return 0


def change(connection: psycopg.Connection[Any], rng: random.Random, trap: Trap) -> None:
    """One transaction: up to three accounts, in sorted order."""
    names = sorted(rng.sample(range(ACCOUNTS), rng.choice((1, 1, 2, 3))))
    with connection.transaction() as transaction:
        before: Any = None
        for name in (f"a{number}" for number in names):
            before = move(connection, name, rng, before)
        trap.reach("emitted", "after", list)
        if rng.random() < ROLLED_BACK:
            raise psycopg.Rollback(transaction)
        if trap.armed is not None and trap.armed.point.call == "sent":
            send_commit(connection, trap)
            raise psycopg.Rollback(transaction)  # of psycopg's view only: it is committed
    trap.reach("committed", "after", list)


def send_commit(connection: psycopg.Connection[Any], trap: Trap) -> None:
    """Send COMMIT, and perhaps die before its answer."""
    connection.pgconn.send_query(b"COMMIT")
    connection.pgconn.flush()
    trap.reach("sent", "after", list)
    while connection.pgconn.get_result() is not None:
        pass


def move(
    connection: psycopg.Connection[Any], name: str, rng: random.Random, before: Any
) -> tuple[Any, str, int]:
    """Change one account, and emit that."""
    cents, charged = rng.randrange(1, 10_000), rng.random() < CHARGED
    row = connection.execute(
        "insert into account as a (name, n, chain) values (%s, 1, md5(' 1 ' || %s))"
        " on conflict (name) do update"
        " set n = a.n + 1, chain = md5(a.chain || ' ' || a.n + 1 || ' ' || %s) returning n",
        (name, str(cents), str(cents)),
    ).fetchone()
    assert row is not None
    n, after, after_account, after_n = int(row[0]), None, "", 0
    if before is not None and not charged and rng.random() < AFTER:
        after, after_account, after_n = before
    emitted = shop.emit(
        connection,
        Charged(name, n, cents) if charged else Moved(name, n, cents, after_account, after_n),
        after=after,
    )
    connection.execute(
        "insert into made (account, n, cents, charged, after_account, after_n)"
        " values (%s, %s, %s, %s, %s, %s)",
        (name, n, cents, charged, after_account, after_n),
    )
    return emitted, name, n
