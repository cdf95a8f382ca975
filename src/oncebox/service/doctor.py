"""What of databases, topics and clocks cannot keep the promises, or will run out: found by looking.

Each finding says where, what, and what to do. *wrong*: a promise or the next peak fails by it;
*doubtful*: it may be meant.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

from ..errors import NotFound, OnceboxError
from ..ports import Log
from ..program import Program, call
from ..relay import RelaySettings
from ..session import Session
from ..statements import statements
from ..tables.migrate import check
from ..tables.roles import lacking
from .config import shown
from .places import Place, place_of, streams
from .service import Service

CLOCKS_APART_S = 2.0
"""Beyond this, clocks differ: times in `status`, `start` and schedules mislead."""

SPARE = 5
"""Connections that should stay free for people and other tools."""

SETTINGS = {
    "compacted": "compaction", "one copy": "copies", "acknowledges what one": "acks",
    "takes nothing while": "acks", "lacks acknowledged": "election", "keeps": "retention",
    "refuses records": "timestamps",
}  # fmt: skip
"""Words in what a log's `check` says, and the name of the finding."""

Weight = Literal["wrong", "doubtful"]


class Finding(NamedTuple):
    """`name` is short and stays the same; `where`: store or log (secrets left out), topic."""

    weight: Weight
    name: str
    where: str
    what: str
    hint: str


class Server(NamedTuple):
    """A row of the statement `server`."""

    now_s: float
    isolation: str
    connections: int
    taken: int
    role_limit: int
    database_limit: int
    role: str


def examine(
    services: Sequence[Service],
    *,
    instances: int = 1,
    parts: Sequence[str] = (),
    probe: bool = False,
    clock: Callable[[], float] = time.time,
) -> Iterator[Finding]:
    """Findings about these services' stores and logs, each looked at once. `instances`: processes
    that run them; `parts`: what this role plays, else all; `probe`: make and delete a topic to
    know the log's clock. `clock` is this machine's, Unix seconds.
    """
    stores: dict[object, tuple[Place, list[Service]]] = {}
    logs: dict[str, tuple[Place, list[Service]]] = {}
    for service in services:
        place = place_of(service)
        if place.store is not None:
            key = place.store if isinstance(place.store, str) else id(place.store)
            stores.setdefault(key, (place, []))[1].append(service)
        if place.log is not None:
            logs.setdefault(place.log, (place, []))[1].append(service)
    for place, those in stores.values():
        yield from _guarded("store", shown(place.store), _of_store(
            place, those, instances, parts, clock))  # fmt: skip
    for url, (place, those) in logs.items():
        yield from _guarded("log", shown(url), _of_log(
            place, those, instances, probe, clock))  # fmt: skip


def _guarded(what: str, where: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """What cannot be looked at is a finding, too."""
    try:
        yield from findings
    except OnceboxError as error:
        yield Finding("wrong", what, where, error.what, error.hint or "see the error")


# ---- stores


def connections(services: Sequence[Service]) -> int:
    """How many connections one process holds that runs these services: a relay, each consumer,
    one more for each of their handlers that run side by side, and one that looks.
    """
    count = 0
    for service in services:
        consumers = [c for c in service.consumers.values() if c.handlers]
        side_by_side = (getattr(c.settings, "concurrency", 1) or 1 for c in consumers)
        count += 2 + sum(1 + (many if many > 1 else 0) for many in side_by_side)
    return count


def _of_store(
    place: Place,
    services: Sequence[Service],
    instances: int,
    parts: Sequence[str],
    clock: Callable[[], float],
) -> Iterator[Finding]:
    where = shown(place.store)
    began_s = clock()
    server = place.perform(partial(_server, schema=place.schema))
    ended_s = clock()
    try:
        place.perform(partial(check, schema=place.schema, rights=not parts))
    except OnceboxError as error:
        yield Finding("wrong", "tables", where, error.what, error.hint or "oncebox db check")
    for part in parts:
        lacks = place.perform(partial(lacking, schema=place.schema, role=part))
        if lacks:
            yield Finding(
                "wrong", "rights", where, f"role {server.role} lacks {', '.join(lacks)}",
                f"grant {place.schema}_{part} to {server.role}: see oncebox db sql --roles",
            )  # fmt: skip
    yield from _clocks(where, began_s, server.now_s, ended_s)
    if server.connections < 0:
        return
    if server.isolation != "read committed":
        yield Finding(
            "wrong", "isolation", where,
            f"transactions begin as {server.isolation}: two that meet at a key fail, again and"
            " again", "let default_transaction_isolation of role, database and engine be"
            " 'read committed'; handlers that need more say so themselves",
        )  # fmt: skip
    yield from _pool(where, server, instances, connections(services))


def _server(session: Session, schema: str) -> Program[Server]:
    yield from call(session.begin)
    (row,) = yield from call(session.run, statements(session.dialect, schema)["server"])
    yield from call(session.rollback)
    return Server(*row)


def _pool(where: str, server: Server, instances: int, each: int) -> Iterator[Finding]:
    limits = {
        "max_connections, without those for superusers,": server.connections,
        f"the limit of role {server.role}": server.role_limit,
        "the limit of the database": server.database_limit,
    }
    need = instances * each
    for name, limit in limits.items():
        if 0 <= limit < need:
            yield Finding(
                "wrong", "connections", where,
                f"{instances} processes with {each} connections each need {need};"
                f" {name} is {limit}",
                "raise it, run fewer processes, or put PgBouncer between",
            )  # fmt: skip
            return
    if need + server.taken + SPARE > server.connections:
        yield Finding(
            "doubtful", "connections", where,
            f"{instances} processes with {each} connections each need {need}, and"
            f" {server.taken} are taken now, of {server.connections}",
            "raise max_connections, unless those that are taken are these processes",
        )  # fmt: skip


def _clocks(where: str, began_s: float, there_s: float, ended_s: float) -> Iterator[Finding]:
    """The answer was given between the two times of ours, if clocks agree."""
    apart_s = max(began_s - there_s, there_s - ended_s, 0.0)
    if apart_s > CLOCKS_APART_S:
        way = "ahead of" if there_s > ended_s else "behind"
        yield Finding(
            "wrong", "clock", where, f"its clock is {apart_s:.1f} s {way} this machine's",
            "let NTP keep both: leases, start times and ages go by them",
        )  # fmt: skip


# ---- logs


def _of_log(
    place: Place,
    services: Sequence[Service],
    instances: int,
    probe: bool,
    clock: Callable[[], float],
) -> Iterator[Finding]:
    where = shown(place.log)
    topics = sorted({topic for service in services for topic in _topics(service)})
    with place.open_log() as log:
        for topic in topics:
            yield from _of_topic(log, f"{where} {topic}", topic, instances)
        ask = getattr(log, "clock_ms", None)
        if probe and ask is not None:
            began_s = clock()
            there_s = ask() / 1000
            yield from _clocks(where, began_s, there_s, clock())


def _topics(service: Service) -> set[str]:
    """What it reads, and what it has emitted to if its store tells."""
    try:
        return streams(service)
    except OnceboxError:  # which is a finding of the store already
        return {topic for c in service.consumers.values() for topic in c.streams}


def _of_topic(log: Log, where: str, topic: str, instances: int) -> Iterator[Finding]:
    found = log.describe(topic)
    if found is None:
        yield Finding("wrong", "topic", where, "it does not exist", "oncebox topics create")
        return
    try:
        for sentence in log.check(topic):
            name = next((name for words, name in SETTINGS.items() if words in sentence), "setting")
            what, _, hint = sentence.rpartition("; ")
            hint = hint if what else "let the topic have more copies, or longer retention"
            yield Finding("wrong", name, where, what or sentence, hint)
    except NotFound:
        return
    if found.partitions < instances:
        yield Finding(
            "doubtful", "partitions", where,
            f"fewer partitions ({found.partitions}) than processes ({instances}): some stand by",
            "fewer processes; or more partitions, once the topic is empty, since keys move",
        )  # fmt: skip
    ask = getattr(log, "retention_s", None)
    retention_s, outbox_s = ask and ask(topic), RelaySettings().retention_s
    if retention_s is not None and retention_s < outbox_s:
        yield Finding(
            "doubtful", "retention", where,
            f"it keeps records for {retention_s:g} s, the outbox events for {outbox_s:g} s",
            "raise retention.ms to the outbox's at least: who stands still for longer has to be"
            " helped by oncebox republish",
        )  # fmt: skip
