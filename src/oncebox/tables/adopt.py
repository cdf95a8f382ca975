"""Somebody's own outbox table as a source: a trigger there emits what is inserted.

So the row and its event are of one transaction, and everything behind `emit` holds for them: order
by commit per key, nothing lost, no mark per row. Their columns keep their names; nothing else of
the table is read or changed.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import ConfigurationError
from ..event import check_name, check_type, source_name
from ..program import Program, call
from ..session import Dialect, Session, in_transaction
from ..statements import statements
from ..stores.base import trouble

TRIGGER = "oncebox_emit"

# A UUIDv7 (RFC 9562, section 5.7) as SQLite can make one: of the clock, and of random digits `r`.
_SQLITE_ID = (
    "(SELECT substr(t, 1, 8) || '-' || substr(t, 9) || '-7' || substr(r, 1, 3) || '-'"
    " || substr('89ab', 1 + abs(random() % 4), 1) || substr(r, 4, 3) || '-' || substr(r, 7)"
    " FROM (SELECT printf('%012x',"
    " CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)) AS t,"
    " lower(hex(randomblob(9))) AS r))"
)


class Columns(NamedTuple):
    """Which column is what. `type`, `stream`: a column, or a text for all rows if `…_is` says so.
    `key` None: the events have no order. `id` travels along as the attribute `outboxid`.
    """

    key: str | None
    data: str
    type: str
    stream: str
    type_is: bool = False
    stream_is: bool = False
    id: str | None = None
    version: int = 1


class Backlog(NamedTuple):
    """Rows that are there already and are to be emitted: `where` is SQL, `order` a column."""

    where: str
    order: str


def adopt(
    session: Session,
    schema: str,
    service: str,
    table: str,
    columns: Columns,
    backlog: Backlog | None = None,
) -> Program[int]:
    """Emit from now on whatever is inserted into a table, and what `backlog` says; how many of the
    latter. In one transaction, which keeps writers of the table out: so each row is emitted once.

    A row that cannot be an event (no JSON, a type that is no dotted words) fails where it is
    inserted. Raises ConfigurationError for names that are not there.
    """
    work = _adopt(session, schema, service, table, columns, backlog)
    try:
        return (yield from in_transaction(session, work))
    except Exception as error:
        if trouble(error) == "other":
            said = str(error).split("\n")[0]
            raise ConfigurationError(
                f"table {table}: {said}", hint="nothing was changed"
            ) from error
        raise


def script(
    dialect: Dialect, schema: str, service: str, table: str, columns: Columns, *, binary: bool
) -> list[str]:
    """What `adopt` runs. `binary`: the column `data` holds bytes."""
    name, make = quoted(table), _postgres if dialect == "postgres" else _sqlite
    emit = make(schema, service, columns, "NEW", binary=binary)
    if dialect == "sqlite":
        own = quoted(f"{TRIGGER}_{table}")
        return [
            f"DROP TRIGGER IF EXISTS {own}",
            f"CREATE TRIGGER {own} AFTER INSERT ON {name} BEGIN {emit}; END",
        ]
    function = f"{schema}.{quoted('adopted_' + table.replace('.', '_'))}()"
    body = f"$$ BEGIN PERFORM {emit}; RETURN NULL; END $$"
    when = f"AFTER INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION {function}"
    return [
        f"CREATE OR REPLACE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql AS {body}",
        f"DROP TRIGGER IF EXISTS {TRIGGER} ON {name}",
        f"CREATE TRIGGER {TRIGGER} {when}",
    ]


def _adopt(
    session: Session,
    schema: str,
    service: str,
    table: str,
    columns: Columns,
    backlog: Backlog | None,
) -> Program[int]:
    name, data, dialect = quoted(table), quoted(columns.data), session.dialect
    used = [columns.key, columns.data, columns.id]
    used += [] if columns.type_is else [columns.type]
    used += [] if columns.stream_is else [columns.stream]
    wanted, binary = ", ".join(f"t.{quoted(column)}" for column in used if column), False
    if dialect == "postgres":  # first, so that whatever is committed before it is seen
        yield from call(session.run, f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
    yield from call(session.run, f"SELECT {wanted} FROM {name} t LIMIT 0")  # else inserts fail
    if dialect == "postgres":
        asked = f"SELECT pg_typeof((SELECT {data} FROM {name} LIMIT 0))::text"
        ((kind,),) = yield from call(session.run, asked)
        binary = kind == "bytea"
    for statement in script(dialect, schema, service, table, columns, binary=binary):
        yield from call(session.run, statement)
    if backlog is None:
        return 0
    rows = f"SELECT * FROM {name} WHERE {backlog.where} ORDER BY {quoted(backlog.order)}"
    if dialect == "postgres":
        emit = _postgres(schema, service, columns, "t", binary=binary)
        return len((yield from call(session.run, f"SELECT {emit} FROM ({rows}) t")))
    found = yield from call(session.run, rows.replace("*", "rowid", 1))
    for (rowid,) in found:  # one by one: each is numbered behind the one before it
        one = f"(SELECT * FROM {name} WHERE rowid = {int(rowid)})"
        emit = _sqlite(schema, service, columns, "t", binary=False)
        yield from call(session.run, emit.replace("from (select 1)", f"from {one} t"))
    return len(found)


def _postgres(schema: str, service: str, columns: Columns, row: str, *, binary: bool) -> str:
    """A call of `oncebox.emit` for one row."""
    source, type, key, data, id = _values(service, columns, row, cast="::text")
    data = f"convert_from({data}, 'UTF8')::jsonb" if binary else f"{data}::text::jsonb"
    named = "" if id is None else f", attributes => json_build_object('outboxid', {id})"
    return f"{schema}.emit({source}, {type}, {key}, {data}, {columns.version}{named})"


def _sqlite(schema: str, service: str, columns: Columns, row: str, *, binary: bool) -> str:
    """The statement that emits, for one row."""
    del binary
    source, type, key, data, id = _values(service, columns, row, cast="")
    valid = f"iif(json_valid(CAST({data} AS TEXT)), CAST({data} AS BLOB), json('no JSON'))"
    attributes = "NULL" if id is None else f"json_object('outboxid', CAST({id} AS TEXT))"
    values = (source, _SQLITE_ID, f"CAST({key} AS TEXT)", type, str(columns.version), valid,
              "NULL", attributes, "NULL", "NULL", "NULL")  # fmt: skip
    sql = statements("sqlite", schema)["append_with"]
    for n, value in reversed(list(enumerate(values, 1))):
        sql = sql.replace(f"?{n}", value)
    return sql


def _values(
    service: str, columns: Columns, row: str, *, cast: str
) -> tuple[str, str, str, str, str | None]:
    def column(name: str) -> str:
        return f"{row}.{quoted(name)}"

    start = source_name(check_name("service", service), None, "")
    if columns.stream_is:
        source = f"'{start}{check_name('stream', columns.stream)}'"
    else:
        source = f"('{start}' || {column(columns.stream)}{cast})"
    fixed = columns.type_is
    type = f"'{check_type(columns.type)}'" if fixed else column(columns.type) + cast
    key = "NULL" if columns.key is None else column(columns.key) + cast
    id = None if columns.id is None else column(columns.id) + cast
    return source, type, key, column(columns.data), id


def quoted(name: str) -> str:
    """A name, or `schema.table`, as SQL has it."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))
