"""What most commands share: their options, and the way from a consumer's name to its store."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Group, Parameter

from ..config import Sources, configure, find_services
from ..errors import ConfigurationError, OnceboxError, StoreUnavailable
from ..program import Program, T, call, drive, drive_async

if TYPE_CHECKING:
    from ..desk import Desk
    from ..ports import Log
    from ..service import Service
    from ..session import Session, Store
    from ..waiting import Where

SOURCES: ContextVar[Sources] = ContextVar("oncebox_sources")
"""What this run of the command line was given, and from where."""


# ---- options

Name = Annotated[str, Parameter(help="A consumer: billing, or billing.mail.")]
Because = Annotated[str, Parameter(help="Why, for the journal.")]
DryRun = Annotated[bool, Parameter(help="Change nothing; say what would be done.")]
SourceStore = Annotated[str | None, Parameter(help="URL of the source's own database.")]
Verbose = Annotated[bool, Parameter(name=("--verbose", "-v"), help="Log more; show tracebacks.")]
UNSAID = "no reason given"


@Parameter(name="*", group=Group("Everywhere", sort_key=99))
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command understands. Commands find the values in `SOURCES`.

    Attributes
    ----------
    store:
        Database URL for all services; or ONCEBOX_STORE.
    log:
        Log URL; or ONCEBOX_LOG.
    schema:
        Name of oncebox's tables; or ONCEBOX_SCHEMA.
    app:
        MODULE or MODULE:NAME with services; may be repeated. Or ONCEBOX_APP.
    config:
        Configuration file, instead of oncebox.toml.
    json:
        Print JSON, one document per line.
    """

    store: str | None = None
    log: str | None = None
    schema: str | None = None
    app: list[str] | None = None
    config: str | None = None
    json: bool = False
    verbose: Verbose = False


NO_OPTIONS = Options()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Which:
    """Which keys are meant; all that is said has to hold.

    Attributes
    ----------
    key:
        This key only.
    source:
        Keys of this source only.
    reason:
        Keys whose reason contains this.
    where:
        FIELD=VALUE or FIELD~PART, of source, key, kind, reason, type, id; may be repeated.
    """

    key: str | None = None
    source: str | None = None
    reason: str | None = None
    where: list[str] | None = None

    def chosen(self) -> Where:
        """As the list of what waits takes it."""
        from ..waiting import Condition, Where, conditions

        given = conditions(self.where or ())
        if self.reason is not None:
            given = (*given, Condition("reason", contains=True, value=self.reason))
        return Where(self.source, self.key, given)


EVERY_KEY = Which()


def log_to_stderr(*, verbose: bool) -> None:
    """Our loggers' lines on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("oncebox")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)


# ---- services


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
            raise ConfigurationError(
                f"no service {name}", expected=f"one of {', '.join(sorted(found))}"
            )
    return [found[name] for name in names or found]


# ---- stores


class Place(NamedTuple):
    """Where a service has its tables and its log. `service` is None where the configuration was
    enough to know, so that no code was imported.
    """

    name: str
    store: Any
    log: Any
    schema: str
    service: Service | None = None

    def open_store(self) -> Store:
        """The store, not connected yet."""
        from ..stores.adapt import open_store

        return open_store(self.store, self.schema)

    @contextmanager
    def open_log(self) -> Iterator[Log]:
        """The log, closed at the end. Raises ConfigurationError where none is known."""
        from ..connect import open_log

        if self.log is None:
            raise ConfigurationError(
                "the log is not known", expected="--log URL, ONCEBOX_LOG, or the configuration"
            )
        log = open_log(self.log)
        try:
            yield log
        finally:
            log.close()

    def perform(self, make: Callable[[Session], Program[T]]) -> T:
        """Run a program over a session of its own, whatever the store's kind."""
        return _perform(self.open_store(), make)

    def at_desk(self, consumer: str, make: Callable[[Desk], Program[T]]) -> T:
        """Run a program at an operator's place at a consumer."""
        store = self.open_store()
        return _perform(store, lambda session: make(desk_of(store, session, consumer)))


def place_of(service: Service) -> Place:
    """Where a service of the application has its tables and its log."""
    return Place(service.name, service.store, service.log, service.schema, service)


def configured(service: str | None) -> Place:
    """What the configuration says for a service, or for all."""
    sources = SOURCES.get()
    store, log = (sources.value(field, service, None).value for field in ("store", "log"))
    schema = sources.value("schema", service, None, "oncebox").value
    return Place(service or "", store, log, schema)


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
        known = sorted({n for s in found.values() for n in (s.name, *s.consumers)})
        raise ConfigurationError(
            f"no service or consumer {name}", expected=f"one of {', '.join(known)}"
        )
    if service is None or service.store is None:
        raise _unknown(f"the store of {name}")
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
        raise _unknown("the store")
    return distinct(found)


def distinct(found: list[Place]) -> list[Place]:
    """One of each store."""
    unique: dict[Any, Place] = {}
    for one in found:
        key = one.store if isinstance(one.store, str) else id(one.store)
        unique.setdefault((key, one.schema), one)
    return list(unique.values())


def _unknown(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} is not known",
        expected="--store URL, ONCEBOX_STORE, or the configuration",
        hint="or name the application: --app myapp.services",
    )


# ---- work


def _perform(store: Store, make: Callable[[Session], Program[T]]) -> T:
    def work() -> Program[T]:
        session = yield from call(store.open)
        try:
            return (yield from make(session))
        except Exception as error:
            ours = _ours(store, session, error)
            if ours is None:
                raise
            raise ours from error
        finally:
            yield from call(session.close)

    if store.asynchronous:
        import asyncio

        return asyncio.run(drive_async(work()))
    return drive(work())


def _ours(store: Store, session: Session, error: Exception) -> OnceboxError | None:
    """A driver's error as ours, with what to do."""
    from ..stores.base import explained

    if isinstance(error, OnceboxError):
        return None
    known = explained(error, session)
    if known is None and store.trouble(error) == "unavailable":
        return StoreUnavailable(f"the store cannot work now: {error}")
    return known


def desk_of(store: Store, session: Session, consumer: str) -> Desk:
    """An operator's place at a consumer."""
    from ..desk import Desk
    from ..statements import statements

    return Desk(
        consumer=consumer, session=session, sql=statements(store.dialect, store.schema),
        trouble=store.trouble, now_ms=now_ms, by=operator(),
    )  # fmt: skip


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def operator() -> str:
    """Who acts, for the journal."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in this container
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
