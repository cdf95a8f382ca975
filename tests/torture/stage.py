"""The processes of a round: started, told what to do, looked after, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from oncebox.errors import Unreachable

from .place import Databases, Place
from .points import BEGUN

ROLES = ("producer-1", "producer-2", "relay-1", "relay-2", "stock-1", "stock-2", "ledger-1")
OUTBOX_OF = {"relay": "shop", "stock": "stock"}
"""Whose events a process relays."""

BOUNCED = ("producer-2", "relay-2", "stock-2")
"""These reach PostgreSQL through PgBouncer."""

STOP_S = 40.0
TESTS = Path(__file__).resolve().parents[1]


class TortureFailed(Exception):
    """The product broke under torture, or the torture itself; the text says which."""


class Stage:
    """A round's processes. `ordered`: whose end was asked for, and by which signal."""

    def __init__(self, place: Place, databases: Databases, folder: Path, tag: str) -> None:
        self.place = place
        self.databases = databases
        self.folder = folder
        self.tag = tag
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.since: dict[str, float] = {}
        self.ordered: dict[int, signal.Signals] = {}
        self.resting: set[str] = set()  # not to be started again for now
        self.not_started = 0  # starts that found a server away
        self._read = 0
        self._fired: list[dict[str, Any]] = []
        (folder / "poison").mkdir(parents=True, exist_ok=True)
        (folder / "fired").touch()
        self.topics = [f"moves-{tag}", f"bookings-{tag}"]

    # ---- processes

    def environment(self, way: str, log: str) -> dict[str, str]:
        names = self.databases.names
        urls = {service: self.place.url(name, way) for service, name in names.items()}
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
            "TORTURE_TAG": self.tag,
            "TORTURE_FOLDER": str(self.folder),
            "TORTURE_SHOP": urls["shop"],
            "ONCEBOX_APP": "torture.services",
            "ONCEBOX_LOG": log,
            **{f"ONCEBOX_SERVICES_{name.upper()}_STORE": url for name, url in urls.items()},
        }

    def start(self, role: str) -> None:
        way = "pgbouncer" if role in BOUNCED else "postgres"
        with (self.folder / f"{role}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "torture.worker", role],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                cwd=self.folder, env=self.environment(way, self.place.log),
            )  # fmt: skip
        self.processes[role] = process
        self.since[role] = time.monotonic()

    def start_all(self) -> None:
        for role in ROLES:
            self.start(role)

    def tell(self, role: str, **order: Any) -> None:
        """Give a process an order; one that is gone takes none."""
        stdin = self.processes[role].stdin
        assert stdin is not None
        with suppress(OSError):
            stdin.write(json.dumps(order).encode() + b"\n")
            stdin.flush()

    def signal(self, role: str, how: signal.Signals) -> int:
        """Send a signal; the process's id."""
        process = self.processes[role]
        if how in (signal.SIGKILL, signal.SIGTERM):
            self.ordered[process.pid] = how
        process.send_signal(how)
        return process.pid

    def is_up(self, role: str, for_s: float = 0.0) -> bool:
        process = self.processes.get(role)
        alive = process is not None and process.poll() is None
        return alive and time.monotonic() - self.since[role] >= for_s

    def look_after(self) -> None:
        """Start again who was killed. Raises TortureFailed for a process that ended by itself."""
        for role, process in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            how = self.ordered.pop(process.pid, None)
            died = any(one["pid"] == process.pid and "point" in one for one in self.fired())
            asked = code == -signal.SIGKILL and (died or how is signal.SIGKILL)
            if code == Unreachable.exit_code and not self.has_begun(process.pid):
                self.not_started += 1  # whoever supervises it starts it again
            elif not asked and not (how is signal.SIGTERM and self.ended_well(process.pid, code)):
                raise TortureFailed(f"{role} ended with {code}, told {how}\n{self.words(role)}")
            del self.processes[role]
            if process.stdin is not None:
                with suppress(OSError):  # an order that it did not take any more
                    process.stdin.close()
            if role not in self.resting:
                self.start(role)

    def ended_well(self, pid: int, code: int) -> bool:
        """In order; or, where it had not taken over SIGTERM yet, by it."""
        return code == 0 or (code == -signal.SIGTERM and not self.has_begun(pid))

    def is_ready(self, role: str) -> bool:
        """Whether a process is at work, and was not told to end."""
        process = self.processes.get(role)
        if process is None or process.poll() is not None or process.pid in self.ordered:
            return False
        return role.startswith("producer") or self.has_begun(process.pid)

    def has_begun(self, pid: int) -> bool:
        return any(one["fault"] == BEGUN and one["pid"] == pid for one in self.fired())

    def words(self, role: str) -> str:
        return (self.folder / f"{role}.log").read_text(errors="replace")[-3000:]

    def fired(self) -> list[dict[str, Any]]:
        """The evidence that workers have left."""
        with (self.folder / "fired").open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        self._fired += [json.loads(line) for line in whole.splitlines()]
        return self._fired

    def evidence(self, fault: str) -> dict[str, Any] | None:
        return next((one for one in self.fired() if one["fault"] == fault), None)

    def stop(self, roles: tuple[str, ...]) -> None:
        """End processes in order. Raises TortureFailed for one that does not end, or ends badly."""
        self.resting |= set(roles)
        for role in roles:
            if self.is_up(role):
                self.signal(role, signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        while any(self.is_up(role) for role in roles):
            if time.monotonic() > deadline:
                alive = [role for role in roles if self.is_up(role)]
                raise TortureFailed(f"{alive} did not end\n{self.words(alive[0])}")
            time.sleep(0.05)
        self.look_after()

    def kill_all(self) -> None:
        for process in self.processes.values():
            with suppress(OSError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
            if process.stdin is not None:
                with suppress(OSError):
                    process.stdin.close()
        self.processes.clear()

    def oncebox(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """An operator's command, past all proxies."""
        return subprocess.run(
            [sys.executable, "-m", "oncebox", *arguments], text=True, capture_output=True,
            cwd=self.folder, env=self.environment("", self.place.kafka.url), check=False,
        )  # fmt: skip

    # ---- how far they are

    def count(self) -> tuple[int, int, int, int]:
        """Changes made; effects at stock, at ledger of shop's, at ledger of stock's."""
        made = self.databases.ask("shop", "select count(*) from made")[0][0]
        stock = self.databases.ask("stock", "select count(*) from effect")[0][0]
        moves, bookings = self.databases.ask(
            "ledger",
            "select count(*) filter (where stream = 'moves'),"
            " count(*) filter (where stream = 'bookings') from effect",
        )[0]
        return made, stock, moves, bookings

    def leads(self, role: str) -> bool:
        """Whether a process relays its service's events now."""
        process, service = self.processes.get(role), OUTBOX_OF[role.partition("-")[0]]
        held = self.holders(service, f"relay:{service}").get((service, 0))
        return process is not None and held is not None and held[0] == process.pid

    def holders(self, service: str, reader: str) -> dict[tuple[str, int], tuple[Any, ...]]:
        """Of each cursor of a reader: (process id or 0, term, position)."""
        rows = self.databases.ask(
            service,
            "select topic, partition, holder, term, position from oncebox.cursor where reader = %s",
            reader,
        )
        return {
            (topic, partition): (int(holder.split(":")[-2]) if holder else 0, term, position)
            for topic, partition, holder, term, position in rows
        }


def state_of(pid: int) -> str:
    """A process's state as Linux names it: R, S, D, T (stopped), Z; empty: gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
