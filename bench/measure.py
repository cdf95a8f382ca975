"""Paired measurements: two ways of doing one thing, in turn, and the ratio pair by pair.

Machines drift and differ; a ratio of two runs that stood side by side does so much less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
TABLE = "|---|---|---|---|---|---|\n"
"""Where the table of that page begins."""

BOUNDS = Path(__file__).parent / "bounds.md"
"""What is known about figures below their target: the end of the page."""


@dataclass
class Figure:
    """One line of the table: what was measured, in which unit, and the command that did it."""

    name: str
    unit: str
    value: float
    low: float
    high: float
    runs: int
    target: str = ""
    notes: str = ""
    extra: dict[str, float] = field(default_factory=dict)


def figure(name: str, unit: str, values: list[float], target: str = "", notes: str = "") -> Figure:
    """The median of some runs, with their range."""
    middle = statistics.median(values)
    return Figure(name, unit, middle, min(values), max(values), len(values), target, notes)


def paired(
    name: str,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    *,
    rounds: int = 5,
    unit: str = "events/s",
    target: str = "",
    against: str = "bare loop",
) -> list[Figure]:
    """Rates of ours and theirs, in turn, after one round that is not counted; and their ratio."""
    ours(), theirs()
    mine, other = [], []
    for _ in range(rounds):
        mine.append(ours())
        other.append(theirs())
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    return [
        figure(name, unit, mine),
        figure(f"{name}: {against}", unit, other),
        figure(f"{name}: ratio to {against}", "ratio", ratios, target),
    ]


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Seconds since the block began, by a function."""
    began = time.perf_counter()
    yield lambda: time.perf_counter() - began


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def peak_mb(pid: int | str = "self") -> float:
    """The largest resident memory that a process ever had, in MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise ValueError("no VmHWM")


def show(figures: list[Figure]) -> None:
    """A table on the terminal."""
    for one in figures:
        spread = f"({one.low:,.6g} to {one.high:,.6g}, {one.runs} runs)"
        target = f"  target {one.target}" if one.target else ""
        value = f"{one.value:,.2f}" if one.value < 100 else f"{one.value:,.0f}"
        print(f"{one.name:<58} {value:>10} {one.unit:<9} {spread}{target}", flush=True)
        if one.notes:
            print(f"    {one.notes}", flush=True)


def keep(figures: list[Figure], command: str) -> None:
    """Put figures into the page of all figures, each in place of the one of its name."""
    head, begins, table = PAGE.read_text().partition(TABLE)
    rows = {_name_of(row): row for row in table.splitlines() if row.startswith("| ")}
    rows.update({one.name: _row(one, command) for one in figures})
    PAGE.write_text(head + begins + "\n".join(rows.values()) + "\n" + BOUNDS.read_text())


def _name_of(row: str) -> str:
    return row.split(" | ", maxsplit=1)[0].removeprefix("| ")


def _row(one: Figure, command: str) -> str:
    value = f"{one.value:,.2f}" if one.value < 100 else f"{one.value:,.0f}"
    spread = f"{one.low:,.4g} to {one.high:,.4g}" if one.runs > 1 else ""
    return (
        f"| {one.name} | {value} {one.unit} | {spread} | {one.runs} | {one.target} | `{command}` |"
    )
