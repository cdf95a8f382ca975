"""The same shop by hand, as many teams write it. Each piece is ordinary code with a known gap.

- `order` publishes inside the transaction, so that a broken broker rolls the order back.
- `send_back` commits, then publishes.
- Payments puts what it has to say into an outbox table; a poller publishes `id > last`.
- Everybody reads a batch, handles event by event, commits each, then acknowledges the batch.
  Only shipping acknowledges what it has fetched at once, as several clients do by themselves.
- Payments remembers the ids that it has handled, in memory. Stock ignores what is not newer than
  the last line of the order. Shipping trusts the poller.
- What fails goes to a retry topic, so that it does not hold up the rest.
- Payments reads what it knows of an event and is tolerant: an amount that is not there is nothing.
"""

# ruff: noqa: D103 - the names of these functions say it

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from oncebox.ports import Log, Outgoing  # the same log; nothing else of oncebox

from .contracts import Ordered, Returned, in_version_2
from .offsets import Offsets
from .tables import sql, transaction

Event = dict[str, Any]
Handler = Callable[[Any, Event], None]

POLL_MAX = 100
RETRY_DELAY_S = 0.1
OUTBOX_PAUSE_S = 0.01
PUBLISH_TIMEOUT_S = 20.0


def publish(log: Log, *events: tuple[str, str, str]) -> None:
    """Hand events (topic, key, body) to the broker and wait until they are there."""
    now_ms = time.time_ns() // 1_000_000
    records = [
        Outgoing(topic, key.encode(), body.encode(), [], now_ms) for topic, key, body in events
    ]
    refused = log.publish(records, PUBLISH_TIMEOUT_S)
    if refused:
        raise RuntimeError(refused[0].reason)


def body_of(type: str, fields: dict[str, Any]) -> str:
    return json.dumps({"id": str(uuid.uuid4()), "type": type, **fields})


# ---- what customers do


def order(db: Any, log: Log, ordered: Ordered, version: int) -> None:
    said = asdict(ordered if version == 1 else in_version_2(ordered))
    with transaction(db):
        db.execute(
            sql("INSERT INTO line (order_id, line, sku, quantity, cents) VALUES (?, ?, ?, ?, ?)"),
            (ordered.order_id, ordered.line, ordered.sku, ordered.quantity, ordered.cents),
        )
        publish(log, ("orders", ordered.order_id, body_of("order.placed", said)))


def send_back(db: Any, log: Log, returned: Returned) -> None:
    with transaction(db):
        known = db.execute(
            sql("UPDATE line SET returned = 1 WHERE order_id = ? AND line = ?"),
            (returned.order_id, returned.line),
        )
    if known.rowcount:
        key = f"{returned.order_id}/{returned.line}"
        publish(log, ("returns", key, body_of("order.returned", asdict(returned))))


# ---- what services do about it


def charge(db: Any, event: Event) -> None:
    cents = event.get("cents", 0)
    with transaction(db):
        db.execute(
            sql("INSERT INTO ledger (what, order_id, line, cents) VALUES ('charge', ?, ?, ?)"),
            (event["order_id"], event["line"], cents),
        )
        say(db, "payment.taken", {**event, "cents": cents})


def refund(db: Any, event: Event) -> None:
    with transaction(db):
        db.execute(
            sql("INSERT INTO ledger (what, order_id, line, cents) VALUES ('refund', ?, ?, ?)"),
            (event["order_id"], event["line"], event["cents"]),
        )
        say(db, "payment.refunded", event)


def say(db: Any, type: str, event: Event) -> None:
    body = body_of(type, {name: event[name] for name in ("order_id", "line", "cents")})
    db.execute(
        sql("INSERT INTO outbox (topic, order_id, body) VALUES ('payments', ?, ?)"),
        (event["order_id"], body),
    )


def take(db: Any, event: Event) -> None:
    with transaction(db):
        row = db.execute(
            sql("SELECT line FROM last_line WHERE order_id = ?"), (event["order_id"],)
        ).fetchone()
        if row is not None and event["line"] <= row[0]:
            return  # not newer than what we have seen: a duplicate
        db.execute(
            sql("UPDATE shelf SET pieces = pieces - ? WHERE sku = ?"),
            (event["quantity"], event["sku"]),
        )
        db.execute(
            sql(
                "INSERT INTO last_line VALUES (?, ?)"
                " ON CONFLICT (order_id) DO UPDATE SET line = excluded.line"
            ),
            (event["order_id"], event["line"]),
        )


def put_back(db: Any, event: Event) -> None:
    db.execute(
        sql("UPDATE shelf SET pieces = pieces + ? WHERE sku = ?"), (event["quantity"], event["sku"])
    )


def send(db: Any, event: Event, *, log: Log) -> None:
    db.execute(
        sql("INSERT INTO parcel (order_id, line, cents) VALUES (?, ?, ?)"),
        (event["order_id"], event["line"], event["cents"]),
    )
    fields = {"order_id": event["order_id"], "line": event["line"]}
    publish(log, ("parcels", event["order_id"], body_of("parcel.sent", fields)))


def note(db: Any, event: Event) -> None:
    db.execute(
        sql("UPDATE line SET sent = 1 WHERE order_id = ? AND line = ?"),
        (event["order_id"], event["line"]),
    )


# ---- the loops


def consume(
    db: Any,
    log: Log,
    offsets: Offsets,
    handlers: dict[str, Handler],
    *,
    retry_topic: str,
    stopping: Callable[[], bool],
    acknowledge_first: bool = False,
    remember: bool = False,
    delay_s: float = 0.0,
) -> None:
    """Read, handle, acknowledge, until told to stop. The retry topic's reader has a delay."""
    seen: set[str] = set()
    while not stopping():
        records = offsets.poll(POLL_MAX)
        if acknowledge_first:
            offsets.acknowledge()
        for record in records:
            event = json.loads(record.value or b"{}")
            handler = handlers.get(event["type"])
            if handler is None or event["id"] in seen:
                continue
            time.sleep(max(0.0, record.time_ms / 1000 + delay_s - time.time()))
            try:
                handler(db, event)
            except Exception:  # whatever it was, the retry topic takes it
                publish(log, (retry_topic, event["order_id"], json.dumps(event)))
            else:
                if remember:
                    seen.add(event["id"])
        offsets.acknowledge()


def poll_outbox(db: Any, log: Log, stopping: Callable[[], bool]) -> None:
    """Publish what is new in the outbox, then note how far we are."""
    while not stopping():
        (last,) = db.execute("SELECT n FROM outbox_position").fetchone()
        rows = db.execute(
            sql("SELECT n, topic, order_id, body FROM outbox WHERE n > ? ORDER BY n LIMIT ?"),
            (last, POLL_MAX),
        ).fetchall()
        if not rows:
            time.sleep(OUTBOX_PAUSE_S)
            continue
        publish(log, *[row[1:] for row in rows])
        db.execute(sql("UPDATE outbox_position SET n = ?"), (rows[-1][0],))
