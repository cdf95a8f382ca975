"""The demo from beginning to end: both halves, then the verdict."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from oncebox.errors import ConfigurationError

from .customers import Size
from .report import Report
from .servers import place, rows_of
from .stage import HALVES, DemoFailed, Outcome, Stage

EVENTS_MIN, EVENTS_MAX = 1000, 1_000_000


def play(
    store: str | None, log: str | None, events: int, keys: int, seed: int, *, json: bool
) -> int:
    """See `oncebox.demo.main`."""
    if not EVENTS_MIN <= events <= EVENTS_MAX or not 50 <= keys <= events:
        raise ConfigurationError(
            f"{events} events of {keys} orders",
            expected=f"{EVENTS_MIN} to {EVENTS_MAX} events, at least 50 orders",
        )
    size, report = Size(events, keys, seed), Report(json=json)
    report.begin(size, _where(store, log))
    outcomes: dict[str, Outcome] = {}
    folder = Path(tempfile.mkdtemp(prefix="oncebox-demo-"))
    keep = False
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        for half in HALVES:
            outcomes[half] = play_half(half, folder / half, size, store, log, report)
        verdict = judge(outcomes)
        keep = bool(verdict)
        report.end(size, outcomes, verdict)
        if json:
            report.write_json(size, outcomes, verdict)
    except DemoFailed:
        keep = True
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if keep:
            report.say(f"What the processes left is in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if verdict else 0


def _leave(number: int, _: object) -> None:
    """Somebody wants us to end: by an exception, so that processes and files go with us."""
    sys.exit(128 + number)


def play_half(
    half: str, folder: Path, size: Size, store: str | None, log: str | None, report: Report
) -> Outcome:
    """One half on its stage, in a folder of its own."""
    folder.mkdir()
    with place(half, folder, store, log) as found, report.progress(half) as notice:
        stage = Stage(half, folder, size, found.log, prefix=found.prefix,
                      environment=found.environment)  # fmt: skip
        if found.database is not None:
            stage.fetch = partial(_rows, found.database)
        return stage.run(notice)


def _rows(database: str, service: str, sql: str) -> list[tuple[object, ...]]:
    del service  # on a server all services share a database
    return rows_of(database, sql)


def judge(outcomes: dict[str, Outcome]) -> list[str]:
    """What speaks against a pass, as sentences; none: oncebox's column is zero, and the naive one
    shows that the faults bit.
    """
    naive, oncebox = outcomes["naive"], outcomes["oncebox"]
    wrong = [
        f"{name}: {found.times} with oncebox"
        for name, found in oncebox.findings.items()
        if found.times or found.cents
    ]
    if not any(found.times for found in naive.findings.values()):
        wrong.append("the naive half survived: the faults did not bite")
    for half in HALVES:
        wrong += [
            f"no fault of this kind fired in the {half} half: {kind}"
            for kind, count in outcomes[half].faults.items()
            if not count
        ]
    return wrong


def _where(store: str | None, log: str | None) -> str:
    engines = {
        "sqlite": "SQLite files", "postgresql": "PostgreSQL", "postgres": "PostgreSQL",
        "kafka": "Kafka",
    }  # fmt: skip
    named = [(url or "sqlite").partition(":")[0] for url in (store, log)]
    if named == ["sqlite", "sqlite"]:
        return "SQLite files, without a server"
    return " and ".join(engines.get(name, name) for name in named)
