"""Effects outside the database, as handlers ask for them by `context.once`.

Intent, call, result: each is committed before the next begins, so whoever comes after a crash
knows a result that is known, and otherwise calls again with the same idempotency key.
"""

from __future__ import annotations

from msgspec import json

from .batch import Wanted
from .calling import describe, is_outage
from .context import Effect, idempotency_key
from .program import Program, call
from .reading import Reading, transact

Event = tuple[str, str, str]
"""Consumer, source, id."""


def have_effect(reading: Reading, one: Wanted) -> Program[str | None]:
    """Have one effect; its result is in `reading.effects` then, for the handler's next run.

    Returns why it failed, or None. Raises what is nobody's fault (see `is_outage`). For an event
    that runs again (see `rewind.rebuild`) nothing is called: a result that is not known is None.
    """
    item, suspend, had = one
    envelope = item.envelope
    event = (reading.consumer, envelope.source, envelope.id)
    key = idempotency_key(reading.consumer, envelope, suspend.step)
    if had:
        known = yield from transact(reading, _known(reading, event))
        known.setdefault(suspend.step, Effect(None))
    else:
        known = yield from transact(reading, _intend(reading, event, suspend.step, key))
    reading.effects[envelope.source, envelope.id] = known
    if suspend.step in known:
        return None
    try:
        result = yield suspend.effect, (key,)
        encoded = json.encode(result)
    except Exception as error:
        if is_outage(error):
            raise
        return f"once({suspend.step!r}): {describe(error)}"
    parameters = (*event, suspend.step, reading.now_ms(), encoded)
    done = call(reading.session.run, reading.sql["effect_done"], parameters)
    rows = yield from transact(reading, done)
    known[suspend.step] = Effect(json.decode(rows[0][0] if rows else encoded))
    return None


def _known(reading: Reading, event: Event) -> Program[dict[str, Effect]]:
    """Results that are known."""
    rows = yield from call(reading.session.run, reading.sql["effects"], event)
    return {s: Effect(json.decode(result)) for s, _, done, result in rows if done is not None}


def _intend(reading: Reading, event: Event, step: str, key: str) -> Program[dict[str, Effect]]:
    """Results that are known; the intent of `step` noted unless it is among them."""
    known = yield from _known(reading, event)
    if step not in known:
        parameters = (*event, step, key, reading.now_ms())
        yield from call(reading.session.run, reading.sql["intend"], parameters)
    return known
