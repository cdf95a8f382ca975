"""What commands print: JSON Lines for programs, tables for people, errors on standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ..errors import OnceboxError


class Asked:
    """What this run of the command line was asked for."""

    json = False


ASKED = Asked()

UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
PROGRESS_S = 2.0
"""How often a program that reads our lines is told how far work is."""


def tell(document: Any, text: str | None = None) -> None:
    """The same for programs, as a JSON document on a line of its own, and for people, if there is
    anything to say to them.
    """
    if ASKED.json:
        from msgspec import json

        text = json.encode(plain(document), enc_hook=str).decode()
    if text is not None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def say(text: str) -> None:
    """A sentence that only people need."""
    if not ASKED.json:
        tell(None, text)


def plain(value: Any) -> Any:
    """Named tuples as dictionaries, all the way down."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def note(text: str) -> None:
    """A remark beside the data."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def listing(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows that look alike: a document each for programs, a table for people. What is called
    `…_ms` is a time.
    """
    for row in rows if ASKED.json else ():
        tell(row)
    if rows:
        names = [name.removesuffix("_ms") for name in rows[0]]
        table(names, [[moment(v) if n.endswith("_ms") else v for n, v in r.items()] for r in rows])


def remark(text: str) -> None:
    """A remark that only people need."""
    if not ASKED.json:
        note(text)


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows for people under column names: drawn on a terminal, aligned text elsewhere."""
    if ASKED.json or not rows:
        return
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if on_terminal():
        _draw(columns, texts)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *texts, strict=True)]
    for cells in (columns, *texts):
        say("  ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)).rstrip())


def on_terminal() -> bool:
    """Whether people look at standard output. A dumb terminal cannot be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _draw(columns: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
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


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """How far long work is, on standard error: a bar on a terminal, now and then a line elsewhere.
    What is yielded takes how much is done, and of how much.
    """
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    told_s = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= PROGRESS_S:
            told_s = time.monotonic()
            note(f"{what}: {done:,} of {total:,}")

    yield line


def complain(error: OnceboxError) -> None:
    """An error: what happened, and on lines of their own what is known and what to do."""
    fields = error.fields()
    if ASKED.json:
        from msgspec import json

        kind = type(error).__name__.replace("OnceboxError", "Failed")
        note(json.encode({"error": kind, "what": error.what, **fields}).decode())
        return
    hint, expected = fields.pop("hint", None), fields.pop("expected", None)
    lines = [f"oncebox: {error.what}", *(f"{name}: {value}" for name, value in fields.items())]
    lines += [f"expected: {expected}"] if expected else []
    lines += [hint] if hint else []
    note("\n  ".join(lines))


# ---- words for numbers


def counted(count: int, noun: str) -> str:
    """How many there are of something: "1 key", "2 keys"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


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
