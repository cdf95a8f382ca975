"""The servers, pgbench and oncebox's processes: started, and started again.

Each has a folder of its own under the system's temporary one, and ends with this process.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg

from engines.kafka import OwnKafka, kafka
from engines.lookup import EngineMissing, postgres_programs
from engines.postgres import OwnPostgres, postgres
from engines.server import Server

HERE = Path(__file__).resolve().parent
STREAMS = ("accounts", "tellers", "branches")
PARTITIONS = 4
PROCESSES = ("bank-1", "bank-2", "replica-1", "replica-2")
"""One of each two works, or both share; when one is killed, the other goes on."""

ONCEBOX = ["env", f"PYTHONPATH={HERE.parent}", sys.executable, "-m", "oncebox"]
QUICK_MAX = 50_000
"""Transactions up to which a broker is not worth compiling for long."""

SETTINGS = {"track_commit_timestamp": "on"}
"""So that `lags.py` can read from PostgreSQL itself when a row was committed."""

RESTARTS_MAX = 100
"""How often processes may be started again that began while a server was away."""

STARTS_MAX = 200
"""How often pgbench may be started without a transaction more."""


COUNTED = "select count(*), (select last_value from audited_n_seq) from pgbench_history"


class DemoFailed(Exception):
    """The demo itself broke; the text says where, and what was said last."""


@dataclass(frozen=True)
class Size:
    """How much is done. `rate`: transactions per second that pgbench aims at; 0: all it can.
    `minutes`: when pgbench is ended, however many there were; 0: never.
    """

    transactions: int = 300_000
    clients: int = 8
    scale: int = 8
    rate: float = 0.0
    minutes: float = 0.0
    faults: int = 40
    seed: int = 0


class Stage:
    """Everything that runs. Enter it to start, leave it to end all of it."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.pgbench: subprocess.Popen[bytes] | None = None
        self.processes: dict[str, Server] = {}
        self.began = time.monotonic()
        self.done = 0
        """Transactions that were committed, as counted when pgbench was last started."""
        self.starts = self.vain = 0
        self.drawn = 0
        """Numbers that the triggers had drawn by then."""
        self.down = False
        """Whether the bank's server is being restarted: then pgbench waits."""
        self.restarts = 0
        """Processes that ended by themselves."""
        self._struck: set[str] = set()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.bank: OwnPostgres = stack.enter_context(postgres(settings=SETTINGS))
            self.replica: OwnPostgres = stack.enter_context(postgres(settings=SETTINGS))
            self.kafka: OwnKafka = stack.enter_context(
                kafka(lasting=self.size.transactions > QUICK_MAX)
            )
            self.own = Server("pgbench")  # its folder: what is configured, what pgbench says
            stack.callback(self.own.remove)
            stack.callback(self.end)
            self.words = self.own.folder / "pgbench.log"
            self._prepare()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _prepare(self) -> None:
        """Databases with their tables; nobody works yet."""
        self.program = postgres_programs() / "pgbench"
        if not self.program.exists():
            raise EngineMissing("pgbench", str(self.program.parent))
        made = [str(self.program), "--initialize", "--quiet", f"--scale={self.size.scale}"]
        self._run([*made, self.bank.url])
        config = self.own.folder / "oncebox.toml"
        sources = "".join(f'"/bank/{stream}" = "{self.bank.url}"\n' for stream in STREAMS)
        config.write_text(
            f'app = ["pgbench_demo.bank"]\nlog = "{self.kafka.url}"\n'
            f'[services.bank]\nstore = "{self.bank.url}"\n'
            f'[services.replica]\nstore = "{self.replica.url}"\n'
            f"[services.replica.sources]\n{sources}"
        )
        self.config = ["--config", str(config)]
        self._run([*ONCEBOX, "db", "migrate", *self.config])
        for server, name in ((self.bank, "bank"), (self.replica, "replica")):
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute((HERE / f"{name}.sql").read_text().encode())
        for stream in STREAMS:
            self.kafka.create_topic(stream, PARTITIONS)

    def _run(self, command: list[str]) -> None:
        ended = subprocess.run(
            command, cwd=self.own.folder, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise DemoFailed(f"{' '.join(command)} failed:\n{ended.stdout}{ended.stderr}")

    # ---- oncebox's processes

    def start(self, name: str) -> None:
        """Start a process, or start it again after it was killed."""
        server = self.processes.setdefault(name, Server(name))
        service = name.partition("-")[0]
        server.start([*ONCEBOX, "run", service, *self.config], ready=lambda: True)

    def at_work(self) -> bool:
        """Whether the bank has a relay, and each partition of the replica's a reader."""
        held = "select count(*) from oncebox.cursor where holder is not null and reader = "
        ((relays,),) = rows(self.bank.url, f"{held}'relay:bank'")
        ((partitions,),) = rows(self.replica.url, f"{held}'replica'")
        return bool(relays) and partitions == len(STREAMS) * PARTITIONS

    def look_after(self) -> None:
        """Start again what began while its server was away, as whoever supervises it does:
        `oncebox run` waits for no server that it has not reached yet. Raises DemoFailed where a
        process ended by an error of its own.
        """
        for name, server in self.processes.items():
            if name in self._struck or server.is_running():
                continue
            said = server.log_tail()
            self.restarts += 1
            if "Traceback" in said or self.restarts > RESTARTS_MAX:
                raise DemoFailed(f"{name} ended by itself:\n{said}")
            self.start(name)

    @contextmanager
    def struck(self, name: str) -> Iterator[None]:
        """While a fault is done to a process, nobody wonders where it is."""
        self._struck.add(name)
        yield
        self._struck.discard(name)

    @contextmanager
    def away(self, server: OwnPostgres) -> Iterator[None]:
        """While a server is restarted: pgbench is not started on it."""
        self.down = server is self.bank
        yield
        self.down = False

    # ---- pgbench

    def benched(self) -> bool:
        """Keep pgbench going; whether all its transactions are done.

        A client whose connection breaks gives up, and pgbench does without it. So it is ended
        then, and started again for what is left: the count goes on from `pgbench_history`, which
        has a row for each transaction that was committed.
        """
        late = 0 < self.size.minutes * 60 < time.monotonic() - self.began
        if self.pgbench is not None and self.pgbench.poll() is None:
            if late or b" aborted" in self.words.read_bytes():
                self.pgbench.terminate()
                self.pgbench.wait()
            else:
                return False
        if self.down:
            return False
        if self.pgbench is not None and b"ERROR:" in (said := self.words.read_bytes()):
            raise DemoFailed(f"pgbench met an error: {said.decode(errors='replace')}")
        try:
            with psycopg.connect(self.bank.url, connect_timeout=10) as connection:
                row = connection.execute(COUNTED).fetchone()
        except psycopg.OperationalError:
            return False
        assert row is not None
        self.vain = 0 if row[0] > self.done else self.vain + 1
        if self.vain > STARTS_MAX:
            raise DemoFailed(f"pgbench does nothing: {self.words.read_text()}")
        self.done, self.drawn = row
        left = self.size.transactions - self.done
        if left > 0 and not late:
            self._bench(left)
        return left <= 0 or late

    def _bench(self, left: int) -> None:
        """Start pgbench for at least `left` transactions."""
        clients = min(self.size.clients, left)
        command = [
            str(self.program), "--no-vacuum", f"--client={clients}", f"--scale={self.size.scale}",
            f"--transactions={-(-left // clients)}", "--protocol=prepared",
            f"--file={HERE / 'tpcb.sql'}",
            *([f"--rate={self.size.rate}"] if self.size.rate else []),
            self.bank.url,
        ]  # fmt: skip
        with self.words.open("wb") as words:
            self.pgbench = subprocess.Popen(command, stdout=words, stderr=words)
        self.starts += 1

    # ---- the end

    def stop(self) -> None:
        """Stop oncebox's processes in order, as an operator does."""
        for server in self.processes.values():
            server.end(signal.SIGTERM)

    def end(self) -> None:
        """End whatever runs."""
        if self.pgbench is not None and self.pgbench.poll() is None:
            self.pgbench.kill()
            self.pgbench.wait()
        for server in self.processes.values():
            server.remove()


def rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    """What a query answers, on a connection of its own."""
    with psycopg.connect(url, connect_timeout=10) as connection:
        return connection.execute(sql.encode()).fetchall()
