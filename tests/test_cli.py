"""The command line in one process: what commands print, and their exit codes, on both stores."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from msgspec import json

from chains import SOURCE, TOPIC, Opened, Paid, World, make_store
from oncebox.cli import COMMANDS, main
from oncebox.cli.again import when_ms
from oncebox.cli.output import moment, span
from oncebox.cli.run import _state
from oncebox.errors import ConfigurationError
from oncebox.outbox import history
from oncebox.ports import Outgoing
from oncebox.program import drive
from oncebox.service import Service
from oncebox.session import Session
from oncebox.statements import statements

ENGINES = {
    "sqlite3", "aiosqlite", "psycopg", "psycopg_pool", "asyncpg", "confluent_kafka", "sqlalchemy",
    "django", "asyncio",
}  # fmt: skip
CLI = {"cyclopts", "rich", "attrs", "docstring_parser"}


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


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    made = World(make_store(request.param, tmp_path, url), tmp_path)
    made.url = url or f"sqlite:///{tmp_path}/store.db"  # type: ignore[attr-defined]
    yield made
    made.close()


def at(world: World) -> tuple[str, ...]:
    """Flags that name a world's store and log."""
    url: str = world.url  # type: ignore[attr-defined]
    log: Any = world.log
    return "--store", url, "--log", f"sqlite:///{log.path}"


def failing(world: World, broken: set[str]) -> None:
    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.order in broken:
            raise ValueError(f"no account {paid.order}")
        world.record(tx, paid.order, paid.cents)


# ---- what is loaded, and when


def modules_after(code: str, *, folder: Path) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_importing_oncebox_loads_next_to_nothing(tmp_path: Path) -> None:
    bare = modules_after("pass", folder=tmp_path)
    loaded = modules_after("import oncebox", folder=tmp_path) - bare
    tops = {name.partition(".")[0] for name in loaded}
    assert not tops & (ENGINES | CLI | {"msgspec", "threading", "socket", "logging"}), tops
    assert {name for name in loaded if name.startswith("oncebox.")} == {
        "oncebox.errors", "oncebox.event"}  # fmt: skip
    assert len(loaded) < 60


def test_declaring_services_loads_no_engine_and_no_command_line(tmp_path: Path) -> None:
    code = (
        "from oncebox import Context, Service, Settings, claim, event\n"
        "shop = Service('shop', store='sqlite:///a.db', log='kafka://localhost')\n"
    )
    tops = {name.partition(".")[0] for name in modules_after(code, folder=tmp_path)}
    assert not tops & (ENGINES | CLI), tops & (ENGINES | CLI)


def test_help_loads_no_engine_and_no_command(tmp_path: Path) -> None:
    code = "from oncebox.cli import main; assert main(['--help']) == 0"
    loaded = modules_after(code, folder=tmp_path)
    assert not {name.partition(".")[0] for name in loaded} & (ENGINES | {"msgspec"})
    assert not {f"oncebox.cli.{name}" for name in ("act", "run", "look", "start")} & loaded


def test_status_of_sqlite_loads_no_other_engine_and_no_event_loop(tmp_path: Path) -> None:
    make_store("sqlite", tmp_path, None)
    code = (
        "from oncebox.cli import main\n"
        "assert main(['status', '--store', 'sqlite:///store.db']) == 0"
    )
    loaded = {name.partition(".")[0] for name in modules_after(code, folder=tmp_path)}
    assert not loaded & (ENGINES - {"sqlite3"}), loaded & ENGINES


# ---- help, usage, errors


def test_every_command_has_help_with_an_example(oncebox: Run) -> None:
    overview = oncebox("--help")
    assert overview.code == 0
    for name, *_, summary in COMMANDS:
        assert name in overview.out
        assert str(summary).split(":")[0][:40] in overview.out
    for name in (name for name, *_ in COMMANDS):
        if name not in ("quarantine", "db", "topics", "config", "version"):
            text = oncebox(name, "--help")
            assert text.code == 0
            assert f"oncebox {name}" in text.out.partition("For example")[2], name


@pytest.mark.parametrize(
    "command",
    [("quarantine", "list"), ("quarantine", "show"), ("quarantine", "retry"),
     ("quarantine", "drop"), ("db", "migrate"), ("db", "status"), ("db", "check"), ("db", "sql"),
     ("topics", "check"), ("topics", "create"), ("config", "show")],
)  # fmt: skip
def test_every_command_of_a_group_has_help_with_an_example(
    oncebox: Run, command: tuple[str, str]
) -> None:
    assert command[1] in oncebox(command[0], "--help").out
    text = oncebox(*command, "--help")
    assert text.code == 0
    assert f"oncebox {' '.join(command)}" in text.out.partition("For example")[2]


@pytest.mark.parametrize(
    "arguments",
    [("nonsense",), ("status", "--nonsense"), ("parked",), ("redrive", "billing", "--limit", "x"),
     ("redrive", "billing", "--store", "sqlite:///x.db"), ("status", "--store", "nosuch://x"),
     ("parked", "billing", "--where", "x", "--store", "sqlite:///x.db"), ("run",),
     ("replay", "billing", "--from", "yesterday", "--store", "sqlite:///x.db", "--log",
      "sqlite:///l.db"), ("rebuild", "billing", "--store", "sqlite:///x.db"),
     ("accept", "billing", "--store", "sqlite:///x.db"), ("status",), ("db", "migrate")],
)  # fmt: skip
def test_wrong_usage_is_2(oncebox: Run, arguments: tuple[str, ...]) -> None:
    done = oncebox(*arguments)
    assert done.code == 2
    assert done.err
    assert done.out == ""


def test_errors_are_json_where_json_was_asked_for(oncebox: Run) -> None:
    done = oncebox("status", "--json")
    assert done.code == 2
    error = json.decode(done.err)
    assert error["error"] == "ConfigurationError"
    assert "hint" in error
    assert json.decode(oncebox("status", "--json", "--nonsense").err)["error"] == "Failed"


def test_missing_tables_are_3_and_say_what_to_do(oncebox: Run, postgres_url: str) -> None:
    for url in ("sqlite:///new.db", postgres_url):
        done = oncebox("status", "--store", url)
        assert done.code == 3
        assert "oncebox db migrate" in done.err
        assert oncebox("db", "check", "--store", url).code == 3


def test_unreachable_is_4_and_shows_no_password(oncebox: Run) -> None:
    done = oncebox("status", "--store", "postgresql://shop:hunter2@127.0.0.1:1/shop")
    assert done.code == 4
    assert "hunter2" not in done.err
    done = oncebox("status", "--store", "sqlite:////no/such/folder/x.db")
    assert done.code == 4


def test_interrupted_is_130(oncebox: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("oncebox.cli.look.everywhere", interrupt)
    assert oncebox("status").code == 130


def test_an_unexpected_error_is_1_in_one_line(
    oncebox: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("oncebox.cli.look.everywhere", fail)
    done = oncebox("status")
    assert done.code == 1
    assert done.err.startswith("oncebox: RuntimeError: surprise\n")
    with pytest.raises(RuntimeError):
        main(["status", "--verbose"])


def test_whoever_stops_reading_is_no_traceback(oncebox: Run, world: World, tmp_path: Path) -> None:
    failing(world, {f"k{i}" for i in range(300)})
    world.deliver(*[world.producer.paid(f"k{i}", 1)[0] for i in range(300)])
    world.settle()
    command = [sys.executable, "-m", "oncebox", "parked", "billing", "--json", *at(world)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
        process.wait(30)


def test_shell_completion_can_be_installed(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"}
    command = [sys.executable, "-m", "oncebox", "--install-completion", "--shell", "bash"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any("redrive" in p.read_text() for p in written)


def test_versions(oncebox: Run) -> None:
    found = oncebox("version", "--json").rows()[0]
    assert found["sqlite"] == sqlite3.sqlite_version
    assert {"oncebox", "python", "msgspec", "psycopg"} <= found.keys()
    assert "oncebox " in oncebox("version").out


# ---- tables and topics


def test_tables_are_made_and_looked_at(oncebox: Run, postgres_url: str) -> None:
    for url in ("sqlite:///new.db", postgres_url):
        assert oncebox("db", "status", "--store", url, "--json").rows()[0]["made_ms"] is None
        done = oncebox("db", "migrate", "--store", url, "--json")
        assert done.code == 0
        assert done.rows()[0]["applied"][0] == 1
        assert oncebox("db", "migrate", "--store", url, "--json").rows()[0]["applied"] == []
        assert oncebox("db", "check", "--store", url).code == 0
        assert oncebox("db", "status", "--store", url, "--json").rows()[-1]["made_ms"] > 0
        assert "up to date" in oncebox("db", "migrate", "--store", url).out


def test_the_sql_can_be_printed_and_run_by_hand(oncebox: Run, tmp_path: Path) -> None:
    text = oncebox("db", "sql", "--dialect", "sqlite").out
    connection = sqlite3.connect(tmp_path / "by-hand.db", isolation_level=None)
    connection.executescript(text)
    connection.close()
    assert oncebox("db", "check", "--store", "sqlite:///by-hand.db").code == 0
    assert "create schema" in oncebox("db", "sql", "--dialect", "postgres").out.lower()
    assert "create table mine.event" in oncebox(
        "db", "sql", "--dialect", "postgres", "--schema", "mine").out  # fmt: skip


def test_topics_are_made_and_checked(oncebox: Run) -> None:
    log = ("--log", "sqlite:///events.db")
    missing = oncebox("topics", "check", "orders", *log, "--json")
    assert missing.code == 3
    assert missing.rows()[0]["exists"] is False
    made = oncebox("topics", "create", "orders", "stock", "--partitions", "3", *log, "--json")
    assert [row["created"] for row in made.rows()] == [True, True]
    again = oncebox("topics", "create", "orders", *log, "--json")
    assert again.rows()[0]["created"] is False
    assert oncebox("topics", "check", "orders", "stock", *log).out == "orders: fine\nstock: fine\n"


def test_topics_of_kafka(oncebox: Run, kafka_url: str, topic: str) -> None:
    name = f"{topic}-orders"
    assert oncebox("topics", "check", name, "--log", kafka_url).code == 3
    assert oncebox("topics", "create", name, "--log", kafka_url).code == 0
    done = oncebox("topics", "check", name, "--log", kafka_url, "--json")
    assert done.rows()[0]["exists"] is True


def test_topics_of_services(oncebox: Run, tmp_path: Path) -> None:
    assert oncebox("init").code == 0
    made = oncebox("topics", "check", "--json", "--app", "services")
    assert made.code == 3


# ---- looking


def test_status_says_how_far_a_consumer_is(oncebox: Run, world: World) -> None:
    failing(world, {"a"})
    gap = world.producer.paid("g", 1, 2, 3)
    world.deliver(*world.producer.paid("a", 1, 2), gap[0], gap[2], gap[0])
    world.settle(world.loop(attempts_max=1))
    world.deliver(*world.producer.paid("b", 1))
    (one,) = oncebox("status", "billing", "--json", *at(world)).rows()
    assert one["name"] == "billing"
    assert one["parked"] == {"retrying": 0, "failed": 1, "forked": 0}
    assert one["gaps"]["open"] == 1
    assert one["counts"]["applied"] == 1
    assert one["counts"]["duplicates"] == 1
    assert one["lag"] == 1
    assert one["lag_s"] is not None
    (partition,) = one["partitions"]
    assert (partition["topic"], partition["position"], partition["lag"]) == (TOPIC, 5, 1)
    assert one["holders"] == ["one"]
    table = oncebox("status", *at(world))
    assert "billing" in table.out
    assert "1 failed" in table.out
    assert "oncebox parked billing" in table.err


def test_status_of_nobody(oncebox: Run, world: World) -> None:
    assert oncebox("status", *at(world)).out == "nothing has run yet\n"
    done = oncebox("status", "billing", *at(world))
    assert done.code == 1
    assert "has no rows yet" in done.err


def test_status_shows_the_rest_where_the_log_is_away(
    oncebox: Run, world: World, tmp_path: Path
) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1))
    world.settle()
    url: str = world.url  # type: ignore[attr-defined]
    done = oncebox("status", "--json", "--store", url, "--log", "sqlite:////no/such/log.db")
    assert done.code == 4
    (one,) = done.rows()
    assert one["counts"]["applied"] == 1
    assert one["lag"] is None
    assert "lag of billing" in done.err


def test_parked_lists_what_waits_and_what_releases_it(oncebox: Run, world: World) -> None:
    failing(world, {"a", "b"})
    gap = world.producer.paid("g", 1, 2, 3)
    world.deliver(*world.producer.paid("a", 1), *world.producer.paid("b", 1), gap[2])
    world.settle()
    rows = oncebox("parked", "billing", "--json", *at(world)).rows()
    assert [(r["key"], r["kind"]) for r in rows] == [("a", "poison"), ("b", "poison"), ("g", "gap")]
    assert rows[2]["missing"] == [1, 2]
    assert rows[0]["release"][0].startswith("oncebox redrive billing")
    done = oncebox("parked", "billing", *at(world))
    assert "ValueError: no account a" in done.out
    assert "#1 to #2 have not come" in done.out
    assert "oncebox republish" in done.err
    limited = oncebox("parked", "billing", "--limit", "1", *at(world))
    assert "and 2 more" in limited.err
    assert len(oncebox("parked", "billing", "--key", "a", "--json", *at(world)).rows()) == 1
    found = oncebox("parked", "billing", "--where", "reason~account b", "--json", *at(world))
    assert [r["key"] for r in found.rows()] == ["b"]
    assert oncebox("parked", "billing", "--key", "zz", *at(world)).out == "nothing waits\n"


# ---- acting


def test_redrive_by_key_by_reason_and_all(oncebox: Run, world: World) -> None:
    broken = {"a", "b", "c"}
    failing(world, broken)
    for key in sorted(broken):
        world.deliver(*world.producer.paid(key, 1))
    loop = world.settle(world.loop(attempts_max=1))
    done = oncebox("redrive", "billing", "--reason", "account", "--dry-run", *at(world))
    assert "3 keys" in done.out
    broken.clear()
    world.after(100, loop)
    assert world.ledger() == []
    assert oncebox("redrive", "billing", "--key", "b", *at(world)).code == 0
    world.after(100, loop)
    assert world.ledger() == [("b", 1)]
    done = oncebox("redrive", "billing", "--all", "--json", *at(world))
    assert (done.rows()[0]["found"], done.rows()[0]["done"]) == (2, 2)
    world.after(100, loop)
    assert sorted(world.ledger()) == [("a", 1), ("b", 1), ("c", 1)]


def test_redrive_says_why_it_cannot(oncebox: Run, world: World) -> None:
    world.handles_paid()
    gap = world.producer.paid("g", 1, 2, 3)
    world.deliver(gap[0], gap[2], *world.producer.paid("a", 1))
    world.settle()
    done = oncebox("redrive", "billing", "--key", "g", *at(world))
    assert done.code == 1
    assert "gap" in done.err
    assert "oncebox republish" in done.err
    done = oncebox("redrive", "billing", "--key", "a", *at(world))
    assert done.code == 1
    assert "does not wait" in done.err
    done = oncebox("redrive", "billing", "--key", "zz", *at(world))
    assert "is not known" in done.err
    assert oncebox("redrive", "billing", "--where", "kind=gap", *at(world)).out.startswith("0 of 0")


def test_skip_needs_to_be_told_which_and_says_what_it_gave_up(oncebox: Run, world: World) -> None:
    failing(world, {"a"})
    world.deliver(*world.producer.paid("a", 1, 2))
    loop = world.settle()
    assert oncebox("skip", "billing", *at(world)).code == 2
    done = oncebox("skip", "billing", "--where", "reason~account", "--dry-run", *at(world))
    assert "1 keys" in done.out
    done = oncebox("skip", "billing", "--key", "a", "--because", "ticket 7", "--json", *at(world))
    assert done.rows()[0]["what"] == "event"
    assert "ticket 7" in world.rows("SELECT detail FROM oncebox.journal")[0][0]
    failing_again = oncebox("skip", "billing", "--key", "zz", *at(world))
    assert failing_again.code == 1
    world.after(2, loop)


def test_skip_of_a_gap_without_a_known_source_says_so(oncebox: Run, world: World) -> None:
    world.handles_paid()
    gap = world.producer.paid("g", 1, 2, 3)
    world.deliver(gap[0], gap[2])
    loop = world.settle()
    done = oncebox("skip", "billing", "--key", "g", *at(world))
    assert "is not known, so it is not asked" in done.err
    world.after(2, loop)
    assert world.of("g") == [1, 3]


def test_an_unkeyed_event_by_its_id(oncebox: Run, world: World) -> None:
    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        raise ValueError("closed")

    sent = world.producer.commit(Opened(1))
    world.deliver(sent)
    world.settle(world.loop(attempts_max=1))
    assert oncebox("redrive", "billing", "--key", sent.id, *at(world)).code == 0


def test_accept_without_the_source_is_refused(oncebox: Run, world: World) -> None:
    world.handles_paid()
    first = world.producer.paid("a", 1, 2, 3)
    world.deliver(*first)
    loop = world.settle()
    world.producer.restore("a", 1)
    world.deliver(*world.producer.paid("a", 20, 30))
    world.settle(loop)
    done = oncebox("accept", "billing", "--key", "a", *at(world))
    assert done.code == 1
    assert "--source-store" in done.err
    assert oncebox("accept", "billing", "--key", "zz", *at(world)).code == 1
    assert oncebox("accept", "billing", "--after", "1", "--source", SOURCE, *at(world)).code == 2


def test_republish_and_skip_ask_the_outbox_in_the_consumers_own_store(
    oncebox: Run, world: World
) -> None:
    """Where producer and consumer share a database, nobody has to say where the source is."""
    world.handles_paid()
    shop = Service("shop")
    session = cast("Session", world.session)
    for n in (1, 2, 3, 4):
        for key in ("a", "b"):
            session.begin()
            shop.emit(session.handle, Paid(key, n))
            session.commit()
    sql = statements(world.store.dialect)
    for key in ("a", "b"):
        found = drive(history(session, sql, SOURCE, key))
        for link in (found.links[0], found.links[3]):
            record = found.records[link[:2]]
            out = Outgoing(TOPIC, record.key, record.value, record.headers, record.time_ms)
            assert world.log.publish([out], 10.0) == []
    loop = world.settle()
    (one,) = [
        row for row in oncebox("status", "--json", *at(world)).rows() if row["kind"] == "relay"
    ]
    assert (one["service"], one["backlog"], one["holder"]) == ("shop", 8, None)
    assert "shop" in oncebox("status", *at(world)).out
    flags = ("--source", SOURCE, "--key", "a", "--from", "2", "--to", "3")
    seen = oncebox("republish", *flags, "--dry-run", "--json", *at(world)).rows()
    assert seen[0]["numbers"] == [2, 3]
    assert oncebox("republish", *flags, *at(world)).code == 0
    world.settle(loop)
    assert world.of("a") == [1, 2, 3, 4]
    missing = oncebox("republish", "--source", SOURCE, "--key", "zz", *at(world))
    assert missing.code == 1
    done = oncebox("skip", "billing", "--key", "b", "--json", *at(world))
    assert "not asked" not in done.err
    assert done.rows()[0]["what"] == "missing"
    world.after(2, loop)
    assert world.of("b") == [1, 4]


def test_replay(oncebox: Run, world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle()
    done = oncebox("replay", "billing", "--from", "start", "--dry-run", "--json", *at(world))
    assert (done.rows()[0]["position"], done.rows()[0]["to"]) == (3, 0)
    assert oncebox("replay", "billing", "--from", "0s", *at(world)).out.startswith("nothing")
    assert "from 0 instead of 3" in oncebox(
        "replay", "billing", "--from", "start", *at(world)).out  # fmt: skip
    world.after(2, loop)
    assert world.of("a") == [1, 2, 3]
    assert world.count("duplicates") == 3
    assert oncebox("replay", "nobody", "--from", "start", *at(world)).code == 1


def test_rebuild(oncebox: Run, world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle()
    clear = ("--clear", "DELETE FROM ledger")
    assert oncebox("rebuild", "billing", *clear, *at(world)).code == 2
    done = oncebox("rebuild", "billing", *clear, "--yes", *at(world))
    assert done.code == 0
    assert world.ledger() == []
    (one,) = oncebox("status", "--json", *at(world)).rows()
    assert one["partitions"][0]["rebuild_until"] == 3
    world.after(2, loop)
    assert world.of("a") == [1, 2, 3]
    assert oncebox("rebuild", "billing", "--finish", "--json", *at(world)).rows()[0] == {
        "action": "finish", "consumer": "billing", "partitions": 1}  # fmt: skip


def test_quarantine(oncebox: Run, world: World) -> None:
    world.handles_paid()
    (sent,) = world.producer.paid("a", 1)
    world.deliver(sent.with_header("ce_chain", "nonsense"), sent.with_header("ce_id", b"\xff"))
    world.settle()
    rows = oncebox("quarantine", "list", "billing", "--json", *at(world)).rows()
    assert len(rows) == 2
    n = str(rows[0]["n"])
    assert "chain" in oncebox("quarantine", "list", "billing", *at(world)).out
    assert "b'nonsense'" in oncebox("quarantine", "show", "billing", n, *at(world)).out
    shown = oncebox("quarantine", "show", "billing", n, "--json", *at(world)).rows()[0]
    assert shown["key"] == "YQ=="
    refused = oncebox("quarantine", "retry", "billing", "--all", *at(world))
    assert refused.code == 1
    assert refused.err.count("still cannot be read") == 2
    assert oncebox("quarantine", "drop", "billing", *at(world)).code == 2
    assert oncebox("quarantine", "drop", "billing", n, "--because", "x", *at(world)).code == 0
    assert len(oncebox("quarantine", "list", "billing", "--json", *at(world)).rows()) == 1
    assert oncebox("quarantine", "show", "billing", n, *at(world)).code == 1
    oncebox("quarantine", "drop", "billing", "--all", *at(world))
    assert oncebox("quarantine", "list", "billing", *at(world)).out == "nothing is in quarantine\n"


def test_a_consumers_store_is_found_by_its_service(
    oncebox: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the configuration, without importing an application; else by the application."""
    failing(world, {"a"})
    world.deliver(*world.producer.paid("a", 1))
    world.settle()
    _, url, _, log = at(world)
    (tmp_path / "oncebox.toml").write_text(
        f'app = "breaks"\n[services.billing]\nstore = "{url}"\nlog = "{log}"\n'
    )
    (tmp_path / "breaks.py").write_text("raise RuntimeError('must not be imported')\n")
    assert len(oncebox("parked", "billing", "--json").rows()) == 1
    assert oncebox("parked", "billing.mail", "--json").code == 0
    assert oncebox("status", "--json").code == 0
    (tmp_path / "oncebox.toml").write_text('app = "myapp"\n')
    (tmp_path / "myapp.py").write_text(
        f"from oncebox import Service\nbilling = Service('billing', store={url!r}, log={log!r})\n"
    )
    assert len(oncebox("parked", "billing", "--json").rows()) == 1
    missing = oncebox("parked", "nobody", "--json")
    assert missing.code == 2
    assert "billing" in missing.err


# ---- small things


def test_init_never_overwrites(oncebox: Run, tmp_path: Path) -> None:
    assert oncebox("init", "shop").code == 0
    before = (tmp_path / "shop" / "services.py").read_text()
    (tmp_path / "shop" / "oncebox.toml").unlink()
    assert oncebox("init", "shop").code == 2
    assert (tmp_path / "shop" / "services.py").read_text() == before
    assert not (tmp_path / "shop" / "oncebox.toml").exists()


async def test_the_applications_state_is_had_and_left(tmp_path: Path, oncebox: Run) -> None:
    (tmp_path / "myapp.py").write_text(
        "from contextlib import asynccontextmanager, contextmanager\n"
        "value, log = {'plain': 1}, []\n"
        "def made():\n    return {'made': 1}\n"
        "async def awaited():\n    return {'awaited': 1}\n"
        "@contextmanager\ndef entered():\n    yield {'entered': 1}\n    log.append('left')\n"
        "@asynccontextmanager\nasync def both():\n    yield {'both': 1}\n    log.append('left')\n"
    )
    for name in ("value", "made", "awaited", "entered", "both"):
        async with AsyncExitStack() as stack:
            found = await _state(stack, f"myapp:{name}")
            assert found == {name.replace("value", "plain"): 1}
    assert sys.modules["myapp"].log == ["left", "left"]
    assert await _state(AsyncExitStack(), None) is None
    with pytest.raises(ConfigurationError, match="MODULE:NAME"):
        await _state(AsyncExitStack(), "myapp")


def test_words_for_times() -> None:
    assert [span(s) for s in (None, 0.04, 3.21, 59, 61, 7200, 200_000)] == [
        None, "0.0 s", "3.2 s", "59 s", "1 min", "2 h", "2 d"]  # fmt: skip
    assert moment(0) == "1970-01-01 00:00:00Z"
    assert moment(None) is None
    assert when_ms("start") == 0
    assert when_ms("1970-01-01T00:00:10Z") == when_ms("1970-01-01T00:00:10") == 10_000
    assert when_ms("2h") < when_ms("30min") < when_ms("90s") < when_ms("0s")
    with pytest.raises(ConfigurationError):
        when_ms("2 fortnights")
