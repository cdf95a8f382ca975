"""From the name of a service or consumer to its store and log, and to work there."""

from __future__ import annotations

import atexit
import getpass
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigurationError, MissingTables
from ..event import stream_of
from ..operate.desk import Desk, at_store, desk_at
from ..ports import Log
from ..program import Program, T, call, drive, drive_async
from ..session import Session, Store
from ..stores.adapt import open_store
from .config import SOURCES, configure, find_services
from .connect import open_log
from .service import Service

if TYPE_CHECKING:
    import asyncio


class Place(NamedTuple):
    """Where a service has its tables, its log, and by name the sources whose stores it may read."""

    store: Any
    log: Any
    schema: str
    sources: Mapping[str, Any]

    def open_store(self) -> Store:
        """The store, not connected yet."""
        return open_store(self.store, self.schema)

    @contextmanager
    def open_log(self) -> Iterator[Log]:
        """The log, closed at the end. Raises ConfigurationError where none is known."""
        if self.log is None:
            raise unknown("the log", "log")
        log = open_log(self.log)
        try:
            yield log
        finally:
            log.close()

    def perform(self, make: Callable[[Session], Program[T]]) -> T:
        """Run a program over a session of its own, whatever the store's kind."""
        store = self.open_store()
        program = at_store(store, make)
        return in_loop(drive_async(program)) if store.asynchronous else drive(program)

    def at_desk(self, consumer: str, make: Callable[[Desk], Program[T]]) -> T:
        """Run a program at an operator's place at a consumer. Raises MissingTables for a file that
        is not there, where SQLite would make an empty one.
        """
        store, by = self.open_store(), _operator()
        path = getattr(store, "path", None)
        if path is not None and path.parent.is_dir() and not path.exists():
            hint = "mend the URL, or make it: oncebox db migrate"
            raise MissingTables(f"there is no file {path.absolute()}", hint=hint)
        return self.perform(lambda session: make(desk_at(store, session, consumer, by)))

    def store_of(self, desk: Desk, url: str | None, source: str) -> Store | None:
        """The store of a source: the one that is named here, the one that is known for this
        service, or that of the source's own service.
        """
        own = SOURCES.get().own(source.strip("/").partition("/")[0], "store")
        found = url or self.sources.get(source) or (own and own.value)
        if found is None:
            return None
        return open_store(found, self.schema, asynchronous=desk.session.asynchronous)


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in this process's one event loop. An application's pool belongs to the loop
    in which it was used first: with a loop for each call, its connections would be unusable.
    """
    return _runner().run(work)


@cache
def _runner() -> asyncio.Runner:
    import asyncio

    runner = asyncio.Runner()
    atexit.register(runner.close)
    return runner


def _operator() -> str:
    """Who acts, for the journal."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


# ---- services of the application


def services() -> dict[str, Service]:
    """The application's services by name, each set to what counts for it; imports their modules.
    Empty where no application is named.
    """
    sources = SOURCES.get()
    found = find_services(sources.modules())
    for service in found.values():
        configure(service, sources)
    return found


def chosen(names: tuple[str, ...]) -> list[Service]:
    """The services of these names, or all. Raises ConfigurationError for a name unknown."""
    found = services()
    if not found:
        raise ConfigurationError(
            "no application is named, so no service is known",
            hint='--app myapp.services, or app = "myapp.services" in oncebox.toml',
        )
    for name in names:
        if name not in found:
            raise ConfigurationError(f"no service {name}", expected=_one_of(found))
    return [found[name] for name in names or found]


def place_of(service: Service) -> Place:
    """Where a service of the application has its tables and its log."""
    return Place(service.store, service.log, service.schema, service.sources)


def streams(service: Service) -> set[str]:
    """The streams that a service reads, and those that it has emitted to; no topics of others."""
    found = {
        stream for c in service.consumers.values() for stream in {*c.streams} - c.foreign.keys()
    }
    if service.store is None:
        return found
    start = service.source("x").removesuffix("x")

    def emitted(desk: Desk) -> Program[set[str]]:
        rows = yield from call(desk.session.run, desk.sql["sources"])
        return {stream_of(name) for (name,) in rows if name.startswith(start)}

    return found | place_of(service).at_desk("", emitted)


# ---- places


def configured(service: str | None) -> Place:
    """What the configuration says for a service, or for all."""
    sources = SOURCES.get()
    store, log = (sources.value(field, service, None).value for field in ("store", "log"))
    schema = sources.value("schema", service, None, "oncebox").value
    named = sources.stores_of_sources(service or "")
    return Place(store, log, schema, {source: url.value for source, url in named.items()})


def locate(name: str) -> Place:
    """The place of a consumer (`billing`, `billing.mail`), by configuration if that says enough,
    else by importing the application. Raises ConfigurationError.
    """
    parts = name.split(".")
    candidates = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    named = [c for c in candidates if SOURCES.get().is_configured(c)]
    place = configured((named or candidates[-1:])[0])
    if place.store is not None:
        return place
    found = services()
    service = next((found[c] for c in candidates if c in found), None)
    if found and service is None:
        known = {n for s in found.values() for n in (s.name, *s.consumers)}
        raise ConfigurationError(f"no service or consumer {name}", expected=_one_of(known))
    if service is None or service.store is None:
        raise unknown(f"the store of {name}")
    return place_of(service)


def everywhere(*, code: bool = False) -> list[Place]:
    """Every store that is configured, once each. With `code`, those that the application passes
    to its services too; else it is imported only where the configuration names none.
    """
    found = [configured(name) for name in (None, *SOURCES.get().services())]
    found = [place for place in found if place.store is not None]
    if code or not found:
        found += [place_of(s) for s in services().values() if s.store is not None]
    if not found:
        raise unknown("the store")
    return distinct(found)


def distinct(found: list[Place]) -> list[Place]:
    """One of each store."""
    unique: dict[Any, Place] = {}
    for one in found:
        key = one.store if isinstance(one.store, str) else id(one.store)
        unique.setdefault((key, one.schema), one)
    return list(unique.values())


def _one_of(names: Any) -> str:
    return f"one of {', '.join(sorted(names))}"


def unknown(what: str, field: str = "store") -> ConfigurationError:
    """An error for a URL that nobody said."""
    return ConfigurationError(
        f"{what} is not known",
        expected=f"--{field} URL, ONCEBOX_{field.upper()}, or the configuration",
        hint="or name the application: --app myapp.services",
    )
