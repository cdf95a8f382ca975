"""The mistakes of event-driven systems and their cures, side by side.

The same small shop handles the same customers twice, under the same faults: once by hand, as many
teams write it (`without.py`), once with oncebox (`with_oncebox.py`). Then plain SQL over the shop's
own tables counts what went wrong.
"""

from __future__ import annotations

__all__ = ["main"]

EVENTS = 20_000
KEYS = 2_000
SEED = 1


def main(
    *,
    store: str | None = None,
    log: str | None = None,
    events: int = EVENTS,
    keys: int = KEYS,
    seed: int = SEED,
    json: bool = False,
) -> int:
    """Run the demo; 0 if oncebox did everything right and the naive half did not.

    `store` and `log` are URLs of servers (`postgresql://…`, `kafka://…`); None: files in a
    temporary folder. `events` and `keys` are least numbers. Raises ConfigurationError,
    MissingDependency, Unreachable, and DemoFailed when the demo itself broke.
    """
    from .play import play

    return play(store, log, events, keys, seed, json=json)
