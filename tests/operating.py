"""What tests of operators share: a world with a consumer, a desk at it, and the command line."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from msgspec import json

from chains import SOURCE, Paid, World, make_store
from oncebox.cli import main
from oncebox.consumer.reading import take_in
from oncebox.operate.desk import Desk
from oncebox.operate.rewind import rebuild
from oncebox.operate.waiting import Waiting, Where, waiting
from oncebox.order import Link
from oncebox.outbox import History
from oncebox.ports import Record
from oncebox.program import Program, drive
from oncebox.session import Session
from oncebox.statements import statements
from producing import await_true

ALL = Where()


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    made = World(make_store(request.param, tmp_path, url), tmp_path)
    made.url = url or f"sqlite:///{tmp_path}/store.db"  # type: ignore[attr-defined]
    yield made
    made.close()


def only(kind: str) -> pytest.MarkDecorator:
    """Of a test with a world: on this store only."""
    return pytest.mark.parametrize("world", [kind], indirect=True)


def at(world: World) -> tuple[str, ...]:
    """Flags that name a world's store and log."""
    url: str = world.url  # type: ignore[attr-defined]
    log: Any = world.log
    return "--store", url, "--log", f"sqlite:///{log.path}"


def desk_of(world: World, session: Any = None) -> Desk:
    return Desk(
        consumer="billing",
        session=cast("Session", session or world.session),
        sql=statements(world.store.dialect),
        now_ms=lambda: world.now_ms,
        by="a test",
    )


def wait_list(world: World, where: Where = ALL) -> list[Waiting]:
    return drive(waiting(desk_of(world), where)).found


def one_waiting(world: World) -> Waiting:
    (one,) = wait_list(world)
    return one


def ask_producer(world: World) -> Any:
    """The producer's present history, as its outbox would tell it."""
    reading = drive(desk_of(world).reading())

    def ask(source: str, key: str, first: int, last: int | None) -> Program[History]:
        assert source == SOURCE
        links: list[Link] = []
        records = {}
        for sent in world.producer.history[key]:
            log_record = world_record(sent)
            (item,), _ = take_in(reading, [log_record])
            if item.link.sequence >= first:
                links.append(item.link)
                records[item.link[:2]] = log_record
        yield from ()
        return History(tuple(links), records)

    return ask


def world_record(sent: Any) -> Any:
    out = sent.outgoing
    headers = [(n, v.encode() if isinstance(v, str) else v) for n, v in out.headers]
    return Record(out.topic, 0, -1, out.key, out.value, headers, out.time_ms)


def failing(world: World, broken: set[str]) -> None:
    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if f"{paid.order}{paid.cents}" in broken or paid.order in broken:
            raise ValueError(f"no account {paid.order}")
        world.record(tx, paid.order, paid.cents)


def failing_for_all(world: World) -> list[bool]:
    """A handler that fails until what is returned is empty."""
    missing_column = [True]

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if missing_column:
            raise ValueError("no such column")
        world.record(tx, paid.order, paid.cents)

    return missing_column


@contextmanager
def rebuild_waiting(world: World) -> Iterator[None]:
    """A rebuild on PostgreSQL that waits for a lock; it is over when the block is."""
    operator: Any = world.store.open()
    work = rebuild(desk_of(world, operator), {}, ["delete from ledger"], "test", perform=True)
    rebuilding = threading.Thread(target=lambda: drive(work))
    rebuilding.start()
    pid = operator.handle.info.backend_pid
    waits = f"select exists (select from pg_locks where not granted and pid = {pid})"
    await_true(lambda: world.rows(waits) == [(True,)], "the rebuild to wait")
    yield
    rebuilding.join()
    operator.close()


def fork(world: World, key: str) -> list[Any]:
    """Three events are done, the source forgets two, and publishes two others."""
    first = world.producer.paid(key, 1, 2, 3)
    world.deliver(*first)
    world.settle()
    world.producer.restore(key, 1)
    other = world.producer.paid(key, 20, 30)
    world.deliver(other[1])
    world.settle()
    return other


# ---- the command line


class Done(NamedTuple):
    code: int
    out: str
    err: str

    def rows(self) -> list[dict[str, Any]]:
        return [json.decode(text) for text in self.out.splitlines()]


Run = Callable[..., Done]


@pytest.fixture
def oncebox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Run a command in an empty folder; what it printed, and its exit code."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ONCEBOX_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    path, modules = list(sys.path), set(sys.modules)

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return Done(code, str(out), str(err))

    yield run
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name in ("services", "myapp"):
            del sys.modules[name]
