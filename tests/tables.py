"""oncebox's tables in a database of a test, and a look at them from outside."""

from __future__ import annotations

import sqlite3
from typing import Any

import psycopg

from oncebox.program import drive
from oncebox.stores.adapt import adapt
from oncebox.tables.migrate import migrate

SHOP = "create table shop (id int primary key, parent int references shop deferrable {})"


class Tables:
    """A database with oncebox's tables and a table of the user's.

    A row of `shop` whose parent does not exist makes the commit fail, and nothing before it.
    """

    def __init__(self, dialect: str, place: str) -> None:
        self.dialect = dialect
        self.place = place
        if dialect == "sqlite":
            self.connection: Any = sqlite3.connect(place, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode = WAL")
        else:
            self.connection = psycopg.connect(place, autocommit=True)
        drive(migrate(adapt(self.connection)))
        self.run(SHOP.format("initially deferred"))

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a statement of a dialect's own; names of tables as on PostgreSQL."""
        if self.dialect == "sqlite":
            sql = sql.replace("oncebox.", "oncebox_")
        cursor = self.connection.execute(sql)
        return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        self.connection.close()

    def clear(self) -> None:
        """Make all tables empty: cheaper than new ones."""
        keeper = ""
        if self.dialect == "sqlite":
            name = "oncebox_newest"
            ((keeper,),) = self.run(f"select sql from sqlite_master where name = '{name}'")
            self.run(f"drop trigger {name}")
        for table in ("chain", "event", "counter", "source", "inbox", "subscription"):
            if table != "chain" or self.dialect == "postgres":
                self.run(f"delete from oncebox.{table}")
        self.run("delete from shop")
        if keeper:
            self.run(keeper)

    def events(self) -> list[tuple[str | None, int | None]]:
        """Key and number of all events, in the order of their commits."""
        if self.dialect == "sqlite":
            return self.run("select key, sequence from oncebox.event order by n")
        return self.run(
            "select e.key, c.sequence from oncebox.chain c join oncebox.event e on e.n = c.n"
            " order by c.position"
        )

    def stamps(self, key: str) -> list[tuple[int, int | None]]:
        """Of a key's events in order: the stamp, and that of the event that has to be first."""
        if self.dialect == "sqlite":
            return self.run(
                f"select stamp, after_stamp from oncebox.event where key = '{key}' order by n"
            )
        return self.run(
            "select c.stamp, c.after_stamp from oncebox.chain c join oncebox.event e on e.n = c.n"
            f" where e.key = '{key}' order by c.position"
        )

    def counters(self) -> dict[str, int]:
        """The last number of each key."""
        return dict(self.run("select key, sequence from oncebox.counter"))

    def shop(self) -> list[int]:
        """The user's rows."""
        return [id for (id,) in self.run("select id from shop order by id")]

    def claims(self) -> list[str]:
        """All ids that are claimed."""
        return [id for (id,) in self.run("select id from oncebox.inbox order by id")]
