"""One process under torture: `python -m torture.worker ROLE`. It is told what to die of, and what
time it is, by lines of JSON on its standard input; at its end, it ends.

The clock is Python's own (`time.time`, `time.time_ns`) with an offset: what oncebox's loops go by.
Monotonic time is left alone, as by a real step of the clock.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from . import points

TERMINATION_OF_PARENT = 1  # PR_SET_PDEATHSIG


class Clock:
    """This process's wall clock; it can be set."""

    def __init__(self) -> None:
        self.offset_s = 0.0
        self._time, self._time_ns = time.time, time.time_ns

    def install(self) -> None:
        """Before anything keeps a reference to the real one."""
        time.time = lambda: self._time() + self.offset_s
        time.time_ns = lambda: self._time_ns() + int(self.offset_s * 1e9)


def obey(trap: points.Trap, clock: Clock) -> None:
    """Take orders until there is nobody to give them."""
    for line in sys.stdin:
        order = json.loads(line)
        match order.pop("do"):
            case "arm":
                trap.arm(**order)
            case "disarm":
                trap.disarm()
            case "clock":
                before = time.time()
                clock.offset_s = order["offset_s"]
                trap.note(order["fault"], before=before, after=time.time())
    os._exit(1)


def main() -> int:
    ctypes.CDLL(None).prctl(TERMINATION_OF_PARENT, signal.SIGKILL)
    role, folder = sys.argv[1], Path(os.environ["TORTURE_FOLDER"])
    trap, clock = points.Trap(folder / "fired"), Clock()
    clock.install()
    threading.Thread(target=obey, args=(trap, clock), daemon=True).start()
    if role.startswith("producer"):
        from .producer import produce

        return produce(role, trap)
    install(trap)
    from oncebox.cli import main as oncebox

    name = role.partition("-")[0]
    return oncebox(["relay", "shop"] if name == "relay" else ["run", name])


def install(trap: points.Trap) -> None:
    """Have oncebox's programs run by drivers that meet the trap."""
    from oncebox.logs import kafka
    from oncebox.service import work

    drive, drive_async = points.drivers(trap)
    patched: Any = work
    patched.drive, patched.drive_async = drive, drive_async
    log: Any = kafka.KafkaLog
    make = log._new_producer

    def new_producer(self: Any) -> Any:
        self._producer = points.TrappedProducer(make(self), trap)
        return self._producer

    log._new_producer = new_producer


if __name__ == "__main__":
    sys.exit(main())
