"""The embedded log beyond the contract: retention, bad files, processes, its own promises."""

import multiprocessing
import os
import random
import shutil
import sqlite3
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from engines.server import as_nobody
from oncebox.errors import (
    ConfigurationError,
    CorruptStore,
    LogTruncated,
    MissingTables,
    StoreUnavailable,
)
from oncebox.logs import embedded
from oncebox.logs.embedded import EmbeddedLog
from oncebox.ports import Extent, Log, Outgoing, Record
from oncebox.testing.log_tools import (
    BYTES_MAX,
    everything,
    numbers,
    publish,
    read,
    record,
    starts,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def log(path: Path) -> Iterator[EmbeddedLog]:
    with closing(EmbeddedLog(path)) as opened:
        yield opened


def fill(log: Log, topic: str, calls: int, size: int, begin: int = 0) -> None:
    for call in range(begin, begin + calls):
        publish(log, [record(topic, f"key-{n}", call * size + n) for n in range(size)])


# ---- what it promises of itself


def test_a_key_lies_in_the_partition_of_its_crc32(log: EmbeddedLog) -> None:
    log.create("t", 7)
    fill(log, "t", 1, 200)
    for found in everything(log, "t"):
        assert found.partition == zlib.crc32(found.key or b"") % 7


def test_records_without_a_key_go_round(log: EmbeddedLog) -> None:
    log.create("t", 4)
    publish(log, [record("t", None, n) for n in range(40)])
    assert log.extents("t") == [Extent(0, 10)] * 4


def test_default_partitions(log: EmbeddedLog) -> None:
    log.create("t")
    assert len(log.extents("t")) == embedded.PARTITIONS == 4


@pytest.mark.parametrize("topic", ["it's", 'a"b', "../../etc/passwd", "a b", "ünï", "%_", "-- x;"])
def test_any_text_is_a_topic(log: EmbeddedLog, topic: str) -> None:
    log.create(topic, 1)
    publish(log, [record(topic, "k", 1)])
    assert numbers(everything(log, topic)) == [1]


def test_what_is_no_bytes_is_refused_before_anything_is_written(log: EmbeddedLog) -> None:
    log.create("t", 1)
    for bad in (
        Outgoing("t", "text", b"", [], 0),  # type: ignore[arg-type]
        Outgoing("t", b"", "text", [], 0),  # type: ignore[arg-type]
        Outgoing("t", b"", b"", [("n", 5)], 0),  # type: ignore[list-item]
    ):
        with pytest.raises(TypeError):
            log.publish([record("t", "k", 1), bad], 5)
    assert log.extents("t") == [Extent(0, 0)]


def test_the_file_may_be_a_store_too(log: EmbeddedLog, path: Path) -> None:
    log.create("t", 1)
    with closing(sqlite3.connect(path)) as store, closing(log.reader("g")) as reader:
        store.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")
        store.commit()
        reader.assign({("t", 0): 0})
        for number in range(20):
            store.execute("INSERT INTO orders VALUES (?)", (number,))
            store.commit()
            publish(log, [record("t", "k", number)])
        assert numbers(read(reader, 20)) == list(range(20))
        assert store.execute("SELECT count(*) FROM orders").fetchone() == (20,)


def test_threads_share_a_log(log: EmbeddedLog) -> None:
    log.create("t", 3)
    threads = [threading.Thread(target=fill, args=(log, "t", 20, 5, 20 * n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(everything(log, "t"))) == list(range(400))


def test_processes_open_a_new_file_at_once(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=open_and_publish, args=(path, n)) for n in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 6
    with closing(EmbeddedLog(path)) as log:
        assert sorted(numbers(everything(log, "t"))) == list(range(6))


def open_and_publish(path: Path, number: int) -> None:
    with closing(EmbeddedLog(path)) as log:
        log.create("t", 2)
        publish(log, [record("t", "k", number)])


# ---- retention


def test_age_gives_up_old_records_and_never_the_newest(log: EmbeddedLog) -> None:
    log.create("t", 1)
    fill(log, "t", 10, 5)
    assert log.extents("t") == [Extent(0, 50)]
    log.retain("t", retention_s=0)
    call = 10
    while log.extents("t")[0].start < 50:  # older than "now" needs the clock's next millisecond
        fill(log, "t", 1, 5, begin=call)
        call += 1
    extent = log.extents("t")[0]
    assert extent.end == call * 5
    assert extent.start < extent.end
    assert numbers(everything(log, "t")) == list(range(extent.start, extent.end))


def test_pages_of_records_that_expired_are_used_again(path: Path) -> None:
    with closing(EmbeddedLog(path, retention_s=0)) as log:
        log.create("t", 1)
        for round_ in range(1, 7):
            for _ in range(40):
                publish(log, [Outgoing("t", b"k", os.urandom(5_000), [], 0)])
            assert log.extents("t")[0].end == 40 * round_
        assert path.stat().st_size < 300_000, "deleted pages are not used again"


def test_without_retention_all_is_kept(path: Path) -> None:
    with closing(EmbeddedLog(path, retention_s=None)) as log:
        log.create("t", 1)
        fill(log, "t", 50, 5)
        assert log.extents("t") == [Extent(0, 250)]
        assert log.check("t") == []


def grow_old(path: Path, topic: str) -> None:
    """As if what is in the topic had been written a day ago."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "UPDATE oncebox_log_record SET written_ms = written_ms - 86400000 WHERE id >> 40 IN"
            " (SELECT p.id FROM oncebox_log_partition p JOIN oncebox_log_topic t ON t.id = p.topic"
            " WHERE t.name = ?)",
            (topic,),
        )
        database.commit()


def test_a_call_gives_up_a_bounded_number_of_records(log: EmbeddedLog, path: Path) -> None:
    log.create("t", 1)
    fill(log, "t", 300, 1)
    grow_old(path, "t")
    log.retain("t", retention_s=3600)
    fill(log, "t", 1, 1, begin=300)
    start = log.extents("t")[0].start
    assert 0 < start <= embedded.EXPIRED_MAX + 2
    while log.extents("t")[0].start < 300:
        fill(log, "t", 1, 1, begin=301)
    extent = log.extents("t")[0]
    with closing(sqlite3.connect(path)) as database:
        (count,) = database.execute("SELECT count(*) FROM oncebox_log_record").fetchone()
    assert count == extent.end - extent.start


def test_a_reader_behind_retention_is_told(log: EmbeddedLog, path: Path) -> None:
    log.create("t", 1)
    fill(log, "t", 50, 1)
    with closing(log.reader("g")) as reader:
        reader.assign({("t", 0): 0})
        assert numbers(reader.fetch(10, BYTES_MAX, 0)) == list(range(10))
        grow_old(path, "t")
        log.retain("t", retention_s=3600)
        fill(log, "t", 20, 1, begin=50)
        with pytest.raises(LogTruncated) as caught:
            reader.fetch(10, BYTES_MAX, 0)
    assert caught.value.position == "t/0@10"
    assert caught.value.hint


def test_short_retention_is_reported(log: EmbeddedLog) -> None:
    log.create("t", 1)
    assert log.check("t") == []
    log.retain("t", retention_s=60)
    (age,) = log.check("t")
    assert "60 s" in age


def test_a_dropped_topic_leaves_nothing(log: EmbeddedLog, path: Path) -> None:
    for topic in ("kept", "dropped"):
        log.create(topic, 2)
        fill(log, topic, 40, 2)
    log.drop("dropped")
    log.drop("never there")
    with closing(sqlite3.connect(path)) as database:
        counts = [
            database.execute(f"SELECT count(*) FROM oncebox_log_{table}").fetchone()[0]
            for table in ("topic", "partition", "record")
        ]
    assert counts == [1, 2, 80]
    assert len(everything(log, "kept")) == 80


def test_a_wrong_number_of_partitions(log: EmbeddedLog) -> None:
    for partitions in (0, -1, embedded.PARTITIONS_MAX + 1):
        with pytest.raises(ConfigurationError):
            log.create("t", partitions)
    assert log.describe("t") is None


# ---- bad files


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"this is a text, and not a short one" * 200)
    with pytest.raises(CorruptStore) as caught:
        EmbeddedLog(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes().startswith(b"this is a text")


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        EmbeddedLog(tmp_path / "absent" / "events.db")
    assert caught.value.retryable


@pytest.mark.parametrize("bad", ["", "a\0b"])
def test_a_path_that_cannot_be(bad: str) -> None:
    with pytest.raises(ConfigurationError):
        EmbeddedLog(bad)


def test_a_newer_format(log: EmbeddedLog, path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE oncebox_log_format SET version = 2")
        database.commit()
    with pytest.raises(MissingTables, match="upgrade"):
        EmbeddedLog(path)


def test_a_locked_file(log: EmbeddedLog, path: Path) -> None:
    log.create("t", 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process") as caught:
            log.publish([record("t", "k", 1)], 0.05)
        assert caught.value.retryable
        with closing(log.reader("g")) as reader:
            reader.assign({("t", 0): 0})
            assert reader.fetch(1, BYTES_MAX, 0) == [], "readers wait for no writer"
        other.execute("ROLLBACK")
    publish(log, [record("t", "k", 1)])
    assert numbers(everything(log, "t")) == [1]


def test_a_full_disk_takes_a_call_as_a_whole_or_not_at_all(log: EmbeddedLog) -> None:
    log.create("t", 4)
    connection = log._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 100}")
    call = [Outgoing("t", b"k%d" % n, os.urandom(2_000), [], 0) for n in range(40)]
    calls = 0
    full: StoreUnavailable | None = None
    while full is None:
        try:
            publish(log, call)
        except StoreUnavailable as error:
            full = error
        else:
            calls += 1
    assert "full" in str(full)
    assert sum(extent.end for extent in log.extents("t")) == 40 * calls
    connection.execute(f"PRAGMA max_page_count = {pages + 10_000}")
    publish(log, call)
    assert len(everything(log, "t")) == 40 * (calls + 1)


def test_a_read_only_file() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        path = folder / "events.db"
        EmbeddedLog(path).close()
        path.chmod(0o444)
        folder.chmod(0o555)
        with as_nobody(), pytest.raises(StoreUnavailable, match=r"read-?only|unable to open"):
            EmbeddedLog(path)
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_damaged_record_is_named_and_stops_nothing_else(log: EmbeddedLog, path: Path) -> None:
    log.create("t", 2)
    publish(log, [record("t", f"key-{n}", n) for n in range(100)])
    with closing(sqlite3.connect(path)) as database:
        (id_,) = database.execute(
            "SELECT id FROM oncebox_log_partition WHERE number = 0"
        ).fetchone()
        database.execute(
            "UPDATE oncebox_log_record SET headers = substr(headers, 1, 5) WHERE id = ?",
            (id_ << 40,),
        )
        database.commit()
    other = log.extents("t")[1].end
    with closing(log.reader("g")) as reader:
        reader.assign(starts(log, "t"))
        came: list[Record] = []
        errors: list[CorruptStore] = []
        while len(came) < other or not errors:
            try:
                came += reader.fetch(10, BYTES_MAX, 0)
            except CorruptStore as error:
                errors.append(error)
        assert {found.partition for found in came} == {1}
        assert errors[0].position == "t/0@0"


def test_damaged_pages(path: Path) -> None:
    with closing(EmbeddedLog(path)) as log:
        log.create("t", 1)
        fill(log, "t", 60, 50)
    content = bytearray(path.read_bytes())
    rng = random.Random(5)
    for _ in range(20):
        at = rng.randrange(8192, len(content) - 64)
        content[at : at + 64] = rng.randbytes(64)
    path.write_bytes(content)
    seen = 0
    try:
        with closing(EmbeddedLog(path)) as log:
            seen = len(everything(log, "t"))
    except (CorruptStore, LogTruncated):
        return
    assert seen == 3000, "some records were silently missing"


@pytest.mark.parametrize("missing", [0, 20, 49])
def test_a_missing_record_is_no_silent_gap(log: EmbeddedLog, path: Path, missing: int) -> None:
    log.create("t", 1)
    fill(log, "t", 5, 10)
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM oncebox_log_record WHERE id & 0xFFFFFFFFFF = ?", (missing,))
        database.commit()
    with closing(log.reader("g")) as reader:
        reader.assign({("t", 0): 0})
        if missing:
            assert numbers(reader.fetch(100, BYTES_MAX, 0)) == list(range(missing))
        for _ in range(2):
            with pytest.raises(LogTruncated) as caught:
                reader.fetch(100, BYTES_MAX, 0)
            assert caught.value.position == f"t/0@{missing}"
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM oncebox_log_record")
        database.commit()
    with pytest.raises(CorruptStore):
        log.offsets_at("t", 0)


def test_power_loss_leaves_whole_calls(log: EmbeddedLog, path: Path, rng: random.Random) -> None:
    """The write-ahead log cut anywhere: what remains is a beginning of the calls, each whole."""
    log.create("t", 3)
    log._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    fill(log, "t", 30, 20)
    wal = path.with_name("events.db-wal").read_bytes()
    assert len(wal) > 100_000
    for cut in (0, 1, len(wal) - 1, *(rng.randrange(len(wal)) for _ in range(30))):
        copy = path.with_name("copy") / "events.db"
        copy.parent.mkdir()
        shutil.copy(path, copy)
        copy.with_name("events.db-wal").write_bytes(wal[:cut])
        with closing(EmbeddedLog(copy)) as survivor:
            found = sorted(numbers(everything(survivor, "t")))
            assert found == list(range(len(found)))
            assert len(found) % 20 == 0, "part of a call"
            fill(survivor, "t", 1, 20, begin=len(found) // 20)
            assert len(everything(survivor, "t")) == len(found) + 20
        shutil.rmtree(copy.parent)


@pytest.mark.parametrize("sizes", [[], [1], [600, 1], [3] * 40, [130_000, 5, 130_000, 200_000]])
def test_calls_of_every_size_come_back(log: EmbeddedLog, sizes: list[int]) -> None:
    log.create("t", 1)
    values = [os.urandom(size) for size in sizes]
    publish(log, [Outgoing("t", b"k", value, [], 0) for value in values])
    assert [found.value for found in everything(log, "t")] == values


def test_it_can_be_sent_to_another_process(path: Path) -> None:
    assert repr(EmbeddedLog(path)) == f"EmbeddedLog({str(path)!r})"
    assert partial(EmbeddedLog, path)().describe("t") is None
