"""What one sees while it plays: a table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from .faults import Faults
from .stage import Stage

LOOK_S = 1.0
LINE_S = 5.0
RATE_LOOKS = 5
"""Rates are over so many looks."""

THERE = "select last_value from audited_n_seq"
HERE = """
select (select coalesce(sum(applied), 0)::bigint from oncebox.cursor where reader = 'replica'),
  (select extract(epoch from clock_timestamp() - emitted)::float8
   from history order by n desc limit 1)
"""


class Eye:
    """A kept connection to look through; None comes back while the server is away."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection: psycopg.Connection[Any] | None = None

    def look(self, sql: str) -> tuple[Any, ...] | None:
        """The one row of a query."""
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self.url, autocommit=True, connect_timeout=2)
            return self._connection.execute(sql.encode()).fetchone()
        except psycopg.OperationalError:
            self.close()
            return None

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class View:
    """Looks at both sides once a second. Numbers are good enough to look at, no more."""

    def __init__(self, stage: Stage, faults: Faults) -> None:
        self.stage, self.faults = stage, faults
        self.began = time.monotonic()
        self.next = self.next_line = 0.0
        self.phase = "pgbench runs"
        self.transactions = self.changes = self.applied = 0
        self.lag_s: float | None = None
        self._eyes = Eye(stage.bank.url), Eye(stage.replica.url)
        self._past: deque[tuple[float, int, int]] = deque(maxlen=RATE_LOOKS + 1)
        self._shown = 0

    def close(self) -> None:
        """Close what it looks through."""
        for eye in self._eyes:
            eye.close()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Show it for as long as the block lasts."""
        if not sys.stdout.isatty():
            self._show = self._line
            yield
            return
        from rich.live import Live

        with Live(self._table(), refresh_per_second=4) as live:
            self._show = lambda: live.update(self._table())
            yield

    def tick(self) -> None:
        """Look, if it is time, and show."""
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + LOOK_S
        there, here = (eye.look(sql) for eye, sql in zip(self._eyes, (THERE, HERE), strict=True))
        if there is not None:
            drawn = max(there[0] - self.stage.drawn, 0)
            self.changes = self.stage.done * 3 + drawn
            self.transactions = self.changes // 3
        if here is not None:
            self.applied, self.lag_s = here
        self._past.append((now, self.transactions, self.applied))
        self._show()

    def share(self) -> float:
        """How much of the time that there is has passed."""
        limit_s = self.stage.size.minutes * 60
        return (time.monotonic() - self.stage.began) / limit_s if limit_s else 0.0

    def _rates(self) -> tuple[float, float]:
        (then, some, few), (now, more, many) = self._past[0], self._past[-1]
        seconds = max(now - then, 0.001)
        return max(more - some, 0) / seconds, max(many - few, 0) / seconds

    def _facts(self) -> dict[str, str]:
        tps, applied = self._rates() if self._past else (0.0, 0.0)
        behind = max(self.changes - self.applied, 0)
        lag = "?" if self.lag_s is None else f"{self.lag_s:.1f} s" if behind else "none"
        return {
            "time": f"{time.monotonic() - self.began:.0f} s, {self.phase}",
            "transactions": f"{self.transactions:,} of {self.stage.size.transactions:,}, "
            f"{tps:,.0f}/s (pgbench started {self.stage.starts} times)",
            "replica": f"{self.applied:,} changes applied, {applied:,.0f}/s",
            "behind": f"{behind:,} changes, lag {lag}",
            "faults": f"{len(self.faults.fired)} of {self.stage.size.faults} fired"
            + (f"; now: {self.faults.now}" if self.faults.now else ""),
        }

    def _line(self) -> None:
        for fired in self.faults.fired[self._shown :]:
            print(f"fault: {fired.kind}: {fired.evidence}", flush=True)
        self._shown = len(self.faults.fired)
        if time.monotonic() >= self.next_line:
            self.next_line = time.monotonic() + LINE_S
            print(" | ".join(f"{k}: {v}" for k, v in self._facts().items()), flush=True)

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(title="pgbench through oncebox", show_header=False)
        for name, value in self._facts().items():
            table.add_row(name, value)
        counts = Counter(one.kind for one in self.faults.fired)
        for kind, count in sorted(counts.items()):
            table.add_row("", f"{count} x {kind}")
        return table
