"""The check at the end: plain SQL over the business tables, which knows nothing of oncebox.

What the shop's own tables (`line`, `article`) say must have happened is compared with what did:
charges and refunds in the ledger, parcels, pieces on the shelf. All rows are copied into one
SQLite database in memory, so that the same SQL serves every engine.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .tables import PIECES

TABLES = {
    "shop": {
        "line": "order_id, line, quantity, cents, returned, sent, sku",
        "article": "sku, cents",
    },
    "payments": {"ledger": "n, what, order_id, line, cents"},
    "stock": {"shelf": "sku, pieces"},
    "shipping": {"parcel": "n, order_id, line, cents"},
}

_TWICE = """
SELECT count(*), coalesce(sum(cents), 0) FROM {table} a
WHERE {where} EXISTS (
  SELECT 1 FROM {table} b
  WHERE {same} b.order_id = a.order_id AND b.line = a.line AND b.n < a.n)"""

_BEFORE = """
SELECT count(*), coalesce(sum(cents), 0) FROM ledger r
WHERE what = 'refund' AND NOT EXISTS (
  SELECT 1 FROM ledger c WHERE c.what = 'charge' AND c.order_id = r.order_id
    AND c.line = r.line AND c.n < r.n)"""

_LOST = """
SELECT count(*), coalesce(sum(cents), 0) FROM (
  SELECT l.cents FROM line l WHERE NOT EXISTS (
    SELECT 1 FROM ledger c WHERE c.what = 'charge' AND c.order_id = l.order_id
      AND c.line = l.line)
  UNION ALL
  SELECT l.cents FROM line l WHERE l.returned = 1 AND NOT EXISTS (
    SELECT 1 FROM ledger r WHERE r.what = 'refund' AND r.order_id = l.order_id
      AND r.line = l.line)
  UNION ALL
  SELECT c.cents FROM ledger c WHERE c.what = 'charge' AND NOT EXISTS (
    SELECT 1 FROM parcel p WHERE p.order_id = c.order_id AND p.line = c.line)
  UNION ALL
  SELECT 0 FROM line l WHERE l.sent = 0 AND EXISTS (
    SELECT 1 FROM parcel p WHERE p.order_id = l.order_id AND p.line = l.line))"""

_PHANTOM = """
SELECT count(*), coalesce(sum(cents), 0) FROM (
  SELECT c.cents FROM ledger c WHERE c.what = 'charge' AND NOT EXISTS (
    SELECT 1 FROM line l WHERE l.order_id = c.order_id AND l.line = c.line)
  UNION ALL
  SELECT r.cents FROM ledger r WHERE r.what = 'refund' AND NOT EXISTS (
    SELECT 1 FROM line l WHERE l.order_id = r.order_id AND l.line = r.line AND l.returned = 1)
  UNION ALL
  SELECT p.cents FROM parcel p WHERE NOT EXISTS (
    SELECT 1 FROM line l WHERE l.order_id = p.order_id AND l.line = p.line))"""

_MISREAD = """
SELECT count(*), coalesce(sum(abs(l.cents - had.cents)), 0) FROM (
  SELECT order_id, line, cents FROM ledger UNION ALL SELECT order_id, line, cents FROM parcel) had
JOIN line l ON l.order_id = had.order_id AND l.line = had.line AND l.cents <> had.cents"""

_STOCK = f"""
SELECT coalesce(sum(abs(wrong)), 0), coalesce(sum(abs(wrong) * cents), 0) FROM (
  SELECT a.cents, s.pieces - {PIECES} + coalesce((
    SELECT sum(quantity * (1 - returned)) FROM line l WHERE l.sku = a.sku), 0) AS wrong
  FROM article a JOIN shelf s ON s.sku = a.sku)"""

QUESTIONS = {
    "charged twice": _TWICE.format(
        table="ledger", where="a.what = 'charge' AND", same="b.what = 'charge' AND"
    ),
    "refunded twice": _TWICE.format(
        table="ledger", where="a.what = 'refund' AND", same="b.what = 'refund' AND"
    ),
    "refunded before paid": _BEFORE,
    "sent twice": _TWICE.format(table="parcel", where="", same=""),
    "lost": _LOST,
    "phantom": _PHANTOM,
    "misread": _MISREAD,
    "stock wrong": _STOCK,
}


class Finding(NamedTuple):
    """How often something went wrong (stock: pieces), and the money in it, in cents."""

    times: int
    cents: int


def findings(fetch: Callable[[str, str], Iterable[tuple[Any, ...]]]) -> dict[str, Finding]:
    """Ask all questions. `fetch(service, sql)` reads rows of a service's own tables."""
    db = sqlite3.connect(":memory:")
    for service, wanted in TABLES.items():
        for table, columns in wanted.items():
            db.execute(f"CREATE TABLE {table} ({columns})")
            marks = ", ".join("?" for _ in columns.split(","))
            rows = fetch(service, f"SELECT {columns} FROM {table}")
            db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            if "order_id" in columns:
                db.execute(f"CREATE INDEX by_{table} ON {table} (order_id, line)")
    found = {name: Finding(*db.execute(sql).fetchone()) for name, sql in QUESTIONS.items()}
    db.close()
    return found
