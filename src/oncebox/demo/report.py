"""What the demo shows: progress while it runs, and the tables at the end. 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from .check import Finding
from .customers import Size
from .stage import HALVES, ROLES, Outcome

WIDTH = 80

Notice = Callable[[int, int, int], None]
"""Takes customers served, all customers, processes killed so far."""


class Report:
    """Writes to standard output; nothing but the object at the end if `json`."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.console = Console(highlight=False, soft_wrap=False, quiet=json)
        self.console.width = min(WIDTH, self.console.width)

    def begin(self, size: Size, where: str) -> None:
        self.say(Text("One small shop, run twice under the same faults", style="bold"))
        self.say()
        self.say("  naive    as many teams write it      oncebox/demo/without.py")
        self.say("  oncebox  the same shop with oncebox  oncebox/demo/with_oncebox.py")
        self.say()
        self.say(
            f"Orders, payments, refunds, stock and shipping: {size.events:,} events of "
            f"{size.keys:,} orders,\nin {len(ROLES['naive'])} processes, on {where}."
        )
        self.say()

    def say(self, text: str | Text = "") -> None:
        self.console.print(text)

    @contextmanager
    def progress(self, half: str) -> Iterator[Notice]:
        """A bar on a terminal, a line at every quarter elsewhere."""
        if not self.console.is_terminal:
            yield self._lines(half)
            return
        with self._bar() as bar:
            task = bar.add_task(half, total=None, served=0, killed=0)

            def notice(served: int, total: int, killed: int) -> None:
                # One more than there is: the rest of the work follows the last request.
                bar.update(task, completed=served, total=total + 1, served=served, killed=killed)

            yield notice
            bar.advance(task)

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("  {task.description:8}"),
            BarColumn(bar_width=28, complete_style="blue", finished_style="blue"),
            TextColumn("{task.fields[served]:>6,} requests  {task.fields[killed]:>3} killed"),
            TimeElapsedColumn(),
            console=self.console,
        )

    def _lines(self, half: str) -> Notice:
        shown = -1

        def notice(served: int, total: int, killed: int) -> None:
            nonlocal shown
            quarter = served * 4 // total
            if quarter > shown:
                shown = quarter
                self.say(
                    f"  {half:8} {quarter * 25:>3} %  {served:>6,} requests  {killed:>3} killed"
                )

        return notice

    # ---- the end

    def end(self, size: Size, outcomes: dict[str, Outcome], verdict: list[str]) -> None:
        """What happened to both halves, and last, where a small terminal has it, what became of
        them.
        """
        self.say()
        for line in _faults(outcomes):
            self.say(line)
        self.say(f"\n{same_faults(size.seed)}\n")
        for line in _findings(outcomes):
            self.say(line)
        self.say()
        for sentence in verdict:
            self.say(Text(f"FAILED: {sentence}", style="bold red"))
        if not verdict:
            self.say(
                Text(
                    "oncebox: nothing twice, lost, made up, misread or out of order.", "bold green"
                )
            )
            self.say("Begin with one of your own: oncebox init")

    def write_json(self, size: Size, outcomes: dict[str, Outcome], verdict: list[str]) -> None:
        import json

        sys.stdout.write(json.dumps(as_object(size, outcomes, verdict)) + "\n")


def same_faults(seed: int) -> str:
    """In what sense the faults are the same, in a sentence or two."""
    return fill(
        f"The same faults: seed {seed} fixes at which requests and events a process is killed, "
        "a handler fails, a partition stalls, the log delivers again. Where the naive half dies "
        "between two writes, oncebox's, which has one, dies just before or after its commit.",
        WIDTH - 1,
    )


def _findings(outcomes: dict[str, Outcome]) -> Iterator[Text]:
    heads = "".join(f"{half:>10}{'in money':>13}" for half in HALVES)
    yield Text(f"{'what went wrong':30}{heads}", style="bold")
    for name in outcomes["oncebox"].findings:
        yield _row(name, {half: outcomes[half].findings[name] for half in HALVES})
    yield _row("in all", {half: _sum(outcomes[half].findings.values()) for half in HALVES})


def _row(name: str, found: dict[str, Finding]) -> Text:
    row = Text(f"{name:30}")
    for half, (times, cents) in found.items():
        cells = f"{times:>10,}{cents / 100:>13,.2f}"
        row.append(cells, style="red" if times else _zero(half))
    return row


def _sum(found: Iterable[Finding]) -> Finding:
    return Finding(*map(sum, zip(*found, strict=True)))


def _zero(half: str) -> str:
    return "green" if half == "oncebox" else "default"


def _faults(outcomes: dict[str, Outcome]) -> Iterator[Text]:
    naive, oncebox = outcomes["naive"], outcomes["oncebox"]

    def line(name: str, left: str, right: str, style: str = "") -> Text:
        return Text(f"{name:30}{left:>10}{'':13}{right:>10}", style)

    yield line("faults that fired", *HALVES, "bold")
    for name, times in oncebox.faults.items():
        yield line(name, f"{naive.faults[name]:,}", f"{times:,}")
    yield line("different events in the log", f"{naive.events:,}", f"{oncebox.events:,}", "dim")
    yield line("their keys", f"{naive.keys:,}", f"{oncebox.keys:,}", "dim")
    yield line("seconds", f"{naive.seconds:.1f}", f"{oncebox.seconds:.1f}", "dim")


def as_object(size: Size, outcomes: dict[str, Outcome], verdict: list[str]) -> dict[str, Any]:
    """Everything that was shown, as JSON values; money in cents."""
    halves = {
        half: {
            "wrong": {name: found._asdict() for name, found in outcome.findings.items()},
            "faults": outcome.faults,
            "events": outcome.events,
            "keys": outcome.keys,
            "seconds": round(outcome.seconds, 2),
        }
        for half, outcome in outcomes.items()
    }
    return {"passed": not verdict, "failed": verdict, "seed": size.seed, **halves}
