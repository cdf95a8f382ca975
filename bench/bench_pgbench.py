"""pgbench's own transaction with `oncebox.emit` added, against the same with plain inserts added;
and its replica at 500 transactions per second, with all on this machine.

The figures of the replica come from `pgbench_demo`, which starts servers of its own.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from bench.bench_emit import Pgbench
from bench.measure import Figure, figure, paired
from oncebox.program import drive
from oncebox.stores.adapt import adapt
from oncebox.tables.migrate import migrate

SCALE = 8
SECONDS = 6
RATE = 500
QUIET_S, STRUCK_S = 60, 240
FAULTS = 6
TPCB = Path(__file__).parents[1] / "pgbench_demo" / "tpcb.sql"
PLAIN = """
create table plain (n bigserial primary key, id uuid not null, source text not null,
                    type text not null, version int not null, key text, data bytea not null)
"""


def plain(script: str) -> str:
    """The same script, which inserts what it emitted into a plain table."""
    return "".join(_inserted(line) for line in script.splitlines(keepends=True))


def _inserted(line: str) -> str:
    if not line.startswith("SELECT oncebox.emit("):
        return line
    call, _, behind = line.removeprefix("SELECT oncebox.emit(").rpartition(") FROM")
    source, type, key, data = call.split(", ", 3)
    return (
        "INSERT INTO plain (id, source, type, version, key, data)"
        f" SELECT gen_random_uuid(), {source}, {type}, 1, {key},"
        f" convert_to(({data})::text, 'UTF8') FROM{behind}"
    )


def ratio(url: str, rounds: int) -> list[Figure]:
    script = TPCB.read_text()
    with psycopg.connect(url, autocommit=True) as connection:
        drive(migrate(adapt(connection)))
        connection.execute(PLAIN)
    with tempfile.TemporaryDirectory() as folder:
        scripts = {"emit": script, "plain": plain(script)}
        pgbench = Pgbench(url, Path(folder), scripts)
        command = [pgbench.program, "--initialize", "--quiet", f"--scale={SCALE}", url]
        subprocess.run(command, check=True, capture_output=True)
        return paired(
            "pgbench, 3 events in a transaction, 8 clients",
            lambda: pgbench.rate("emit", SECONDS, f"--scale={SCALE}"),
            lambda: pgbench.rate("plain", SECONDS, f"--scale={SCALE}"),
            rounds=rounds,
            unit="tx/s",
            target="0.75",
            against="plain inserts",
        )


def replica() -> list[Figure]:
    from pgbench_demo.play import play
    from pgbench_demo.stage import Size

    name = f"replica of pgbench at {RATE} tx/s"
    quiet = play(Size(transactions=RATE * QUIET_S, rate=RATE, faults=0)).lags
    struck = play(Size(transactions=RATE * STRUCK_S, rate=RATE, faults=FAULTS))
    assert quiet is not None and struck.lags is not None and not struck.comparison.count
    back = struck.lags.recoveries(struck.faults.fired)
    return [
        figure(f"{name}: lag, p99", "s", [quiet.share(0.99)]),
        figure(f"{name}: lag, most", "s", [quiet.share(1.0)], "1"),
        figure(f"{name}: lag under 1 s again after a fault, most", "s", [max(back, default=0)],
               "30", f"{len(struck.faults.fired)} faults"),
    ]  # fmt: skip


def run(engines: Any = None, rounds: int = 5) -> list[Figure]:
    if engines is None:
        return []
    with engines.postgres.database() as url:
        return ratio(url, rounds) + replica()
