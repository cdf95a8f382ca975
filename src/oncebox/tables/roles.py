"""Least privilege on PostgreSQL: a role for each part that somebody plays, with what it needs.

The roles cannot log in: grant them to those that can. One that plays several parts gets several.
Within a part nobody is told apart by row: services that shall not see each other's events need
databases, or schemas (`--schema`), of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..program import Program, call
from ..session import Session
from ..statements import check_schema, statements

READ, ADD, CHANGE = "select", "select, insert", "select, insert, update"
ALL = "select, insert, update, delete"

TABLES = (
    "chain", "closed", "counter", "cursor", "effect", "event", "inbox", "journal", "kept", "key",
    "member", "migration", "open_batch", "partition", "quarantine", "rebuild", "refused", "source",
    "subscription",
)  # fmt: skip

MAINTAIN = "maintain(text, double precision, bigint, int)"

Grants = tuple[tuple[str, str, str], ...]
"""Rights, the kind of what they are on, its name."""

GRANTS: Mapping[str, Grants] = {
    "producer": (
        (ADD, "table", "event"), (ADD, "table", "source"), (CHANGE, "table", "counter"),
        ("insert", "table", "chain"), ("usage", "sequence", "event_n"),
        ("usage", "sequence", "chain_position"), (READ, "table", "migration"),
    ),
    "relay": (
        (READ, "table", "event"), (READ, "table", "chain"), ("select, update", "table", "source"),
        (ALL, "table", "refused"), (CHANGE, "table", "cursor"), (READ, "table", "migration"),
        (READ, "sequence", "chain_position"), ("execute", "function", MAINTAIN),
    ),
    "consumer": (
        (CHANGE, "table", "subscription"), (ALL, "table", "key"), (ALL, "table", "kept"),
        (ALL, "table", "inbox"), (CHANGE, "table", "cursor"), (ALL, "table", "member"),
        ("select, insert, delete", "table", "journal"),
        ("select, insert, delete", "table", "quarantine"),
        (ALL, "table", "effect"), ("select, insert, delete", "table", "open_batch"),
        (ALL, "table", "rebuild"), (READ, "table", "migration"),
    ),
    "operator": (
        *((READ, "table", table) for table in TABLES), (READ, "sequence", "chain_position"),
        (CHANGE, "table", "subscription"), (ALL, "table", "key"), (ALL, "table", "kept"),
        ("select, insert, update, delete", "table", "inbox"), ("select, update", "table", "cursor"),
        (ADD, "table", "journal"), ("select, update, delete", "table", "quarantine"),
        ("select, insert, update", "table", "effect"), (ALL, "table", "rebuild"),
        ("select, update", "table", "refused"), ("select, update", "table", "source"),
    ),
    "auditor": (
        *((READ, "table", table) for table in TABLES), (READ, "sequence", "chain_position"),
    ),
}  # fmt: skip

WHAT = {
    "producer": "emits: applications, and consumers whose handlers emit",
    "relay": "publishes: oncebox relay, oncebox run of a service that emits",
    "consumer": "handles and claims: oncebox run of a service with handlers",
    "operator": "looks and acts: status, parked, redrive, skip, accept, replay, rebuild, …",
    "auditor": "looks: status, parked, journal, audit, doctor",
}


def script(schema: str = "oncebox") -> str:
    """SQL that makes the roles, or brings them up to date, to be run by the tables' owner with the
    right to create roles.
    """
    return "\n".join(_lines(check_schema(schema))) + "\n"


def _lines(schema: str) -> Iterator[str]:
    yield f"-- Roles for the tables of schema {schema}: grant them to those that log in, such as"
    yield f"--   grant {schema}_producer to shop_application;"
    yield "-- Safe to run again. The rights on the application's own tables are its own affair."
    for role, grants in GRANTS.items():
        name = f"{schema}_{role}"
        yield f"\n-- {role}: {WHAT[role]}"
        yield (
            f"do $$ begin create role {name} nologin; exception when duplicate_object then null;"
            " end $$;"
        )
        yield f"grant usage on schema {schema} to {name};"
        for rights, kind, what in grants:
            yield f"grant {rights} on {kind} {schema}.{what} to {name};"
        if role == "relay":
            yield "-- So that a transaction that stands still is told from one that works:"
            yield f"grant pg_read_all_stats to {name};"


def lacking(session: Session, schema: str, role: str) -> Program[list[str]]:
    """What the session's role lacks to play a part, as "right on table x"; nothing on SQLite."""
    wanted = [
        (right, kind, f"{schema}.{what}")
        for rights, kind, what in GRANTS[role]
        for right in rights.split(", ")
    ]
    if session.dialect != "postgres":
        return []
    sql = statements(session.dialect, schema)["lacking_rights"]
    columns = [list(column) for column in zip(*wanted, strict=True)]
    rows = yield from call(session.run, sql, (schema, *columns))
    return [f"{right} on {what}" for right, what in rows]
