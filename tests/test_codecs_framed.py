"""Records of others that name their schema by an id, from the log to the handler."""

from __future__ import annotations

import io
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry import avro as avro_module
from confluent_kafka.schema_registry import json_schema as json_module
from confluent_kafka.schema_registry import protobuf as protobuf_module
from confluent_kafka.serialization import MessageField, SerializationContext

from engines.kafka import Kafka
from oncebox import Service, event, foreign
from oncebox.codecs.avro import fingerprint
from oncebox.codecs.framing import HEADER, header, prefixed, single_object
from oncebox.codecs.protobuf import ProtobufCodec
from oncebox.codecs.protobuf_foreign import ForeignProtobuf
from oncebox.errors import ConfigurationError, UnknownSchema, Unreachable
from oncebox.ports import Outgoing
from oncebox.program import drive
from oncebox.registry.client import RegistryClient
from oncebox.schema.derive import schema_of
from oncebox.schema.images.avro import avsc
from oncebox.schema.images.json import json_text
from oncebox.schema.images.protobuf import proto
from oncebox.service.connect import open_log
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate
from oncebox.testing import drain
from oncebox.testing.log_tools import everything
from registry_server import serving

AvroSerializer: Any = avro_module.AvroSerializer
AvroDeserializer: Any = avro_module.AvroDeserializer
JSONDeserializer: Any = json_module.JSONDeserializer
ProtobufDeserializer: Any = protobuf_module.ProtobufDeserializer

TOPIC = "theirs"
AVRO = json.dumps({
    "type": "record", "name": "com.acme.PaymentEvent", "fields": [
        {"name": "order", "type": "string"},
        {"name": "cents", "type": "long"},
        {"name": "paid_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
})  # fmt: skip
DATUM = {"order": "o-1", "cents": 1250, "paid_at": 1_500}
PROTO = """
syntax = "proto3";
package acme;
message Other { string x = 1; }
message Payment { string order = 1; int64 cents = 2; string paid_at = 3; repeated Part parts = 4;
  message Part { bytes raw = 1; Kind kind = 2; map<string, double> sizes = 3; }
  enum Kind { NONE = 0; BIG = 1; } }
"""


@dataclass(frozen=True)
class Payment:
    order: str
    cents: int
    paid_at: str = ""
    parts: tuple[Any, ...] = ()


PAID = Payment("o-1", 1250, "1970-01-01T00:00:01.500000Z")


def avro() -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(AVRO)), DATUM)
    return out.getvalue()


class Theirs:
    """A topic that others write, and a consumer of it, on SQLite."""

    def __init__(self, folder: Path) -> None:
        self.store, self.log = f"sqlite:///{folder}/store.db", f"sqlite:///{folder}/log.db"
        session = drive(_open(open_store(self.store)))
        drive(migrate(session))
        session.close()
        self.service = Service("billing", store=self.store, log=self.log)
        self.seen: list[Payment] = []

    def read(self, schemas: Any) -> None:
        topic = foreign(TOPIC, Payment, id="header:x-id", key="key", schemas=schemas)
        self.service.on(topic)(self.settle)

    def settle(self, tx: Any, payment: Payment) -> None:
        self.seen.append(payment)

    def send(self, value: bytes, *headers: tuple[str, Any]) -> None:
        log = open_log(self.log)
        if log.describe(TOPIC) is None:
            log.create(TOPIC, 1)
        said: list[Any] = [("x-id", str(time.monotonic_ns())), *headers]
        assert log.publish([Outgoing(TOPIC, b"o-1", value, said, 0)], 10.0) == []
        log.close()

    def waits(self) -> list[str]:
        return [str(one.reason) for one in drain(self.service)]


def _open(store: Any) -> Any:
    session = yield store.open, ()
    return session


@pytest.fixture
def theirs(tmp_path: Path) -> Theirs:
    return Theirs(tmp_path)


def test_each_form_of_an_id_is_read(theirs: Theirs) -> None:
    guid, print_ = UUID(int=7), fingerprint(json.loads(AVRO))
    known = {7: ("avro", AVRO), guid: ("avro", AVRO), print_: ("avro", AVRO)}
    theirs.read(known)
    theirs.send(prefixed(avro(), 7))
    theirs.send(avro(), header(guid))
    theirs.send(single_object(avro(), print_))
    assert theirs.waits() == []
    assert theirs.seen == [PAID] * 3


def test_protobuf_of_others_is_read_by_its_place_in_the_file(theirs: Theirs) -> None:
    theirs.read({8: ("protobuf", PROTO), 9: ("json", "{}")})
    part = b"\x0a\x01\xff\x10\x01\x1a\x0c\x0a\x01a\x11\x00\x00\x00\x00\x00\x00\xf8\x3f"
    payload = b"\x0a\x03o-1\x10\xe2\x09\x22" + bytes([len(part)]) + part
    theirs.send(prefixed(payload, 8, (1,)))
    theirs.send(prefixed(b'{"order": "o-1", "cents": 7}', 9))
    assert theirs.waits() == []
    parts = ({"raw": "/w==", "kind": "BIG", "sizes": {"a": 1.5}},)
    assert theirs.seen == [Payment("o-1", 1250, "", parts), Payment("o-1", 7)]


def test_maps_of_protobuf_have_texts_as_keys() -> None:
    text = """syntax = "proto3";
    message M { map<int32, string> a = 1; map<bool, int32> b = 2; map<string, bytes> c = 3; }"""
    read = ForeignProtobuf(text, {}, "theirs")
    raw = b"\x0a\x05\x08\x05\x12\x01x\x12\x04\x08\x01\x10\x02\x1a\x06\x0a\x01k\x12\x01\xff"
    assert read.decode((0,), raw) == {"a": {"5": "x"}, "b": {"true": 2}, "c": {"k": "/w=="}}


def test_avro_of_others_may_refer_to_other_texts(theirs: Theirs) -> None:
    text = '{"type":"record","name":"P","fields":[{"name":"order","type":"acme.Id"},{"name":"cents","type":"acme.Cents"}]}'
    references = {
        "id": '{"type":"record","name":"acme.Id","fields":[{"name":"c","type":"acme.Cents"}]}',
        "cents": '{"type":"enum","name":"acme.Cents","symbols":["A","B"]}',
    }

    @dataclass
    class P:
        order: Any
        cents: str

    seen: list[P] = []
    topic = foreign(TOPIC, P, id="header:x-id", schemas=lambda _: ("avro", text, references))

    @theirs.service.on(topic)
    def take(tx: Any, p: P) -> None:
        seen.append(p)

    theirs.send(prefixed(b"\x02\x00", 7))
    assert theirs.waits() == []
    assert seen == [P({"c": "B"}, "A")]


@pytest.mark.parametrize(
    ("schemas", "value", "why"),
    [
        ({}, b"{}", "names no schema"),
        ({7: ("avro", "{")}, prefixed(b"", 7), "no JSON"),
        ({7: ("avro", "\ud800")}, prefixed(b"", 7), "no JSON"),
        ({7: ("avro", AVRO)}, prefixed(b"\x05", 7), "negative length"),
        ({7: ("avro", '"null"')}, prefixed(b"", 7), "got `null`"),
        ({7: ("protobuf", "message {")}, prefixed(b"", 7, (0,)), "schema 7"),
        ({7: ("protobuf", PROTO)}, prefixed(b"", 7, (5,)), "no record at"),
        ({7: ("protobuf", PROTO)}, prefixed(b"\x0b", 7, (1,)), "schema 7"),
        ({7: ("xml", "")}, prefixed(b"", 7), "expected avro"),
        ({8: ("avro", AVRO)}, prefixed(avro(), 7), "not known"),
    ],
)
def test_what_cannot_be_read_waits_with_its_reason(
    theirs: Theirs, schemas: Any, value: bytes, why: str
) -> None:
    theirs.read(schemas)
    theirs.send(value)
    (reason,) = theirs.waits()
    assert why in reason
    assert theirs.seen == []


@pytest.mark.parametrize("error", [UnknownSchema, Unreachable])
def test_an_event_waits_until_its_schema_is_known(theirs: Theirs, error: type[Exception]) -> None:
    asked = 0

    def schemas(id: Any) -> tuple[str, str]:
        nonlocal asked
        asked += 1
        if asked < 4:
            raise error("not now")
        return "avro", AVRO

    theirs.read(schemas)
    theirs.send(prefixed(avro(), 7))
    until(lambda: drain(theirs.service) == [] and bool(theirs.seen))
    assert theirs.seen == [PAID]
    assert asked == 4


def test_a_place_inside_framed_values_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no JSON to look into"):
        foreign(TOPIC, Payment, key="$.order", schemas={})


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with serving(f"sqlite:///{tmp_path}/registry.db") as server:
        yield server.url


def test_what_confluents_serializer_writes_to_kafka(
    tmp_path: Path, kafka_server: Kafka, topic: str, registry: str
) -> None:
    theirs = Theirs(tmp_path)
    kafka_server.create_topic(topic, 1)
    service = Service("billing", store=theirs.store, log=kafka_server.url)
    with RegistryClient(registry) as client:
        service.on(foreign(topic, Payment, key="key", schemas=client))(theirs.settle)
        producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
        with SchemaRegistryClient({"url": registry}) as confluents:
            context = SerializationContext(topic, MessageField.VALUE)
            value = AvroSerializer(confluents, AVRO)(DATUM, context)
        assert value is not None
        assert value[0] == 0
        producer.produce(topic, key="o-1", value=value)
        assert producer.flush(30) == 0
        until(lambda: drain(service) == [] and bool(theirs.seen))
    assert theirs.seen == [PAID]


def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait for what comes by itself."""
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends


@pytest.mark.parametrize("by_guid", [False, True], ids=["prefix", "header"])
@pytest.mark.parametrize("format", ["json", "avro", "protobuf"])
def test_what_we_write_is_read_by_confluents_deserializers(
    tmp_path: Path, registry: str, format: Any, *, by_guid: bool
) -> None:
    theirs = Theirs(tmp_path)
    with SchemaRegistryClient({"url": registry}) as confluents:
        made: Any = paid_class(format, None)
        text = {"json": json_text, "avro": avsc, "protobuf": proto}[format](schema_of(made))
        known = confluents.register_schema_full_response(
            f"{format}-value", Schema(text, format.upper())
        )
        cls = paid_class(format, UUID(known.guid) if by_guid else known.schema_id)
        theirs.service.on(cls)(theirs.settle)
        with closing(sqlite3.connect(theirs.store.removeprefix("sqlite:///"))) as tx:
            tx.execute("BEGIN")
            theirs.service.emit(tx, cls("o-1", 1250))
            tx.commit()
        assert theirs.waits() == []
        assert theirs.seen == [cls("o-1", 1250)]
        log = open_log(theirs.log)
        (record,) = everything(log, "paid")
        log.close()
        headers: Any = [one for one in record.headers if one[0] == HEADER]
        assert len(headers) == by_guid
        context = SerializationContext("paid", MessageField.VALUE, headers)
        if format == "protobuf":
            codec = ProtobufCodec(schema_of(made))
            read = ProtobufDeserializer(codec.cls, {"use.deprecated.format": False})
            found = read(record.value, context)
            assert (found.order, found.cents) == ("o-1", 1250)
        else:
            reads = {
                "json": lambda: JSONDeserializer(text),
                "avro": lambda: AvroDeserializer(confluents),
            }
            assert reads[format]()(record.value, context) == {"order": "o-1", "cents": 1250}


def paid_class(format: Any, id: int | UUID | None) -> Any:
    @event("paid.made", stream="paid", key="order", format=format, schema_id=id)
    @dataclass(frozen=True)
    class Paid:
        order: str
        cents: int

    return Paid
