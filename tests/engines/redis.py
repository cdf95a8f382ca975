"""Redis for the suite, as a broker for Celery: one server that keeps nothing."""

import contextlib
import signal
import socket
from collections.abc import Iterator

from . import lookup
from .server import LOOPBACK, Server, free_ports


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """Start a server on a free port; yields its URL and removes it after. Raises EngineMissing."""
    program, server, (port,) = lookup.redis(), Server("redis"), free_ports(1)

    def ready() -> bool:
        with socket.socket() as probe:
            return not probe.connect_ex((LOOPBACK, port))

    try:
        options = ["--port", str(port), "--bind", LOOPBACK, "--save", "", "--appendonly", "no"]
        server.start([str(program), *options], ready)
        yield f"redis://{LOOPBACK}:{port}/0"
    finally:
        server.end(signal.SIGTERM)
        server.remove()
