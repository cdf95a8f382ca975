"""Paired measurements: two ways of doing one thing, in turn, and the ratio pair by pair.

Machines drift and differ; a ratio of two runs that stood side by side does so much less.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results.json"
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
    """Merge figures into the results that are kept, by name."""
    known: dict[str, Mapping[str, object]] = {}
    if RESULTS.exists():
        known = {one["name"]: one for one in json.loads(RESULTS.read_text())}
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    for one in figures:
        known[one.name] = {**asdict(one), "command": command, "machine": machine}
    RESULTS.write_text(json.dumps(list(known.values()), indent=1) + "\n")


def page() -> str:
    """The document of all figures that are kept."""
    lines = [
        "# Benchmarks",
        "",
        "Medians, with the range of the runs. Paired figures were taken in turn in one run; use",
        "their ratios, since machines differ and drift. Each line names the command that made it",
        "(in `.venv/bin`), which also writes this page. `make bench` and `make bench-engines` run",
        "all of them.",
        "",
        "| What | Median | Range | Runs | Target | Command |",
        "|---|---|---|---|---|---|",
    ]
    for one in json.loads(RESULTS.read_text()):
        value = f"{one['value']:,.2f}" if one["value"] < 100 else f"{one['value']:,.0f}"
        spread = f"{one['low']:,.4g} to {one['high']:,.4g}" if one["runs"] > 1 else ""
        lines.append(
            f"| {one['name']} | {value} {one['unit']} | {spread} | {one['runs']} "
            f"| {one['target']} | `{one['command']}` |"
        )
    return "\n".join(lines) + "\n" + BOUNDS.read_text()
