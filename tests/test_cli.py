"""The command line: what is loaded and when, help, usage, errors, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import json

from chains import World, make_store
from oncebox.cli import COMMANDS, main
from oncebox.cli.again import when_ms
from oncebox.cli.output import moment, span
from oncebox.errors import ConfigurationError
from operating import Run, at, failing

ENGINES = {
    "sqlite3", "aiosqlite", "psycopg", "psycopg_pool", "asyncpg", "confluent_kafka", "sqlalchemy",
    "django", "asyncio",
}  # fmt: skip
CLI = {"cyclopts", "rich", "attrs", "docstring_parser"}


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
        if name not in ("quarantine", "db", "schema", "topics", "config", "version"):
            text = oncebox(name, "--help")
            assert text.code == 0
            assert f"oncebox {name}" in text.out.partition("For example")[2], name
            lines = text.out.partition("For example")[0].splitlines()
            assert not [line for line in lines if line.endswith(" ")], "written for 80 columns"


@pytest.mark.parametrize("command", ["parked", "status", "topics"])
def test_a_usage_error_names_the_help_of_its_command(oncebox: Run, command: str) -> None:
    done = oncebox(command, "--nonsense")
    assert done.err.endswith(f"  oncebox {command} --help\n")


@pytest.mark.parametrize(
    "command",
    [("quarantine", "list"), ("quarantine", "show"), ("quarantine", "retry"),
     ("quarantine", "drop"), ("db", "migrate"), ("db", "status"), ("db", "check"), ("db", "sql"),
     ("db", "prune"),
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


def test_a_log_url_with_a_mistake_shows_no_password(oncebox: Run) -> None:
    url = "kafak://broker?sasl.password=hunter2"
    done = oncebox("topics", "check", "orders", "--log", url)
    assert done.code == 2
    assert "kafak://broker?sasl.password=***" in done.err
    assert "hunter2" not in done.err


def test_a_service_without_a_store_says_all_ways_to_name_one(oncebox: Run, tmp_path: Path) -> None:
    (tmp_path / "myapp.py").write_text("from oncebox import Service\nshop = Service('shop')\n")
    done = oncebox("run", "--app", "myapp")
    assert done.code == 2
    assert "--store URL, ONCEBOX_STORE" in done.err
    done = oncebox("topics", "check", "--app", "myapp")
    assert "--log URL, ONCEBOX_LOG" in done.err


def test_looking_makes_no_file(oncebox: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/mistyped.db"
    for command in (("status",), ("parked", "billing"), ("redrive", "billing", "--all")):
        done = oncebox(*command, "--store", url)
        assert done.code == 3
        assert f"no file {tmp_path}/mistyped.db" in done.err
    assert not (tmp_path / "mistyped.db").exists()


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
