"""How a consumer begins: its store away, another process of the same name."""

from __future__ import annotations

from typing import Any

from chains import TOPIC, World
from engines.server import free_ports
from oncebox.program import drive
from oncebox.running import opened
from oncebox.stores.adapt import open_store


def test_a_consumer_waits_for_a_store_that_is_away_from_the_start(postgres_url: str) -> None:
    (port,) = free_ports(1)
    store: Any = open_store(f"postgresql://nobody@127.0.0.1:{port}/nothing")

    def comes_back(_: float) -> None:
        store.url = postgres_url

    session: Any = drive(opened(store, "billing", lambda: False, comes_back))
    assert session.run("select 1") == [(1,)]
    session.close()


def test_two_processes_of_a_new_consumer_may_begin_at_once(world: World) -> None:
    """The second read its database before the first had begun, and the log after it: so it took
    itself for one whose database was restored without oncebox's tables, and ended.
    """
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1))
    second = world.loop()

    def acknowledged(places: object) -> dict[tuple[str, int], int]:
        world.settle()
        return {(TOPIC, 0): 1}

    second.reader.acknowledged = acknowledged  # type: ignore[method-assign]
    world.settle(second)
    assert world.of("a") == [1]
