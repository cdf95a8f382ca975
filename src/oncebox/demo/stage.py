"""One half of the demo on stage: its processes are started, killed, started again, until done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from oncebox.errors import OnceboxError
from oncebox.ports import Log

from .check import Finding, findings
from .contracts import STREAMS
from .customers import Size, Workload, workload
from .offsets import acknowledged
from .tables import open_file
from .worker import RETRY_TOPICS, TURN

HALVES = ("naive", "oncebox")

ROLES = {
    "naive": ("web", "shop", "payments-0", "payments-1", "poller", "stock", "shipping"),
    "oncebox": ("web", "shop", "payments-0", "payments-1", "stock", "shipping"),
}
READERS = {
    "shop": ("parcels",),
    "payments": ("orders", "returns"),
    "stock": ("orders", "returns"),
    "shipping": ("payments",),
}
TICK_S = 0.02
LOOK_S = 0.3
"""How often it is asked whether everything is done; twice yes, and it is."""
STILL_S = 30.0
"""When nothing has changed for so long, what is missing will not come."""
STOP_S = 10.0
FREEZE_S = 2.0
"""How long a process stands still: twice its lease."""


class DemoFailed(OnceboxError):
    """The demo itself broke: a process ended by itself, or a half never came to rest."""


class Outcome(NamedTuple):
    """What became of a half. `faults`: how often each kind fired, from evidence."""

    findings: dict[str, Finding]
    faults: dict[str, int]
    events: int
    keys: int
    seconds: float


class Stage:
    """A half in its folder. `environment` names the engines; empty for SQLite files."""

    def __init__(
        self,
        half: str,
        folder: Path,
        size: Size,
        log: Log,
        *,
        prefix: str = "",
        environment: dict[str, str] | None = None,
        fetch: Callable[[str, str], Iterable[tuple[Any, ...]]] | None = None,
    ) -> None:
        self.half = half
        self.folder = folder
        self.size = size
        self.work: Workload = workload(size)
        self.log = log
        self.prefix = prefix
        self.environment = {**os.environ, **(environment or {})}
        self.fetch = fetch or self._fetch
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.deaths: Counter[str] = Counter()
        self.outside = dict(self.work.faults.outside)
        self.ordered: set[int] = set()  # processes that we have killed
        self.freezes = dict(self.work.faults.frozen)
        self.frozen: dict[subprocess.Popen[bytes], float] = {}  # and when each goes on
        self.thawed = 0

    # ---- the play

    def run(self, progress: Callable[[int, int, int], None]) -> Outcome:
        """Play it. `progress` gets customers served, all customers, processes killed."""
        begun = time.monotonic()
        setting = {"half": self.half, "size": self.size, "parent": os.getpid(),
                   "prefix": self.prefix}  # fmt: skip
        (self.folder / "setting.json").write_text(json.dumps(setting))
        try:
            self.start("open")
            if self.processes.pop("open").wait(STOP_S * 3):
                raise self.broken("open")
            for role in ROLES[self.half]:
                self.start(role)
            self.play(progress)
            seconds = time.monotonic() - begun
            self.stop()
        finally:
            self.kill_all()
        events, keys, doubled, newer = self.count_records()
        faults = self.evidence()
        faults["duplicates in the log"] = doubled
        faults["orders in version 2"] = newer
        return Outcome(findings(self.fetch), faults, events, keys, seconds)

    def play(self, progress: Callable[[int, int, int], None]) -> None:
        looked = changed = time.monotonic()
        before: object = None
        done_before = False
        total = len(self.work.actions)
        while True:
            served = self.served()
            self.look_after()
            self.strike(served / total)
            self.freeze(served / total)
            progress(served, total, sum(self.deaths.values()))
            now = time.monotonic()
            if now - looked > LOOK_S and not self.frozen:
                looked = now
                closing = "web" not in self.processes
                done = closing and self.done()
                if done and done_before:
                    return
                done_before = done
                state = self.business() if closing else served
                if state != before:
                    changed, before = now, state
                elif now - changed > STILL_S:
                    if closing:
                        return  # the check will say what is missing
                    raise DemoFailed(
                        f"{self.half}: nothing moved for {STILL_S:.0f} s", hint=self.last_words()
                    )
            time.sleep(TICK_S)

    def start(self, role: str) -> None:
        with (self.folder / f"{role}.log").open("ab") as words:
            self.processes[role] = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "oncebox.demo.worker", role],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
            )

    def look_after(self) -> None:
        """Start again what was killed; a process that ends otherwise is the demo's own fault."""
        for role, process in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self.processes[role]
            if role == "web" and code == 0:
                continue
            if code != -signal.SIGKILL:
                raise self.broken(role)
            self.deaths[self.cause(process.pid)] += 1
            self.start(role)

    def cause(self, pid: int) -> str:
        """What a process died of: a fault's file says it, or we did it."""
        for path in (self.folder / "faults").iterdir():
            kind = path.name.partition(".")[0]
            if kind in ("between", "handled", "published") and _read(path).get("pid") == pid:
                return kind
        if pid in self.ordered:
            return "outside"
        raise DemoFailed(f"process {pid} was killed by somebody else")

    def strike(self, share: float) -> None:
        """Kill from outside whose time has come, if it is alive."""
        for role, at in list(self.outside.items()):
            process = self.processes.get(role)
            if share >= at and process is not None and process.poll() is None:
                del self.outside[role]
                self.ordered.add(process.pid)
                process.kill()

    def freeze(self, share: float) -> None:
        """Stop processes for longer than their leases, and let them go on."""
        now = time.monotonic()
        for process, until in list(self.frozen.items()):
            if now >= until:
                del self.frozen[process]
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                    self.thawed += 1
        for role, at in list(self.freezes.items()):
            frozen = self.processes.get(role)
            if share >= at and frozen is not None and frozen.poll() is None:
                del self.freezes[role]
                frozen.send_signal(signal.SIGSTOP)
                _, status = os.waitpid(frozen.pid, os.WUNTRACED)
                if os.WIFSTOPPED(status):
                    self.frozen[frozen] = now + FREEZE_S
                else:  # it died of something else in that moment
                    frozen.returncode = os.waitstatus_to_exitcode(status)
                    self.freezes[role] = at

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for role, process in self.processes.items():
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                raise DemoFailed(f"{role} did not stop", hint=self.last_words()) from None
            if code:
                raise self.broken(role)
        self.processes.clear()

    def kill_all(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.processes.clear()

    def broken(self, role: str) -> DemoFailed:
        return DemoFailed(f"{self.half}: the process {role} ended", hint=self.last_words(role))

    def last_words(self, role: str = "*") -> str:
        texts = [path.read_text()[-1500:] for path in sorted(self.folder.glob(f"{role}.log"))]
        return "\n".join(text for text in texts if text) or "it said nothing"

    # ---- how far it is

    def served(self) -> int:
        return int.from_bytes((self.folder / TURN).read_bytes(), "big")

    def done(self) -> bool:
        """Whether everything that was published has been handled, as far as a half knows."""
        readings = [(name, topic) for name, topics in READERS.items() for topic in topics]
        if self.half == "naive":
            rows = self.fetch(
                "payments", "SELECT (SELECT max(n) FROM outbox), n FROM outbox_position"
            )
            known = acknowledged(self.folder)
            readings += [(topic, topic) for topic in RETRY_TOPICS]
            waiting = any(last is not None and last > n for last, n in rows)
        else:
            known = self.cursors()
            waiting = any(finding.times for finding in findings(self.fetch).values())
        return not waiting and all(
            known.get((reader, topic, part), 0) >= extent.end
            for reader, topic in readings
            for part, extent in enumerate(self.log.extents(self.prefix + topic))
        )

    def cursors(self) -> dict[tuple[str, str, int], int]:
        """How far oncebox's consumers are, by reader, topic and partition. Only for waiting."""
        table = "oncebox.cursor" if "DEMO_STORE" in self.environment else "oncebox_cursor"
        columns = "reader, topic, partition, position"
        return {
            (reader, topic, part): int(position or 0)
            for service in READERS
            for reader, topic, part, position in self.fetch(
                service, f"SELECT {columns} FROM {table} WHERE reader = '{service}'"
            )
        }

    def business(self) -> object:
        """What the business tables hold, roughly: when it stands still, nothing more will come."""
        return [
            list(self.fetch(service, sql))
            for service, sql in (
                ("payments", "SELECT count(*) FROM ledger"),
                ("stock", "SELECT sum(pieces) FROM shelf"),
                ("shipping", "SELECT count(*) FROM parcel"),
                ("shop", "SELECT sum(sent) FROM line"),
            )
        ]

    def _fetch(self, service: str, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a service's database file, read from outside."""
        db = open_file(self.folder / f"{service}.db")
        try:
            return db.execute(sql).fetchall()
        finally:
            db.close()

    # ---- evidence

    def evidence(self) -> dict[str, int]:
        """Deaths as they were seen, and the files that other faults left."""
        fired: Counter[str] = Counter()
        for path in (self.folder / "faults").iterdir():
            kind = path.name.partition(".")[0]
            fired[kind] += _read(path)["detail"] if kind == "again" else 1
        return {
            "killed between two writes": self.deaths["between"],
            "killed before acknowledging": self.deaths["handled"],
            "relay killed after publishing": self.deaths["published"],
            "killed at a random moment": self.deaths["outside"],
            "frozen past its lease": self.thawed,
            "handler failed": fired["failed"],
            "partition stalled": fired["stalled"],
            "delivered again": fired["again"],
        }

    def count_records(self) -> tuple[int, int, int, int]:
        """Read all topics once more: events, keys, how often an event is there again, and how many
        records are of version 2.
        """
        ids: set[str] = set()
        keys: set[tuple[str, bytes | None]] = set()
        total = newer = 0
        reader = self.log.reader("oncebox-demo-count")
        ends = {
            (self.prefix + topic, part): extent
            for topic in STREAMS
            for part, extent in enumerate(self.log.extents(self.prefix + topic))
        }
        left = sum(extent.end - extent.start for extent in ends.values())
        reader.assign({place: extent.start for place, extent in ends.items()})
        changed = time.monotonic()
        while total < left:
            if time.monotonic() > changed + STILL_S:
                raise DemoFailed(f"{self.half}: the log could not be read again")
            for record in reader.fetch(1000, 4 * 1024 * 1024, 1.0):
                changed = time.monotonic()
                total += 1
                keys.add((record.topic, record.key))
                named = dict(record.headers).get("ce_id")
                newer += b'"amount"' in (record.value or b"")
                ids.add(named.decode() if named else json.loads(record.value or b"{}")["id"])
        reader.close()
        return len(ids), len(keys), total - len(ids), newer


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text() or "{}")
    return found
