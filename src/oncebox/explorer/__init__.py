"""The explorer: programs under every schedule within bounds, smallest deviation first.

A program is a generator that yields calls `(function, arguments)`. A `World` starts some as actors
and says at the end whether all is well; `explore` runs it again and again: with a crash before
every step, with preemptions and stalls between any two steps of different actors, and with
whatever else the world lets its environment do (`run.choose`): duplicates, reorderings, lost
answers. What it finds is a tape of integers, which `replay` shows as a timeline.

    class Shop(World):
        def begin(self, run): run.start("one", lambda actor: program(…))
        def check(self): …                 # raises Broken, or returns the state

    explore(Shop(), Bounds(total=2)).expect_clean("crash")

It imports nothing else of oncebox.
"""

from .arrivals import arrivals
from .explore import Failure, Report, explore, replay
from .run import Actor, Blocked, Broken, Moment, Program, Run, World
from .sqlite import MemoryDatabase
from .tape import Bounds, Tape, Unsteady, read_tape, tape_text

__all__ = [
    "Actor",
    "Blocked",
    "Bounds",
    "Broken",
    "Failure",
    "MemoryDatabase",
    "Moment",
    "Program",
    "Report",
    "Run",
    "Tape",
    "Unsteady",
    "World",
    "arrivals",
    "explore",
    "read_tape",
    "replay",
    "tape_text",
]
