"""Topics of the log: check, create."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cyclopts import App

from ..errors import ConfigurationError, NotFound
from ..event import stream_of
from ..program import Program, call
from .common import (
    NO_OPTIONS,
    SOURCES,
    Options,
    chosen,
    log_to_stderr,
    perform,
)
from .output import line, note, say

if TYPE_CHECKING:
    from ..ports import Log
    from ..service import Service
    from ..session import Session, Store

PARTITIONS = 4
MISSING = "it does not exist: oncebox topics create"

app = App(name="topics", help="Topics of the log: check, create.", version_flags=())


@app.command
def create(*names: str, partitions: int = PARTITIONS, options: Options = NO_OPTIONS) -> int:
    """Make topics with safe settings; those that exist are left as they are.

    For example:

        oncebox topics create --app myapp.services --partitions 12
        oncebox topics create orders payments --log kafka://localhost:9092

    Parameters
    ----------
    names:
        Topics; the streams of the application's services if none are named.
    partitions:
        Of each topic. Choose generously: adding some later moves keys to other partitions.
    """
    log_to_stderr(options)
    for url, topics in _wanted(names, options).items():
        log = _open(url)
        try:
            for topic in topics:
                made = log.describe(topic) is None
                log.create(topic, partitions)
                _say_created(options, topic, partitions, made=made)
        finally:
            log.close()
    return 0


def _say_created(options: Options, topic: str, partitions: int, *, made: bool) -> None:
    if options.json:
        line({"topic": topic, "created": made})
    else:
        say(f"{topic}: " + (f"created with {partitions} partitions" if made else "exists"))


@app.command
def check(*names: str, options: Options = NO_OPTIONS) -> int:
    """Whether topics exist, and their settings keep the promises. Exit code 3 if not.

    For example:

        oncebox topics check --app myapp.services
        oncebox topics check orders --log kafka://localhost:9092 --json

    Parameters
    ----------
    names:
        Topics; the streams of the application's services if none are named.
    """
    log_to_stderr(options)
    found = 0
    for url, topics in _wanted(names, options).items():
        log = _open(url)
        try:
            for topic in topics:
                missing = log.describe(topic) is None
                wrong = (
                    ["it does not exist: oncebox topics create"] if missing else log.check(topic)
                )
                found += len(wrong)
                if options.json:
                    line({"topic": topic, "exists": not missing, "wrong": wrong})
                else:
                    say(f"{topic}: " + ("fine" if not wrong else "\n  ".join(["", *wrong])))
        finally:
            log.close()
    return 3 if found else 0


def _wanted(names: tuple[str, ...], options: Options) -> dict[str, list[str]]:
    """Topics by the URL of their log: those that are named, else those of the services."""
    log = SOURCES.get().value("log", None, None).value
    if names and log is not None:
        return {log: list(names)}
    wanted: dict[str, set[str]] = {}
    for service in chosen(options, ()):
        if service.log is not None:
            wanted.setdefault(service.log, set()).update(names or streams(service))
    if not any(wanted.values()):
        raise NotFound(
            "no topics are known", expected="names of topics, or services with handlers or events"
        )
    return {url: sorted(topics) for url, topics in wanted.items()}


def _open(url: str) -> Log:
    from ..connect import open_log

    return open_log(url)


# ---- what services need


def streams(service: Service) -> set[str]:
    """The streams that a service reads, and those that it has emitted to."""
    found = {stream for c in service.consumers.values() for stream in c.streams}
    if service.store is not None:
        from ..stores.adapt import open_store

        store = open_store(service.store, service.schema)
        found.update(perform(store, lambda session: _emitted(store, session, service)))
    return found


def _emitted(store: Store, session: Session, service: Service) -> Program[Iterable[str]]:
    from ..statements import statements

    sql = statements(store.dialect, store.schema)
    start = service.source("x").removesuffix("x")
    rows = yield from call(session.run, sql["sources"])
    return [stream_of(name) for _, name in rows if name.startswith(start)]


def prepare(service: Service) -> None:
    """Make the topics that a service reads on the embedded log; on others, say what is missing.
    Those that it emits to, its relay makes.
    """
    if service.log is None:
        raise ConfigurationError(f"service {service.name} has no log")
    log = _open(service.log)
    try:
        wanted = {stream for c in service.consumers.values() for stream in c.streams}
        for topic in sorted(wanted):
            if log.describe(topic) is not None:
                continue
            if service.log.startswith("sqlite:"):
                log.create(topic, PARTITIONS)
            else:
                note(f"no topic {topic} yet: oncebox topics create {topic}")
    finally:
        log.close()
