"""The comparison at the end: pgbench's own tables against the replica, in plain SQL.

Three things: pgbench's books balance; every balance is the same on both sides; and each account,
teller and branch went through the same balances in the same order, by the triggers of `bank.sql`
against the replica's history.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby, zip_longest
from operator import itemgetter
from typing import Any

import psycopg

SHOWN_MAX = 20
"""Differences that are told one by one."""

BALANCES = """
select 'account', aid, abalance::bigint from pgbench_accounts
union all select 'teller', tid, tbalance from pgbench_tellers
union all select 'branch', bid, bbalance from pgbench_branches
"""
BOOKS = """
select (select count(*) from pgbench_history),
       (select coalesce(sum(delta), 0) from pgbench_history),
       (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
       (select sum(bbalance) from pgbench_branches)
"""
ORIGINAL = "select kind, id, balance, null from audited order by kind, id, n"
REPLICA = "select kind, id, balance, said from history order by kind, id, n"


@dataclass
class Comparison:
    """What was compared, and found different."""

    transactions: int = 0
    balances: int = 0
    keys: int = 0
    changes: int = 0
    count: int = 0
    differences: list[str] = field(default_factory=list)

    def differ(self, text: str) -> None:
        """Note a difference."""
        self.count += 1
        if len(self.differences) < SHOWN_MAX:
            self.differences.append(text)


def compare(bank: str, replica: str) -> Comparison:
    """Compare two databases by their URLs, while nobody writes."""
    found = Comparison()
    with psycopg.connect(bank) as ours, psycopg.connect(replica) as theirs:
        _books(found, ours)
        _balances(found, ours, theirs)
        _sequences(found, ours, theirs)
    return found


def _books(found: Comparison, bank: psycopg.Connection[Any]) -> None:
    """TPC-B's own condition: all four tables add up to the same."""
    row = bank.execute(BOOKS).fetchone()
    assert row is not None
    found.transactions, *sums = row
    if len(set(sums)) != 1:
        found.differ(f"pgbench's books do not balance: history, accounts, tellers, branches {sums}")


def _balances(
    found: Comparison, bank: psycopg.Connection[Any], replica: psycopg.Connection[Any]
) -> None:
    there = {(k, i): b for k, i, b in replica.execute("select kind, id, balance from balance")}
    for kind, id, balance in bank.execute(BALANCES):
        found.balances += 1
        copied = there.pop((kind, id), 0)  # nothing has moved it yet
        if copied != balance:
            found.differ(f"{kind} {id} has {balance}, in the replica {copied}")
    for (kind, id), balance in there.items():
        found.differ(f"{kind} {id} is only in the replica, with {balance}")


def _sequences(
    found: Comparison, bank: psycopg.Connection[Any], replica: psycopg.Connection[Any]
) -> None:
    both = merge(read(bank, ORIGINAL), read(replica, REPLICA), key=itemgetter(0, 1))
    for key, rows in groupby(both, key=itemgetter(0, 1)):
        sides: tuple[list[Any], list[Any]] = [], []
        for row in rows:
            sides[row[3] is not None].append(row)
        found.keys += 1
        found.changes += len(sides[0])
        _sequence(found, key, *sides)


def _sequence(found: Comparison, key: Any, original: list[Any], copied: list[Any]) -> None:
    for at, (one, other) in enumerate(zip_longest(original, copied), 1):
        if one is None or other is None or not one[2] == other[2] == other[3]:
            is_there = "nothing" if other is None else f"{other[2]}, said {other[3]}"
            was = "nothing" if one is None else one[2]
            found.differ(f"{_name(key)}, change {at}: was {was}, in the replica {is_there}")
            return


def read(connection: psycopg.Connection[Any], sql: str) -> Iterator[Any]:
    """Rows of a query, however many."""
    with connection.cursor(name="rows") as cursor:
        cursor.itersize = 10_000
        yield from cursor.execute(sql.encode())


def _name(key: Any) -> str:
    return f"{key[0]} {key[1]}"
