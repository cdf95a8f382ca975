"""Events that kill the process in which they run: how they are found. No I/O.

Where some owners died at one position, events run one by one, and each is noted at its partition
first. The note is "deaths takeovers name": how many owners died while it ran, and how many had died
there when it was noted, so that one which ended otherwise does not count.
"""

from __future__ import annotations

from ..lease import Held

TAKEOVERS_MAX = 3
"""Owners that died at one position before events there run one by one, each noted first."""

DEATHS_MAX = 2
"""Owners that died while the noted event ran, until it is parked: one may have another cause."""

DEADLY = "its process died each time that it ran"


def suspected(held: Held, name: str) -> tuple[str, bool]:
    """The note to leave before an event runs, and whether it has killed often enough."""
    deaths, _, rest = (held.suspect or "").partition(" ")
    takeovers, _, noted = rest.partition(" ")
    died = int(deaths) + (held.takeovers > int(takeovers)) if noted == name else 0
    return f"{died} {held.takeovers} {name}", died >= DEATHS_MAX
