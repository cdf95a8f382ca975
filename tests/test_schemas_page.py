"""docs/schemas.md: the part about the lock is executed as it stands; its types are what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from msgspec import Struct as MsgspecStruct

from oncebox import event
from oncebox.schema.derive import schema_of
from oncebox.schema.text import type_text
from test_schema_check import Made, Repository, make

__all__ = ["make"]

PAGE = (Path(__file__).parents[1] / "docs" / "schemas.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MINE = PAGE[: PAGE.index("\n## ", PAGE.index("## What a change would break"))]

SERVICES = """
from contracts.orders import v1
from oncebox import Service

shop, billing = Service("shop"), Service("billing")

@billing.on(v1.OrderPlaced)
def owe(tx, placed): ...
"""


def blocks() -> Iterator[tuple[str, str]]:
    yield from BLOCK.findall(MINE)


def test_the_page_does_what_it_says(make: Made) -> None:
    repository: Repository = make("shop")
    repository.write("services.py", SERVICES)
    (repository.path / "contracts/orders/v1.py").unlink()
    told, codes = "", []
    for kind, text in blocks():
        if kind == "python":
            name = text.partition("\n")[0].removeprefix("# ")
            path = repository.path / name
            repository.write(name, (path.read_text() if path.exists() else "") + text)
        elif kind == "sh":
            for line in text.splitlines():
                command, _, remark = line.partition("#")
                assert command.startswith("oncebox schema ")
                done = repository.schema(*command.split()[2:])
                told = done.out + done.err
                codes.append((done.code, remark.strip()))
            if len(codes) == 1:
                repository.commit()
        elif kind == "toml":
            assert text in (repository.path / "oncebox.lock").read_text()
        else:
            assert text in told
    assert codes == [(0, ""), (3, "exit code 3"), (0, ""), (0, "fine")]


def test_every_rule_has_a_row() -> None:
    schemas = Path(__file__).parents[1] / "src" / "oncebox" / "schema"
    code = "".join((schemas / name).read_text() for name in ("compare.py", "check.py"))
    rules = {*re.findall(r'(?:rule=|Break\(\s*)"([a-z-]+)"', code), "narrowed", "type-changed"}
    assert len(rules) == 17
    assert {rule for rule in rules if f"`{rule}`" not in MINE} == set()


NAMES = """
from collections.abc import *
from dataclasses import *
from datetime import *
from decimal import Decimal
from enum import StrEnum
from typing import *
from uuid import UUID
from msgspec import *
from oncebox.schema import *

class Channel(StrEnum):
    WEB = "web"

class Line(Struct):
    cents: int

class Card(Struct, tag=True): ...
class Cash(Struct, tag=True): ...
"""


def rows() -> Iterator[tuple[str, str]]:
    for line in MINE.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) == 7 and cells[1].strip().startswith("`"):
            for code in re.findall(r"`([^`]+)`", cells[1]):
                yield code.replace("\\|", "|"), cells[2].strip().strip("`")


ROWS = list(rows())


def test_every_type_has_a_row() -> None:
    assert len(ROWS) == 23


@pytest.mark.parametrize(("code", "text"), ROWS)
def test_a_type_is_locked_as_its_row_says(code: str, text: str) -> None:
    names: dict[str, Any] = {}
    exec(NAMES, names)
    annotation, _, default = code.partition(" = ")
    fields: dict[str, Any] = {
        "__annotations__": {"x": eval(annotation, names)},
        "__module__": __name__,
    }
    if default:
        fields["x"] = eval(default, names)
    made = event("a.b", stream="a", key=None)(type("Made", (MsgspecStruct,), fields))
    (field,) = schema_of(made).record.fields
    if text == "absent = true":
        assert field.absent and fields["x"] is UNSET
    elif text == "its name":
        assert type_text(field.type) in ("Channel", "MadeX", "Line")
    else:
        assert type_text(field.type) == text
