"""Protobuf's wire format, walked for its bounds: how many values a payload asks for, how deep.

Source: protobuf.dev, "Encoding". Nothing is kept; a walk stops at the first bound that is passed.
"""

from __future__ import annotations

from typing import Any

from ..errors import DecodeFailed
from .bounds import DEPTH_MAX, ELEMENTS_MAX

VARINT, FIXED64, LENGTH, START, END, FIXED32 = range(6)
_TYPE_MESSAGE, _TYPE_GROUP = 11, 10
_TEXTS = (9, 12)
_WIDTHS = {1: 8, 6: 8, 16: 8, 2: 4, 7: 4, 15: 4}
"""Bytes of a number that has always as many, by type."""
_CONTINUED = bytes(range(128, 256))
"""Bytes of a variable-length number behind which it goes on."""


class Layout:
    """What of a message the walk has to know: which of its fields are messages or may be packed
    numbers (of how many bytes; 0: it varies), and its weight.
    """

    __slots__ = ("packed", "parts", "recursive", "weight", "weight_max")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        """How many values it is where it stands: room is made for each of its fields."""
        self.weight_max = weight
        """The same of the heaviest message inside it."""
        self.parts: dict[int, Layout] = {}
        self.packed: dict[int, int] = {}
        self.recursive = False


def layout_of(descriptor: Any) -> Layout:
    """The layout of a message, and of all that it may hold."""
    known: dict[str, Layout] = {}

    def of(message: Any) -> Layout:
        found = known.get(message.full_name)
        if found is None:
            found = known[message.full_name] = Layout(1 + len(message.fields))
            for field in message.fields:
                if field.type in (_TYPE_MESSAGE, _TYPE_GROUP):
                    found.parts[field.number] = of(field.message_type)
                elif field.type not in _TEXTS:
                    found.packed[field.number] = _WIDTHS.get(field.type, 0)
        return found

    root = of(descriptor)
    root.weight_max = max(layout.weight for layout in known.values())
    root.recursive = any(_reaches(layout, layout) for layout in known.values())
    return root


def _reaches(start: Layout, goal: Layout) -> bool:
    seen: set[int] = set()
    waiting = [*start.parts.values()]
    while waiting:
        layout = waiting.pop()
        if layout is goal:
            return True
        if id(layout) not in seen:
            seen.add(id(layout))
            waiting += layout.parts.values()
    return False


def check_wire(label: str, raw: bytes, layout: Layout) -> None:
    """Raise DecodeFailed for a payload of too many values or levels, or that is cut off."""
    try:
        what = _walked(raw, layout)
    except IndexError:
        what = "ends early"
    if what:
        raise DecodeFailed(
            f"{label}: {what}",
            expected=f"Protobuf of at most {ELEMENTS_MAX} values and {DEPTH_MAX} levels",
        )


def _walked(raw: bytes, layout: Layout) -> str:
    """What is wrong with it, if anything."""
    pos, end, left = 0, len(raw), ELEMENTS_MAX - layout.weight
    outer: list[tuple[int, Layout]] = []
    while left >= 0:
        while pos >= end:
            if pos > end:
                return "ends early"
            if not outer:
                return ""
            end, layout = outer.pop()
        tag, pos = varint(raw, pos)
        left -= 1
        kind = tag & 7
        if kind == VARINT:
            _, pos = varint(raw, pos)
        elif kind == FIXED64:
            pos += 8
        elif kind == FIXED32:
            pos += 4
        elif kind == LENGTH:
            size, pos = varint(raw, pos)
            if pos + size > end:
                return "ends early"
            number = tag >> 3
            part = layout.parts.get(number)
            if part is None:
                if number in layout.packed:
                    width = layout.packed[number]
                    packed = raw[pos : pos + size]
                    left -= size // width if width else len(packed.translate(None, _CONTINUED))
                pos += size
                continue
            left -= part.weight
            outer.append((end, layout))
            if len(outer) > DEPTH_MAX:
                return "too deep"
            end, layout = pos + size, part
        elif kind not in (START, END):  # groups: no schema of ours has any, and upb bounds them
            return f"wire type {kind}"
    return "too many values"


def varint(raw: bytes, pos: int) -> tuple[int, int]:
    """A number of ten bytes at most, and where it ends. Raises IndexError."""
    byte = raw[pos]
    pos += 1
    if byte < 128:
        return byte, pos
    number, shift = byte & 127, 7
    while shift < 70:
        byte = raw[pos]
        pos += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, pos
        shift += 7
    raise IndexError
