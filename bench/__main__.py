"""All benchmarks, one after the other; figures are kept in `docs/benchmarks.md`.

    python -m bench                 what runs in the process: the core, and everything on SQLite
    python -m bench --engines       on PostgreSQL and Kafka, which it starts and stops
    python -m bench emit consumer   only these

A file `bench_NAME.py` has `run(engines) -> list[Figure]`; `engines` is None without --engines.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.measure import keep, show
from oncebox.cli.run import GARBAGE_MIN

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))  # the engines' starters


def main() -> int:
    names = sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--engines", action="store_true", help="start PostgreSQL and Kafka")
    chosen = parser.parse_args()
    gc.set_threshold(GARBAGE_MIN)  # for both sides of each pair, as in `oncebox run`
    with ExitStack() as stack:
        engines = None
        if chosen.engines:
            from bench.engines import start

            engines = stack.enter_context(start())
        for name in chosen.names or names:
            module = importlib.import_module(f"bench.bench_{name}")
            figures = module.run(engines)
            show(figures)
            keep(figures, f"python -m bench {'--engines ' if engines else ''}{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
