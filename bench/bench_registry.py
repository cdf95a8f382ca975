"""The registry server under load: GETs of a schema by id over kept connections, beside a bare
application of the same uvicorn that answers the same bytes.

The rate is of requests a second of the server's processor time: what one core does, whatever else
the machine does meanwhile.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from bench.measure import Figure, paired

REQUESTS = 4000
CONNECTIONS = 16
FIELDS = 20

BARE = """
import asyncio, json, socket, sys, uvicorn
BODY = sys.argv[1].encode()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
at = socket.create_server(("127.0.0.1", 0), backlog=100)
print(json.dumps({"url": f"http://127.0.0.1:{at.getsockname()[1]}"}), flush=True)
config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off",
                        server_header=False, date_header=False)
asyncio.run(uvicorn.Server(config).serve(sockets=[at]))
"""


def run(engines: Any) -> list[Figure]:  # noqa: ARG001
    """The registry's rate and that of the bare application."""
    fields = [{"name": f"field_{n}", "type": "string"} for n in range(FIELDS)]
    schema = json.dumps({"type": "record", "name": "Order", "fields": fields})
    with tempfile.TemporaryDirectory() as folder:
        serve = ["-m", "oncebox", "schema", "serve", "--port", "0", "--json"]
        with _process([*serve, "--store", f"sqlite:///{folder}/r.db"]) as (pid, url):
            body = json.dumps({"schema": schema}).encode()
            heads = {"Content-Type": "application/json"}
            with urlopen(Request(f"{url}/subjects/s/versions", body, heads)) as answer:
                path = f"/schemas/ids/{json.load(answer)['id']}"
            with urlopen(url + path) as answer:
                same = answer.read().decode()
            with _process(["-c", BARE, same]) as (bare, bare_url):
                figures = paired(
                    "registry server, cached GET by id",
                    lambda: _rate(pid, url, path),
                    lambda: _rate(bare, bare_url, path),
                    unit="requests/s of one core",
                    against="bare uvicorn, same bytes",
                )
    figures[0].target = "≥ 3,000"
    return figures


def _rate(pid: int, url: str, path: str) -> float:
    """Requests a second of processor time."""
    host, _, port = url.removeprefix("http://").partition(":")
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    clients = [socket.create_connection((host, int(port))) for _ in range(CONNECTIONS)]
    try:
        size = _answered(clients[0], request)
        for client in clients[1:]:
            _answered(client, request)
        began = _seconds(pid)
        for _ in range(REQUESTS // CONNECTIONS):
            for client in clients:
                client.sendall(request)
            for client in clients:
                left = size
                while left:
                    left -= len(client.recv(left))
        return REQUESTS / (_seconds(pid) - began)
    finally:
        for client in clients:
            client.close()


def _answered(client: socket.socket, request: bytes) -> int:
    """How long the answer is, head and body."""
    client.sendall(request)
    got = b""
    while b"\r\n\r\n" not in got:
        got += client.recv(65536)
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    named = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    length = int(named[b"content-length"])
    while len(body) < length:
        body += client.recv(65536)
    return len(head) + 4 + length


def _seconds(pid: int) -> float:
    """Processor time of a process, all threads."""
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _process(arguments: list[str]) -> Iterator[tuple[int, str]]:
    """A server that says its URL in its first line."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.pid, json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.communicate()
