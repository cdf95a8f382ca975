"""pgbench's workload through oncebox into a second database: the short form, and its comparison."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
from pgbench_demo.compare import compare
from pgbench_demo.stage import HERE

from engines.postgres import Postgres

SIZE = ["--transactions=2000", "--scale=1", "--faults=8"]
BOOKS = """
create table pgbench_accounts (aid int, abalance int);
create table pgbench_tellers (tid int, tbalance int);
create table pgbench_branches (bid int, bbalance int);
create table pgbench_history (delta int);
"""
TWO_MOVES = """
insert into pgbench_accounts values (1, 0), (2, 0);
insert into pgbench_tellers values (1, 0);
insert into pgbench_branches values (1, 0);
update pgbench_accounts set abalance = 5 where aid = 1;
update pgbench_accounts set abalance = 12 where aid = 1;
update pgbench_tellers set tbalance = 12;
update pgbench_branches set bbalance = 12;
insert into pgbench_history values (5), (7);
"""
REPLICATED = """
insert into balance values ('account', 1, 12), ('branch', 1, 12), ('teller', 1, 12);
insert into history (kind, id, balance, said, emitted) values
  ('account', 1, 5, 5, now()), ('account', 1, 12, 12, now()),
  ('branch', 1, 12, 12, now()), ('teller', 1, 12, 12, now());
"""
MORE = "insert into history (kind, id, balance, said, emitted) values"


@pytest.mark.timeout(600)  # on a machine that does much else; half a minute on one that does not
def test_the_replica_follows_pgbench_under_faults() -> None:
    command = [sys.executable, "-m", "pgbench_demo", *SIZE]
    ended = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "100,011 balances and " in ended.stdout
    assert "8 of 8 faults fired" in ended.stdout


@pytest.fixture(scope="module")
def sides(postgres_server: Postgres) -> Iterator[tuple[str, str]]:
    """A bank and its replica, made by hand and equal."""
    with postgres_server.database() as bank, postgres_server.database() as replica:
        for url, texts in (
            (bank, (BOOKS, (HERE / "bank.sql").read_text(), TWO_MOVES)),
            (replica, ((HERE / "replica.sql").read_text(), REPLICATED)),
        ):
            with psycopg.connect(url) as connection:
                for text in texts:
                    connection.execute(text.encode())
        yield bank, replica


def test_equal_sides_have_no_difference(sides: tuple[str, str]) -> None:
    found = compare(*sides)
    assert found.differences == []
    assert (found.transactions, found.balances, found.keys, found.changes) == (2, 4, 3, 4)


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("update balance set balance = 13 where kind = 'account'", "account 1 has 12, in the"),
        ("delete from balance where kind = 'teller'", "teller 1 has 12, in the replica 0"),
        ("insert into balance values ('account', 9, 1)", "account 9 is only in the replica"),
        ("delete from history where balance = 5", "change 1: was 5, in the replica 12"),
        ("update history set n = default where balance = 5", "change 1: was 5, in the replica 12"),
        ("update history set said = 6 where balance = 5", "change 1: was 5, in the replica 5, sai"),
        (f"{MORE} ('branch', 1, 12, 12, now())", "branch 1, change 2: was nothing, in the replica 12"),
        (f"{MORE} ('account', 2, 1, 1, now())", "account 2, change 1: was nothing, in the replica 1"),
        ("delete from history where kind = 'teller'", "teller 1, change 1: was 12, in the replica"),
    ],
)  # fmt: skip
def test_a_difference_is_found(sides: tuple[str, str], planted: str, says: str) -> None:
    bank, replica = sides
    with psycopg.connect(replica) as connection:
        connection.execute(planted.encode())
        connection.commit()
        try:
            found = compare(bank, replica)
        finally:
            for table in ("balance", "history"):
                connection.execute(f"truncate {table}".encode())
            connection.execute(REPLICATED.encode())
    assert found.count >= 1
    assert any(says in text for text in found.differences), found.differences


def test_books_that_do_not_balance_are_found(sides: tuple[str, str]) -> None:
    bank, replica = sides
    with psycopg.connect(bank) as connection:
        connection.execute("update pgbench_history set delta = 6 where delta = 5")
        connection.commit()
        found = compare(bank, replica)
        connection.execute("update pgbench_history set delta = 5 where delta = 6")
    assert "books do not balance" in found.differences[0]
