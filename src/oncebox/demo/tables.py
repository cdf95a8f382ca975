"""The shop's own tables: what it sells, what customers did, and what came of it.

One database per service on SQLite; on PostgreSQL they share one. Nothing here is oncebox's.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STORE = os.environ.get("DEMO_STORE", "")
POSTGRES = STORE.startswith("postgres")

BUSY_S = 20.0
"""How long a process waits for the others at a file: some of them stand still for a while."""

PIECES = 100_000
"""Of each article, on the shelf when the shop opens."""

SERVICES = {
    "shop": """
        CREATE TABLE line (
          order_id TEXT NOT NULL, line INTEGER NOT NULL, sku TEXT NOT NULL,
          quantity INTEGER NOT NULL, cents INTEGER NOT NULL,
          returned INTEGER NOT NULL DEFAULT 0, sent INTEGER NOT NULL DEFAULT 0,
          PRIMARY KEY (order_id, line));
        CREATE TABLE article (sku TEXT PRIMARY KEY, cents INTEGER NOT NULL)""",
    "payments": """
        CREATE TABLE ledger (
          n INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL,
          order_id TEXT NOT NULL, line INTEGER NOT NULL, cents INTEGER NOT NULL)""",
    "stock": "CREATE TABLE shelf (sku TEXT PRIMARY KEY, pieces INTEGER NOT NULL)",
    "shipping": """
        CREATE TABLE parcel (
          n INTEGER PRIMARY KEY AUTOINCREMENT,
          order_id TEXT NOT NULL, line INTEGER NOT NULL, cents INTEGER NOT NULL)""",
}

BY_HAND = {
    "payments": """
        CREATE TABLE outbox (
          n INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, order_id TEXT NOT NULL,
          body TEXT NOT NULL);
        CREATE TABLE outbox_position (n INTEGER NOT NULL);
        INSERT INTO outbox_position VALUES (0)""",
    "stock": """
        CREATE TABLE last_line (order_id TEXT PRIMARY KEY, line INTEGER NOT NULL)""",
}
"""What the half without oncebox needs besides: an outbox, and the last line seen per order."""


def sql(text: str) -> str:
    """A statement in the form that the driver in use wants."""
    return text.replace("?", "%s") if POSTGRES else text


def connect(service: str) -> Any:
    """A connection to a service's database, in autocommit mode. It can be killed at any time."""
    if POSTGRES:
        import psycopg

        return psycopg.connect(STORE, autocommit=True)
    return open_file(Path(f"{service}.db"))


def open_file(path: Path) -> sqlite3.Connection:
    """Open a SQLite file that others have open as well, or were killed with."""
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    until = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # survives SIGKILL, and is fast
        except sqlite3.OperationalError:
            # Somebody recovers what a killed process left; SQLite does not wait for that itself.
            if time.monotonic() > until:
                raise
            time.sleep(0.005)
        else:
            return db


@contextmanager
def transaction(db: Any) -> Iterator[Any]:
    """Commit at the end of the block, roll back when it raises."""
    db.execute("BEGIN" if POSTGRES else "BEGIN IMMEDIATE")
    try:
        yield db
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def open_shop(articles: dict[str, int], *, by_hand: bool) -> None:
    """Make the tables, and fill the catalogue (cents by article) and the shelf."""
    for service, ddl in SERVICES.items():
        db = connect(service)
        for statement in f"{ddl}; {BY_HAND.get(service, '') if by_hand else ''}".split(";"):
            if statement.strip():
                db.execute(_own_dialect(statement))
        for sku, cents in articles.items():
            if service == "shop":
                db.execute(sql("INSERT INTO article VALUES (?, ?)"), (sku, cents))
            if service == "stock":
                db.execute(sql("INSERT INTO shelf VALUES (?, ?)"), (sku, PIECES))
        db.close()


def _own_dialect(ddl: str) -> str:
    if not POSTGRES:
        return ddl
    return ddl.replace("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGSERIAL PRIMARY KEY")
