"""/live, /ready and /metrics of services at work, on real engines: what a hung handler and a lost
database or log do to each, and what Prometheus reads.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from at_work import Place, at_work, emit, make_tables, parsed, run_sql, until
from conftest import hint_if_missing
from engines.kafka import kafka
from engines.postgres import postgres
from engines.server import free_ports
from oncebox.cli import main
from oncebox.consumer.reading import Settings
from oncebox.endpoints import serving
from oncebox.errors import ConfigurationError
from oncebox.health import ready
from oncebox.metrics import FAMILIES, collector
from oncebox.service.work import Running


@pytest.fixture(params=["files", "servers"])
def place(request: pytest.FixtureRequest, tmp_path: Path, topic: str) -> Place:
    if request.param == "files":
        made = Place.of_files(tmp_path)
    else:
        url = request.getfixturevalue("postgres_url")
        made = Place(url, url, request.getfixturevalue("kafka_url"), topic)
    made.make()
    return made


@pytest.fixture
def files(tmp_path: Path) -> Place:
    made = Place.of_files(tmp_path)
    made.make()
    return made


# ---- metrics


def test_metrics_tell_what_is_done_and_what_waits(place: Place) -> None:
    def pay(tx: Any, paid: Any) -> None:
        if paid.cents < 0:
            raise ValueError("no account")

    shop, billing, paid = place.services(pay)
    billing.consumer(settings=Settings(attempts_max=1))
    with at_work(shop, billing) as at:
        emit(shop, *(paid(f"secret-key-{i}", n) for n in range(3) for i in range(5)))
        emit(shop, paid("secret-key-0", -1), paid("secret-key-0", 5))
        until(lambda: at.metric("oncebox_keys_dead", "billing", "failed") == 1)
        until(lambda: at.metric("oncebox_inbox_kept", "billing") == 2)
        # In other partitions there may still be something to do.
        until(lambda: at.metric("oncebox_inbox_applied_total", "billing") == 15)
        until(lambda: at.metric("oncebox_outbox_pending", "shop") == 0)
        until(lambda: at.metric("oncebox_relay_active", "billing") == 1)
        until(lambda: "oncebox_consumer_lag_events" in at.metrics())
        found = at.metrics()

    assert found["oncebox_relay_published_total"] == {(place.stream, "published", "shop"): 17}
    assert found["oncebox_relay_batch_events_sum"]["shop",] == 17
    assert found["oncebox_inbox_applied_total"]["billing",] == 15
    assert found["oncebox_inbox_duplicates_total"]["billing",] == 0
    assert found["oncebox_handler_duration_seconds_count"]["billing", "order.paid"] >= 16
    assert found["oncebox_handler_duration_seconds_bucket"]["billing", "+Inf", "order.paid"] >= 16
    assert found["oncebox_handler_failures_total"]["billing", "order.paid"] >= 1
    assert found["oncebox_outbox_pending"]["shop",] == 0
    assert found["oncebox_relay_active"] == {("shop",): 1, ("billing",): 1}
    assert found["oncebox_consumer_partitions"]["billing",] == 4
    lag = found["oncebox_consumer_lag_events"]
    assert set(lag) == {("billing", str(partition), place.stream) for partition in range(4)}
    assert found["oncebox_store_up"] == {("shop",): 1, ("billing",): 1}
    assert found["oncebox_log_up"] == {("shop",): 1, ("billing",): 1}


def test_lag_is_told_by_count_and_by_age(place: Place) -> None:
    go_on = threading.Event()

    def pay(tx: Any, paid: Any) -> None:
        go_on.wait(30)

    shop, billing, paid = place.services(pay)
    with at_work(shop, billing) as at:
        emit(shop, *(paid("a", n) for n in range(7)))

        def waiting() -> bool:
            found = at.metrics()
            lag, age = found.get("oncebox_consumer_lag_events"), "oncebox_consumer_lag_seconds"
            return lag is not None and sum(lag.values()) == 7 and max(found[age].values()) > 0

        until(waiting)
        go_on.set()
        until(lambda: sum(at.metrics()["oncebox_consumer_lag_events"].values()) == 0)
        assert max(at.metrics()["oncebox_consumer_lag_seconds"].values()) == 0


def test_every_family_is_served_and_no_label_grows_with_events(files: Place) -> None:
    """Labels are the documented ones; neither a key nor an id is anywhere in the text."""
    shop, billing, paid = files.services(lambda tx, paid: None)
    with at_work(shop, billing) as at:
        emit(shop, *(paid(f"secret-key-{i}", 1) for i in range(50)))
        until(lambda: at.metric("oncebox_inbox_applied_total", "billing") == 50)
        until(lambda: "oncebox_consumer_lag_events" in at.metrics())
        status, text = at.get("/metrics")
    assert status == 200
    assert "secret-key" not in text
    served = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE oncebox_")}
    counters = {name + "_total" for name, family in FAMILIES.items() if family.kind == "counter"}
    others = {name for name, family in FAMILIES.items() if family.kind != "counter"}
    assert served == counters | others
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if family.name in FAMILIES:
                assert set(sample.labels) - {"le"} == set(FAMILIES[family.name].labels), sample


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_collector_for_services_inside_an_application(
    files: Place, asynchronous: bool
) -> None:
    async def pay_async(tx: Any, paid: Any) -> None:
        await asyncio.sleep(0)

    handle: Any = pay_async if asynchronous else lambda tx, paid: None
    shop, billing, paid = files.services(handle)
    registry = prometheus_client.CollectorRegistry()
    async with shop.running(), billing.running() as work:
        registry.register(collector(work))
        await asyncio.to_thread(emit, shop, paid("a", 1))
        while True:
            found = parsed(prometheus_client.generate_latest(registry).decode())
            if found.get("oncebox_inbox_applied_total", {}).get(("billing",)) == 1:
                break
            await asyncio.sleep(0.02)
        while not ready(work).fine:
            await asyncio.sleep(0.02)
    assert found["oncebox_handler_duration_seconds_count"]["billing", "order.paid"] == 1


def test_without_the_extra_metrics_say_how_to_get_them() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from oncebox.endpoints import _metrics\n"
        "print(_metrics(None)())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "501" in done.stdout, done.stderr
    assert "oncebox[metrics]" in done.stdout


# ---- alive and ready


def test_a_hung_handler_is_not_alive(files: Place) -> None:
    """What no exception can interrupt: a lock that never comes."""
    held, entered = threading.Lock(), threading.Event()

    def pay(tx: Any, paid: Any) -> None:
        entered.set()
        with held:
            pass

    shop, billing, paid = files.services(pay)
    with at_work(shop, billing) as at:
        until(lambda: at.fine("/ready"), lambda: at.get("/ready"))
        assert at.get("/live") == (200, "ok\n")
        with held:
            at.work.parts["consumer:billing"].late_s = 0.5
            emit(shop, paid("a", 1))
            assert entered.wait(30)
            until(lambda: not at.fine("/live"))
            assert "consumer:billing: no turn for" in at.get("/live")[1]
            assert "relay:shop" not in at.get("/live")[1]
            assert not at.fine("/ready")
        at.work.parts["consumer:billing"].late_s = 60.0
        until(lambda: at.fine("/live") and at.fine("/ready"))


def test_a_lost_database_is_alive_and_not_ready(files: Place) -> None:
    with hint_if_missing(), postgres() as server:
        of_server = files._replace(shop=server.url, billing=server.url)
        make_tables(server.url)
        shop, billing, paid = of_server.services(lambda tx, paid: None)
        with at_work(shop, billing) as at:
            until(lambda: at.fine("/ready"), lambda: at.get("/ready"))
            server.stop(immediate=True)
            until(lambda: not at.fine("/ready"))
            until(lambda: at.metric("oncebox_store_up", "billing") == 0)
            until(lambda: "consumer:billing: it waits for its store or log" in at.get("/ready")[1])
            until(lambda: "relay:shop: it waits for its store or log" in at.get("/ready")[1])
            assert at.fine("/live"), at.get("/live")
            server.start()
            until(lambda: at.fine("/ready"), lambda: at.get("/ready"))
            assert at.metric("oncebox_loop_outages_total", "consumer:billing")
            emit(shop, paid("a", 1))
            until(lambda: at.metric("oncebox_inbox_applied_total", "billing") == 1)


@pytest.mark.long  # a broker of its own, killed and started again
def test_a_lost_log_is_alive_and_not_ready(files: Place) -> None:
    with hint_if_missing(), kafka() as broker:
        of_broker = files._replace(log=broker.url)
        of_broker.make()
        shop, billing, paid = of_broker.services(lambda tx, paid: None)
        with at_work(shop, billing) as at:
            until(lambda: at.fine("/ready"), lambda: at.get("/ready"))
            broker.stop(immediate=True)
            until(lambda: not at.fine("/ready"))
            until(lambda: at.metric("oncebox_log_up", "billing") == 0)
            assert at.fine("/live"), at.get("/live")
            broker.start()
            until(lambda: at.fine("/ready"), lambda: at.get("/ready"))
            emit(shop, paid("a", 1))
            until(lambda: at.metric("oncebox_inbox_applied_total", "billing") == 1)


def test_a_missing_topic_is_not_ready(files: Place, tmp_path: Path) -> None:
    late = files._replace(log=f"sqlite:///{tmp_path}/other.db")
    shop, billing, _ = late.services(lambda tx, paid: None)
    with at_work(billing) as at:
        until(lambda: "there is no topic orders" in at.get("/ready")[1])
        assert at.fine("/live")
        late.make()
        until(lambda: at.fine("/ready"), lambda: at.get("/ready"))


def test_other_paths_and_methods(files: Place) -> None:
    shop, _, _ = files.services(lambda tx, paid: None)
    with at_work(shop) as at:
        status, text = at.get("/admin")
        assert status == 404
        assert "/live, /metrics, /ready" in text
        with socket.create_connection(("127.0.0.1", at.port)) as client:
            client.sendall(b"POST /live HTTP/1.0\r\n\r\n")
            assert b"501" in client.recv(100)


@pytest.mark.parametrize("said", ["", "http", "host:", "127.0.0.1:99999", "127.0.0.1:x"])
async def test_addresses_that_are_none(said: str) -> None:
    with pytest.raises(ConfigurationError, match="--http"), serving(said, Running()):
        pass


async def test_a_port_that_is_taken() -> None:
    taken = pytest.raises(ConfigurationError, match="another process")
    with serving("0", Running()) as port, taken, serving(f"{port}", Running()):
        pass


# ---- the command line


def test_run_serves_and_healthcheck_asks(
    files: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports(1)
    flags = ("--http", str(port))
    assert main(("healthcheck", *flags)) == 4
    assert "does not answer" in capsys.readouterr().err
    assert main(("healthcheck",)) == 2
    process = subprocess.Popen(
        [sys.executable, "-m", "oncebox", "relay", "shop", "--store", files.shop, "--log", files.log,
         "--http", f"127.0.0.1:{port}"], cwd=tmp_path,
    )  # fmt: skip
    try:
        until(lambda: main(("healthcheck", *flags)) == 0)
        capsys.readouterr()
        assert main(("healthcheck", "--live", *flags)) == 0
        assert capsys.readouterr().out == "ok\n"
        assert main(("healthcheck", "--json", *flags)) == 0
        assert capsys.readouterr().out == '{"path":"/ready","fine":true,"wrong":[]}\n'
        run_sql(files.shop, "DROP TABLE oncebox_source")
        until(lambda: main(("healthcheck", *flags)) == 1)
    finally:
        process.terminate()
        process.wait()
