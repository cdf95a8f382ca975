"""What most commands share: their options, and the way from a consumer's name to its store."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from cyclopts import Parameter

from ..config import Sources, Value, configure, find_services, service_variable
from ..errors import ConfigurationError, OnceboxError, StoreUnavailable
from ..program import Program, T, call, drive, drive_async

if TYPE_CHECKING:
    from ..desk import Desk
    from ..ports import Log
    from ..service import Service
    from ..session import Session, Store
    from ..waiting import Where

Many = Annotated[list[str] | None, Parameter(negative="")]
"""A flag that may be repeated."""

Flag = Annotated[bool, Parameter(negative="")]
"""A flag without `--no-…`."""

SOURCES: ContextVar[Sources] = ContextVar("oncebox_sources")
"""The configuration's sources in this run of the command line."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command understands.

    Attributes
    ----------
    store:
        Database URL for all services. Else ONCEBOX_STORE, or the configuration.
    log:
        Log URL. Else ONCEBOX_LOG, or the configuration.
    schema:
        Name of oncebox's tables. Else ONCEBOX_SCHEMA, or the configuration.
    app:
        Module with services, MODULE or MODULE:NAME; may be repeated. Else ONCEBOX_APP.
    config:
        Configuration file, instead of oncebox.toml or pyproject.toml.
    json:
        Print JSON, one document per line.
    verbose:
        Log more, and show where an unexpected error came from.
    """

    store: str | None = None
    log: str | None = None
    schema: str | None = None
    app: Many = None
    config: str | None = None
    json: Flag = False
    verbose: Annotated[bool, Parameter(name=("--verbose", "-v"), negative="")] = False


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
        FIELD=VALUE or FIELD~PART, with source, key, kind, reason, type or id; may be repeated.
    """

    key: str | None = None
    source: str | None = None
    reason: str | None = None
    where: Many = None

    def chosen(self) -> Where:
        """As the list of what waits takes it."""
        from ..waiting import Condition, Where, conditions

        given = conditions(self.where or ())
        if self.reason is not None:
            given = (*given, Condition("reason", contains=True, value=self.reason))
        return Where(self.source, self.key, given)


EVERY_KEY = Which()


def log_to_stderr(options: Options, level: int = logging.WARNING) -> None:
    """Our loggers' lines on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("oncebox")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if options.verbose else level)


# ---- services


def services_of(options: Options) -> dict[str, Service]:
    """The application's services, each set to what counts for it. Imports their modules."""
    sources = SOURCES.get()
    found = find_services(options.app or ())
    for service in found.values():
        configure(service, sources)
    return found


def chosen(options: Options, names: tuple[str, ...]) -> list[Service]:
    """The services of these names, or all. Raises ConfigurationError for a name unknown."""
    if not options.app:
        raise ConfigurationError(
            "no application is named, so no service is known",
            hint='--app myapp.services, or app = "myapp.services" in oncebox.toml',
        )
    found = services_of(options)
    for name in names:
        if name not in found:
            raise ConfigurationError(
                f"no service {name}", expected=f"one of {', '.join(sorted(found))}"
            )
    return [found[name] for name in names] if names else list(found.values())


# ---- stores


class Located(NamedTuple):
    """Where a consumer or a service has its tables. `service` is None where only the
    configuration was needed to know, and no code was imported.
    """

    name: str
    store: Value
    log: Value
    schema: str
    service: Service | None


def locate(name: str, options: Options) -> Located:
    """The store of a consumer (`billing`, `billing.mail`), by configuration if that says enough,
    else by importing the application. Raises ConfigurationError.
    """
    sources = SOURCES.get()
    candidates = list(_services_named(name))
    service = next((c for c in candidates if _is_configured(sources, c)), candidates[-1])
    store = sources.value("store", service, None)
    if store.value is None and options.app:
        services = services_of(options)
        found = next((services[c] for c in candidates if c in services), None)
        if found is None:
            known = sorted(n for s in services.values() for n in (s.name, *s.consumers))
            raise ConfigurationError(
                f"no service or consumer {name}", expected=f"one of {', '.join(known)}"
            )
        code = Value(found.store, "code"), Value(found.log, "code")
        if found.store is not None:
            return Located(found.name, *code, found.schema, found)
    if store.value is None:
        raise ConfigurationError(
            f"the store of {name} is not known",
            expected="--store URL, ONCEBOX_STORE, or the configuration",
            hint="or name the application: --app myapp.services",
        )
    log = sources.value("log", service, None)
    schema = sources.value("schema", service, None, "oncebox").value
    return Located(service, store, log, schema, None)


def _services_named(consumer: str) -> Iterator[str]:
    """The services that a consumer's name may belong to: "a.b.c", "a.b", "a"."""
    parts = consumer.split(".")
    for count in range(len(parts), 0, -1):
        yield ".".join(parts[:count])


def _is_configured(sources: Sources, service: str) -> bool:
    if service in sources.services():
        return True
    return service_variable(sources.environment, service, "store") is not None


def everywhere(options: Options, *, code: bool = False) -> list[Located]:
    """Every store that is configured, once each. With `code`, those that the application passes
    to its services too; else it is imported only where the configuration names none.
    """
    sources = SOURCES.get()
    found: list[Located] = []
    for name in (None, *sources.services()):
        store = sources.value("store", name, None)
        if store.value is not None:
            log = sources.value("log", name, None)
            schema = sources.value("schema", name, None, "oncebox").value
            found.append(Located(name or "", store, log, schema, None))
    if options.app and (code or not found):
        for service in services_of(options).values():
            if service.store is not None:
                values = Value(service.store, "code"), Value(service.log, "code")
                found.append(Located(service.name, *values, service.schema, service))
    if not found:
        raise ConfigurationError(
            "no store is known",
            expected="--store URL, ONCEBOX_STORE, or the configuration",
            hint="or name the application: --app myapp.services",
        )
    return distinct(found)


def distinct(found: list[Located]) -> list[Located]:
    """One of each store."""
    unique: dict[Any, Located] = {}
    for one in found:
        value = one.store.value
        unique.setdefault((value if isinstance(value, str) else id(value), one.schema), one)
    return list(unique.values())


def store_of(located: Located) -> Store:
    """The store, not connected yet."""
    from ..stores.adapt import open_store

    return open_store(located.store.value, located.schema)


def log_of(located: Located) -> Log | None:
    """The log, if its URL is known."""
    from ..connect import open_log

    return None if located.log.value is None else open_log(located.log.value)


# ---- work


def perform(store: Store, make: Callable[[Session], Program[T]]) -> T:
    """Run a program over a session of its own, whatever the store's kind."""

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
    if known is not None:
        return known
    if store.trouble(error) == "unavailable":
        return StoreUnavailable(f"the store cannot work now: {error}")
    return None


def desk_of(store: Store, session: Session, consumer: str) -> Desk:
    """An operator's place at a consumer."""
    from ..desk import Desk
    from ..statements import statements

    return Desk(
        consumer=consumer,
        session=session,
        sql=statements(store.dialect, store.schema),
        trouble=store.trouble,
        now_ms=now_ms,
        by=operator(),
    )


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
