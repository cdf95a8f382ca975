"""oncebox's own tables: migrate, status, check, sql, prune; and an outbox table of yours."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal

from cyclopts import App

from ..errors import ConfigurationError, MissingRight, OnceboxError
from ..inbox import prune_claims
from ..service.config import shown
from ..service.places import Place, configured, everywhere, locate
from ..tables import migrate as tables
from ..tables.adopt import Backlog, Columns, adopt
from ..tables.roles import lacking, script
from .again import when_ms
from .options import Name, said
from .output import complain, counted, listing, tell

app = App(name="db", help="oncebox's own tables: migrate, status, check, sql, prune; adopt-table.")


LockWait = Annotated[float, said("How long to wait for a lock, in others' way.")]


@app.command
def migrate(*, lock_wait_s: LockWait = tables.LOCK_WAIT_S) -> None:
    """Make oncebox's tables, or bring them up to date, in every configured store.

    Safe to run at any time and by several at once. Code runs on tables of its own
    version and of the next one, so: migrate first, then deploy.

    For example:

        oncebox db migrate --app myapp.services
        oncebox db migrate --store postgresql://localhost/shop
    """
    for place in everywhere(code=True):
        bring_up_to_date(place, lock_wait_s)


def bring_up_to_date(place: Place, lock_wait_s: float = tables.LOCK_WAIT_S) -> None:
    """Make what a store lacks, and say so."""
    where = shown(place.store)
    done = place.perform(partial(tables.migrate, schema=place.schema, lock_wait_s=lock_wait_s))
    versions = [one.version for one in done]
    text = f"made tables, version {versions[0]} to {versions[-1]}" if versions else "up to date"
    tell({"store": where, "schema": place.schema, "applied": versions}, f"{where}: {text}")


@app.command
def status() -> None:
    """Which versions of the tables are there.

    For example:

        oncebox db status --store sqlite:///shop.db
    """
    rows = []
    for place in everywhere(code=True):
        for version, name, made_s in place.perform(partial(tables.status, schema=place.schema)):
            made_ms = None if made_s is None else int(made_s * 1000)
            rows.append({"store": shown(place.store), "version": version, "name": name,
                         "made_ms": made_ms})  # fmt: skip
    listing(rows)


Part = Literal["producer", "relay", "consumer", "operator", "auditor"]
Parts = Annotated[list[Part] | None, said("Parts that this role plays; else it needs all rights.")]


@app.command
def check(*, role: Parts = None) -> int:
    """Whether this oncebox, in this role, can run on the tables as they are; exit code 3 if not.

    For example:

        oncebox db check --app myapp.services && oncebox run
        oncebox db check --role producer --role consumer
    """
    exit_code = 0
    for place in everywhere(code=True):
        where, failed = shown(place.store), None
        try:
            place.perform(partial(tables.check, schema=place.schema, rights=not role))
            for part in role or ():
                lacks = place.perform(partial(lacking, schema=place.schema, role=part))
                if lacks:
                    raise MissingRight(
                        f"this role lacks {', '.join(lacks)}",
                        expected=f"what a {part} needs",
                        hint=f"grant {place.schema}_{part} to it: see oncebox db sql --roles",
                    )
        except OnceboxError as error:
            failed, exit_code = error, max(exit_code, error.exit_code)
        text = f"{where}: {'fine' if failed is None else 'does not fit'}"
        tell({"store": where, "schema": place.schema, "fine": failed is None}, text)
        if failed is not None:
            complain(failed)
    return exit_code


Above = Annotated[int, said("For tables of this version; 0: there are none.")]
Dialect = Annotated[Literal["sqlite", "postgres"] | None, said("Else that of the store.")]


Roles = Annotated[bool, said("Roles with least privilege, instead of tables.")]


@app.command
def sql(*, above: Above = 0, dialect: Dialect = None, roles: Roles = False) -> None:
    """Print what migrate would run, to be read, or run by somebody who may.

    With --roles: roles of PostgreSQL for producers, relays, consumers, operators and
    auditors, each with the rights of its part and no others.

    For example:

        oncebox db sql --dialect postgres > oncebox.sql
        oncebox db sql --roles --dialect postgres | psql shop
        oncebox db sql --above 3 --store postgresql://localhost/shop
    """
    place = configured(None) if dialect else everywhere(code=True)[0]
    if roles:
        text = script(place.schema).rstrip()
        tell({"sql": text}, text)
        return
    text = tables.script(dialect or place.open_store().dialect, place.schema, above).rstrip()
    tell({"sql": text}, text)


Before = Annotated[str, said("Claims made before this: 90d, or a time.")]
ClaimSource = Annotated[str | None, said("Of this source only, such as stripe.")]


@app.command
def prune(consumer: Name, /, *, before: Before, source: ClaimSource = None) -> None:
    """Forget old claims: for an application that claims, and runs no consumer.

    A consumer that runs forgets by itself, after claims_s. From then on an id that
    is older, or does not show its age, is refused: whether it was done is not known.

    For example:

        oncebox db prune billing --before 90d
        oncebox db prune billing --before 2030-01-01 --source stripe
    """
    place, at = locate(consumer), datetime.fromtimestamp(when_ms(before) / 1000, UTC)
    count = place.perform(lambda session: prune_claims(session, place.schema, consumer, source, at))
    document = {"consumer": consumer, "source": source, "before": str(at), "forgotten": count}
    tell(document, f"{consumer}: {counted(count, 'claim')} forgotten")


Key = Annotated[str | None, said("Column of the key that orders events; none: no order.")]
Data = Annotated[str, said("Column of the payload, JSON.")]
Type = Annotated[str, said("Column of the event's type, or =order.placed for all rows.")]
Stream = Annotated[str, said("Column of the stream, or =orders for all rows.")]
Id = Annotated[str | None, said("Column of its id, which travels along as outboxid.")]
Where = Annotated[str | None, said("SQL: rows that are there and were not published yet.")]
Order = Annotated[str | None, said("Column in whose order those are emitted.")]


@app.command
def adopt_table(
    table: Annotated[str, said("Your outbox table: outbox, or shop.outbox.")],
    /,
    *,
    service: Annotated[str, said("The service whose events these are.")],
    data: Data,
    type: Type,
    stream: Stream,
    key: Key = None,
    id: Id = None,
    version: Annotated[int, said("The version of all its events.")] = 1,
    where: Where = None,
    order: Order = None,
) -> None:
    r"""Have whatever is inserted into an outbox table of yours emitted, by a trigger.

    Row and event are of one transaction, so all that holds for emit holds for them.
    A row that cannot be an event fails where it is inserted. Stop your own relay
    first; what it has not published yet is named by --where, and emitted at once.
    To undo it: drop the trigger oncebox_emit.

    For example:

        oncebox db adopt-table outbox --service shop --stream =orders \
          --key order_id --type kind --data payload
        oncebox db adopt-table outbox --service shop --stream aggregatetype \
          --key aggregateid --type type --data payload \
          --where "published_at is null" --order id
    """
    if (where is None) != (order is None):
        raise ConfigurationError("--where and --order belong together")
    columns = Columns(
        key, data, type.removeprefix("="), stream.removeprefix("="),
        type.startswith("="), stream.startswith("="), id, version,
    )  # fmt: skip
    place = everywhere(code=True)[0]
    backlog = None if where is None or order is None else Backlog(where, order)
    count = place.perform(
        lambda session: adopt(session, place.schema, service, table, columns, backlog)
    )
    text = f"{table}: emits as {service}; {counted(count, 'row')} that were there"
    tell({"table": table, "service": service, "emitted": count}, text)
