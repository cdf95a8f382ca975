"""What an annotation can say of a field beyond its type: `Annotated[str, Tag(pii=True)]`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, NamedTuple

from msgspec import Meta


class Tag(NamedTuple):
    """Personal data or not, why and since when not to use it, what it means; for readers of the
    schema. Changes of it break nobody.
    """

    pii: bool = False
    deprecated: str = ""
    doc: str = ""


class Digits(NamedTuple):
    """Of a Decimal: at most `precision` digits, `scale` of them behind the point."""

    precision: int
    scale: int


Aware = Annotated[datetime, Meta(tz=True)]
"""A moment: a datetime that knows its zone, and that is checked for it. (In pydantic's classes:
`pydantic.AwareDatetime`.)"""
