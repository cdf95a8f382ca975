"""/live, /ready and /metrics of services at work, over HTTP: on loopback unless somebody says more.

They tell numbers, names of services, consumers, topics, and why something cannot be reached;
never keys, ids or payloads. Nothing can be changed here.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from .errors import ConfigurationError, MissingDependency
from .health import Health, lines, live, ready
from .service.work import Running

logger = logging.getLogger("oncebox.http")

LOOPBACK = "127.0.0.1"
CLIENTS_MAX = 8
"""Requests that are answered at once; others wait."""

CLIENT_TIMEOUT_S = 5.0
"""For one that sends nothing, or takes nothing."""

TEXT = "text/plain; charset=utf-8"

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


def address(said: str) -> tuple[str, int]:
    """`[HOST:]PORT` as host and port, port 0 for any that is free; the host is loopback where none
    is said. Raises ConfigurationError.
    """
    host, _, port = said.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigurationError(
            f"--http {said}", expected="[HOST:]PORT, such as 9464 or 0.0.0.0:9464"
        )
    return host.strip("[]") or LOOPBACK, int(port)


@contextmanager
def serving(said: str, work: Running) -> Iterator[int]:
    """Serve while the block lasts; its port. Raises ConfigurationError for an address that cannot
    be had.
    """
    at = address(said)
    answers = {
        "/live": lambda: _health(live(work)),
        "/ready": lambda: _health(ready(work)),
        "/metrics": _metrics(work),
    }
    kind = type("Handler", (_Handler,), {"answers": answers})
    try:
        server = _server(at)(at, kind)
    except OSError as error:
        hint = "another process has this port? Each needs one of its own; 0 takes any"
        raise ConfigurationError(f"--http {said}: {error.strerror}", hint=hint) from error
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    host, port = server.server_address[:2]
    logger.info("serving /live, /ready and /metrics on %s:%d", host, port)
    try:
        yield int(port)
    finally:
        server.shutdown()
        server.server_close()


def _server(at: tuple[str, int]) -> type[ThreadingHTTPServer]:
    import socket

    family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
    return type("Server", (_Server,), {"address_family": family})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = CLIENTS_MAX
    places = threading.BoundedSemaphore(CLIENTS_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.places.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        logger.debug("a request failed: %s", sys.exception())


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S
    server_version = "oncebox"
    sys_version = ""
    answers: ClassVar[dict[str, Callable[[], Answer]]] = {}

    def do_GET(self) -> None:
        answer = self.answers.get(self.path.partition("?")[0])
        if answer is None:
            known = ", ".join(sorted(self.answers))
            status, kind, body = 404, TEXT, f"here are {known}\n".encode()
        else:
            status, kind, body = answer()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)


def _health(health: Health) -> Answer:
    return 200 if health.fine else 503, TEXT, ("\n".join(lines(health)) + "\n").encode()


def _metrics(work: Running) -> Callable[[], Answer]:
    try:
        from .metrics import exposition
    except MissingDependency as error:
        text = f"{error}\n".encode()
        return lambda: (501, TEXT, text)
    return exposition(work)
