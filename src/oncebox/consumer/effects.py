"""Effects outside the database, as handlers ask for them by `context.once`.

Intent, call, result: each is committed before the next begins, so whoever comes after a crash
knows a result that is known, and otherwise calls again with the same idempotency key.
"""

from __future__ import annotations

from msgspec import json

from ..context import Effect, idempotency_key
from ..program import Program, call
from .batch import Wanted
from .calling import blame, is_outage
from .reading import Reading, transact
from .suspects import DEADLY

Event = tuple[str, str, str]
"""Consumer, source, id."""

DEATHS_MAX = 3
"""How often an effect is begun and neither returns nor fails, until its event is parked."""


def have_effect(reading: Reading, one: Wanted) -> Program[tuple[str, bool] | None]:
    """Have one effect; its result is in `reading.effects` then, for the handler's next run.

    Returns None, or why it failed and whether it may be tried again without anybody looking. Raises
    what is nobody's fault (see `is_outage`). For an event that runs again (see `rewind.rebuild`)
    nothing is called: a result that is not known is None.
    """
    item, suspend, had = one
    envelope = item.envelope
    event = (reading.consumer, envelope.source, envelope.id)
    key = idempotency_key(reading.consumer, envelope, suspend.step)
    deaths = 0
    if had:
        known = yield from transact(reading, _known(reading, event))
        known.setdefault(suspend.step, Effect(None))
    else:
        known, deaths = yield from transact(reading, _intend(reading, event, suspend.step, key))
    reading.effects[envelope.source, envelope.id] = known
    if suspend.step in known:
        return None
    lived = call(reading.session.run, reading.sql["effect_lived"], (*event, suspend.step))
    if deaths >= DEATHS_MAX:
        yield from transact(reading, lived)  # who has it tried again, has it tried as often
        return f"once({suspend.step!r}): {DEADLY}", False
    try:
        result = yield reading.limited(suspend.effect), (key,)
        encoded = json.encode(result)
    except Exception as error:
        yield from transact(reading, lived)
        if is_outage(error):
            raise
        return f"once({suspend.step!r}): {blame(error)}", True
    parameters = (*event, suspend.step, reading.now_ms(), encoded)
    done = call(reading.session.run, reading.sql["effect_done"], parameters)
    rows = yield from transact(reading, done)
    known[suspend.step] = Effect(json.decode(rows[0][0] if rows else encoded))
    return None


def _known(reading: Reading, event: Event) -> Program[dict[str, Effect]]:
    """Results that are known."""
    rows = yield from call(reading.session.run, reading.sql["effects"], event)
    return {s: Effect(json.decode(result)) for s, _, done, result in rows if done is not None}


def _intend(
    reading: Reading, event: Event, step: str, key: str
) -> Program[tuple[dict[str, Effect], int]]:
    """Results that are known; the intent of `step` noted unless it is among them, and how often it
    was noted in a row before, by owners of which nothing was heard since.
    """
    known = yield from _known(reading, event)
    if step in known:
        return known, 0
    parameters = (*event, step, key, reading.now_ms())
    ((tries,),) = yield from call(reading.session.run, reading.sql["intend"], parameters)
    return known, tries - 1
