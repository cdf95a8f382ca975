"""Real small web applications (`applications/`), served by a real server, on real databases.

A request commits, its event travels, a handler gets the application's own kind of session, and
the effect is there; a server that is stopped stops in order, and the next one goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from psycopg.conninfo import conninfo_to_dict

from engines.server import LOOPBACK, free_ports

HERE = Path(__file__).parent / "applications"
WAIT_S = 60.0
CUSTOMERS = ("ada", "bob", "cleo")

KINDS = {
    # name: module with the service, what to serve, driver
    "async_sessionmaker-aiosqlite": ("fast_async", "fast_async:app", "sqlite+aiosqlite"),
    "async_sessionmaker-asyncpg": ("fast_async", "fast_async:app", "postgresql+asyncpg"),
    "async_sessionmaker-psycopg": ("fast_async", "fast_async:app", "postgresql+psycopg"),
    "Engine-sqlite3": ("fast_plain", "fast_plain:app", "sqlite"),
    "Engine-psycopg": ("fast_plain", "fast_plain:app", "postgresql+psycopg"),
    "django-sqlite": ("django_shop.services", "django_shop.asgi:application", "sqlite3"),
    "django-postgres": ("django_shop.services", "django_shop.asgi:application", "postgresql"),
}


@dataclass
class Application:
    """One of them, with its processes."""

    folder: Path
    module: str
    target: str
    environment: dict[str, str]
    port: int = field(default_factory=lambda: free_ports(1)[0])
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def is_django(self) -> bool:
        return self.module.startswith("django")

    def run(self, *command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def make_tables(self) -> None:
        if self.is_django:
            self.run("django", "migrate", "--run-syncdb", "--verbosity=0")
        self.run("oncebox", "db", "migrate", "--app", self.module)

    def start(self) -> None:
        """Serve; Django has no lifespan, so its handlers run in a process of their own."""
        self.spawn("uvicorn", self.target, "--host", LOOPBACK, "--port", str(self.port))
        if self.is_django:
            state = f"{self.module}:currency"
            self.spawn("oncebox", "run", "--app", self.module, "--state", state)
        until = time.monotonic() + WAIT_S
        while True:
            try:
                self.ask("/accounts")
            except (HTTPError, URLError):
                assert time.monotonic() < until and self.alive(), self.words()
                time.sleep(0.05)
            else:
                return

    def spawn(self, *command: str) -> None:
        with (self.folder / "words.txt").open("ab") as words:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", *command], cwd=self.folder, env=self.environment,
                    stdout=words, stderr=words,
                )
            )  # fmt: skip

    def alive(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def stop(self) -> None:
        """SIGTERM; uvicorn sends it to itself again when it has shut down."""
        for process in self.processes:
            process.terminate()
        codes = {process.wait(WAIT_S) for process in self.processes}
        assert codes <= {0, -signal.SIGTERM}, self.words()
        self.processes.clear()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def words(self) -> str:
        return (self.folder / "words.txt").read_text()

    def ask(self, path: str, method: str = "GET") -> object:
        request = Request(f"http://{LOOPBACK}:{self.port}{path}", method=method)
        with urlopen(request, timeout=WAIT_S) as answer:
            return json.loads(answer.read())

    def order(self, customer: str, cents: int) -> int:
        number = self.ask(f"/orders/{customer}/{cents}", "POST")
        assert isinstance(number, int)
        return number

    def orders(self, count: int) -> dict[str, list[int]]:
        """Place so many, several at a time; the numbers of each customer's."""
        names = [CUSTOMERS[n % len(CUSTOMERS)] for n in range(count)]
        with ThreadPoolExecutor(4) as pool:
            numbers = list(pool.map(self.order, names, [100] * count))
        return {
            name: [n for n, owner in zip(numbers, names, strict=True) if owner == name]
            for name in CUSTOMERS
        }

    def settle(self, placed: dict[str, list[int]]) -> None:
        """Wait until every order has its effect, once."""
        until = time.monotonic() + WAIT_S
        while True:
            found = self.ask("/accounts")
            assert isinstance(found, dict)
            done = {name: account[1].split() for name, account in found.items()}
            if {n: len(o) for n, o in done.items()} == {n: len(o) for n, o in placed.items()}:
                break
            assert time.monotonic() < until and self.alive(), (done, placed, self.words())
            time.sleep(0.05)
        for name, numbers in placed.items():
            assert sorted(map(int, done[name])) == sorted(numbers)
            assert found[name][0] == 100 * len(numbers)
            assert found[name][2] == "EUR"


@pytest.fixture(params=KINDS)
def application(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Application]:
    module, target, driver = KINDS[request.param]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "SHOP_LOG": "sqlite:///events.db"}
    parts: dict[str, object] = {"dbname": str(tmp_path / "shop.db")}
    if "postgres" in driver:
        url = request.getfixturevalue("postgres_url")
        parts = dict(conninfo_to_dict(url))
        environment["SHOP_DATABASE"] = url.replace("postgresql", driver, 1)
    else:
        environment["SHOP_DATABASE"] = f"{driver}:///{parts['dbname']}"
    if module.startswith("django"):
        environment |= {"DJANGO_SETTINGS_MODULE": "django_shop.settings", "SHOP_ENGINE": driver}
        names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST"}
        for part, name in {**names, "port": "PORT"}.items():
            if part in parts:
                environment[f"SHOP_{name}"] = str(parts[part])
    made = Application(tmp_path, module, target, environment)
    made.make_tables()
    yield made
    made.kill()


def test_a_request_has_its_effect_once(application: Application) -> None:
    application.start()
    placed = application.orders(30)
    with pytest.raises(HTTPError, match="402"):
        application.order("ada", 0)
    placed["ada"].append(application.order("ada", 100))
    application.settle(placed)
    application.stop()
    assert "CRITICAL" not in application.words()
    assert "Traceback" not in application.words()


def test_one_that_is_stopped_amid_work_goes_on_later(application: Application) -> None:
    application.start()
    placed = application.orders(30)
    application.stop()
    assert "Traceback" not in application.words()
    application.start()
    for name, numbers in application.orders(9).items():
        placed[name] += numbers
    application.settle(placed)
    application.stop()
