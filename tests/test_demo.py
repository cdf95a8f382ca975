"""The demo: its faults really fire, its check finds what is wrong, and it says so plainly."""

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engines.kafka import Kafka
from engines.postgres import Postgres
from oncebox.demo import main, servers
from oncebox.demo.check import QUESTIONS, TABLES, findings
from oncebox.demo.contracts import Ordered, Returned
from oncebox.demo.customers import Faults, Size, workload
from oncebox.demo.faults import FaultyLog, Injector
from oncebox.demo.offsets import Offsets, make_offsets
from oncebox.demo.play import judge
from oncebox.demo.report import as_object, same_faults
from oncebox.demo.stage import HALVES, Outcome
from oncebox.demo.tables import PIECES
from oncebox.errors import ConfigurationError, MissingRight, Unreachable
from oncebox.logs.embedded import EmbeddedLog
from oncebox.ports import Outgoing
from producing import await_true

SMALL = {"events": 2000, "keys": 200}
NO_FAULTS = Faults(
    frozenset(), frozenset(), {}, frozenset(), {}, {}, {}, {}, {}
)  # fmt: skip


# ---- the customers


def test_a_seed_gives_the_same_customers_and_faults() -> None:
    size = Size(20_000, 2_000, 5)
    assert workload(size) == workload(size)
    assert workload(size) != workload(size._replace(seed=6))


@pytest.mark.parametrize(
    "size", [Size(20_000, 2_000, 1), Size(2_000, 200, 3), Size(3_000, 2_500, 9)]
)
def test_the_workload_is_as_large_as_asked(size: Size) -> None:
    work = workload(size)
    lines = [action for action in work.actions if isinstance(action, Ordered)]
    returns = [action for action in work.actions if isinstance(action, Returned)]
    assert 3 * len(lines) + 2 * len(returns) >= size.events
    assert len({line.order_id for line in lines}) == size.keys
    assert len({(line.order_id, line.line) for line in lines}) == len(lines)


def test_lines_are_numbered_in_order_and_return_after_they_were_ordered() -> None:
    ordered: dict[str, int] = {}
    for action in workload(Size(20_000, 2_000, 2)).actions:
        if isinstance(action, Ordered):
            assert action.line == ordered.get(action.order_id, 0) + 1
            ordered[action.order_id] = action.line
        else:
            assert action.line <= ordered[action.order_id]


# ---- the check


def shop(**changed: list[tuple[Any, ...]]) -> Callable[[str, str], Iterable[tuple[Any, ...]]]:
    """A shop in which all is well (two lines, one came back), but for the tables that are given."""
    rows: dict[str, list[tuple[Any, ...]]] = {
        "line": [("o-1", 1, 3, 300, 0, 1, "a"), ("o-1", 2, 1, 500, 1, 1, "b")],
        "article": [("a", 100), ("b", 500)],
        "ledger": [
            (1, "charge", "o-1", 1, 300),
            (2, "charge", "o-1", 2, 500),
            (3, "refund", "o-1", 2, 500),
        ],
        "shelf": [("a", PIECES - 3), ("b", PIECES)],
        "parcel": [(1, "o-1", 1, 300), (2, "o-1", 2, 500)],
    }
    rows.update(changed)

    def fetch(service: str, sql: str) -> list[tuple[Any, ...]]:
        table = sql.rpartition(" ")[2]
        assert table in TABLES[service]
        return rows[table]

    return fetch


def wrong(fetch: Callable[[str, str], Iterable[tuple[Any, ...]]]) -> dict[str, tuple[int, int]]:
    return {
        name: (found.times, found.cents) for name, found in findings(fetch).items() if found.times
    }


def test_a_shop_where_all_is_well_passes() -> None:
    assert wrong(shop()) == {}
    assert set(findings(shop())) == set(QUESTIONS)


CHARGED = (1, "charge", "o-1", 1, 300), (2, "charge", "o-1", 2, 500)
REFUNDED = (3, "refund", "o-1", 2, 500)
SENT = (1, "o-1", 1, 300), (2, "o-1", 2, 500)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"ledger": [*CHARGED, REFUNDED, (4, "charge", "o-1", 1, 300)]},
            {"charged twice": (1, 300)},
        ),
        (
            {"ledger": [*CHARGED, REFUNDED, (4, "refund", "o-1", 2, 500)]},
            {"refunded twice": (1, 500)},
        ),
        (
            {"ledger": [CHARGED[0], REFUNDED, (4, "charge", "o-1", 2, 500)]},
            {"refunded before paid": (1, 500)},
        ),
        ({"parcel": [*SENT, (3, "o-1", 1, 300)]}, {"sent twice": (1, 300)}),
        ({"ledger": list(CHARGED)}, {"lost": (1, 500)}),
        ({"parcel": [SENT[0]]}, {"lost": (1, 500)}),
        (
            {"line": [("o-1", 1, 3, 300, 0, 0, "a"), ("o-1", 2, 1, 500, 1, 1, "b")]},
            {"lost": (1, 0)},
        ),
        (
            {
                "ledger": [*CHARGED, REFUNDED, (4, "charge", "o-9", 1, 70)],
                "parcel": [*SENT, (3, "o-9", 1, 70)],
            },
            {"phantom": (2, 140)},
        ),
        (
            {
                "ledger": [(1, "charge", "o-1", 1, 0), CHARGED[1], REFUNDED],
                "parcel": [(1, "o-1", 1, 0), SENT[1]],
            },
            {"misread": (2, 600)},
        ),
        ({"shelf": [("a", PIECES - 6), ("b", PIECES + 1)]}, {"stock wrong": (4, 800)}),
    ],
)
def test_the_check_finds(
    changed: dict[str, list[tuple[Any, ...]]], expected: dict[str, tuple[int, int]]
) -> None:
    assert wrong(shop(**changed)) == expected


def test_a_line_that_was_never_charged_is_lost_and_its_parcel_is_not_counted_again() -> None:
    ledger = [CHARGED[1], REFUNDED]
    assert wrong(shop(ledger=ledger, parcel=[SENT[1]]))["lost"] == (1, 300)


# ---- the verdict


def outcome(times: int, fired: int = 3) -> Outcome:
    found = {name: finding._replace(times=times) for name, finding in findings(shop()).items()}
    return Outcome(found, {"killed": fired, "failed": fired}, 100, 10, 1.5)


def test_only_a_clean_column_beside_a_bitten_one_passes() -> None:
    assert judge({"naive": outcome(4), "oncebox": outcome(0)}) == []
    assert judge({"naive": outcome(4), "oncebox": outcome(1)})
    assert judge({"naive": outcome(0), "oncebox": outcome(0)})


def test_a_kind_of_fault_that_never_fired_is_no_pass() -> None:
    (sentence,) = judge({"naive": outcome(4), "oncebox": outcome(0)._replace(
        faults={"killed": 0, "failed": 2})})  # fmt: skip
    assert "oncebox" in sentence
    assert "killed" in sentence


def test_the_object_has_everything_that_was_shown() -> None:
    outcomes = {"naive": outcome(4), "oncebox": outcome(0)}
    shown = json.loads(json.dumps(as_object(Size(100, 10, 7), outcomes, [])))
    assert shown["passed"] is True
    assert shown["seed"] == 7
    assert shown["naive"]["wrong"]["lost"] == {"times": 4, "cents": 0}
    assert shown["oncebox"]["faults"] == {"killed": 3, "failed": 3}
    assert "seed 7" in same_faults(7)


# ---- faults


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("faults").mkdir()
    return tmp_path


@pytest.fixture
def log(folder: Path) -> Iterator[EmbeddedLog]:
    log = EmbeddedLog(folder / "events.db")
    log.create("orders", 2)
    log.create("returns", 2)
    yield log
    log.close()


def fill(log: EmbeddedLog, topic: str, count: int) -> None:
    orders = [(f"o-{n % 7}", n) for n in range(count)]
    records = [
        Outgoing(topic, order.encode(), json.dumps({"order_id": order, "line": n}).encode(), [], 0)
        for order, n in orders
    ]
    assert log.publish(records, 5.0) == []


def read_all(
    offsets: Offsets, log: EmbeddedLog, topics: tuple[str, ...]
) -> list[tuple[str, int, int]]:
    """Poll until every partition's end was delivered; bounded by the records there are."""
    ends = {(t, n): e.end for t in topics for n, e in enumerate(log.extents(t)) if e.end}
    seen = []
    for _ in range(100_000):
        seen += [(r.topic, r.partition, r.offset) for r in offsets.poll(10)]
        if all((t, n, end - 1) in seen for (t, n), end in ends.items()):
            return seen
    raise AssertionError("a partition never came to its end")


def test_a_fault_fires_once_whoever_meets_it(folder: Path) -> None:
    first, second = Injector(NO_FAULTS, "stock"), Injector(NO_FAULTS, "stock")
    assert first.fired("again", "o-1/2")
    assert not second.fired("again", "o-1/2")
    (left,) = (folder / "faults").iterdir()
    assert json.loads(left.read_text())["pid"] == os.getpid()


def test_dying_is_sigkill_and_leaves_evidence_once(folder: Path) -> None:
    code = (
        "from oncebox.demo.faults import Injector\n"
        "from oncebox.demo.customers import Size, workload\n"
        "Injector(workload(Size(2000, 200, 1)).faults, 'web').die('between', 'o-1.1')\n"
    )
    runs = [subprocess.run([sys.executable, "-c", code], cwd=folder, check=False) for _ in range(2)]
    assert [run.returncode for run in runs] == [-signal.SIGKILL, 0]
    assert [path.name for path in (folder / "faults").iterdir()] == ["between.web.o-1.1"]


def test_the_log_delivers_again_in_order_and_loses_nothing(folder: Path, log: EmbeddedLog) -> None:
    fill(log, "orders", 200)
    make_offsets(folder)
    faults = NO_FAULTS._replace(again={"stock": frozenset({"o-1", "o-5"})})
    faulty = FaultyLog(log, Injector(faults, "stock"), by_hand=True)
    seen = read_all(Offsets(faulty, "stock", ("orders",)), log, ("orders",))
    for place, extent in enumerate(log.extents("orders")):
        offsets = [offset for _, partition, offset in seen if partition == place]
        assert set(offsets) == set(range(extent.end))
        # Each step is one ahead, or back to what was delivered before.
        assert all(b <= a + 1 for a, b in pairwise(offsets))
    repeated = sum(
        json.loads(path.read_text())["detail"] for path in (folder / "faults").glob("again.*")
    )
    assert repeated == len(seen) - len(set(seen)) > 0


def test_a_stalled_partition_comes_later_and_whole(folder: Path, log: EmbeddedLog) -> None:
    fill(log, "orders", 100)
    fill(log, "returns", 100)
    make_offsets(folder)
    faults = NO_FAULTS._replace(slow={"payments": frozenset({"o-1"})})
    faulty = FaultyLog(log, Injector(faults, "payments"), by_hand=True)
    seen = read_all(Offsets(faulty, "payments", ("orders", "returns")), log, ("orders", "returns"))
    assert len(seen) == len(set(seen)) == 200
    for topic in ("orders", "returns"):
        for place in range(2):
            offsets = [offset for t, partition, offset in seen if (t, partition) == (topic, place)]
            assert offsets == sorted(offsets)
    (stalled,) = {p for t, p, _ in seen[-1:]}
    last_return = max(n for n, (t, p, _) in enumerate(seen) if t == "returns" and p == stalled)
    assert any(t == "orders" and p == stalled for t, p, _ in seen[last_return:])
    assert len(list((folder / "faults").glob("stalled.*"))) == 1


def test_acknowledged_offsets_outlive_their_reader(folder: Path, log: EmbeddedLog) -> None:
    fill(log, "orders", 60)
    make_offsets(folder)
    first = Offsets(log, "stock", ("orders",))
    polled = first.poll(20)
    first.acknowledge()
    first.poll(20)  # handled by nobody: its reader dies here
    again = read_all(Offsets(log, "stock", ("orders",)), log, ("orders",))
    assert len(again) == 60 - len(polled)


# ---- the whole demo


def run_demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from oncebox.demo import main; sys.exit(main(**eval(sys.argv[1])))"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_passed(shown: dict[str, Any]) -> None:
    assert shown["passed"], shown["failed"]
    assert all(found == {"times": 0, "cents": 0} for found in shown["oncebox"]["wrong"].values())
    assert any(found["times"] for found in shown["naive"]["wrong"].values())
    for half in HALVES:
        assert all(shown[half]["faults"].values()), shown[half]["faults"]


def test_oncebox_survives_what_the_naive_half_does_not(tmp_path: Path) -> None:
    done = run_demo(repr({**SMALL, "seed": 3, "json": True}), TMPDIR=str(tmp_path))
    shown = json.loads(done.stdout)
    assert_passed(shown)
    assert done.returncode == 0
    assert shown["oncebox"]["events"] >= SMALL["events"]
    assert list(tmp_path.iterdir()) == []


def test_elsewhere_than_on_a_terminal_it_writes_plain_lines() -> None:
    """And the application's own servers, which the environment names, are left alone."""
    done = subprocess.run(
        [sys.executable, "-m", "oncebox", "demo", "--events=2000", "--keys=200", "--seed=4"],
        env={**os.environ, "ONCEBOX_STORE": "postgresql://127.0.0.1:1/nobody"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on SQLite files" in done.stdout
    assert "\r" not in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for half in HALVES:
        assert re.search(rf"{half} +100 %", done.stdout)
    for question in QUESTIONS:
        assert re.search(rf"^{question} .* 0 +0\.00$", done.stdout, re.MULTILINE), done.stdout


def on_a_terminal(code: str, **environment: str) -> bytes:
    """What a program writes to a terminal of 80 columns."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS="80", LINES="30", TERM="xterm-256color", **environment)
        os.execv(sys.executable, [sys.executable, "-c", code])
    written = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux: the other side closed
            break
        if not piece:
            break
        written += piece
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return written


REPORT = """
from oncebox.demo.report import Report
from oncebox.demo.check import Finding
from oncebox.demo.customers import Size
from oncebox.demo.stage import Outcome
size = Size(2000, 200, 1)
report = Report(json=False)
report.begin(size, "SQLite files, without a server")
with report.progress("naive") as notice:
    for served in range(0, 1001, 100):
        notice(served, 1000, served // 100)
bad = Outcome({"lost": Finding(3, 1234567)}, {"killed": 12}, 2000, 800, 9.5)
good = Outcome({"lost": Finding(0, 0)}, {"killed": 12}, 2000, 800, 9.5)
report.end(size, {"naive": bad, "oncebox": good}, [])
"""


def test_on_a_terminal_there_is_a_bar_and_colour_within_80_columns() -> None:
    written = on_a_terminal(REPORT).decode()
    assert "\x1b[31m" in written
    assert "━" in written
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written).replace("\r\n", "\n").split("\n")
    assert max(len(part) for line in lines for part in line.split("\r")) <= 80


def test_no_color_is_respected() -> None:
    written = on_a_terminal(REPORT, NO_COLOR="1").decode()
    assert not re.search(r"\x1b\[(3[0-7]|38|9[0-7])", written)


def test_a_process_that_ends_by_itself_fails_the_demo_with_its_last_words(tmp_path: Path) -> None:
    broken = run_demo(repr(SMALL), DEMO_LOG="nonsense://nowhere", TMPDIR=str(tmp_path))
    assert broken.returncode != 0
    assert "nonsense" in broken.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_when_it_is_interrupted_nothing_stays(tmp_path: Path, number: int, code: int) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "oncebox.demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # Whoever started the suite in the background of a script left SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    while demo.poll() is None and not customers_served(tmp_path):
        time.sleep(0.01)
    workers = processes_in(tmp_path)
    demo.send_signal(number)
    assert demo.wait() == code
    assert workers
    assert processes_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def customers_served(folder: Path) -> bool:
    return any(turn.read_bytes().strip(b"\0") for turn in folder.glob("*/naive/turn"))


def processes_in(folder: Path) -> list[int]:
    """Processes whose working folder is in this one; Linux's way to see it."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink().is_relative_to(folder):
                found.append(int(link.parent.name))
        except OSError:  # it ended, or is another user's
            continue
    return found


# ---- on servers


@pytest.mark.timeout(400)  # two halves, each commit synced by PostgreSQL
def test_on_real_servers(
    postgres_server: Postgres, kafka_server: Kafka, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside what an earlier run left there, when it was killed; of this one, nothing stays."""
    left = "oncebox_demo_naive_0.orders"
    kafka_server.create_topic(left, 1)
    urls = {"store": postgres_server.url, "log": kafka_server.url}
    main(events=1000, keys=100, seed=6, **urls, json=True)
    assert_passed(json.loads(capsys.readouterr().out))
    with psycopg.connect(postgres_server.url) as db:
        made = db.execute("SELECT datname FROM pg_database WHERE datname LIKE 'oncebox_demo%'")
        assert made.fetchall() == []
    assert [name for name in kafka_server.topics() if "demo" in name] == [left]
    kafka_server.delete_topics(left)


def test_what_a_killed_demo_left_is_removed_when_it_is_old(
    postgres_server: Postgres, kafka_server: Kafka
) -> None:
    """And what another one is just using is not, nor what only looks alike."""
    store, log, now = postgres_server.url, kafka_server.url, int(time.time())
    old = f"oncebox_demo_naive_{now - 2 * 86_400:08x}_0a1b"
    stays = [f"oncebox_demo_oncebox_{now - 3600:08x}_0a1b", "oncebox_demo_mine"]

    def there() -> set[str]:
        with psycopg.connect(store) as db:
            rows = db.execute("SELECT datname FROM pg_database").fetchall()
        names = {*kafka_server.topics(), *(name for (name,) in rows)}
        return {name for name in names if name.startswith("oncebox_demo_")}

    with psycopg.connect(store, autocommit=True) as db:
        for name in (old, *stays):
            db.execute(f"CREATE DATABASE {name}".encode())
            kafka_server.create_topic(f"{name}.orders", 1)
        with servers.database("oncebox_demo_new", store), servers.topics(log, "oncebox_demo_new."):
            left = {"oncebox_demo_new", *stays, *(f"{name}.orders" for name in stays)}
            await_true(lambda: there() == left, "the old ones are gone, and they alone")
        for name in stays:
            db.execute(f"DROP DATABASE {name}".encode())
            kafka_server.delete_topics(f"{name}.orders")
    assert not servers.was_left(servers.name_for("naive"))


def test_a_role_without_the_right_is_told_which(
    postgres_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with psycopg.connect(postgres_server.url, autocommit=True) as db:
        db.execute("CREATE ROLE visitor LOGIN PASSWORD 'x'")
        try:
            address = postgres_server.url.rpartition("@")[2]
            with pytest.raises(MissingRight, match=r"visitor.*CREATEDB") as refused:
                main(store=f"postgresql://visitor:x@{address}")
        finally:
            db.execute("DROP ROLE visitor")
    assert "ALTER ROLE visitor CREATEDB" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ({"store": "postgresql://127.0.0.1:1/nobody"}, Unreachable),
        ({"log": "kafka://127.0.0.1:1"}, Unreachable),
        ({"store": "mysql://127.0.0.1/x"}, ConfigurationError),
        ({"log": "nats://127.0.0.1"}, ConfigurationError),
    ],
)
def test_servers_that_are_not_there(
    where: dict[str, str], error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(error):
        main(store=where.get("store"), log=where.get("log"))
    assert list(tmp_path.iterdir()) == []


def test_sqlite_knows_the_statements() -> None:
    """The check's SQL is read by SQLite alone, whatever engine the shop is on."""
    db = sqlite3.connect(":memory:")
    for wanted in TABLES.values():
        for table, columns in wanted.items():
            db.execute(f"CREATE TABLE {table} ({columns})")
    for sql in QUESTIONS.values():
        assert db.execute(sql).fetchone() == (0, 0)
    db.close()
