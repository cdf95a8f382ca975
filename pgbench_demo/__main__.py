"""Run the demo: `python -m pgbench_demo --help`."""

from __future__ import annotations

import sys
from pathlib import Path

from cyclopts import App, Parameter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the engines' starters

from typing import Annotated

from engines.lookup import EngineMissing
from pgbench_demo.play import play, report
from pgbench_demo.stage import DemoFailed, Size

app = App(name="pgbench_demo", help=__doc__)


@app.default
def main(size: Annotated[Size, Parameter(name="*")] = Size()) -> int:  # noqa: B008
    """Replicate pgbench's workload under faults, and compare.

    Exit code 0 only if both sides are equal and, unless none were asked for, faults fired.
    """
    try:
        return report(play(size), size)
    except (DemoFailed, EngineMissing) as error:
        print(f"pgbench_demo: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(app())
