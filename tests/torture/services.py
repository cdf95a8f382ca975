"""The shop under torture: accounts move in one database, and two others follow.

`shop` emits; `stock` follows and emits in its handlers; `ledger`, with coroutine handlers, follows
both. Every handler leaves one row per event in `effect`, and its part in a sum that depends on the
order (`state.chain`): so what took effect, and in which order, can be read afterwards.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from oncebox import Context, Service, Settings, event

TAG = os.environ.get("TORTURE_TAG", "none")
"""Makes the topics of a round its own."""

FOLDER = Path(os.environ.get("TORTURE_FOLDER", "."))

SETTINGS = Settings(
    attempts_max=3, backoff_s=0.1, backoff_max_s=1.0, batch_max=100, batch_time_s=1.0,
    handler_timeout_s=4.0,
)  # fmt: skip
"""A transaction that stands still is ended after 10 s: so a consumer that is stopped inside its
batch is replaced within a round. Few attempts, so that a failing event soon waits for somebody."""


@event("torture.moved", stream=f"moves-{TAG}", key="account", version=1)
@dataclass(frozen=True)
class Moved:
    """The `n`th change of an account; `after_n` > 0: another account's change has to be first."""

    account: str
    n: int
    cents: int
    after_account: str = ""
    after_n: int = 0


@event("torture.charged", stream=f"moves-{TAG}", key="account", version=1)
@dataclass(frozen=True)
class Charged:
    """Like Moved, but its handler has an effect outside the database, too."""

    account: str
    n: int
    cents: int


@event("torture.booked", stream=f"bookings-{TAG}", key="account", version=1)
@dataclass(frozen=True)
class Booked:
    """What stock emits for each change that it has handled."""

    account: str
    n: int
    cents: int


shop = Service[psycopg.Connection[Any]]("shop")
stock = Service[psycopg.Connection[Any]]("stock", settings=SETTINGS)
ledger = Service[psycopg.AsyncConnection[Any]]("ledger", settings=SETTINGS)

EFFECT = """
    insert into effect (stream, account, n, cents, after_account, after_n)
    values (%s, %s, %s, %s, %s, %s)
"""
STATE = """
    insert into state as s (stream, account, count, cents, chain)
    values (%s, %s, 1, %s, md5(%s))
    on conflict (stream, account) do update set count = s.count + 1,
      cents = s.cents + excluded.cents, chain = md5(s.chain || %s)
"""
TABLES = {
    "shop": """
        create table account (name text primary key, n bigint not null, chain text not null);
        create table made (
          account text, n bigint, cents bigint, charged boolean, after_account text, after_n bigint,
          at timestamptz default clock_timestamp(), primary key (account, n));
    """,
    "follower": """
        create table effect (
          serial bigserial primary key, at timestamptz default clock_timestamp(), stream text,
          account text, n bigint, cents bigint, after_account text, after_n bigint);
        create index on effect (stream, account, n);
        create table state (
          stream text, account text, count bigint, cents bigint, chain text,
          primary key (stream, account));
    """,
}


class Poisoned(Exception):
    """What this handler needs is broken, until somebody mends it. Injected."""


def poisoned(service: str, account: str) -> None:
    """Raises Poisoned while somebody has put a file there."""
    if (FOLDER / "poison" / f"{service}.{account}").exists():
        raise Poisoned(f"{service} cannot handle {account}")


def outside(service: str, name: str, key: str) -> str:
    """The effect outside the database: a line in a file, with the idempotency key."""
    with (FOLDER / f"outside.{service}").open("a") as file:
        file.write(f"{name} {key}\n")
    return key


def rows(stream: str, change: Moved | Charged | Booked) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The parameters of EFFECT and STATE."""
    after = (getattr(change, "after_account", ""), getattr(change, "after_n", 0))
    step = f" {change.n} {change.cents}"
    return (
        (stream, change.account, change.n, change.cents, *after),
        (stream, change.account, change.cents, step, step),
    )


def follow(tx: psycopg.Connection[Any], change: Moved | Charged) -> None:
    poisoned("stock", change.account)
    effect, state = rows("moves", change)
    tx.execute(EFFECT, effect)
    tx.execute(STATE, state)
    stock.emit(tx, Booked(change.account, change.n, change.cents))


@stock.on(Moved)
def stock_moved(tx: psycopg.Connection[Any], moved: Moved) -> None:
    follow(tx, moved)


@stock.on(Charged)
def stock_charged(tx: psycopg.Connection[Any], charged: Charged, context: Context[Any]) -> None:
    name = f"{charged.account}/{charged.n}"
    context.once("charge", lambda key: outside("stock", name, key))
    follow(tx, charged)


async def follow_async(
    tx: psycopg.AsyncConnection[Any], stream: str, change: Moved | Charged | Booked
) -> None:
    poisoned("ledger", change.account)
    effect, state = rows(stream, change)
    await tx.execute(EFFECT, effect)
    await tx.execute(STATE, state)


@ledger.on(Moved)
async def ledger_moved(tx: psycopg.AsyncConnection[Any], moved: Moved) -> None:
    await follow_async(tx, "moves", moved)


@ledger.on(Charged)
async def ledger_charged(
    tx: psycopg.AsyncConnection[Any], charged: Charged, context: Context[Any]
) -> None:
    name = f"{charged.account}/{charged.n}"
    context.once("charge", lambda key: outside("ledger", name, key))
    await follow_async(tx, "moves", charged)


@ledger.on(Booked)
async def ledger_booked(tx: psycopg.AsyncConnection[Any], booked: Booked) -> None:
    await follow_async(tx, "bookings", booked)
