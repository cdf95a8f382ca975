"""Locks in a registry give older code the lenses of newer versions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from at_work import until
from lensing import Shop, lenses, redriven, shop
from oncebox.lens.chain import Edge
from oncebox.registry import locks
from oncebox.registry.client import RegistryClient
from oncebox.registry.locks import shared_lenses
from oncebox.schema.lock import Lock, lock_text
from oncebox.service.running import running
from oncebox.testing import drain
from registry_server import Server, serving
from test_lens_lock import STEPS, TYPE, Noted1, noting, published, schema

__all__ = ["lenses", "shop"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(f"sqlite:///{tmp_path}/registry.db") as running:
        yield running


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no lock is."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(locks, "LOOK_S", 0.0)


def text(newest: int) -> str:
    schemas = [schema(1, text=None), schema(newest, words=None, lang=None)]
    found = {(one.type, one.version): one for one in schemas}
    return lock_text(Lock(found, {(TYPE, newest): Edge(1, newest, STEPS)}))


def share(server: Server, name: str, lock: str) -> None:
    with RegistryClient(server.url) as client:
        assert locks.share(client, name, lock)


def test_a_newer_event_comes_down_by_the_steps_of_a_shared_lock(shop: Shop, server: Server) -> None:
    share(server, "shop", text(2))
    share(server, "odd", "no lock")
    with RegistryClient(server.url) as client:
        client.register("oncebox.lock-empty", "json", '{"type": "object"}')
    published(shop, 2, order_id="o-1", words="hello", lang="de")
    with shared_lenses(server.url):
        assert drain(shop.shop, noting(shop)) == []
    assert shop.seen == [repr(Noted1("o-1", "hello"))]


def test_a_lock_that_is_shared_later_releases_what_waits(shop: Shop, server: Server) -> None:
    published(shop, 7, order_id="o-1", words="hello", lang="de")
    billing = noting(shop)
    with shared_lenses(server.url):
        (waiting,) = drain(shop.shop, billing)
        assert "deploy me" in str(waiting.reason)
        share(server, "shop", text(7))
        redriven(shop, "o-1")
        assert drain(shop.shop, billing) == []
    assert shop.seen == [repr(Noted1("o-1", "hello"))]


def test_the_lock_beside_counts_before_those_of_others(shop: Shop, server: Server) -> None:
    other = text(2).replace("words", "wordings")
    share(server, "zz", other)
    Path("oncebox.lock").write_text(text(2))
    published(shop, 2, order_id="o-1", words="hello", lang="de")
    with shared_lenses(server.url):
        assert drain(shop.shop, noting(shop)) == []
    assert shop.seen == [repr(Noted1("o-1", "hello"))]


def test_a_registry_that_is_away_is_warned_of(
    shop: Shop, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.kill()
    Path("oncebox.lock").write_text(text(2))
    published(shop, 2, order_id="o-1", words="hello", lang="de")
    with (
        caplog.at_level(logging.WARNING, logger="oncebox.registry"),
        shared_lenses(server.url),
    ):
        assert drain(shop.shop, noting(shop)) == [], "the lock beside counts all the same"
    assert "does not answer" in caplog.text
    assert shop.seen == [repr(Noted1("o-1", "hello"))]


async def test_running_takes_the_url_of_a_registry(shop: Shop, server: Server) -> None:
    share(server, "shop", text(2))
    published(shop, 2, order_id="o-1", words="hello", lang="de")
    async with running([shop.shop, noting(shop)], lock=server.url):
        await asyncio.to_thread(until, lambda: shop.seen)
    assert shop.seen == [repr(Noted1("o-1", "hello"))]
