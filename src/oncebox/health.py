"""Whether services at work are alive, and whether they are ready: for whoever restarts or routes.

*Alive*: every loop turns. A database or log that is away is nobody's reason to restart: loops turn
while they wait for it. *Ready*: stores and logs answer, and every loop works or stands by.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from .consumer.loop import OUTAGE_PAUSE_S, ConsumerLoop
from .service.watching import LAG_EVERY, LOOK_S
from .service.work import Part, Running

OLD_S = 10 * LAG_EVERY * LOOK_S
"""A look that is older says nothing any more: the store has not answered since."""


class Health(NamedTuple):
    """`wrong` says by name (`consumer:billing`, `store:billing`, …) what is not as it should be."""

    wrong: dict[str, str]

    @property
    def fine(self) -> bool:
        return not self.wrong


def live(work: Running, now_s: float | None = None) -> Health:
    """Whether every loop has turned lately; `now_s` by the monotonic clock. A process that is not
    alive has to be ended: others take over what it held.
    """
    now_s = time.monotonic() if now_s is None else now_s
    wrong = {}
    if work.failed is not None:
        wrong["process"] = f"a loop ended: {type(work.failed).__name__}"
    for name, part in list(work.parts.items()):
        still_s = now_s - part.turned
        if still_s > part.late_s:
            wrong[name] = f"no turn for {still_s:.0f} s; at most {part.late_s:.0f} s are expected"
    return Health(wrong)


def ready(work: Running, now_s: float | None = None) -> Health:
    """Whether every loop works, or stands by, and what it needs can be reached."""
    now_s = time.monotonic() if now_s is None else now_s
    wrong = dict(live(work, now_s).wrong)
    for name, part in list(work.parts.items()):
        why = _waits(part)
        if why is not None:
            wrong.setdefault(name, why)
    for name, seen in list(work.seen.items()):
        if seen.store is not None:
            wrong[f"store:{name}"] = seen.store
        elif now_s - seen.looked > OLD_S:
            wrong[f"store:{name}"] = "it has not answered yet"
        if seen.log is not None:
            wrong[f"log:{name}"] = seen.log
    if work.stopping():
        wrong["process"] = "it is stopping"
    return Health(wrong)


def _waits(part: Part) -> str | None:
    """Why a loop does nothing now though it should, in words."""
    loop = part.loop
    if loop is None:
        return "it has not begun"
    if loop.pause_s > OUTAGE_PAUSE_S:
        return "it waits for its store or log"
    if isinstance(loop, ConsumerLoop):
        missing = sorted(topic for topic, count in loop.partitions.items() if not count)
        if missing:
            return f"there is no topic {', '.join(missing)}"
        return None if loop.next_upkeep_ms else "it has not shared partitions yet"
    return None if loop.is_open else "it has no session yet"


def lines(health: Health) -> Iterator[str]:
    """A health as text, a line for each thing that is wrong."""
    yield "ok" if health.fine else "not ok"
    for name, why in sorted(health.wrong.items()):
        yield f"{name}: {why}"
