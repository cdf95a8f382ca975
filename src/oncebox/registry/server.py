"""The registry over HTTP: Starlette on uvicorn, with bounds, names and passwords, and a short way
for schemas by id, which never change.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import socket
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from msgspec import json

from ..errors import MissingDependency, OnceboxError, SchemaError, Unreachable
from .calls import CALLS, UNCHANGING, Asked, Raw
from .guard import Guard
from .protocol import CONTENT_TYPE, INVALID_SCHEMA, STORE_FAILED, Declined
from .store import SESSIONS_MAX, RegistryStore

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route
except ModuleNotFoundError as error:
    raise MissingDependency(
        f"{error.name} is not installed", hint="pip install 'oncebox[registry]'"
    ) from error

logger = logging.getLogger("oncebox.registry")

BODY_BYTES_MAX = 5 << 20
BODY_TIMEOUT_S = 30.0
"""For a whole request to come."""

CLIENTS_MAX = 1000
"""Connections and requests at once; others are told 503."""

CACHE_BYTES_MAX = 64 << 20
"""Of answers kept in memory."""

STOP_S = 10
"""For requests that have begun, when it is stopped."""

Scope = MutableMapping[str, Any]
Headers = tuple[tuple[bytes, bytes], ...]


class Cached:
    """Answers to GETs by id or content, as they are sent. Dropped when something is deleted."""

    def __init__(self) -> None:
        self.answers: dict[tuple[bytes, bytes], tuple[dict[str, Any], dict[str, Any]]] = {}
        self.size = 0
        self.age = 0
        """How often it was dropped: what was read before must not be kept after."""

    def keep(self, scope: Scope, body: bytes, age: int) -> None:
        """Keep an answer."""
        if self.size + len(body) > CACHE_BYTES_MAX:
            self.drop()
        elif age == self.age:
            self.size += len(body) + 500
            start = {"type": "http.response.start", "status": 200, "headers": headers(body)}
            whole = {"type": "http.response.body", "body": body}
            self.answers[scope["raw_path"], scope["query_string"]] = (start, whole)

    def drop(self) -> None:
        """Forget all."""
        self.answers.clear()
        self.size = 0
        self.age += 1


def headers(body: bytes) -> list[tuple[bytes, bytes]]:
    """Those of every answer."""
    return [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
    ]


def application(store: RegistryStore, guard: Guard) -> Callable[..., Any]:
    """The registry as an ASGI application."""
    cached, workers = Cached(), ThreadPoolExecutor(SESSIONS_MAX, "registry")
    door = ThreadPoolExecutor(1, "passwords")  # so guessing them holds up nobody
    served = [
        Route(path, _endpoint(store, call, cached, workers), methods=[method])
        for method, path, call in CALLS
    ]
    handlers: Any = {HTTPException: _refusal, OnceboxError: _refusal, Exception: _refusal}
    inner = Starlette(routes=served, exception_handlers=handlers)
    inner.router.redirect_slashes = False

    async def answer(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        if not guard.knows(scope):
            loop = asyncio.get_running_loop()
            if not await loop.run_in_executor(door, guard.lets_in, scope):
                await refusal(401, "Unauthorized")(scope, receive, send)
                return
        if scope["method"] == "GET":
            known = cached.answers.get((scope["raw_path"], scope["query_string"]))
            if known is not None:
                await send(known[0])
                await send(known[1])
                return
        # A name may have a slash in it, as %2F: so the path is taken apart before it is unquoted.
        scope["path"] = scope["raw_path"].decode("latin-1").rstrip("/") or "/"
        await inner(scope, receive, send)

    return answer


def _endpoint(
    store: RegistryStore,
    call: Callable[[RegistryStore, Asked], Any],
    cached: Cached,
    workers: ThreadPoolExecutor,
) -> Callable[[Request], Any]:
    """A call of the protocol as Starlette serves it, on a thread of its own."""

    async def endpoint(request: Request) -> Response:
        if request.method in ("POST", "PUT"):
            _check_type(request)
        path = {name: unquote(value) for name, value in request.path_params.items()}
        asked = Asked(path, dict(request.query_params), await _body(request))
        loop, age = asyncio.get_running_loop(), cached.age
        try:
            found = await loop.run_in_executor(workers, functools.partial(call, store, asked))
        finally:
            if request.method == "DELETE":
                cached.drop()
        if request.method not in ("GET", "HEAD"):
            logger.info("%s %s: %s", request.method, request.url.path, found)
        body = found.text.encode() if isinstance(found, Raw) else json.encode(found)
        if request.method == "GET" and path.keys() & {"id", "guid"} and call in UNCHANGING:
            cached.keep(request.scope, body, age)
        return Response(body, media_type=CONTENT_TYPE)

    return endpoint


def _check_type(request: Request) -> None:
    """Raises Declined for what is not said to be JSON: pages of any website may send that, without
    asking, to a server on the machine of whoever looks at them.
    """
    if not request.headers.get("content-type", "").partition(";")[0].strip().endswith("json"):
        raise Declined(415, "HTTP 415 Unsupported Media Type", expected=CONTENT_TYPE)


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                size += len(part)
                if size > BODY_BYTES_MAX:
                    raise Declined(413, "the request is too large", expected=f"{BODY_BYTES_MAX:,}")
                parts.append(part)
    except TimeoutError as error:
        raise Declined(408, "the request did not come in time") from error
    except ClientDisconnect as error:
        raise Declined(400, "the client left") from error
    return b"".join(parts)


async def _refusal(request: Request, error: Exception) -> Response:
    code, what = 500, f"{type(error).__name__}: {error}"
    if isinstance(error, Declined):
        code, what = error.code, str(error)
    elif isinstance(error, HTTPException):
        code, what = error.status_code, f"HTTP {error.status_code} {error.detail}"
    elif isinstance(error, SchemaError):
        code, what = INVALID_SCHEMA, f"Invalid schema: {error}"
    elif isinstance(error, Unreachable):
        code, what = STORE_FAILED, str(error)
    if code in (500, STORE_FAILED):
        logger.error("%s %s: %s", request.method, request.url.path, what, exc_info=error)
    return refusal(code, what)


def refusal(code: int, what: str) -> Response:
    """An error as the protocol has it."""
    body = json.encode({"error_code": code, "message": what})
    more = {"WWW-Authenticate": 'Basic realm="oncebox registry"'} if code == 401 else None
    status = code if code < 1000 else code // 100
    return Response(body, status, headers=more, media_type=CONTENT_TYPE)


class _Server(uvicorn.Server):
    """uvicorn ends the process by the signal that stopped it; ours ends in order, with 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def listening(host: str, port: int) -> socket.socket:
    """A socket that waits for clients; port 0 for any that is free. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=CLIENTS_MAX)


def serve(store: RegistryStore, guard: Guard, at: socket.socket, **tls: Any) -> None:
    """Serve until SIGTERM or SIGINT; `tls`: `ssl_…` as uvicorn takes them."""
    config = uvicorn.Config(
        application(store, guard),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        date_header=False,
        limit_concurrency=CLIENTS_MAX,
        timeout_graceful_shutdown=STOP_S,
        **tls,
    )
    asyncio.run(_Server(config).serve(sockets=[at]))
