"""OpenTelemetry through real stores and logs: who is linked to whom, and silence where nobody traces.
Each run is a process of its own, since a provider of tracers is set once for a process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import json

from at_work import Place
from oncebox.telemetry.spans import _read

HERE = Path(__file__).parent


@pytest.fixture(params=["files", "servers"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "files":
        store, log, stream = f"sqlite:///{tmp_path}/s.db", f"sqlite:///{tmp_path}/log.db", "orders"
    else:
        store, log, stream = map(request.getfixturevalue, ("postgres_url", "kafka_url", "topic"))
    made = Place(store, store, log, stream)
    made.make()
    return made


def run(place: Place, share: str) -> tuple[list[dict[str, Any]], list[str]]:
    done = subprocess.run(
        [sys.executable, HERE / "traced.py", place.shop, place.log, place.stream, share],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *spans, last = (json.decode(line) for line in done.stdout.splitlines())
    return spans, last["currents"]


def test_create_send_and_process(place: Place) -> None:
    spans, currents = run(place, "1.0")
    stream = place.stream
    by_id = {span["id"]: span for span in spans}
    created = [span for span in spans if span["name"] == f"create {stream}"]
    sent = [span for span in spans if span["name"] == f"send {stream}"]
    handled = [span for span in spans if span["name"] == f"process {stream}"]
    assert currents == [f"process {stream}"]

    linked = {id for span in sent for id in span["links"]}
    created = [span for span in created if span["id"] in linked]  # but those of undone batches
    assert len(created) == len(linked) == 4
    parents = sorted(by_id[span["parent"]]["name"] for span in created)
    assert parents == [f"process {stream}", "request a", "request b", "request fails"]
    assert {span["kind"] for span in created} == {"PRODUCER"}
    assert {span["messaging.operation.name"] for span in created} == {"create"}

    assert {span["kind"] for span in sent} == {"CLIENT"}
    assert all(span["messaging.batch.message_count"] >= 1 for span in sent)

    assert {span["kind"] for span in handled} == {"CONSUMER"}
    assert {span["parent"] for span in handled} == {None}
    own = [span for span in handled if span["messaging.consumer.group.name"] == "mail"]
    assert len(own) == 5
    known = {span["messaging.message.id"]: span["id"] for span in created}
    for span in handled:
        wanted = known.get(span["messaging.message.id"])
        assert span["links"] == ([] if wanted is None else [wanted])
        assert span["messaging.destination.name"] == stream
        assert span["messaging.destination.partition.id"].isdigit()
        assert ("messaging.kafka.offset" in span) == place.log.startswith("kafka")
    failed = [span for span in handled if span["status"] == "ERROR"]
    assert failed
    assert {span["error.type"] for span in failed} == {"ValueError"}
    system = "kafka" if place.log.startswith("kafka") else "oncebox"
    assert {span["messaging.system"] for span in [*sent, *handled]} == {system}


def test_what_is_not_sampled_has_no_spans(tmp_path: Path) -> None:
    base = f"sqlite:///{tmp_path}"
    place = Place(f"{base}/s.db", f"{base}/s.db", f"{base}/log.db", "orders")
    place.make()
    spans, currents = run(place, "0.0")
    assert spans == []
    assert currents == ["none"]


def test_without_the_package_everything_works(tmp_path: Path) -> None:
    base = f"sqlite:///{tmp_path}"
    place = Place(f"{base}/s.db", f"{base}/s.db", f"{base}/log.db", "orders")
    place.make()
    program = f"""
import sys
sys.modules["opentelemetry"] = None
sys.path.insert(0, {str(HERE)!r})
from at_work import *
place = Place(*{tuple(place)!r})
shop, billing, paid = place.services(lambda tx, paid: None)
with at_work(shop, billing) as at:
    emit(shop, paid("a", 1))
    until(lambda: at.metric("oncebox_inbox_applied_total", "billing") == 1)
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize(
    "text",
    ["", "-", "00-x-y-01", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "00-" + "1" * 32, "é" * 60,
     "00-" + "1" * 32 + "-" + "1" * 16 + "-00", "ff-" + "1" * 32 + "-" + "1" * 16 + "-01"],
)  # fmt: skip
def test_a_trace_context_that_is_none(text: str) -> None:
    assert _read(text) is None
