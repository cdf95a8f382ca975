"""What the tests of `examples/` share: a sample's programs on real engines, and their faults."""

from __future__ import annotations

import difflib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from msgspec import json

from engines.kafka import Kafka
from engines.server import LOOPBACK, free_ports
from oncebox.program import drive
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CRASHES = Path(__file__).parent / "crashes"
WAIT_S = 60.0
SIDES = ("before", "after")


def changed_lines(example: Path) -> int:
    """Lines that are added or removed between a sample's before and its after."""
    before, after = (texts(example, side) for side in SIDES)
    return sum(
        line[:1] in "+-" and line[:3] not in {"+++", "---"}
        for name in before.keys() | after.keys()
        for line in difflib.unified_diff(before.get(name, []), after.get(name, []), n=0)
    )


def texts(example: Path, side: str) -> dict[str, list[str]]:
    """The lines of the files of one side, by name."""
    if (one := example / f"{side}.py").exists():
        return {"": one.read_text().splitlines()}
    folder = example / side
    return {str(p.relative_to(folder)): p.read_text().splitlines() for p in folder.rglob("*.py")}


@dataclass
class Stage:
    """A database, a Kafka, and the processes of one sample."""

    example: str
    side: str
    folder: Path
    database: str
    kafka: Kafka
    topic: str
    more: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    port: int = field(default_factory=lambda: free_ports(1)[0])

    @property
    def environment(self) -> dict[str, str]:
        home = EXAMPLES / self.example
        home = home / self.side if (home / self.side).is_dir() else home
        return {
            **os.environ, "PYTHONPATH": f"{home}:{CRASHES}", "DATABASE": self.database,
            "KAFKA": self.kafka.bootstrap, "PAYMENTS": f"{self.topic}-payments",
            "RECEIPTS": f"{self.topic}-receipts", "ORDERS": f"{self.topic}-orders",
            "ARMED": str(self.folder / "armed"), "GROUP": self.topic, **self.more,
        }  # fmt: skip

    def start(self, *command: str, crash: str | None = None) -> subprocess.Popen[bytes]:
        """A program of the sample; with `crash` it dies once, when `arm` has been called."""
        environment = self.environment | ({} if crash is None else {"CRASH": crash})
        with (self.folder / "words.txt").open("ab") as words:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=self.folder, env=environment,
                stdout=words, stderr=words,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, *command: str) -> None:
        assert self.start(*command).wait(WAIT_S) == 0, self.words()

    def relay(self) -> None:
        """What publishes what the sample has emitted; nothing, of a sample without oncebox."""
        if self.side == "after":
            self.start("oncebox", "run", "--app", self.app)

    @property
    def app(self) -> str:
        return "shop.views" if self.example.startswith("django") else self.side

    def arm(self) -> None:
        (self.folder / "armed").touch()

    def crashed(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until it has died."""
        assert process.wait(WAIT_S) == -signal.SIGKILL, self.words()
        assert not (self.folder / "armed").exists()

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, self.words()
            time.sleep(0.05)

    def words(self) -> str:
        return (self.folder / "words.txt").read_text()[-6000:]

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database, autocommit=True) as connection:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

    def paid(self, account: str) -> int:
        ((cents,),) = self.sql(f"SELECT paid FROM account WHERE name = '{account}'")
        return int(cents)

    def send(self, *payments: tuple[str, str, int]) -> None:
        """Payments (id, account, cents) into their topic."""
        producer = Producer({"bootstrap.servers": self.kafka.bootstrap})
        for id, account, cents in payments:
            value = json.encode({"id": id, "account": account, "cents": cents})
            producer.produce(f"{self.topic}-payments", value, key=account)
        assert producer.flush(WAIT_S) == 0

    def told(self, what: str) -> list[dict[str, Any]]:
        """What is in one of the topics."""
        place = TopicPartition(f"{self.topic}-{what}", 0)
        settings = {"bootstrap.servers": self.kafka.bootstrap, "group.id": "test"}
        consumer = Consumer(settings)
        start, end = consumer.get_watermark_offsets(place, timeout=WAIT_S)
        place.offset = start
        consumer.assign([place])
        found = consumer.consume(end - start, timeout=WAIT_S) if end > start else []
        consumer.close()
        return [json.decode(record.value() or b"null") for record in found]

    def serve(self, *command: str, crash: str | None = None) -> subprocess.Popen[bytes]:
        """A web application, once it answers."""
        port = ("--host", LOOPBACK, "--port", str(self.port), "--no-access-log")
        process = self.start("uvicorn", *command, *port, crash=crash)
        self.until(lambda: self.post("/nothing") or process.poll() is not None)
        assert process.poll() is None, self.words()
        return process

    def post(self, path: str) -> int:
        """The answer's status; 0 where there is none."""
        url = f"http://{LOOPBACK}:{self.port}{path}"
        try:
            with urlopen(Request(url, method="POST"), timeout=WAIT_S) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except (URLError, ConnectionError):
            return 0

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, side: str, tmp_path: Path, postgres_url: str,
    kafka_server: Kafka, topic: str,
) -> Iterator[Stage]:  # fmt: skip
    """The stage of the sample that the test's module names as EXAMPLE, or the test's own mark."""
    example = request.node.get_closest_marker("example").args[0]
    made = Stage(example, side, tmp_path, postgres_url, kafka_server, topic)
    for name in ("payments", "receipts", "orders"):
        kafka_server.create_topic(f"{topic}-{name}", 1)
    session: Any = open_store(postgres_url).open()
    drive(migrate(session))
    session.close()
    made.sql("CREATE TABLE account (name text PRIMARY KEY, paid int NOT NULL DEFAULT 0)")
    made.sql("INSERT INTO account VALUES ('ada'), ('bob'), ('end')")
    yield made
    made.stop()
