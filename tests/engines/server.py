"""A server process of the suite: its folder, its ports, its end.

A server must not outlive the test run, not even one that is killed with SIGKILL and so can clean
up nothing. Every server therefore has a keeper, `keeper.py`: a process that starts it and reads
a pipe whose other end the test run holds. The kernel closes that end however the run dies; the
keeper then ends the server and removes its folder. (Linux's PR_SET_PDEATHSIG would do less: it
fires when the *thread* that started the server ends, does not exist elsewhere, removes no folder.)
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

KEEPER = Path(__file__).with_name("keeper.py")
LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
POLL_S = 0.02
# Below the range from which kernels take the ports of outgoing connections, so that nobody's
# connection sits on a server's port while that server restarts.
PORTS = range(20_000, 32_000)
LOG_TAIL_BYTES = 4_000
NOBODY = 65534


class ServerFailed(Exception):
    """A server did not start, or ended by itself; the text ends with the tail of its log."""


class Server:
    """One server process with a folder of its own, started and ended as often as wanted."""

    def __init__(self, name: str, user: str | None = None) -> None:
        self.name = name
        self.user = user
        self.folder = Path(tempfile.mkdtemp(prefix=f"oncebox-{name}-", dir=_temporary(user)))
        if user is not None:
            shutil.chown(self.folder, user)
        self.log = self.folder / "server.log"
        self.pid = 0
        self._keeper: subprocess.Popen[str] | None = None

    def is_running(self) -> bool:
        """Whether the process lives; asked anew each time, hence no property."""
        return self._keeper is not None and self._keeper.poll() is None

    def start(self, command: list[str], ready: Callable[[], bool]) -> None:
        """Start the process and return when `ready()`, which is asked again and again."""
        if self.is_running():
            raise ServerFailed(f"{self.name} runs already")
        keeper = subprocess.Popen(
            [sys.executable, "-I", str(KEEPER), str(self.folder), self.user or "", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A Ctrl-C in the terminal is for the test run, which then ends its servers in order.
            start_new_session=True,
        )
        self._keeper = keeper
        assert keeper.stdout is not None
        started = keeper.stdout.readline()
        if not started:
            self._forget_keeper()
            raise ServerFailed(f"{self.name} could not be started: {command[0]}")
        self.pid = int(started)
        end = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if not self.is_running():
                raise ServerFailed(f"{self.name} ended while starting:\n{self.log_tail()}")
            if time.monotonic() > end:
                self.end(signal.SIGKILL)
                raise ServerFailed(
                    f"{self.name} not ready after {START_TIMEOUT_S:g} s:\n{self.log_tail()}"
                )
            time.sleep(POLL_S)

    def end(self, how: signal.Signals) -> None:
        """Send the signal and return when the process is gone; SIGKILL after a while."""
        if self._keeper is None:
            return
        if self.is_running():
            signal_process(self.pid, how)
            try:
                self._keeper.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                signal_process(self.pid, signal.SIGKILL)
                self._keeper.wait(STOP_TIMEOUT_S)
        self._forget_keeper()

    def remove(self) -> None:
        """End the process if it lives and remove the folder."""
        self.end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        """Return the last lines that the server wrote."""
        if not self.log.exists():
            return "(no log)"
        return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")

    def _forget_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.communicate(timeout=STOP_TIMEOUT_S)
        self._keeper = None
        self.pid = 0


def open_to_others(place: Path) -> bool:
    """Whether users other than the owner can read what lies in this folder."""
    return all(part.stat().st_mode & 0o001 for part in (place, *place.parents))


def _temporary(user: str | None) -> Path | None:
    """Return where to make a folder for that user; root's own place may be closed to others."""
    if user is None or open_to_others(Path(tempfile.gettempdir())):
        return None
    return Path("/tmp")


def signal_process(pid: int, how: signal.Signals) -> None:
    """Send a signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's rights, for which no file is read-only."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on now."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise ServerFailed(f"no {count} free ports in {PORTS}")
