"""From class to schema: what the class writes is valid in it, what is valid the class reads, and
what has no image is refused with its place.
"""

from __future__ import annotations

import enum
import itertools
from collections import OrderedDict
from dataclasses import InitVar, dataclass, field, make_dataclass
from datetime import datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID, uuid4

import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType, json

from every_type import ALL, AllDataclass, AllPydantic, AllStruct, Card
from oncebox import event
from oncebox.codecs.payload import decode, encode
from oncebox.errors import ConfigurationError, SchemaError
from oncebox.schema import Digits
from oncebox.schema.derive import schema_of
from oncebox.schema.model import Enum, Named, Schema, Union
from oncebox.schema.text import read_type, type_text
from oncebox.schema.valid import problems
from oncebox.testing.documents import documents

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
each_class = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


@each_class
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(data=st.data())
def test_classes_and_schemas_agree(cls: type, data: st.DataObject) -> None:
    schema = schema_of(cls)
    document = data.draw(documents(schema))
    assert list(problems(schema, document)) == []
    read: Any = decode(cls, json.encode(document))
    written = json.decode(encode(read))
    assert list(problems(schema, written)) == []
    assert decode(cls, json.encode(written)) == read


def test_what_an_event_says_of_its_fields() -> None:
    schema = schema_of(AllStruct)
    fields = {field.name: field for field in schema.record.fields}
    assert (schema.type, schema.version, schema.stream, schema.key) == (
        "all.struct",
        1,
        "all",
        ("id",),
    )
    assert fields["customerNo"].pii
    text = fields["text"]
    assert (text.pii, text.deprecated, text.doc) == (True, "use `note`", "What they wrote.")
    assert [f.number for f in schema.record.fields] == list(range(1, len(fields) + 1))
    assert schema.record.omits
    assert not schema_of(AllDataclass).record.omits
    whole = schema_of(AllPydantic).record.fields[0]
    assert (whole.name, whole.doc, type_text(whole.type)) == (
        "wholeNumber",
        "How many.",
        "int(0..)",
    )


def test_absent_and_null_are_kept_apart() -> None:
    schema = schema_of(AllDataclass)
    reason = next(f for f in schema.record.fields if f.name == "reason")
    assert reason.absent
    assert type_text(reason.type) == "str?"
    note = next(f for f in schema_of(AllPydantic).record.fields if f.name == "note")
    assert (note.absent, type_text(note.type)) == (True, "str")


def test_an_enum_knows_what_readers_take_for_unknown_symbols() -> None:
    definitions = schema_of(AllDataclass).definitions
    carrier, level = definitions["Carrier"], definitions["AllDataclassLevel"]
    assert isinstance(carrier, Enum) and isinstance(level, Enum)
    assert (carrier.default, level.default) == ("other", UNSET)


@pytest.mark.parametrize("cls", [AllDataclass, AllPydantic])
def test_a_set_has_one_form_as_a_default(cls: type) -> None:
    """Python's order of strings in a set is another in every process."""
    fields = {field.name: field for field in schema_of(cls).record.fields}
    assert fields["kinds"].default == ["a", "b"]


def test_a_key_is_called_as_in_documents() -> None:
    @event("a.b", stream="a", key="order_id")
    class Renamed(Struct, rename="camel"):
        order_id: str

    assert schema_of(Renamed).key == ("orderId",)


def test_types_have_a_text() -> None:
    texts = {
        type_text(f.type)
        for cls in ALL
        for d in schema_of(cls).definitions.values()
        for f in getattr(d, "fields", ())
    }
    assert len(texts) > 25
    assert {type_text(read_type(text)) for text in texts} == texts
    for wrong in (
        "",
        "int(",
        "list[int",
        "text(1)",
        "decimal(1)",
        "?",
        "str ?",
        "map",
        "[str]",
        "?" * 200,
    ):
        with pytest.raises(SchemaError, match="is no type"):
            read_type(wrong)


# ---- defaults


@dataclass(frozen=True)
class Point:
    x: int = 0


class Plain:
    """No record."""


@event("a.b", stream="a", key=None)
@dataclass
class Defaulted:
    many: list[int] = field(default_factory=lambda: [1])
    table: dict[str, list[int]] = field(default_factory=dict)
    some: set[str] = field(default_factory=set)


class Filled(Struct):
    many: list[int] = []


@event("a.c", stream="a", key=None)
class DefaultedStruct(Struct):
    many: list[int] = []
    table: dict[str, list[int]] = {}
    some: set[str] = set()
    inner: Filled = field(default_factory=Filled)


class AllModel(pydantic.BaseModel):
    many: list[int] = [1]


@event("a.d", stream="a", key=None)
class DefaultedModel(pydantic.BaseModel):
    many: list[int] = [1]
    table: dict[str, list[int]] = {"a": [1]}
    some: set[str] = set()
    shared: AllModel = pydantic.Field(default_factory=AllModel)


@pytest.mark.parametrize("cls", [Defaulted, DefaultedModel])
def test_a_default_that_was_decoded_is_nobody_elses(cls: type[Any]) -> None:
    before = schema_of(cls)
    first = decode(cls, b"{}")
    first.many.append(2)
    first.table["x"] = [2]
    first.some.add("x")
    if cls is DefaultedModel:
        first.shared.many.append(2)
        first.table["a"].append(2)
    assert list(problems(before, json.decode(encode(decode(cls, b"{}"))))) == []
    assert encode(decode(cls, b"{}")) == encode(decode(cls, b"{}"))
    assert decode(cls, b"{}") != first
    assert schema_of(cls) == before
    assert {f.name: f.default for f in before.record.fields} == json.decode(
        encode(decode(cls, b"{}"))
    )


@dataclass(eq=False)
class Mutable:
    x: int = 0


ONE = Mutable()
COUNTER = itertools.count()

T = TypeVar("T")


@dataclass
class Box(Generic[T]):
    value: T


class Number(enum.IntEnum):
    ONE = 1


class Bare(Struct):
    x: int = 0


class Tagged(Struct, tag=True):
    x: int = 0


class Positional(Struct, array_like=True):
    x: int = 0


class Closed(Struct, forbid_unknown_fields=True):
    x: int = 0


class Model(pydantic.BaseModel):
    x: int = 0


def dataclass_with(type: Any, **more: Any) -> type:
    made = make_dataclass("Made", [("id", str), ("x", type, field(**more, kw_only=True))])
    return event("a.made", stream="a", key="id")(made)


DEEP: Any = int
for _ in range(60):
    DEEP = list[DEEP]

REFUSED: list[tuple[Any, str, str]] = [
    (DEEP, "too deep", "at most 50 lists"),
    ({1: 2}, "{1: 2}", "bool, int"),
    (Any, "Any", "bool, int"),
    (object, "object", "bool, int"),
    (complex, "complex", "bool, int"),
    (datetime, "without a zone", "knows its zone"),
    (Annotated[datetime, Meta(tz=False)], "without a zone", "knows its zone"),
    (Annotated[time, Meta(tz=True)], "time with a zone", "without one"),
    (Decimal, "Decimal of any size", "Digits"),
    (Annotated[Decimal, Digits(2, 3)], "Decimal of 2 digits, scale 3", "fewer behind"),
    (Annotated[int, Meta(ge=0, le=2**64)], "the bound 18446744073709551616", "64 bits"),
    (Annotated[int, Meta(ge=5, le=4)], "an int from 5 to 4", "one value at least"),
    (dict[int, str], "dict[int, str]", "dict[str, …]"),
    (dict, "dict", "dict[str, X]"),
    (list, "list", "list[X]"),
    (OrderedDict[str, int], "OrderedDict", "list[X]"),
    (tuple[int, str], "tuple[int, str]", "of one type"),
    (tuple[()], "tuple[()]", "of one type"),
    (int | str, "int | str", "records with a tag"),
    (Bare | Card, "Bare | Card", "records with a tag"),
    (Number, "Number, an enum of int", "enum of strings"),
    (Literal[1, 2], "Literal[1, 2]", "strings"),
    (list[int | UnsetType], "absent within a value", "UNSET only"),
    (Box[int], "Box[int]", "list[X]"),
    (Positional, "array_like", "every reader understands"),
    (Closed, "forbid_unknown_fields", "every reader understands"),
    (Model, "read by pydantic", "classes that msgspec reads"),
    (bytearray, "bytearray", "bool, int"),
]


@pytest.mark.parametrize(("type", "found", "expected"), REFUSED, ids=lambda v: str(v)[:30])
def test_what_has_no_image_is_refused(type: Any, found: str, expected: str) -> None:
    inside: Any = None if type == tuple[()] or isinstance(type, dict) else list[type] | None
    for annotation, default in ((type, {}), (inside, {"default": None})):
        if annotation is not None:
            with pytest.raises(SchemaError) as raised:
                schema_of(dataclass_with(annotation, **default))
            error = raised.value
            assert "a.made 1: " in error.what and found in error.what
            assert "Made.x" in error.what or type in (Positional, Closed, Model)
            assert error.expected is not None and expected in error.expected


@pytest.mark.parametrize(
    ("type", "more", "found"),
    [
        (UUID, {"default_factory": uuid4}, "different at every call"),
        (int, {"default_factory": partial(next, COUNTER)}, "different at every call"),
        (Mutable, {"default": ONE}, "one object as everybody's default"),
        (Mutable, {"default_factory": lambda: ONE}, "one object as everybody's default"),
        (list[int], {"default_factory": lambda: 1 / 0}, "a default that fails: division by zero"),
        (int, {"default": None}, "default of Made.x does not fit"),
        (Annotated[int, Meta(ge=1)], {"default": 0}, "default of Made.x does not fit"),
        (list[int], {"default_factory": lambda: [1, "2"]}, "default of Made.x[1] does not fit"),
        (int, {"default": object()}, "Made.x: its default cannot be written"),
        (int | UnsetType, {"default": 5}, "possibly absent, without = UNSET"),
        (int | UnsetType, {}, "possibly absent, without = UNSET"),
    ],
)
def test_defaults_that_are_refused(type: Any, more: Any, found: str) -> None:
    with pytest.raises(SchemaError) as raised:
        schema_of(dataclass_with(type, **more))
    assert found in str(raised.value)


class Endless(Struct):
    next: Endless


def model(**fields: Any) -> type:
    config: Any = fields.pop("config", None)
    made: type = pydantic.create_model("Made", __config__=config, **fields)
    return event("a.made", stream="a", key=None)(made)


class Computing(pydantic.BaseModel):
    x: int = 0

    @pydantic.computed_field
    def twice(self) -> int:
        return 2 * self.x


class Writing(pydantic.BaseModel):
    x: int = 0

    @pydantic.field_serializer("x")
    def text(self, value: int) -> str:
        return str(value)


@dataclass
class Seeded:
    seed: InitVar[int]
    x: int = 0


class Ways(str, enum.Enum):  # noqa: UP042 - whose str() is not its value
    CARD = "card"
    CASH = "cash"


class ByCard(pydantic.BaseModel):
    way: Literal[Ways.CARD] = Ways.CARD


class ByCash(pydantic.BaseModel):
    way: Literal[Ways.CASH] = Ways.CASH


def test_a_tag_that_an_enum_names_is_its_text() -> None:
    made = model(x=(ByCard | ByCash, pydantic.Field(discriminator="way")))
    union = schema_of(made).definitions["MadeX"]
    assert isinstance(union, Union)
    assert [f"{member.tag}" for member in union.members] == ["card", "cash"]


Shouted = Annotated[str, pydantic.PlainSerializer(lambda text: text.upper())]


READ_BY_NAME = {"validate_by_alias": False, "validate_by_name": True}


@pytest.mark.parametrize(
    ("cls", "found"),
    [
        (lambda: event("a.b", stream="a", key=None)(Tagged), "Tagged is a tagged Struct"),
        (lambda: event("a.b", stream="a", key=None)(Endless), "Endless has to hold itself"),
        (lambda: event("a.b", stream="a", key=None)(Plain), "Plain is no record"),
        (lambda: model(x=(bytes, b"")), "Made.x is bytes"),
        (lambda: model(x=(timedelta, ...)), "Made.x is a timedelta of pydantic"),
        (lambda: model(x=(datetime, ...)), "may be without a zone"),
        (lambda: model(x=(Computing, ...)), "declared with twice (computed_field)"),
        (lambda: model(x=(Writing, ...)), "declared with text (field_serializer)"),
        (lambda: model(x=(Shouted, ...)), "Made.x is written by PlainSerializer"),
        (lambda: model(x=(Bare, ...)), "read by msgspec"),
        (lambda: model(x=(int, ...), config={"extra": "forbid"}), 'declared with extra="forbid"'),
        (lambda: model(x=(int, ...), config={"extra": "allow"}), 'declared with extra="allow"'),
        (
            lambda: model(x=(float, ...), config={"ser_json_inf_nan": "strings"}),
            "declared with ser_json_inf_nan='strings'",
        ),
        (
            lambda: model(x=(int, pydantic.Field(validation_alias="a", serialization_alias="b"))),
            "written as 'b' and read as 'a'",
        ),
        (
            lambda: model(x=(int, pydantic.Field(alias="b")), config=READ_BY_NAME),
            "written as 'b' and read as 'x'",
        ),
        (lambda: model(x=(int, pydantic.Field(exclude=True))), "Made.x is left out"),
        (lambda: model(x=(pydantic.Json[int], ...)), "Made.x is text that holds JSON"),
        (lambda: event("a.b", stream="a", key=None)(Seeded), "declared with seed: InitVar"),
        (lambda: model(x=(Model | Computing, ...)), "records with a tag"),
    ],
)
def test_classes_that_are_refused(cls: Any, found: str) -> None:
    with pytest.raises((SchemaError, pydantic.errors.PydanticSchemaGenerationError)) as raised:
        schema_of(cls())
    if isinstance(raised.value, SchemaError):
        assert found in str(raised.value)


def test_names_are_told_apart() -> None:
    other = make_dataclass("Card", [("x", int)])
    both = make_dataclass("Both", [("a", other), ("b", make_dataclass("Card", [("y", int)]))])
    with pytest.raises(SchemaError, match=r"Both\.b is a second Card"):
        schema_of(event("a.b", stream="a", key=None)(both))
    local = make_dataclass("date", [("x", int)])
    with pytest.raises(SchemaError, match="called 'date'"):
        schema_of(event("a.b", stream="a", key=None)(local))


def test_annotations_that_lead_nowhere() -> None:
    class Lost(Struct):
        x: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(SchemaError, match="Lost is not readable: name 'Nowhere'"):
        schema_of(event("a.b", stream="a", key=None)(Lost))


def test_only_event_classes_have_a_schema() -> None:
    with pytest.raises(ConfigurationError, match="Bare is not an event class"):
        schema_of(Bare)


def test_a_record_that_holds_itself() -> None:
    schema: Schema = schema_of(AllPydantic)
    assert Named("Node") in {f.type for f in schema.record.fields}
