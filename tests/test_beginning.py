"""How a consumer begins: its store away, another process of the same name."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from at_work import WAIT_S, Place, run_sql
from chains import TOPIC, World
from engines.server import free_ports
from oncebox.errors import MissingTables
from oncebox.logs.kafka import KafkaLog
from oncebox.program import call, drive
from oncebox.service.running import running, waited
from oncebox.stores.adapt import open_store

NEWER = "INSERT INTO oncebox_migration (version, name) VALUES (1000, 'x')"


def test_a_consumer_waits_for_a_store_that_is_away_from_the_start(postgres_url: str) -> None:
    (port,) = free_ports(1)
    store: Any = open_store(f"postgresql://nobody@127.0.0.1:{port}/nothing")

    def comes_back(_: float) -> None:
        store.url = postgres_url

    session: Any = drive(waited(partial(call, store.open), "billing", lambda: False, comes_back))
    assert session.run("select 1") == [(1,)]
    session.close()


@pytest.mark.parametrize("relay", [True, False], ids=["relay", "consumer"])
async def test_tables_that_are_too_new_are_seen_when_the_store_is_back(
    tmp_path: Path, relay: bool
) -> None:
    folder, log = tmp_path / "later", Place.of_files(tmp_path).log
    _, billing, _ = Place.of_files(folder)._replace(log=log).services(lambda tx, paid: None)

    async def work() -> None:
        async with running([billing], relay=relay, consume=not relay) as work:
            Place.of_files(tmp_path).make()
            run_sql(Place.of_files(tmp_path).billing, NEWER)
            folder.symlink_to(tmp_path)
            await asyncio.wait_for(work.ended.wait(), WAIT_S)

    with pytest.raises(MissingTables, match="newer oncebox"):
        await work()


async def test_a_relay_has_its_producer_before_the_first_event(
    tmp_path: Path, kafka_url: str
) -> None:
    """Kafka gives a new producer its number after half a second, and that would be the lag of the
    first event, and of what waits when another relay takes over.
    """
    place = Place.of_files(tmp_path)._replace(log=kafka_url)
    shop, _, _ = place.services(lambda tx, paid: None)
    Place.of_files(tmp_path).make()

    async with running([shop], consume=False) as work:
        log: Any = work.log(kafka_url)

        async def made() -> None:
            while log._producer is None:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(made(), WAIT_S)
    assert isinstance(log, KafkaLog)


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
