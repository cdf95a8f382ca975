"""Lists on their way to PostgreSQL: psycopg's dumper of arrays, which looks at each value by
itself, made quicker for lists of plain texts or whole numbers. Set-based SQL is given those.
"""

from __future__ import annotations

from typing import Any

from psycopg.adapt import PyFormat
from psycopg.types.array import BaseListDumper, ListBinaryDumper, ListDumper

DRIVERS = ("psycopg", "psycopg_binary", "psycopg_c")
"""Packages whose dumpers write texts and whole numbers as PostgreSQL reads them."""


class QuickListDumper(ListDumper):
    """The driver's, with the same types; what it writes for texts and whole numbers reads the same.

    Format: PostgreSQL's documentation, section 8.15.6.
    """

    def dump(self, obj: list[Any]) -> Any:
        ours = type(self.sub_dumper).__module__.partition(".")[0] in DRIVERS
        kinds = set(map(type, obj)) if ours else None
        if kinds == {int}:
            return f"{{{str(obj)[1:-1]}}}".encode()
        if kinds == {str}:
            between = '","'.join(obj)
            # What has to be escaped, cannot be said, or is in an encoding of the caller's.
            if (
                between.count('"') == 2 * (len(obj) - 1)
                and "\\" not in between
                and "\0" not in between
                and self.connection is not None
                and self.connection.info.encoding == "utf-8"
            ):
                return f'{{"{between}"}}'.encode()
        return super().dump(obj)


class OwnListDumper(QuickListDumper):
    """Of our own statements: bytes go as binary, where text takes four for one."""

    def upgrade(self, obj: list[Any], format: PyFormat) -> BaseListDumper:
        if bytes in set(map(type, obj)):
            return ListBinaryDumper(self.cls, self.connection).upgrade(obj, PyFormat.BINARY)
        return super().upgrade(obj, format)
