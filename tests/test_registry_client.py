"""The registry client: against our server, and against one that is down, slow or lies."""

from __future__ import annotations

import gzip
import json
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import fastavro
import pytest

from chains import World, make_store
from oncebox import foreign
from oncebox.errors import (
    ConfigurationError,
    NotFound,
    SchemaBreak,
    SchemaError,
    UnknownSchema,
    Unreachable,
    WrongSchema,
)
from oncebox.ports import Outgoing
from oncebox.program import drive
from oncebox.registry import client as client_module
from oncebox.registry.client import Known, RegistryClient
from oncebox.registry.protocol import Reference, guid
from oncebox.service.service import Consumer
from registry_server import Server, serving

ORDER = '{"type":"record","name":"Order","fields":[{"name":"id","type":"string"}]}'
OTHER = '{"type":"record","name":"Other","fields":[{"name":"n","type":"long"}]}'
LINE = '{"type":"record","name":"Line","fields":[{"name":"order","type":"Order"}]}'

Answer = tuple[int, bytes]


class Fake:
    """A server that answers what a test says: `answer` by path, `before` it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Answer] = {}
        self.drip: Literal["", "headers", "body"] = ""
        self.encoding = "identity"
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                fake.asked.append(path)
                status, body = fake.answers.get(path, (404, b'{"error_code": 40403}'))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body) + 1000 * bool(fake.drip)))
                self.send_header("Content-Encoding", fake.encoding)
                if fake.drip == "headers":
                    self.flush_headers()
                else:
                    self.end_headers()
                    self.wfile.write(body)
                while fake.drip:  # a little now and then: never silent, never done
                    try:
                        self.wfile.write(b" " if fake.drip == "body" else b"X-Wait: 1\r\n")
                    except OSError:
                        return
                    time.sleep(0.05)

            do_POST = do_GET  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def say(self, path: str, status: int = 200, **body: Any) -> None:
        self.answers[path] = (status, json.dumps(body).encode())

    def close(self) -> None:
        self.drip = ""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def fake() -> Iterator[Fake]:
    fake = Fake()
    yield fake
    fake.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of a client, so short that they need not be waited for."""
    for name in ("BACKOFF_S", "AWAY_S", "UNKNOWN_S"):
        monkeypatch.setattr(client_module, name, 0.001)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(f"sqlite:///{tmp_path_factory.mktemp('registry')}/r.db") as running:
        yield running


# ---- our server


def test_what_is_registered_is_had_back_with_what_it_refers_to(
    server: Server, tmp_path: Path
) -> None:
    with RegistryClient(server.url, cache=tmp_path) as client:
        order = client.register("lib.order", "avro", ORDER)
        refers = [Reference("Order", "lib.order", 1)]
        line = client.register("lib.line", "avro", LINE, refers)
        assert client.schema(order) == ("avro", ORDER, {})
        assert client.schema(line) == ("avro", LINE, {"Order": ORDER})
        assert client.schema(uuid.UUID(guid(ORDER))) == client.schema(order)
        assert [(v.number, v.id) for v in client.versions("lib.line")] == [(1, line)]
        assert client.versions("nobody") == []
        assert set(client.subjects("lib.")) == {"lib.order", "lib.line"}
        with pytest.raises(NotFound, match="nobody"):
            client.version("nobody")
        with pytest.raises(SchemaError, match="no-such"):
            client.register("lib.x", "avro", LINE, [Reference("Order", "no-such", 1)])
        with pytest.raises(UnknownSchema, match="4711"):
            client.schema(4711)
        with pytest.raises(UnknownSchema, match="0102"):
            client.schema(b"\1\2")  # a fingerprint of Avro's
    with RegistryClient(server.url, cache=tmp_path, offline=True) as client:
        assert client.schema(line) == ("avro", LINE, {"Order": ORDER})
        with pytest.raises(Unreachable, match="offline"):
            client.schema(4711)


def test_a_break_is_a_break(server: Server) -> None:
    with RegistryClient(server.url) as client:
        client.register("breaks", "avro", ORDER)
        changed = ORDER.replace('"string"', '"long"')
        assert client.compatible("breaks", "avro", changed)
        with pytest.raises(SchemaBreak, match="breaks"):
            client.register("breaks", "avro", changed)


# ---- what is wrong with registries


@pytest.mark.usefixtures("impatient")
def test_a_registry_that_is_down_is_unreachable_and_what_is_kept_goes_on(
    tmp_path: Path, fake: Fake
) -> None:
    fake.say("/schemas/ids/1", schema=ORDER)
    with RegistryClient(fake.url, cache=tmp_path) as client:
        known = client.schema(1)
    fake.close()
    with RegistryClient(fake.url, cache=tmp_path) as client:
        assert client.schema(1) == known
        with pytest.raises(Unreachable, match="does not answer") as failure:
            client.schema(2)
    assert failure.value.retryable


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("status", "body", "what"),
    [
        (200, b"<html>welcome", "not of its protocol"),
        (200, b'{"schema": 3}', "not of its protocol"),
        (200, b'{"schema": "\xff"}', "not of its protocol"),
        (200, b"[" * 100_000, "not of its protocol"),
        (500, b"oops", "oops"),
        (503, b'{"error_code": 50001, "message": "the store is away"}', "the store is away"),
        (429, b"", "429"),
        (404, b"nothing here", "404"),
        (302, b"", "302"),
        (401, b'{"error_code": 401, "message": "Unauthorized"}', "Unauthorized"),
    ],
)
def test_what_may_pass_is_tried_again_a_bounded_number_of_times(
    fake: Fake, status: int, body: bytes, what: str
) -> None:
    fake.answers["/schemas/ids/1"] = (status, body)
    with RegistryClient(fake.url, attempts_max=3) as client:
        with pytest.raises(Unreachable, match=what):
            client.schema(1)
        assert len(fake.asked) == 3
        fake.say("/schemas/ids/1", schema=ORDER)
        time.sleep(0.002)
        assert client.schema(1).text == ORDER


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("drip", ["headers", "body"])
def test_a_registry_that_is_slow_is_unreachable_though_it_never_stops_talking(
    fake: Fake, drip: Literal["headers", "body"]
) -> None:
    fake.say("/schemas/ids/1", schema=ORDER)
    fake.drip = drip
    with (
        RegistryClient(fake.url, timeout_s=0.2, attempts_max=1) as client,
        pytest.raises(Unreachable, match="too slow"),
    ):
        client.schema(1)


def test_an_answer_is_never_unpacked(fake: Fake) -> None:
    fake.say("/schemas/ids/1", schema=ORDER)
    status, body = fake.answers["/schemas/ids/1"]
    fake.answers["/schemas/ids/1"] = (status, gzip.compress(body))
    fake.encoding = "gzip"
    with (
        RegistryClient(fake.url, attempts_max=1) as client,
        pytest.raises(Unreachable, match="what is not of its protocol"),
    ):
        client.schema(1)


def test_a_registry_that_is_away_is_not_asked_at_every_turn(fake: Fake) -> None:
    fake.answers["/schemas/ids/1"] = fake.answers["/schemas/ids/2"] = (500, b"")
    with RegistryClient(fake.url, attempts_max=1) as client:
        for id in (1, 2, 1):
            with pytest.raises(Unreachable):
                client.schema(id)
        fake.answers.clear()
    assert fake.asked == ["/schemas/ids/1"]


def test_an_id_that_is_not_known_is_not_asked_for_at_every_turn(fake: Fake) -> None:
    with RegistryClient(fake.url) as client:
        for _ in range(3):
            with pytest.raises(UnknownSchema, match="schema 7 is not known"):
                client.schema(7)
    assert fake.asked == ["/schemas/ids/7"]


def test_a_registry_that_was_filled_anew_is_noticed_in_the_next_process(
    tmp_path: Path, fake: Fake
) -> None:
    fake.say("/schemas/ids/1", schema=ORDER)
    with RegistryClient(fake.url, cache=tmp_path) as client:
        client.schema(1)
    fake.say("/schemas/ids/1", schema=OTHER)
    with RegistryClient(fake.url, cache=tmp_path) as client:
        with pytest.raises(WrongSchema, match="another one than it had before"):
            client.schema(1)
        fake.say("/subjects/s/versions/1", schema=OTHER, id=1, version=1)
        with pytest.raises(WrongSchema):
            client.version("s", 1)


def test_what_was_deleted_there_is_still_read_from_the_folder(tmp_path: Path, fake: Fake) -> None:
    fake.say("/schemas/ids/1", schema=ORDER)
    with RegistryClient(fake.url, cache=tmp_path) as client:
        client.schema(1)
    fake.answers.clear()
    with RegistryClient(fake.url, cache=tmp_path) as client:
        assert client.schema(1).text == ORDER


def test_a_guid_is_computed_not_believed(fake: Fake) -> None:
    wanted = guid(ORDER)
    fake.say(f"/schemas/guids/{wanted}", schema=OTHER, guid=wanted)
    fake.say("/schemas/ids/1", schema=ORDER, id=2)
    with RegistryClient(fake.url) as client:
        with pytest.raises(WrongSchema, match=guid(OTHER)):
            client.schema(uuid.UUID(wanted))
        with pytest.raises(WrongSchema, match="id 2"):
            client.schema(1)


def test_references_that_lead_on_for_ever_end(fake: Fake) -> None:
    again = {"name": "a", "subject": "a", "version": 1}
    fake.say("/schemas/ids/1", schema=ORDER, references=[again])
    for n in range(30):
        further = {"name": f"n{n}", "subject": f"n{n + 1}", "version": 1}
        fake.say(f"/subjects/n{n}/versions/1", schema=ORDER, references=[further])
    fake.say(
        "/subjects/a/versions/1",
        schema=ORDER,
        references=[{"name": "n", "subject": "n0", "version": 1}],
    )
    with (
        RegistryClient(fake.url) as client,
        pytest.raises(SchemaError, match="lead on to too many"),
    ):
        client.schema(1)


def test_a_folder_that_is_damaged_or_cannot_be_written_only_costs_time(
    tmp_path: Path, fake: Fake
) -> None:
    fake.say("/schemas/ids/1", schema=ORDER)
    with RegistryClient(fake.url, cache=tmp_path) as client:
        client.schema(1)
    (file,) = tmp_path.rglob("*.json")
    file.write_text('{"format": "avro", "te')
    with RegistryClient(fake.url, cache=tmp_path) as client:
        assert client.schema(1).text == ORDER
    (tmp_path / "file").write_text("")
    with RegistryClient(fake.url, cache=tmp_path / "file") as client:
        assert client.schema(1).text == ORDER


@pytest.mark.parametrize("url", ["localhost:8081", "ftp://host", "http://"])
def test_what_is_no_url_of_a_registry_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="registry"):
        RegistryClient(url)


# ---- a consumer


TOPIC = "legacy.orders"


@dataclass
class Order:
    id: str


@dataclass
class Topic:
    """A consumer of a topic with Confluent's framing, and the registry that its writer uses."""

    world: World
    client: RegistryClient

    def consume(self, *, listed: bool = False) -> list[str]:
        seen: list[str] = []
        consumer: Consumer[Any] = Consumer("billing")
        self.world.consumer = consumer

        def known(name: Any) -> Known:
            return self.client.schema(name)  # of the client that a test has put there

        theirs = foreign(TOPIC, Order, key="key", schemas=known)

        if listed:

            @consumer.on_batch(theirs)
            def settle_all(tx: Any, orders: list[Order]) -> None:
                seen.extend(order.id for order in orders)

        else:

            @consumer.on(theirs)
            def settle(tx: Any, order: Order) -> None:
                seen.append(order.id)

        return seen

    def send(self, key: str, schema: int, id: str) -> None:
        value = BytesIO(struct.pack(">bI", 0, schema))
        value.seek(0, 2)
        fastavro.schemaless_writer(value, json.loads(ORDER), {"id": id})
        records = [Outgoing(TOPIC, key.encode(), value.getvalue(), [], time.time_ns() // 10**6)]
        assert self.world.log.publish(records, 10.0) == []


@pytest.fixture
def topic(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Topic]:
    world = World(make_store("sqlite", tmp_path, None), tmp_path, topics=(TOPIC,))
    with RegistryClient(server.url) as client:
        yield Topic(world, client)
    world.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("listed", [False, True], ids=["one by one", "lists"])
def test_a_key_whose_schema_is_not_registered_waits_and_goes_on_when_it_is(
    topic: Topic, listed: bool
) -> None:
    world, seen = topic.world, topic.consume(listed=listed)
    early = ORDER.replace("Order", f"Early{listed}")
    first = topic.client.register(f"early{listed}", "avro", early)
    late = first + 1
    for key, schema, id in (("a", late, "a1"), ("a", first, "a2"), ("b", first, "b1")):
        topic.send(key, schema, id)
    loop = world.settle()
    assert seen == ["b1"]
    assert {key: why for key, (why, *_) in world.parked().items()} == {"a": "poison"}
    for _ in range(20):  # more often than a failing handler is tried
        world.after(60.0, loop)
    ((_, reason, attempts),) = world.parked().values()
    assert (f"schema {late} is not known" in reason, attempts) == (True, 0)
    assert (
        topic.client.register(f"late{listed}", "avro", ORDER.replace("Order", f"L{listed}")) == late
    )
    world.after(60.0, loop)
    assert (sorted(seen), world.parked(), world.kept()) == (["a1", "a2", "b1"], {}, 0)


@pytest.mark.usefixtures("impatient")
def test_a_registry_that_is_away_parks_nobody(topic: Topic, fake: Fake) -> None:
    world, seen = topic.world, topic.consume()
    fake.answers["/schemas/ids/5"] = (503, b"")
    with RegistryClient(fake.url, attempts_max=1) as topic.client:
        topic.send("a", 5, "a1")
        loop = world.loop()
        drive_until_outage(loop)
        assert (seen, world.parked()) == ([], {})
        fake.say("/schemas/ids/5", schema=ORDER)
        world.settle(loop)
    assert (seen, world.parked()) == (["a1"], {})


@pytest.mark.usefixtures("impatient")
def test_a_registry_that_lies_parks_the_key(topic: Topic, fake: Fake, tmp_path: Path) -> None:
    world, seen = topic.world, topic.consume()
    fake.say("/schemas/ids/5", schema=ORDER)
    with RegistryClient(fake.url, cache=tmp_path / "kept") as topic.client:
        topic.client.schema(5)
    fake.say("/schemas/ids/5", schema=OTHER)
    with RegistryClient(fake.url, cache=tmp_path / "kept") as topic.client:
        topic.send("a", 5, "a1")
        world.settle()
    ((why, reason, _),) = world.parked().values()
    assert (seen, why, "WrongSchema" in reason) == ([], "poison", True)


def drive_until_outage(loop: Any) -> None:
    """Turn until a turn meets an outage; the loop waits it out."""
    for _ in range(50):
        try:
            drive(loop.turn())
        except Unreachable as error:
            drive(loop.outage(error))
            return
    raise AssertionError("no outage")
