"""What commands print: JSON Lines for programs, tables for people, errors on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ..errors import OnceboxError

UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def line(values: Any) -> None:
    """One JSON document on a line of its own."""
    from msgspec import json

    sys.stdout.write(json.encode(values, enc_hook=str).decode() + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A sentence for people who look at standard output."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A remark beside the data."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows under column names: drawn on a terminal, aligned text elsewhere."""
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if on_terminal():
        _drawn(columns, texts)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *texts, strict=True)]
    for cells in (columns, *texts):
        say("  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip())


def on_terminal() -> bool:
    """Whether people look at standard output. A dumb terminal cannot be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _drawn(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for cells in texts:
        drawn.add_row(*map(Text, cells))
    Console().print(drawn)  # rich itself honours NO_COLOR


def complain(error: OnceboxError, *, as_json: bool) -> None:
    """An error of ours: what happened, and on lines of their own what is known and what to do."""
    if as_json:
        _error_line({"error": type(error).__name__, "what": error.what, **error.fields()})
        return
    fields = error.fields()
    hint, expected = fields.pop("hint", None), fields.pop("expected", None)
    about = "".join(f"\n  {name}: {value}" for name, value in fields.items())
    about += f"\n  expected: {expected}" if expected else ""
    about += f"\n  {hint}" if hint else ""
    note(f"oncebox: {error.what}{about}")


def plain_error(text: str, *, as_json: bool, hint: str) -> None:
    """Any other error."""
    if as_json:
        _error_line({"error": "Failed", "what": text, "hint": hint})
    else:
        note(f"oncebox: {text}\n  {hint}")


def _error_line(values: dict[str, str]) -> None:
    from msgspec import json

    note(json.encode(values).decode())


# ---- words for numbers


def moment(ms: int | None) -> str | None:
    """Unix milliseconds as UTC time, to the second."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")[:19] + "Z"


def span(seconds: float | None) -> str | None:
    """A time span in its largest unit: "3.2 s", "5 min"."""
    if seconds is None:
        return None
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    size, unit = next(u for u in UNITS if seconds >= u[0])
    return f"{seconds / size:.0f} {unit}"


def clipped(text: str | None, width: int = 60) -> str | None:
    """Text that fits a table's cell."""
    return text if text is None or len(text) <= width else text[: width - 1] + "…"
