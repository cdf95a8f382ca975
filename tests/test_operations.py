"""Logs as JSON, what is told about plain text, what is forgotten: for operators."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from msgspec import json

from at_work import Place, at_work, emit, run_sql, until
from chains import World
from oncebox import Service
from oncebox.cli import main
from oncebox.cli.options import log_to_stderr
from oncebox.consumer.reading import Settings
from oncebox.errors import MissingTables, Unreachable
from oncebox.logs.kafka_settings import KafkaSettings
from oncebox.stores.adapt import open_store
from oncebox.telemetry.lines import JsonLines


@pytest.fixture
def files(tmp_path: Path) -> Place:
    made = Place.of_files(tmp_path)
    made.make()
    return made


@pytest.fixture(autouse=True)
def usual_logging() -> Iterator[None]:
    """As it is where no command line was run; each run sets it."""
    logger = logging.getLogger("oncebox")
    before = logger.handlers[:], logger.propagate, logger.level
    logger.handlers[:], logger.propagate = [], True
    logger.setLevel(logging.WARNING)
    yield
    logger.handlers[:], logger.propagate = before[:2]
    logger.setLevel(before[2])


@pytest.fixture
def lines() -> Iterator[Any]:
    """What oncebox logs meanwhile, read back."""
    out = StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("oncebox")
    logger.addHandler(handler)
    yield lambda: [json.decode(line) for line in out.getvalue().splitlines()]
    logger.removeHandler(handler)


# ---- logs


def test_lines_of_text_carry_their_time_in_utc(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        log_to_stderr(verbose=False)
        record = logging.makeLogRecord({"created": 1_000_000_000.25, "msecs": 250.0, "msg": "x"})
        (handler,) = logging.getLogger("oncebox").handlers
        handler.handle(record)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert capsys.readouterr().err.startswith("2001-09-09T01:46:40.250Z ")


def test_a_failing_event_is_a_line_that_names_it(files: Place, lines: Any) -> None:
    def pay(tx: Any, paid: Any) -> None:
        raise ValueError("no account\nanywhere")

    shop, billing, paid = files.services(pay)
    billing.consumer(settings=Settings(attempts_max=1))
    with at_work(shop, billing):
        emit(shop, paid("o-1", 1))
        (line,) = until(lambda: [one for one in lines() if one.get("key") == "o-1"])
    ((id,),) = run_sql(files.shop, "SELECT id FROM oncebox_event")
    assert line.pop("time").endswith("Z")
    assert line.pop("position").startswith("orders/")
    code = pay.__code__
    assert line == {
        "level": "WARNING", "logger": "oncebox.consumer", "loop": "consumer:billing",
        "consumer": "billing", "event": id, "source": "/shop/orders", "key": "o-1",
        "what": "billing: key o-1 waits: ValueError: no account "
        f"({__name__}:{code.co_firstlineno + 1})",
    }  # fmt: skip


def test_an_error_of_ours_lends_its_names(lines: Any) -> None:
    error = MissingTables("gone", event="e", key="k", position="p", hint="make them")
    try:
        raise error
    except MissingTables:
        logging.getLogger("oncebox.test").exception("it failed: %s", error)
    (line,) = lines()
    assert {n: line[n] for n in ("event", "key", "position", "hint", "error")} == {
        "event": "e", "key": "k", "position": "p", "hint": "make them", "error": "MissingTables",
    }  # fmt: skip
    assert "test_operations.py" in line["traceback"]


def test_the_command_line_logs_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONCEBOX_LOG_FORMAT", "json")
    assert main(("db", "status", "--store", f"sqlite:///{tmp_path}/x.db")) == 0
    logging.getLogger("oncebox.test").error("hello")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.decode(line)["what"] == "hello"
    monkeypatch.delenv("ONCEBOX_LOG_FORMAT")
    assert main(("version",)) == 0  # which sets the usual lines again


# ---- plain text and secrets


def test_plain_text_to_another_machine_is_warned_about_once(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By the name in the URL; where the test's server really is, libpq is told beside it."""
    at, _, rest = postgres_url.partition("@127.0.0.1")
    away = f"{at}@db.example.org{rest}?hostaddr=127.0.0.1&sslmode=prefer"
    for url in (postgres_url, away, away):
        session: Any = open_store(url).open()
        session.close()
    told = [one.getMessage() for one in caplog.records if "unencrypted" in one.getMessage()]
    assert told == [
        "events travel unencrypted to db.example.org: add ?sslmode=verify-full to its URL"
    ]
    caplog.clear()
    for url in ("kafka://127.0.0.1:9", "kafka://k.example.org:9", "kafka://k.example.org:9",
                "kafka://u:s3cret@k2.example.org:9"):  # fmt: skip
        KafkaSettings(url)
    told = [one.getMessage() for one in caplog.records if "unencrypted" in one.getMessage()]
    assert len(told) == 1
    assert "k.example.org:9: set security.protocol=SSL" in told[0]


def test_settings_for_tls_and_sasl_reach_the_client() -> None:
    url = (
        "kafka://u:s3%23cret@k3.example.org:9093?sasl.mechanisms=SCRAM-SHA-512"
        "&ssl.ca.location=/etc/ca.pem&ssl.endpoint.identification.algorithm=https"
    )
    given: dict[str, Any] = {}
    KafkaSettings(url).client(given.update)
    wanted = {
        "security.protocol": "SASL_SSL", "sasl.mechanisms": "SCRAM-SHA-512", "sasl.username": "u",
        "sasl.password": "s3#cret", "ssl.ca.location": "/etc/ca.pem",
        "ssl.endpoint.identification.algorithm": "https",
    }  # fmt: skip
    assert {name: given[name] for name in wanted} == wanted


def test_a_secret_shows_nowhere(
    files: Place, lines: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """In no log line, error, health or metric of services that cannot reach anything."""
    canary = "c4n4ry-s3cret"
    _, _, paid = files.services(lambda tx, paid: None)
    billing = Service(
        "billing", store=f"postgresql://u:{canary}@127.0.0.1:1/x",
        log=f"kafka://u:{canary}@127.0.0.1:1?security.protocol=SASL_PLAINTEXT",
    )  # fmt: skip

    @billing.on(paid)
    def pay(tx: Any, one: Any) -> None: ...

    caplog.set_level(logging.DEBUG)
    shown = ""
    try:
        with at_work(billing) as at:
            until(lambda: at.work.seen["billing"].store and at.get("/ready")[0] == 503)
            shown = at.get("/ready")[1] + at.get("/live")[1] + at.get("/metrics")[1]
    except Unreachable as error:  # it never began
        shown += str(error)
    assert "store:billing" in shown
    flags = ("--store", str(billing.store), "--log", str(billing.log))
    assert main(("status", *flags)) == 4
    assert main(("config", "show", *flags)) == 0
    assert main(("db", "check", *flags)) == 4
    out, err = capsys.readouterr()
    everything = shown + out + err + caplog.text + str(lines())
    assert "127.0.0.1" in everything
    assert canary not in everything


# ---- what is forgotten


def test_old_unreadable_records_are_forgotten_where_it_is_wished(world: World) -> None:
    world.handles_paid()
    (one,) = world.producer.paid("a", 1)
    world.deliver(one.with_header("ce_specversion", "7"))
    world.settle()
    count = "SELECT count(*) FROM oncebox.quarantine"
    assert world.rows(count) == [(1,)]
    world.now_ms += 40 * 24 * 3600 * 1000
    world.settle()
    assert world.rows(count) == [(1,)]
    world.now_ms += 3600 * 1000
    world.settle(world.loop(quarantine_s=30 * 24 * 3600.0))
    assert world.rows(count) == [(0,)]
    (noted,) = world.rows("SELECT detail FROM oncebox.journal WHERE what = 'drop'")
    assert "1 records of quarantine" in noted[0]
