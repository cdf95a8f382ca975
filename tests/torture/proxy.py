"""A TCP proxy that cuts, delays and halves connections: it stands between workers and servers.

It runs in a thread with an event loop of its own; its methods may be called from any thread.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from engines.server import LOOPBACK, free_ports

T = TypeVar("T")
CHUNK_BYTES = 64 * 1024
CONNECT_TIMEOUT_S = 5.0


class Link:
    """One connection through the proxy: two pipes that can be delayed or swallow what comes."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.ends = (near, far)
        self.delay_s = 0.0
        self.swallows: asyncio.StreamWriter | None = None
        self.touched = 0  # bytes that were delayed or swallowed

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                if self.delay_s:
                    self.touched += len(data)
                    await asyncio.sleep(self.delay_s)
                if self.swallows is writer:
                    self.touched += len(data)
                    continue
                writer.write(data)
                await writer.drain()
        except (ConnectionError, OSError):
            pass
        finally:
            self.cut()

    def cut(self) -> None:
        """End both sides at once, whatever is on its way."""
        for end in self.ends:
            end.transport.abort()


class Proxy:
    """Listens on a port of its own and passes on to `port`."""

    def __init__(self, name: str, port: int, own_port: int | None = None) -> None:
        self.name = name
        self.target = port
        self.port = own_port or free_ports(1)[0]
        self.links: set[Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(self._listen())

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, LOOPBACK, self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            connecting = asyncio.open_connection(LOOPBACK, self.target)
            far_reader, far = await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError):
            writer.transport.abort()
            return
        link = Link(writer, far)
        self.links.add(link)
        try:
            await asyncio.gather(link.pump(reader, far), link.pump(far_reader, writer))
        finally:
            self.links.discard(link)

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CONNECT_TIMEOUT_S * 2)

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        result: T = self._do(call())
        return result

    def pick(self, rng: random.Random) -> list[Link]:
        """About half of the connections that are open, one at least where there are any."""
        links = self._call(lambda: sorted(self.links, key=id))
        return rng.sample(links, max(1, len(links) // 2)) if links else []

    def cut(self, links: list[Link]) -> int:
        """Reset connections; how many of them were open."""

        def act() -> int:
            open_ones = [link for link in links if link in self.links]
            for link in open_ones:
                link.cut()
            return len(open_ones)

        return self._call(act)

    def delay(self, links: list[Link], delay_s: float) -> None:
        def act() -> None:
            for link in links:
                link.delay_s = delay_s

        self._call(act)

    def halve(self, links: list[Link], *, answers: bool) -> None:
        """From now on nothing arrives in one direction, and nobody is told."""

        def act() -> None:
            for link in links:
                link.swallows = link.ends[0 if answers else 1]

        self._call(act)

    def close(self) -> None:
        def act() -> None:
            self._server.close()
            for link in list(self.links):
                link.cut()

        self._call(act)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONNECT_TIMEOUT_S)
        self._loop.close()
