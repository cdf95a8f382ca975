"""Kafka Connect for the suite: one standalone worker with Debezium's connector for PostgreSQL."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from . import lookup
from .kafka import QUICK
from .server import LOOPBACK, Server, free_ports

HEAP = "512m"


class Connect:
    """A worker that a test may kill and start again: where it stood is in its folder."""

    def __init__(self, worker: Path, connector: Path, environment: dict[str, str]) -> None:
        jars = str(lookup.connect_jars() / "*")
        self._server = Server("connect")
        (self._port,) = free_ports(1)
        log = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        main = "org.apache.kafka.connect.cli.ConnectStandalone"
        self._command = [
            *("env", *(f"{name}={value}" for name, value in environment.items())),
            *(f"LISTEN={LOOPBACK}:{self._port}", f"OFFSETS={self._server.folder / 'offsets'}"),
            *(str(lookup.java()), f"-Xmx{HEAP}", *QUICK, log, "-cp", jars, main),
            *(str(worker), str(connector)),
        ]

    def start(self) -> None:
        """Start it; it answers, though its connector may not read yet."""
        self._server.start(self._command, self._ready)

    def kill(self) -> None:
        """SIGKILL."""
        self._server.end(signal.SIGKILL)

    def words(self) -> str:
        """The tail of its log."""
        return self._server.log_tail()

    def remove(self) -> None:
        """End it and remove its folder."""
        self._server.remove()

    def _ready(self) -> bool:
        with socket.socket() as probe:
            return not probe.connect_ex((LOOPBACK, self._port))


@contextlib.contextmanager
def connect(worker: Path, connector: Path, environment: dict[str, str]) -> Iterator[Connect]:
    """Start a worker with these properties and variables; remove it after. Raises EngineMissing."""
    made = Connect(worker, connector, environment)
    try:
        made.start()
        yield made
    finally:
        made.remove()
