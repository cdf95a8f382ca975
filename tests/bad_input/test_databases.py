"""Databases that fail, from the issue's list: nothing is half done, and all goes on afterwards."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from bad_input.site import Place, Site
from bad_input.test_records import header
from conftest import hint_if_missing
from engines.postgres import OwnPostgres, postgres
from engines.server import as_nobody
from oncebox.errors import CorruptStore, StoreUnavailable
from oncebox.program import drive
from oncebox.service.connect import open_log

SPARE_BYTES = 200_000
PAGE_BYTES = 4096
TURNS_MAX = 20
KEYS = [f"k{n}" for n in range(5)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can reach."""
    made = Path(tempfile.mkdtemp(prefix="oncebox-files-"))
    made.chmod(0o755)
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)


@pytest.fixture
def files(folder: Path) -> Place:
    return Place(
        f"sqlite:///{folder}/shop.db", f"sqlite:///{folder}/billing.db",
        f"sqlite:///{folder}/log.db", "orders",
    )  # fmt: skip


@pytest.fixture
def site(files: Place) -> Iterator[Site]:
    made = Site(files)
    yield made
    made.close()


@pytest.fixture(scope="module")
def server() -> Iterator[OwnPostgres]:
    """A server of these tests' own: they stop and spoil it."""
    settings = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
    with hint_if_missing(), postgres(settings=settings) as own:
        yield own


@pytest.fixture
def on_server(server: OwnPostgres, kafka_url: str, topic: str) -> Iterator[Site]:
    url = server.url_of(server.create_database())
    made = Site(Place(url, url, kafka_url, f"{topic}-orders"))
    yield made
    made.close()


def pay_all(site: Site, cents: int, *more: Any) -> None:
    site.emit(*(site.Paid(key, cents) for key in KEYS), *more)


def effects(site: Site) -> list[list[int]]:
    return [site.of(key) for key in KEYS]


def all_of(*cents: int) -> list[list[int]]:
    return [list(cents)] * len(KEYS)


def waits(site: Site, turn: Callable[[], Any], says: str) -> None:
    """What is done next is an outage: typed, with a hint, and waited out."""
    before = len(site.waited)
    for _ in range(TURNS_MAX):
        turn()
        if len(site.waited) > before:
            break
    error = site.waited[before]
    assert isinstance(error, StoreUnavailable), repr(error)
    assert error.retryable
    assert error.hint
    assert says in str(error)


# ---- full disk


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """No file takes more than a little: the kernel refuses to write beyond."""
    for path in folder.glob("*.db"):
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SPARE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def big(site: Site) -> Any:
    return site.Noted("big", "x" * 5 * SPARE_BYTES)


def test_a_full_disk_under_the_consumer(site: Site, folder: Path) -> None:
    """Full disk: what came before is done, the batch is undone as a whole, and done when there is
    room.
    """
    pay_all(site, 1)
    loop = site.flow()
    site.hurt("big", header("ce_dataschema", "oncebox:order.noted/7"))  # so that it is kept
    pay_all(site, 2, big(site))
    pay_all(site, 3)
    site.relay()
    with full_disk(folder):
        waits(site, lambda: site.turn(loop), "disk")
        assert all(done in ([1], [1, 2]) for done in effects(site))
        assert site.kept("big") == []
    site.flow()
    assert effects(site) == all_of(1, 2, 3)
    assert len(site.kept("big")) == 1


def test_a_full_disk_under_the_log(site: Site, folder: Path) -> None:
    """Full disk: what is in the outbox waits there, and is published when there is room."""
    pay_all(site, 1)
    site.flow()
    before = site.delivered()
    pay_all(site, 2, big(site))
    pay_all(site, 3)
    with full_disk(folder):
        waits(site, site.relay_turn, "disk")
        assert site.delivered() == before, "a call is taken as a whole or not at all"
    site.flow()
    assert effects(site) == all_of(1, 2, 3)
    assert site.of("big") == [5 * SPARE_BYTES]


def test_a_full_disk_under_emit(site: Site, folder: Path) -> None:
    """Full disk: the application's transaction fails, and leaves neither event nor number."""
    pay_all(site, 1)
    with full_disk(folder):
        with pytest.raises(sqlite3.OperationalError, match="disk"):
            pay_all(site, 9, big(site))
        site.shop.rollback()
    pay_all(site, 2)
    site.flow()
    assert effects(site) == all_of(1, 2)
    assert site.of("big") == []
    assert site.waiting() == {}


def test_a_full_disk_under_postgres(on_server: Site, server: OwnPostgres) -> None:
    """Full disk: a handler's insert fails for it. Nobody's fault, so nothing is parked."""
    site = on_server
    pay_all(site, 1)
    site.relay()
    ((name,),) = site.rows("SELECT pg_relation_filepath('ledger')")
    file = server.data / name
    with restarted(site, server):
        spare = file.rename(file.with_suffix(".spare"))
        file.symlink_to("/dev/full")  # where every write fails for want of space
    loop = site.loop()
    waits(site, lambda: site.turn(loop), "the server's disk is full")
    assert site.waiting() == {}
    with restarted(site, server):
        file.unlink()
        spare.rename(file)
    site.flow()
    assert effects(site) == all_of(1)


@contextmanager
def restarted(site: Site, server: OwnPostgres, *, immediate: bool = False) -> Iterator[None]:
    """The server stops, something happens to its files, it starts again."""
    site.close()
    server.stop(immediate=immediate)
    yield
    server.start()
    site.connect()


# ---- read-only


@pytest.mark.parametrize("name", ["billing", "shop", "log"])
def test_a_read_only_file(site: Site, folder: Path, name: str) -> None:
    """Read-only: whoever opens it is told so before anything is read."""
    pay_all(site, 1)
    site.flow()
    pay_all(site, 2)
    site.close()
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    open_it: Callable[[], Any] = {
        "billing": site.billing_store.open,
        "shop": site.shop_store.open,
        "log": lambda: open_log(site.place.log),
    }[name]
    with as_nobody(), pytest.raises(StoreUnavailable) as refused:
        open_it()
    assert f"{name}.db" in str(refused.value)
    assert refused.value.hint
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    site.connect()
    site.flow()
    assert effects(site) == all_of(1, 2)


def test_a_file_that_becomes_read_only(site: Site) -> None:
    """Read-only, for a process that runs: it waits, and goes on when it may write again."""
    pay_all(site, 1)
    loop = site.flow()
    pay_all(site, 2)
    site.relay()
    loop.reading.session.handle.execute("PRAGMA query_only = on")
    waits(site, lambda: site.turn(loop), "readonly")
    assert effects(site) == all_of(1)
    site.flow()
    assert effects(site) == all_of(1, 2)


def test_a_read_only_postgres(on_server: Site) -> None:
    """Read-only, as a standby is, or a server after a failover: it waits."""
    site = on_server
    pay_all(site, 1)
    loop = site.flow()
    pay_all(site, 2)
    site.relay()
    ((name,),) = site.rows("SELECT current_database()")
    site.billing.run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    disconnect_others(site)
    waits(site, lambda: site.turn(loop), "")  # its connection ended
    waits(site, lambda: site.turn(loop), "the database is read-only")
    assert effects(site) == all_of(1)
    site.billing.run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = off')
    disconnect_others(site)
    site.flow()
    assert effects(site) == all_of(1, 2)


def disconnect_others(site: Site) -> None:
    """Connections that are open keep the settings that they began with."""
    site.billing.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


# ---- locked


def test_a_locked_file_under_the_consumer(site: Site, folder: Path) -> None:
    """Locked: it waits for whoever has it."""
    pay_all(site, 1)
    loop = site.flow()
    pay_all(site, 2)
    site.relay()
    loop.reading.session.handle.execute("PRAGMA busy_timeout = 1")
    with locked(folder / "billing.db"):
        waits(site, lambda: site.turn(loop), "another process holds the file locked")
        assert effects(site) == all_of(1)
    site.flow()
    assert effects(site) == all_of(1, 2)


def test_a_locked_file_under_the_relay(site: Site, folder: Path) -> None:
    """Locked, the outbox or the log: what was emitted is published when they are free."""
    pay_all(site, 1)
    relay = site.relay(publish_timeout_s=0.01)
    site.consume()
    for cents, name in ((2, "shop"), (3, "log")):
        pay_all(site, cents)
        relay.session.handle.execute("PRAGMA busy_timeout = 1")
        with locked(folder / f"{name}.db"):
            waits(site, site.relay_turn, "another process holds the file locked")
        site.flow()
    assert effects(site) == all_of(1, 2, 3)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else writes, and does not come to an end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_a_locked_table_on_postgres(on_server: Site) -> None:
    """Locked, as by an ALTER TABLE that waits for others: it waits, and parks nobody."""
    site = on_server
    pay_all(site, 1)
    site.flow()
    site.leave()
    pay_all(site, 2)
    site.relay()
    loop = site.loop(handler_timeout_s=0.2)
    drive(loop.upkeep(loop.reading.now_ms()))
    with psycopg.connect(site.place.billing) as other:
        other.execute("LOCK TABLE oncebox.key")
        waits(site, lambda: site.turn(loop), "who holds oncebox's tables locked?")
        assert effects(site) == all_of(1)
    site.later(60.0)
    assert effects(site) == all_of(1, 2)
    assert site.waiting() == {}


# ---- corrupt


@pytest.mark.parametrize("name", ["billing", "shop", "log"])
@pytest.mark.parametrize("how", ["no database", "damaged pages"])
def test_a_corrupt_file(site: Site, folder: Path, name: str, how: str) -> None:
    """Corrupt: an error says so and everything stops there; a copy from before goes on, and what
    it does not have comes again.
    """
    pay_all(site, 1)
    site.flow()
    site.close()
    path, copy = folder / f"{name}.db", folder / "copy.db"
    shutil.copy(path, copy)
    site.connect()
    pay_all(site, 2)
    if name == "billing":
        site.flow()
        pay_all(site, 3)
        site.relay()
    site.close()
    before = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(0 if how == "no database" else PAGE_BYTES)
        file.write(b"\xff" * (before - PAGE_BYTES))
    with pytest.raises(CorruptStore) as damaged:
        connect_and_flow(site)
    assert "damaged" in str(damaged.value) or "cannot be read" in str(damaged.value)
    assert damaged.value.hint
    site.close()

    for file_ in folder.glob(f"{name}.db*"):
        file_.unlink()
    copy.rename(path)
    site.connect()
    if name == "shop":  # it forgot what was not published yet; nobody else did
        pay_all(site, 2)
    site.flow()
    assert effects(site) == (all_of(1, 2, 3) if name == "billing" else all_of(1, 2))
    assert site.waiting() == {}


def connect_and_flow(site: Site) -> None:
    site.connect()
    site.flow()


def test_a_corrupt_postgres(on_server: Site, server: OwnPostgres) -> None:
    """Corrupt: the consumer ends and says so, instead of parking one good key after the other."""
    site = on_server
    pay_all(site, 1)
    site.flow()
    pay_all(site, 2)
    site.relay()
    ((name,),) = site.rows("SELECT pg_relation_filepath('ledger')")
    file = server.data / name
    with restarted(site, server):
        sound = file.read_bytes()
        file.write_bytes(b"\xff" * len(sound))
    with pytest.raises(CorruptStore) as damaged:
        site.consume()
    assert damaged.value.hint
    assert "ledger" in str(damaged.value) or name in str(damaged.value)
    with restarted(site, server):
        file.write_bytes(sound)
    assert effects(site) == all_of(1)
    assert site.waiting() == {}
    site.flow()
    assert effects(site) == all_of(1, 2)


# ---- power loss


def test_power_loss_under_the_consumer(site: Site, folder: Path, rng: Random) -> None:
    """Power loss with unsynced WAL: position and effects are lost together, and come again."""
    pay_all(site, 1)
    site.flow()
    checkpoint(folder)
    for cents in range(2, 30):
        pay_all(site, cents)
        site.flow()
    for _ in range(8):
        with after_power_loss(site, folder, "billing", rng) as survivor:
            lost = effects(survivor)
            assert all(done == list(range(1, len(done) + 1)) for done in lost)
            survivor.flow()
            assert effects(survivor) == all_of(*range(1, 30))
            assert survivor.waiting() == {}


def test_power_loss_under_the_outbox(site: Site, folder: Path, rng: Random) -> None:
    """Power loss, where the application's own commits are not synced: what was published is there
    still, since the relay's commit synced it, and chains go on without a fork.
    """
    site.shop.handle.execute("PRAGMA synchronous = NORMAL")
    pay_all(site, 1)
    site.flow()
    checkpoint(folder)
    for cents in range(2, 10):
        pay_all(site, cents)
        site.flow()
    synced = (folder / "shop.db-wal").stat().st_size
    for cents in range(10, 30):
        pay_all(site, cents)
    for _ in range(8):
        with after_power_loss(site, folder, "shop", rng, synced) as survivor:
            pay_all(survivor, 99)
            survivor.flow()
            for done in effects(survivor):
                assert done[:9] == list(range(1, 10)), "what was published is not forgotten"
                assert done[-1] == 99
                assert done[:-1] == list(range(1, len(done)))
            assert survivor.waiting() == {}


def test_power_loss_under_a_log_whose_disk_lied(site: Site, folder: Path, rng: Random) -> None:
    """Power loss that takes acknowledged records with it: no key overtakes what is missing, the
    source has it, and what comes twice is dropped.
    """
    pay_all(site, 1)
    site.flow()
    checkpoint(folder)
    for cents in range(2, 20):
        pay_all(site, cents)
        site.relay()
        if cents == 10:
            site.consume()
    for _ in range(8):
        with after_power_loss(site, folder, "log", rng) as survivor:
            pay_all(survivor, 20)
            survivor.flow()
            for done in effects(survivor):
                assert done == list(range(1, len(done) + 1)), "in order, once, without a hole"
            for key in KEYS:
                survivor.republish(key)
            survivor.consume()
            assert effects(survivor) == all_of(*range(1, 21))
            assert survivor.waiting() == {}


def checkpoint(folder: Path) -> None:
    """Everything up to now is in the files themselves."""
    for path in folder.glob("*.db"):
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@contextmanager
def after_power_loss(
    site: Site, folder: Path, name: str, rng: Random, synced: int = 0
) -> Iterator[Site]:
    """The site as it is after a crash that left of one file's WAL what was synced, and by chance
    some of the rest.
    """
    place = site.place
    with tempfile.TemporaryDirectory(prefix="oncebox-crash-") as crashed:
        for path in folder.iterdir():
            if not path.name.endswith("-shm"):
                shutil.copy(path, crashed)
        wal = Path(crashed, f"{name}.db-wal")
        with wal.open("r+b") as file:
            file.truncate(rng.randint(synced, wal.stat().st_size))
        there = Place(*(part.replace(str(folder), crashed) for part in place))
        survivor = Site(there, anew=False)
        survivor.clock.now = site.clock.now + 60.0  # leases have run out
        yield survivor
        survivor.close()


def test_power_loss_under_postgres(on_server: Site, server: OwnPostgres) -> None:
    """Power loss, where commits are not synced: what the consumer forgot comes again."""
    site = on_server
    pay_all(site, 1)
    site.flow()
    with restarted(site, server, immediate=True):
        pass
    pay_all(site, 2)
    site.flow()
    site.later(60.0)
    assert effects(site) == all_of(1, 2)
