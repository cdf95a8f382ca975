"""Our SQL in a driver's style of parameters.

Our files say `$1` (PostgreSQL) or `?`, `?1` (SQLite). Drivers behind SQLAlchemy and Django want
`%(p1)s` or `%s`, with a percent sign of the SQL's own doubled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..errors import ConfigurationError

_TOKEN = re.compile(
    r"""--[^\n]*\n? | '(?:[^']|'')*' | \$(?P<tag>[a-z_]*)\$.*?\$(?P=tag)\$  # as they are
      | \$(?P<dollar>\d+) | \?(?P<mark>\d*) | %""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


class Prepared(NamedTuple):
    """A statement in a driver's style.

    `order`: which parameter each placeholder takes, from 0; None where they pass as they are.
    """

    sql: str
    order: tuple[int, ...] | None
    named: bool

    def arguments(self, parameters: Sequence[Any]) -> Any:
        """The parameters in the driver's form: a tuple, or a dictionary."""
        if self.named:
            return {f"p{n}": value for n, value in enumerate(parameters, 1)}
        if self.order is None:
            return tuple(parameters)
        return tuple([parameters[index] for index in self.order])


@lru_cache(maxsize=1024)
def prepared(sql: str, style: str) -> Prepared:
    """A statement of ours for a driver. Raises ConfigurationError for a style nobody knows."""
    if style in ("numeric_dollar", "qmark"):
        return Prepared(sql, None, named=False)
    if style not in ("pyformat", "format"):
        raise ConfigurationError(
            f"a driver with parameters in style {style}",
            expected="psycopg or asyncpg on PostgreSQL, sqlite3 or aiosqlite on SQLite",
        )
    named = style == "pyformat"
    order: list[int] = []

    def replace(match: re.Match[str]) -> str:
        found = match[0]
        if found.startswith("--"):
            return ""
        if found.startswith("'") or found.endswith("$") or found == "%":
            return found.replace("%", "%%")
        number = match["dollar"] or match["mark"]
        order.append(int(number) - 1 if number else len(order))
        return f"%(p{order[-1] + 1})s" if named else "%s"

    text = _TOKEN.sub(replace, sql)
    return Prepared(text, tuple(order), named)
