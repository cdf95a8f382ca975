"""The SQL of oncebox: one folder per dialect in `sql/`, equal names in both.

`migrations` are files `NNNN_what.sql`, run once each in order; the other files hold the named
statements that programs run. The schema is called `oncebox` there: PostgreSQL has a schema of
that name (`oncebox.event`), SQLite a prefix (`oncebox_event`); both are replaced by the setting.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .errors import ConfigurationError

FOLDER = Path(__file__).with_name("sql")

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}\Z")
_MIGRATION = re.compile(r"\d{4}_\w+\.sql\Z")
_NAME = re.compile(r"^-- name: ([\w ]+)\n", re.MULTILINE)
_COMMENT = re.compile(r" *-- .*")


class Migration(NamedTuple):
    """One step of the tables' history."""

    version: int
    name: str
    sql: str


def check_schema(schema: str) -> str:
    """A schema's name is part of SQL text, so only plain lower-case words pass."""
    if not _SCHEMA.match(schema):
        raise ConfigurationError(
            f"schema {schema!r}", expected="a lower-case letter or _, then letters, digits, _"
        )
    return schema


@cache
def statements(dialect: str, schema: str = "oncebox") -> dict[str, str]:
    """The named statements of a dialect, ready to run; comments do not travel along."""
    named: dict[str, str] = {}
    for entry in (FOLDER / dialect).iterdir():
        if not entry.name.endswith(".sql") or _MIGRATION.match(entry.name):
            continue
        parts = _NAME.split(entry.read_text())[1:]
        for names, sql in zip(parts[::2], parts[1::2], strict=True):
            for name in names.split():
                assert name not in named, f"statement {name} twice"
                named[name] = in_schema(_COMMENT.sub("", sql).strip().removesuffix(";"), schema)
    return named


@cache
def migrations(dialect: str, schema: str = "oncebox") -> tuple[Migration, ...]:
    """All migrations of a dialect in order; their numbers are 1, 2, 3 … without holes."""
    found = []
    for entry in (FOLDER / dialect).iterdir():
        if _MIGRATION.match(entry.name):
            number, name = int(entry.name[:4]), entry.name[5:-4]
            found.append(Migration(number, name, in_schema(entry.read_text(), schema)))
    found.sort()
    assert [m.version for m in found] == list(range(1, len(found) + 1)), "migration numbers"
    return tuple(found)


def in_schema(sql: str, schema: str) -> str:
    """SQL text of ours with another schema name: `oncebox.` and `oncebox_` are the marks."""
    if schema == "oncebox":
        return sql
    return re.sub(r"\boncebox([._])", lambda match: check_schema(schema) + match[1], sql)
