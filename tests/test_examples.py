"""The samples of `examples/`: the mistake of each `before` really happens under a fault, and not in
its `after`, which differs by less than 30 lines. Real engines, real processes, real deaths.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import hint_if_missing
from engines.redis import redis
from sampling import EXAMPLES, Stage, changed_lines

LINES_MAX = 30
SAMPLES = sorted(path for path in EXAMPLES.iterdir() if list(path.glob("before*")))

on = pytest.mark.example


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name)
def test_the_change_is_small(sample: Path) -> None:
    assert 0 < changed_lines(sample) < LINES_MAX


def test_all_samples_are_known() -> None:
    assert [path.name for path in SAMPLES] == [
        "celery_task", "django_orders", "fastapi_orders", "faststream_subscriber", "kafka_loop",
    ]  # fmt: skip


# ---- a bare loop: it dies between its commit and Kafka's; and a payment is sent twice


@on("kafka_loop")
def test_a_bare_loop(stage: Stage, side: str) -> None:
    stage.send(("p1", "ada", 100), ("p2", "ada", 10), ("p2", "ada", 10), ("p3", "end", 1))
    stage.arm()
    stage.crashed(stage.start(side, crash="psycopg:Transaction.__exit__"))
    assert stage.paid("ada") == 100
    stage.start(side)
    stage.until(lambda: stage.paid("end"))
    assert stage.paid("ada") == {"before": 220, "after": 110}[side]


@on("kafka_loop")
@pytest.mark.parametrize("side", ["service"])
def test_the_loop_as_a_service(stage: Stage) -> None:
    stage.send(("p1", "ada", 100), ("p2", "ada", 10), ("p2", "ada", 10), ("p3", "end", 1))
    stage.arm()
    run = ("oncebox", "run", "--app", "service")
    stage.crashed(stage.start(*run, crash="psycopg:Connection.commit"))
    stage.start(*run)
    stage.until(lambda: stage.paid("end"))
    assert stage.paid("ada") == 110


# ---- FastStream: it dies between its commit and its publication; and a database is away


@on("faststream_subscriber")
def test_a_faststream_subscriber(stage: Stage, side: str) -> None:
    stage.relay()
    stage.send(("p1", "ada", 100))
    run = ("faststream", "run", f"{side}:app", "--workers", "1")
    stage.arm()
    stage.crashed(stage.start(*run, crash="psycopg:AsyncConnection.__aexit__"))
    assert stage.paid("ada") == 100
    stage.sql("ALTER TABLE account RENAME TO away")
    stage.start(*run)
    stage.send(("p2", "bob", 10))
    stage.until(lambda: "does not exist" in stage.words())
    stage.sql("ALTER TABLE away RENAME TO account")
    stage.send(("p3", "end", 1))
    stage.until(lambda: stage.paid("end"))
    stage.until(lambda: {"account": "end", "cents": 1} in stage.told("receipts"))
    receipts = sorted(one["account"] for one in stage.told("receipts"))
    if side == "after":
        assert (stage.paid("ada"), stage.paid("bob")) == (100, 10)
        assert receipts == ["ada", "bob", "end"]
    else:
        # Acknowledged first: bob's payment is lost. And ada's receipt, or she has paid twice:
        # whether Kafka had heard of the acknowledgement when the process died is a matter of time.
        assert (stage.paid("bob"), "bob" in receipts) == (0, False)
        assert (stage.paid("ada"), "ada" in receipts) in {(100, False), (200, True)}


# ---- FastAPI: it dies at its commit; and the commit fails

COMMIT = "sqlalchemy.ext.asyncio.session:_AsyncSessionContextManager.__aexit__"


@on("fastapi_orders")
def test_a_fastapi_application(stage: Stage, side: str) -> None:
    stage.database = stage.database.replace("postgresql:", "postgresql+psycopg:", 1)
    done = stage.serve(f"{side}:app", crash=COMMIT)
    stage.arm()
    answer = stage.post("/orders/o-1/100")
    stage.crashed(done)
    # It died with the commit: before, the customer had been told already.
    assert answer == {"before": 200, "after": 0}[side]
    stage.serve(f"{side}:app")
    if side == "after":
        stage.until(lambda: stage.told("orders"))
    again = stage.post("/orders/o-1/999")  # the name is taken, which shows at the commit
    assert again == {"before": 200, "after": 500}[side]
    assert stage.post("/orders/o-2/1") == 200
    stage.until(lambda: {"name": "o-2", "cents": 1} in stage.told("orders"))
    told = [(one["name"], one["cents"]) for one in stage.told("orders")]
    here = [("o-1", 100), ("o-2", 1)]
    stage.database = stage.database.replace("+psycopg", "")
    stage.until(lambda: stage.sql("SELECT name, cents FROM orders ORDER BY name") == here)
    assert told == (here if side == "after" else [("o-1", 100), ("o-1", 999), ("o-2", 1)])


# ---- Django: it dies between its commit and what is to happen on it


@on("django_orders")
def test_a_django_application(stage: Stage, side: str) -> None:
    stage.more["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    stage.run("django", "migrate", "--run-syncdb", "--verbosity=0")
    web = ("--factory", "django.core.asgi:get_asgi_application")
    done = stage.serve(*web, crash="django.db.backends.base.base:BaseDatabaseWrapper._commit")
    stage.arm()
    stage.post("/orders/o-1/100")
    stage.crashed(done)
    stage.serve(*web)
    stage.relay()
    assert stage.post("/orders/o-2/1") == 200
    stage.until(lambda: {"name": "o-2", "cents": 1} in stage.told("orders"))
    told = [one["name"] for one in stage.told("orders")]
    assert stage.sql("SELECT name FROM shop_order ORDER BY name") == [("o-1",), ("o-2",)]
    assert told == {"before": ["o-2"], "after": ["o-1", "o-2"]}[side]


# ---- Celery: a worker's process dies between its commit and the end of the task


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with hint_if_missing(), redis() as url:
        yield url


@on("celery_task")
def test_a_celery_task(stage: Stage, side: str, redis_url: str) -> None:
    stage.more["BROKER"] = redis_url
    queue = f"ledger-{stage.topic}"
    worker = ("celery", "-A", side, "worker", "-l", "INFO", "--concurrency", "1", "-Q", queue)
    stage.arm()
    stage.start(*worker, "--without-mingle", crash="psycopg:Connection.__exit__")
    for _ in range(2):
        call = ("celery", "-A", side, "call", f"{side}.count", '--args=["ada", 100]')
        stage.start(*call, "--queue", queue)
    stage.until(lambda: stage.words().count("succeeded in") == 2)  # after one that was lost
    assert "WorkerLostError" in stage.words()
    assert stage.paid("ada") == {"before": 300, "after": 200}[side]
