"""`make torture`: a campaign of faults, and docs/torture.md from what it saw."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console

from engines.lookup import EngineMissing

from .campaign import STATE, Campaign
from .place import place
from .report import report as written
from .stage import TortureFailed

FOLDER = Path("build/torture")
FAULTS = 1_000

app = App(name="torture", help_format="plaintext", result_action="return_value")

Faults = Annotated[int, Parameter(help="How many faults have to fire.")]
Seed = Annotated[
    int | None, Parameter(help="The campaign's seed; else that of the folder, or new.")
]
Folder = Annotated[Path, Parameter(help="What is left to do, and logs, are kept here.")]
Report = Annotated[Path | None, Parameter(help="Where the report goes.")]
Anew = Annotated[bool, Parameter(help="Forget an unfinished campaign in the folder.")]


@app.default
def torture(
    *,
    faults: Faults = FAULTS,
    seed: Seed = None,
    folder: Folder = FOLDER,
    report: Report = None,
    anew: Anew = False,
) -> int:
    """Kill, stop, cut and restart everything, and compare afterwards. A campaign that was
    interrupted goes on with the round that it was in when the same command is run again.
    """
    console = Console(stderr=True)
    begun = time.monotonic()

    def say(line: str) -> None:
        text = f"{time.monotonic() - begun:7.0f} s  {line}"
        console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    folder = folder.resolve()
    if anew:
        (folder / STATE).unlink(missing_ok=True)
    try:
        say("starting PostgreSQL, PgBouncer and Kafka")
        with place() as made:
            state = Campaign(made, folder, seed, faults, say).run()
    except (TortureFailed, EngineMissing) as error:
        say(f"failed: {error}")
        return 1
    (folder / STATE).replace(folder / f"done-{state.seed}.json")
    again = f"make torture ARGUMENTS='--seed {state.seed} --faults {state.total}'"
    text = written(state, again)
    (folder / "torture.md").write_text(text)
    if report is not None:
        report.write_text(text)
    say(f"{len(state.fired):,} faults fired, all rounds clean")
    return 0


if __name__ == "__main__":
    sys.exit(app())
