"""Oncebox's own tables: made and changed by numbered files of SQL, once each, in order.

All that is pending runs in one transaction. PostgreSQL: one at a time, by an advisory lock, and
nothing waits long for a lock of another's table. Code that knows version N runs on tables of
version N and N + 1: so migrate first, then deploy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import MissingRight, MissingTables
from ..program import Program, call
from ..session import Dialect, Session, in_transaction
from ..statements import Migration, check_schema, migrations, statements
from ..stores.base import explained, typed

LOCK_WAIT_S = 5.0
"""How long a migration waits for a lock; others would queue up behind it."""


class Applied(NamedTuple):
    """A version of the tables: its file's name, and when it was made (Unix seconds; None: not)."""

    version: int
    name: str
    applied_at: float | None


def migrate(
    session: Session,
    schema: str = "oncebox",
    lock_wait_s: float = LOCK_WAIT_S,
    known: tuple[Migration, ...] | None = None,
) -> Program[list[Migration]]:
    """Bring the tables to this code's version; what was done. In a transaction of its own.
    `known`: other tables than a service's, in a schema of their own.

    Raises MissingTables for tables of a version that this code does not know, MissingRight, and
    the driver's error when a lock is not to be had in time: nothing is changed then.
    """
    known = known or migrations(session.dialect, schema)
    try:
        return (yield from in_transaction(session, _migrate(session, schema, lock_wait_s, known)))
    except Exception as error:
        ours = explained(error, session)
        if ours is not None:
            raise ours from error
        raise


def _migrate(
    session: Session, schema: str, lock_wait_s: float, known: tuple[Migration, ...]
) -> Program[list[Migration]]:
    sql = statements(session.dialect, schema)
    yield from call(session.run, sql["begin_migration"], (str(int(lock_wait_s * 1000)),))
    versions = yield from _versions(session, schema)
    _check_known(versions, known)
    if not versions:
        yield from _begin(session, schema)
    pending = [m for m in known if m.version not in versions]
    for migration in pending:
        for statement in split(migration.sql):
            yield from call(session.run, statement)
        yield from call(session.run, sql["add_migration"], (migration.version, migration.name))
    return pending


def status(session: Session, schema: str = "oncebox") -> Program[list[Applied]]:
    """All versions that this code or the tables know, and when each was made."""
    versions = yield from _versions(session, schema)
    known = {m.version: m.name for m in migrations(session.dialect, schema)}
    numbers = sorted(known.keys() | versions.keys())
    return [Applied(n, known.get(n, "of a newer oncebox"), versions.get(n)) for n in numbers]


def check(session: Session, schema: str = "oncebox", *, rights: bool = False) -> Program[None]:
    """Raises MissingTables unless this code can run on the tables as they are. `rights`: raises
    MissingRight, too, unless the role may do all that a service does that emits, relays and
    consumes.
    """
    try:
        versions = yield from _versions(session, schema)
    except Exception as error:
        raise typed(error, session) from error
    known = migrations(session.dialect, schema)
    _check_known(versions, known)
    version, newest = max(versions, default=0), known[-1].version
    if version < newest:
        there = f"are of version {version}" if version else "are not there"
        raise MissingTables(
            f"oncebox's tables {there}",
            expected=f"version {newest}",
            hint="run: oncebox db migrate",
        )
    if rights:
        yield from _check_rights(session, schema)


def _check_rights(session: Session, schema: str) -> Program[None]:
    sql = statements(session.dialect, schema)
    rows = yield from call(session.run, sql["missing_rights"], (schema,))
    if rows:
        role = rows[0][2]
        missing: dict[str, list[str]] = {}
        for right, on, _ in rows:
            missing.setdefault(on, []).append(right)
        lacks = "; ".join(f"{', '.join(rights)} on {on}" for on, rights in missing.items())
        raise MissingRight(
            f"role {role} lacks {lacks}",
            expected="all of these, for a role that emits, relays and consumes",
            hint=f"grant usage on schema {schema} to {role};"
            f" grant select, insert, update, delete on all tables in schema {schema} to {role};"
            f" grant usage on all sequences in schema {schema} to {role};"
            f" grant execute on all functions in schema {schema} to {role}",
        )


def script(dialect: Dialect, schema: str = "oncebox", above: int = 0) -> str:
    """What `migrate` would run on tables of version `above`, to be read or run by hand."""
    sql = statements(dialect, schema)
    parts = ["begin;"]
    if above == 0:
        if dialect == "postgres":
            parts.append(f"create schema if not exists {check_schema(schema)};")
        parts.append(sql["make_migrations"] + ";")
    for migration in migrations(dialect, schema):
        if migration.version > above:
            table = sql["add_migration"].partition(" values ")[0]
            added = f"{table} values ({migration.version}, '{migration.name}');"
            parts += [f"-- version {migration.version}", migration.sql.strip(), added]
    return "\n\n".join([*parts, "commit;"]) + "\n"


def split(sql: str) -> Iterator[str]:
    """The statements of a file of ours, which each end with a line's end. Bodies of functions stand
    between $$ and $$, those of triggers between lines BEGIN and END;.
    """
    lines: list[str] = []
    quoted = body = False
    for line in sql.splitlines():
        if not lines and (not line.strip() or line.startswith("--")):
            continue
        lines.append(line)
        quoted ^= line.count("$$") % 2 == 1
        code = line.partition("--")[0].rstrip()
        if not quoted:
            body = (body or code == "BEGIN") and code != "END;"
        if code.endswith(";") and not quoted and not body:
            yield "\n".join(lines)
            lines = []
    assert not lines, f"a statement without end: {lines[0]}"


def _versions(session: Session, schema: str) -> Program[dict[int, float]]:
    sql = statements(session.dialect, schema)
    ((made,),) = yield from call(session.run, sql["has_migrations"])
    return dict((yield from call(session.run, sql["migrated"]))) if made else {}


def _begin(session: Session, schema: str) -> Program[None]:
    sql = statements(session.dialect, schema)
    ((made,),) = yield from call(session.run, sql["has_schema"], (schema,))
    if not made:
        yield from call(session.run, f"create schema {check_schema(schema)}")
    yield from call(session.run, sql["make_migrations"])


def _check_known(versions: dict[int, float], known: tuple[Migration, ...]) -> None:
    version, newest = max(versions, default=0), known[-1].version
    if version > newest + 1:
        raise MissingTables(
            f"oncebox's tables are of version {version}",
            expected=f"version {newest} or {newest + 1}",
            hint="they were made by a newer oncebox: install that one here too",
        )
