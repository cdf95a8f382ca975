"""oncebox's own tables: migrate, status, check, sql."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App

from ..config import shown
from ..errors import MissingTables
from .common import NO_OPTIONS, Options, everywhere, log_to_stderr, perform, store_of
from .output import line, moment, say, table

if TYPE_CHECKING:
    from ..program import Program
    from ..service import Service
    from ..session import Session

LOCK_WAIT_S = 5.0

app = App(
    name="db",
    help="oncebox's own tables: migrate, status, check, sql.",
    version_flags=(),
)


@app.command
def migrate(*, lock_wait_s: float = LOCK_WAIT_S, options: Options = NO_OPTIONS) -> int:
    """Make oncebox's tables, or bring them up to date, in every store that is configured.

    Safe to run at any time and by several at once. Code runs on tables of its own version and of
    the next one, so: migrate first, then deploy.

    For example:

        oncebox db migrate --app myapp.services
        oncebox db migrate --store postgresql://localhost/shop

    Parameters
    ----------
    lock_wait_s:
        How long to wait for a lock, so that others do not queue up behind it.
    """
    from ..migrate import migrate as bring_up_to_date

    log_to_stderr(options)
    for located in everywhere(options, code=True):
        schema, where = located.schema, shown(located.store.value)

        def work(session: Session, schema: str = schema) -> Program[Any]:
            return bring_up_to_date(session, schema, lock_wait_s)

        done = perform(store_of(located), work)
        if options.json:
            versions = [one.version for one in done]
            line({"store": where, "schema": schema, "applied": versions})
        else:
            names = ", ".join(f"{one.version} {one.name}" for one in done)
            say(f"{where}: {names or 'up to date'}")
    return 0


@app.command
def status(*, options: Options = NO_OPTIONS) -> int:
    """Which versions of the tables are there.

    For example:

        oncebox db status --store sqlite:///shop.db
    """
    from ..migrate import status as versions

    log_to_stderr(options)
    rows = []
    for located in everywhere(options, code=True):
        where = shown(located.store.value)
        for one in perform(store_of(located), partial(versions, schema=located.schema)):
            made_ms = None if one.applied_at is None else int(one.applied_at * 1000)
            if options.json:
                line({"store": where, "version": one.version, "name": one.name, "made_ms": made_ms})
            rows.append((where, one.version, one.name, moment(made_ms) or "not yet"))
    if not options.json:
        table(("store", "version", "name", "made"), rows)
    return 0


@app.command
def check(*, options: Options = NO_OPTIONS) -> int:
    """Whether this version of oncebox can run on the tables as they are. Exit code 3 if not.

    For example:

        oncebox db check --app myapp.services && oncebox run
    """
    from ..migrate import check as look

    log_to_stderr(options)
    failed: MissingTables | None = None
    for located in everywhere(options, code=True):
        where, fine = shown(located.store.value), True
        try:
            perform(store_of(located), partial(look, schema=located.schema))
        except MissingTables as error:
            failed, fine = error, False
        if options.json:
            line({"store": where, "schema": located.schema, "fine": fine})
        else:
            say(f"{where}: {'fine' if fine else 'does not fit'}")
    if failed is not None:
        raise failed
    return 0


@app.command
def sql(
    *,
    above: int = 0,
    dialect: Literal["sqlite", "postgres"] | None = None,
    options: Options = NO_OPTIONS,
) -> int:
    """Print what `migrate` would run, to be read, or run by somebody who may.

    For example:

        oncebox db sql --dialect postgres > oncebox.sql
        oncebox db sql --above 3 --store postgresql://localhost/shop

    Parameters
    ----------
    above:
        For tables of this version; 0: there are none.
    dialect:
        `sqlite` or `postgres`; else that of the store.
    """
    from ..migrate import script
    from .common import SOURCES

    log_to_stderr(options)
    if dialect is not None:
        schema = SOURCES.get().value("schema", None, None, "oncebox").value
        say(script(dialect, schema, above).rstrip())
        return 0
    located = everywhere(options, code=True)[0]
    say(script(store_of(located).dialect, located.schema, above).rstrip())
    return 0


def check_or_migrate(service: Service, *, migrate: bool) -> None:
    """Before a service runs: its tables fit, or are made to. Raises MissingTables."""
    from ..migrate import check as look
    from ..migrate import migrate as bring_up_to_date
    from ..stores.adapt import open_store

    store = open_store(service.store, service.schema)
    if migrate:
        for one in perform(store, partial(bring_up_to_date, schema=service.schema)):
            say(f"{service.name}: made tables, version {one.version} {one.name}")
    else:
        perform(store, partial(look, schema=service.schema))
