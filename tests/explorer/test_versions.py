"""Every producer's version times every consumer's, under every schedule within the bounds."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from oncebox.consumer.reading import no_other
from oncebox.explorer import Bounds, explore

from .engines import Engine, SqliteEngine
from .mixed import Mixed, MixedRivals
from .shop import FIVE

WRITTEN = {"older": (1,), "same": (2,), "newer": (3,), "mixed": (1, 3, 2)}
READ = {"older": (1,), "same": (2,), "both": (1, 2)}


@pytest.fixture
def engine(caplog: pytest.LogCaptureFixture) -> Iterator[Engine]:
    caplog.set_level(logging.CRITICAL, logger="oncebox")
    made = SqliteEngine()
    yield made
    made.close()


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("written", WRITTEN)
def test_each_producer_for_each_consumer(engine: Engine, written: str, read: str) -> None:
    shop = Mixed(engine, FIVE, written=WRITTEN[written], read=READ[read]).arranged()
    explore(shop, Bounds(1)).expect_clean("crash", "duplicate")


def test_a_deployment_while_three_versions_are_in_the_log(engine: Engine) -> None:
    shop = MixedRivals(
        engine, FIVE[:4], written=(1, 3, 2), read=(1, 2), duplicates=False, every_step=False
    ).arranged()
    explore(shop, Bounds(1)).expect_clean("crash", "stall", "preemption")


def test_it_would_see_a_version_that_is_not_translated(engine: Engine) -> None:
    shop = Mixed(engine, FIVE, written=(1, 3, 2), read=(1,))
    shop.codes = {
        version: {type: handler._replace(translate=no_other) for type, handler in code.items()}
        for version, code in shop.codes.items()
    }
    failure = explore(shop.arranged(), Bounds(1)).failure
    assert failure is not None
    assert "effects of key" in failure.what
