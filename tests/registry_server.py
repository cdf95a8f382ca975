"""A registry server as a process of its own, for tests with real clients."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

STOP_S = 20


class Server:
    """`oncebox schema serve`, and where it is."""

    def __init__(self, store: str, *more: str, **environment: str) -> None:
        command = [sys.executable, "-m", "oncebox", "schema", "serve", "--store", store, "--json"]
        self.process = subprocess.Popen(
            [*command, "--port", "0", *more],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.stderr.read())
        self.url: str = json.loads(line)["url"]

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.end()

    def end(self) -> tuple[int, str]:
        """Stop it if it runs; its exit code, and what it complained of."""
        if self.process.poll() is None:
            self.process.terminate()
        _, said = self.process.communicate(timeout=STOP_S)
        return self.process.returncode, said


@contextlib.contextmanager
def serving(store: str, *more: str, **environment: str) -> Iterator[Server]:
    """A server while the block lasts."""
    server = Server(store, *more, **environment)
    try:
        yield server
    finally:
        server.end()
