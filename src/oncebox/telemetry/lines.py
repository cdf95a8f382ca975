"""Log records as JSON, one object in a line, under names that stay: see docs/operations.md.

Whoever logs about an event passes its names by `extra=`; those of an error of ours are taken from
it. So an application's own handlers find them, too, as attributes of the record.
"""

from __future__ import annotations

import logging
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from msgspec import json

from ..errors import OnceboxError

ABOUT = ("consumer", "event", "source", "key", "position", "expected", "hint")
"""What a line may be about."""

speaking: ContextVar[str | None] = ContextVar("oncebox_loop", default=None)
"""The loop that runs here: `consumer:billing`."""


class JsonLines(logging.Formatter):
    """A formatter of Python's logging."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        loop = speaking.get()
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "what": record.getMessage(),
        }
        if loop is not None:
            line["loop"] = loop
            kind, _, name = loop.partition(":")
            if kind == "consumer":
                line["consumer"] = name
        arguments = record.args if isinstance(record.args, tuple) else ()
        error = record.exc_info[1] if record.exc_info else None
        for one in (*arguments, error):
            if isinstance(one, OnceboxError):
                line |= one.fields()
        for name in ABOUT:
            value = getattr(record, name, None)
            if value is not None:
                line[name] = value if isinstance(value, int | float) else str(value)
        if error is not None:
            line["error"] = type(error).__name__
            line["traceback"] = "".join(traceback.format_exception(error))
        return json.encode(line).decode()
