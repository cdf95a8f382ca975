"""What the demo shows: progress while it runs, and the tables at the end. 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import fill
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from .customers import Size, Workload
from .stage import HALVES, Outcome

WIDTH = 80
KILLS = "processes killed (SIGKILL)"

Notice = Callable[[int, int, int], None]
"""Takes customers served, all customers, processes killed so far."""


class Report:
    """Writes to standard output; nothing but the object at the end if `json`."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.console = Console(highlight=False, soft_wrap=False, quiet=json)
        self.console.width = min(WIDTH, self.console.width)

    def begin(self, size: Size, work: Workload, where: str) -> None:
        self.say(Text("One small shop, run twice under the same faults", style="bold"))
        self.say()
        self.say("  naive    as many teams write it      oncebox/demo/without.py")
        self.say("  oncebox  the same shop with oncebox  oncebox/demo/with_oncebox.py")
        self.say()
        self.say(
            f"{size.keys:,} orders, {len(work.actions):,} requests of customers, seed {size.seed}."
        )
        self.say(f"Orders, payments, refunds, stock and shipping on {where}.")
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
        """Tables, the sentence about the faults, and what it means."""
        self.say()
        for line in (*_findings(outcomes), Text(), *_faults(outcomes)):
            self.say(line)
        self.say(f"\n{same_faults(size.seed)}\n")
        if verdict:
            for sentence in verdict:
                self.say(Text(f"FAILED: {sentence}", style="bold red"))
        else:
            self.say(
                Text("oncebox: nothing twice, lost, made up or out of order.", style="bold green")
            )

    def write_json(self, size: Size, outcomes: dict[str, Outcome], verdict: list[str]) -> None:
        import json

        sys.stdout.write(json.dumps(as_object(size, outcomes, verdict)) + "\n")


def same_faults(seed: int) -> str:
    """The one sentence that says in what sense the faults are the same."""
    sentence = (
        f"Both halves meet the same faults: seed {seed} says at which requests and events a "
        "process dies (between the two writes of the naive half; just before or after the one "
        "commit with oncebox), a handler fails, a partition stalls or the log delivers again; "
        "random kills and freezes come when a set share of the requests was served."
    )
    return fill(sentence, WIDTH - 1)


def _findings(outcomes: dict[str, Outcome]) -> Iterator[Text]:
    heads = "".join(f"{half:>10}{'in money':>13}" for half in HALVES)
    yield Text(f"{'what went wrong':30}{heads}", style="bold")
    for name in outcomes["oncebox"].findings:
        row = Text(f"{name:30}")
        for half in HALVES:
            found = outcomes[half].findings[name]
            cells = f"{found.times:>10,}{found.cents / 100:>13,.2f}"
            row.append(cells, style="red" if found.times else _zero(half))
        yield row


def _zero(half: str) -> str:
    return "green" if half == "oncebox" else "default"


def _faults(outcomes: dict[str, Outcome]) -> Iterator[Text]:
    heads = "".join(f"{half:>10}{'':13}" for half in HALVES).rstrip()
    yield Text(f"{'faults that fired':30}{heads}", style="bold")
    naive, oncebox = outcomes["naive"], outcomes["oncebox"]
    for name, times in oncebox.faults.items():
        yield Text(f"{name:30}{naive.faults[name]:>10,}{'':13}{times:>10,}")
    yield Text(
        f"{'different events in the log':30}{naive.events:>10,}{'':13}{oncebox.events:>10,}", "dim"
    )
    yield Text(f"{'seconds':30}{naive.seconds:>10.1f}{'':13}{oncebox.seconds:>10.1f}", "dim")


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
