"""The registry server, by the clients that Python programs use."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry import avro as avro_module
from confluent_kafka.schema_registry import json_schema as json_module
from confluent_kafka.schema_registry import protobuf as protobuf_module
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from schema_registry.client import SchemaRegistryClient as OtherClient
from schema_registry.client import schema as other_schema
from schema_registry.serializers.message_serializer import (
    AvroMessageSerializer,
    JsonMessageSerializer,
)

from engines.kafka import Kafka
from engines.postgres import Postgres
from oncebox.registry.calls import CALLS
from oncebox.schema.compat.proto_compile import Source, compile_all
from oncebox.schema.images.prototext import written
from registry_server import Server, serving

# Their constructors are known to no type checker.
AvroSerializer: Any = avro_module.AvroSerializer
AvroDeserializer: Any = avro_module.AvroDeserializer
JSONSerializer: Any = json_module.JSONSerializer
JSONDeserializer: Any = json_module.JSONDeserializer
ProtobufSerializer: Any = protobuf_module.ProtobufSerializer
ProtobufDeserializer: Any = protobuf_module.ProtobufDeserializer

ORDER = '{"type":"record","name":"Order","fields":[{"name":"id","type":"string"}]}'
LINES = (
    '{"type":"record","name":"Lines","fields":'
    '[{"name":"order","type":"Order"},{"name":"count","type":"int"}]}'
)

ADDRESS_PROTO = 'syntax = "proto3"; package shop; message Address { string street = 1; }'
ORDER_PROTO = """
syntax = "proto3";
package shop;
import "shop/address.proto";
import "google/protobuf/timestamp.proto";
message Order {
  map<string, int32> counts = 1;
  message Line { string sku = 1; optional int64 cents = 2; }
  repeated Line lines = 2;
  Address to = 3;
  google.protobuf.Timestamp at = 4;
  oneof paid { string card = 5; bool cash = 6; }
}
"""

ORDER_JSON = """{
  "$schema": "http://json-schema.org/draft-07/schema#", "title": "Order", "type": "object",
  "properties": {"id": {"type": "string"}, "to": {"$ref": "address.json"}}, "required": ["id"]
}"""
ADDRESS_JSON = """{
  "$schema": "http://json-schema.org/draft-07/schema#", "title": "Address", "type": "object",
  "properties": {"street": {"type": "string"}}
}"""


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    if request.param == "sqlite":
        with serving(f"sqlite:///{tmp_path_factory.mktemp('registry')}/r.db") as running:
            yield running
        return
    engine: Postgres = request.getfixturevalue("postgres_server")
    with engine.database() as url, serving(url) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with SchemaRegistryClient({"url": server.url}) as client:
        yield client


@pytest.fixture
def fresh(server: Server) -> Iterator[Any]:
    """Another client, that knows nothing yet."""
    with SchemaRegistryClient({"url": server.url}) as client:
        yield client


@pytest.fixture
def subject() -> str:
    return f"s-{secrets.token_hex(4)}"


def at(topic: str) -> SerializationContext:
    return SerializationContext(topic, MessageField.VALUE)


def test_what_the_client_can_ask_is_answered(client: Any, subject: str) -> None:
    id = client.register_schema(subject, Schema(ORDER, "AVRO"))
    client.clear_caches()
    assert client.get_schema(id).schema_str == ORDER
    latest = client.get_latest_version(subject)
    assert (latest.version, latest.schema_id) == (1, id)
    assert client.get_schema_by_guid(latest.guid).schema_str == ORDER
    assert client.lookup_schema(subject, Schema(ORDER, "AVRO")).version == 1
    assert subject in client.get_subjects() and client.get_versions(subject) == [1]
    assert subject in client.get_subjects_by_schema_id(id)
    assert {v.subject for v in client.get_schema_versions(id)} >= {subject}
    assert client.get_schema_types() == ["AVRO", "JSON", "PROTOBUF"]
    broken = Schema(ORDER.replace('"string"', '"long"'), "AVRO")
    assert not client.test_compatibility(subject, broken)
    assert not client.test_compatibility_all_versions(subject, broken, verbose=True)
    with pytest.raises(SchemaRegistryError) as refusal:
        client.register_schema(subject, broken)
    assert refusal.value.http_status_code == 409
    assert client.set_compatibility(subject, "NONE") == {"compatibility": "NONE"}
    assert client.get_compatibility(subject) == "NONE"
    assert client.get_config(subject).compatibility_level == "NONE"
    client.delete_config(subject)
    assert client.update_mode(subject, "READONLY") == "READONLY"
    assert (client.get_mode(subject), client.get_global_mode()) == ("READONLY", "READWRITE")
    client.delete_mode(subject)
    assert client.get_contexts() == ["."]
    assert client.delete_version(subject, 1) == 1
    assert client.delete_version(subject, 1, permanent=True) == 1
    with pytest.raises(SchemaRegistryError) as refusal:
        client.get_versions(subject)
    assert refusal.value.error_code == 40401


def test_avro_with_a_reference(client: Any, fresh: Any, subject: str) -> None:
    client.register_schema(f"{subject}-order", Schema(ORDER, "AVRO"))
    refers = [SchemaReference("Order", f"{subject}-order", 1)]
    write = AvroSerializer(client, Schema(LINES, "AVRO", refers))
    read = AvroDeserializer(fresh)
    event = {"order": {"id": "o-1"}, "count": 3}
    assert read(write(event, at(subject)), at(subject)) == event


def test_json_with_a_reference(client: Any, fresh: Any, subject: str) -> None:
    client.register_schema(f"{subject}-address", Schema(ADDRESS_JSON, "JSON"))
    refers = [SchemaReference("address.json", f"{subject}-address", 1)]
    write = JSONSerializer(Schema(ORDER_JSON, "JSON", refers), client)
    read = JSONDeserializer(None, schema_registry_client=fresh)
    event = {"id": "o-1", "to": {"street": "Long Lane"}}
    assert read(write(event, at(subject)), at(subject)) == event


def order_class(package: str) -> Any:
    """The class of an order, from .proto files as an application has them."""
    texts = [text.replace("shop", package) for text in (ADDRESS_PROTO, ORDER_PROTO)]
    address = f"{package}/address.proto"
    (raw,) = compile_all([Source(texts[1], ((address, texts[0]),), "order.proto")])
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(raw).file:
        pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Order"))


def test_protobuf_with_imports_and_maps(client: Any, fresh: Any, subject: str) -> None:
    cls = order_class(f"p{subject[2:]}")
    order = cls(counts={"a": 1}, lines=[{"sku": "x", "cents": 5}], to={"street": "Long"}, card="4")
    order.at.FromSeconds(1_700_000_000)
    for kind in (order, order.lines[0]):  # a message inside another has its place behind a map's
        write = ProtobufSerializer(type(kind), client, {"use.deprecated.format": False})
        read = ProtobufDeserializer(type(kind), {"use.deprecated.format": False}, fresh)
        assert read(write(kind, at(subject)), at(subject)) == kind
    (address,) = [name for name in client.get_subjects() if name == f"p{subject[2:]}/address.proto"]
    text = client.get_latest_version(address).schema.schema_str
    assert "message Address {\n  string street = 1;\n}" in text, "people read text"


def test_the_other_client(server: Server, subject: str) -> None:
    client: Any = OtherClient(server.url)
    avro = other_schema.AvroSchema(ORDER)
    id = client.register(subject, avro)
    assert client.get_by_id(id).raw_schema["name"] == "Order"
    assert client.check_version(subject, avro).schema_id == id
    assert client.test_compatibility(subject, other_schema.AvroSchema(ORDER))
    assert client.update_compatibility("FULL", subject)
    assert client.get_compatibility(subject) == "FULL"
    assert client.get_versions(subject) == [1]
    message = AvroMessageSerializer(client)
    raw = message.encode_record_with_schema(f"{subject}-avro", avro, {"id": "o-1"})
    assert AvroMessageSerializer(OtherClient(server.url)).decode_message(raw) == {"id": "o-1"}
    json_serializer = JsonMessageSerializer(client)
    json_schema = other_schema.JsonSchema(ADDRESS_JSON)
    raw = json_serializer.encode_record_with_schema(f"{subject}-json", json_schema, {"street": "L"})
    assert json_serializer.decode_message(raw) == {"street": "L"}
    assert client.delete_version(subject, 1) == 1
    assert client.delete_subject(f"{subject}-avro") == [1]


def test_the_same_schema_at_once_has_one_id(server: Server, subject: str) -> None:
    """Into several subjects, as services do that start together."""
    texts = [ORDER.replace("Order", f"{name}{subject[2:]}") for name in ("A", "B")]

    with ThreadPoolExecutor(16) as pool, httpx.Client(base_url=server.url) as http:

        def register(n: int) -> tuple[int, int]:
            path, body = f"/subjects/{subject}-{n % 4}/versions", {"schema": texts[n % 2]}
            return n % 2, http.post(path, json=body).raise_for_status().json()["id"]

        found = set(pool.map(register, range(48)))
    assert len(found) == 2 and len({id for _, id in found}) == 2


def test_records_go_through_kafka(
    client: Any, fresh: Any, kafka_server: Kafka, topic: str, server: Server
) -> None:
    kafka_server.create_topic(topic, 1)
    write, read = AvroSerializer(client, ORDER), AvroDeserializer(fresh)
    producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
    producer.produce(topic, write({"id": "o-1"}, at(topic)))
    assert producer.flush(30) == 0
    settings = {"group.id": topic, "auto.offset.reset": "earliest"}
    consumer = Consumer({"bootstrap.servers": kafka_server.bootstrap, **settings})
    consumer.subscribe([topic])
    try:
        record = consumer.poll(60)
    finally:
        consumer.close()
    assert record is not None
    assert read(record.value(), at(topic)) == {"id": "o-1"}
    assert client.get_subjects_by_schema_id(client.get_latest_version(f"{topic}-value").schema_id)


# ---- descriptors as text

PROTO2 = r"""
syntax = "proto2";
message P {
  required string a = 1 [default = "q\"u\n\\x\303\251"];
  optional bytes b = 2 [default = "\001\"z\'\\\377"];
  optional double d = 3 [default = -inf]; optional E e = 4 [default = Y];
  optional bool g = 6 [default = true]; repeated int32 p = 7 [packed = true];
  extensions 100 to 199, 1000 to max; reserved 20, 30 to 40; reserved "gone";
  extend P { optional int32 inner = 101; }
}
enum E { option allow_alias = true; X = -1; Y = 2; Z = 2 [deprecated = true]; reserved 9 to max; }
extend P { repeated E exts = 102; }
service S { rpc Up(stream P) returns (P) { option deprecated = true; } }
"""
EDITION = """
edition = "2023";
option features.field_presence = IMPLICIT;
message P {
  string a = 1 [features.field_presence = EXPLICIT, json_name = "other"]; reserved foo;
  enum E { option features.enum_type = CLOSED; A = 1; reserved b; }
}
"""


def test_a_descriptor_becomes_a_text_that_means_the_same() -> None:
    def compiled(*texts: str) -> list[Any]:
        sources = [Source(text, (("shop/address.proto", ADDRESS_PROTO),), "x") for text in texts]
        return [
            descriptor_pb2.FileDescriptorSet.FromString(raw).file[-1]
            for raw in compile_all(sources)
        ]

    before = compiled(ORDER_PROTO, PROTO2, EDITION)
    assert compiled(*map(written, before)) == before


def test_the_page_names_every_call() -> None:
    served: dict[str, set[str]] = {}
    for method, path, _ in CALLS:
        served.setdefault(path, set()).add(method)
    page = (Path(__file__).parents[1] / "docs" / "schemas.md").read_text()
    rows = re.findall(r"^\| `(/[^`]*)` \| ([A-Z ]+) \|", page, re.MULTILINE)
    assert {path: set(methods.split()) for path, methods in rows} == served
