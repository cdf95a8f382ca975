"""Services at work, looked at from beside: what their stores and logs say, now and then.

One program for each service, with a session of its own, and a reader of the log for the age of
what is next. Looking never ends the work: what cannot be reached is noted, and looked at again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..operate.desk import at_store, desk_at, now_ms
from ..operate.summary import Relay, Summary, relays, summary, with_lag
from ..ports import Log, Reader
from ..program import Program, call
from ..session import Session, Store
from ..stores.adapt import open_store
from .service import Service
from .work import Running

logger = logging.getLogger("oncebox")

LOOK_S = 1.0

LAG_EVERY = 5
"""Of so many looks, one asks the log how long it is."""


@dataclass
class Seen:
    """What was seen of a service last. `store`, `log`: why they cannot be reached; None: they can,
    or nobody looked yet. `looked`: when, by the monotonic clock. `measured`: consumers with their
    lag, which is asked for less often.
    """

    service: str
    looked: float = 0.0
    store: str | None = None
    log: str | None = None
    consumers: dict[str, Summary] = field(default_factory=dict)
    measured: dict[str, Summary] = field(default_factory=dict)
    relay: Relay | None = None


Told = Callable[[Summary | Relay], None]
"""Hears of every look at a consumer or outbox."""


def watch(
    work: Running,
    services: Sequence[Service],
    *,
    consume: bool = True,
    lag: bool = False,
    told: Told | None = None,
) -> None:
    """Look at each service once a second for as long as it runs; once a service is watched, more
    wishes for it are not heard. `lag`: at its log, too.
    """
    for service in services:
        if service.name not in work.seen:
            seen = work.seen[service.name] = Seen(service.name)
            names = [c.name for c in service.consumers.values() if c.handlers and consume]
            store = open_store(service.store, service.schema)
            one = _Look(work, service, store, names, seen, told, lag)
            work.start(f"watch:{service.name}", one.run, asynchronous=store.asynchronous)


class _Look:
    def __init__(
        self,
        work: Running,
        service: Service,
        store: Store,
        names: Sequence[str],
        seen: Seen,
        told: Told | None,
        lag: bool,
    ) -> None:
        assert service.log is not None
        self.work, self.store, self.names, self.seen, self.told = work, store, names, seen, told
        self.service, self.log = service.name, work.log(service.log) if lag else None
        self.reader: Reader | None = None

    def run(self) -> Program[None]:
        pause = self.work.sleeper(asynchronous=self.store.asynchronous)
        while not self.work.stopping():
            try:
                yield from at_store(self.store, self.look)
            except Exception as error:  # looking must not end the work
                logger.debug("cannot look at %s: %s", self.service, error)
                self.seen.store = described(error)
                yield from call(pause, LOOK_S)
        self.close()

    def look(self, session: Session) -> Program[None]:
        pause = self.work.sleeper(asynchronous=self.store.asynchronous)
        seen, looks = self.seen, 0
        while not self.work.stopping():
            found = yield from self.rows(session)
            seen.store, seen.looked = None, time.monotonic()
            for one in found:
                if isinstance(one, Relay):
                    seen.relay = one
                else:
                    seen.consumers[one.name] = one
                if self.told is not None:
                    self.told(one)
            known = sum(bool(one.partitions) for one in seen.measured.values())
            due = looks % LAG_EVERY == 0 or known < len(self.names)
            if self.log is not None and due:
                yield from self.ask_log(self.log)
            looks += 1
            yield from call(pause, LOOK_S)

    def rows(self, session: Session) -> Program[list[Summary | Relay]]:
        found: list[Summary | Relay] = []
        for name in self.names:
            found.append((yield from summary(desk_at(self.store, session, name))))
        if f"relay:{self.service}" not in self.work.parts:
            return found  # its rights may end at what it does
        outboxes = yield from relays(desk_at(self.store, session, ""))
        return [*found, *(one for one in outboxes if one.service == self.service)]

    def ask_log(self, log: Log) -> Program[None]:
        if self.store.asynchronous:
            yield asyncio.to_thread, (self.measure, log)
        else:
            self.measure(log)

    def measure(self, log: Log) -> None:
        """The lag of each consumer; why the log does not tell it is noted."""
        seen = self.seen
        try:
            self.reader = self.reader or log.reader("oncebox-watch")
            for name, one in list(seen.consumers.items()):
                seen.measured[name] = with_lag(one, log, now_ms(), self.reader)
            if not seen.consumers:
                log.describe("oncebox-watch")  # any question: does it answer?
        except Exception as error:  # as above
            logger.debug("cannot look at the log of %s: %s", self.service, error)
            seen.log = described(error)
            self.close()
        else:
            seen.log = None

    def close(self) -> None:
        reader, self.reader = self.reader, None
        if reader is not None:
            reader.close()


def described(error: BaseException) -> str:
    """An error in a line; ours name what is known, and no error of ours has a secret."""
    return " ".join(f"{type(error).__name__}: {error}".split())
