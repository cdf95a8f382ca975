"""Effects of `once` that do not return: their key waits, and nobody else does."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from at_work import Place, at_work, emit, run_sql, until
from oncebox import Context, Settings
from oncebox.consumer.timeouts import LEFT_MAX, limited_aside
from oncebox.errors import HandlerBroke, HandlerTimeout

BRIEF = Settings(handler_timeout_s=0.2, attempts_max=1)


@pytest.fixture
def ends() -> Iterator[threading.Event]:
    """What effects wait for in C, where no exception comes through; it happens at the test's end."""
    event = threading.Event()
    yield event
    event.set()


def plain(waits: Callable[[], Any]) -> Callable[[Any, Any, Context[None]], None]:
    def pay(tx: Any, paid: Any, context: Context[None]) -> None:
        context.once("charge", lambda key: waits() if paid.order == "a" else key)

    return pay


def coroutine(waits: Callable[[], Any]) -> Any:
    async def pay(tx: Any, paid: Any, context: Context[None]) -> None:
        plain(partial(asyncio.sleep, 3600))(tx, paid, context)

    return pay


@pytest.mark.parametrize("handler", [plain, coroutine])
def test_an_effect_that_hangs_holds_its_key_and_no_other(
    tmp_path: Path, ends: threading.Event, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place.of_files(tmp_path)
    place.make()
    shop, billing, paid = place.services(handler(ends.wait))
    billing.consumer(settings=BRIEF)
    emit(shop, paid("a", 1), paid("b", 1))
    with at_work(shop, billing) as at:
        until(lambda: at.metric("oncebox_inbox_applied_total", "billing") == 1)
        until(lambda: at.metric("oncebox_keys_dead", "billing", "failed") == 1)
    ((key, reason),) = run_sql(
        place.billing, "SELECT key, reason FROM oncebox_key WHERE park <> ''"
    )
    assert key == "a"
    assert "once('charge'): HandlerTimeout: still running after 0.2 s" in reason
    ((id,),) = run_sql(place.shop, "SELECT id FROM oncebox_event WHERE key = 'a'")
    (line,) = [r for r in caplog.records if "HandlerTimeout" in r.getMessage()]
    assert (line.__dict__["event"], line.__dict__["key"]) == (id, "a")


def test_an_effect_that_hangs_in_python_is_interrupted() -> None:
    ended = threading.Event()

    def hangs(key: str) -> None:
        try:
            while True:
                ended.wait(0.01)
        finally:
            ended.set()

    with pytest.raises(HandlerTimeout):
        limited_aside(hangs, 0.05)("k")
    assert ended.wait(60)


def test_what_an_effect_returns_or_raises_is_its_callers() -> None:
    assert limited_aside(str.upper, 10.0)("k") == "K"
    with pytest.raises(ValueError, match="invalid literal"):
        limited_aside(int, 10.0)("k")
    with pytest.raises(HandlerBroke, match="raised SystemExit"):
        limited_aside(sys.exit, 10.0)("k")


def test_effects_that_hang_are_bounded(ends: threading.Event) -> None:
    """With too many, nobody's effect is begun, and nobody's attempt is spent."""
    threads = [
        threading.Thread(target=_hang, args=(limited_aside(lambda _: ends.wait(), 0.01),))
        for _ in range(LEFT_MAX)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pytest.raises(TimeoutError, match="have not returned"):
        limited_aside(str.upper, 10.0)("k")
    ends.set()
    until(_works)


def _hang(effect: Callable[[str], Any]) -> None:
    with pytest.raises(HandlerTimeout):
        effect("k")


def _works() -> bool:
    try:
        return bool(limited_aside(str.upper, 10.0)("k") == "K")
    except TimeoutError:
        return False
