"""Residue: what a translation loses, beside the event, and put back on the way back.

An entry belongs to a step: the *witness* is the value that the step made, and what was *lost* the
value that it made it of. On the way back the lost value is put back only where the witness still is
there: where somebody has changed it, the change wins. It travels in one header, never in the data,
which closed schemas would refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from hashlib import blake2b
from typing import Any

from msgspec import UNSET, MsgspecError, json

from ..errors import DecodeFailed

RESIDUE_BYTES_MAX = 4096
"""The header, at most. What does not fit is lost, largest entries first: defaults are put back."""

Entry = tuple[Any, Any]
"""Witness and lost value; UNSET: there was none."""

Residue = dict[str, Entry]
"""Entries by the name of their step, `2.0/3`: the first step from version 2, fourth element."""


def write_residue(residue: Residue) -> str | None:
    """The header of a residue; None where nothing was lost."""
    if not residue:
        return None
    entries = [json.encode([id, *_known(entry)]) for id, entry in residue.items()]
    while entries and sum(map(len, entries)) + len(entries) + 1 > RESIDUE_BYTES_MAX:
        entries.remove(max(entries, key=len))
    return f"[{b','.join(entries).decode()}]" if entries else None


def _known(entry: Entry) -> tuple[Any, ...]:
    return entry if entry[1] is not UNSET else entry[:1]


def read_residue(raw: bytes) -> Residue:
    """The residue of a header. Raises DecodeFailed."""
    if len(raw) > RESIDUE_BYTES_MAX or raw.count(b"[") + raw.count(b"{") > RESIDUE_BYTES_MAX // 8:
        raise DecodeFailed("a residue that is too large", expected=f"{RESIDUE_BYTES_MAX} bytes")
    try:
        entries = json.decode(raw, type=list[tuple[Any, ...]])
        return {_id(entry): (entry[1], entry[2] if len(entry) > 2 else UNSET) for entry in entries}
    except (MsgspecError, UnicodeDecodeError, RecursionError, IndexError, TypeError) as error:
        what = f"residue {raw[:60]!r} cannot be read: {error}"
        raise DecodeFailed(what, expected="[[step, witness, lost], …]") from None


def _id(entry: tuple[Any, ...]) -> str:
    if not isinstance(entry[0], str) or not 2 <= len(entry) <= 3:
        raise TypeError("an entry that is none")
    return entry[0]


def fingerprint(value: Any) -> str:
    """A witness for what is too large to carry: BLAKE2b (RFC 7693), 64 bits, of sorted JSON."""
    return blake2b(json.encode(value, order="sorted"), digest_size=8).hexdigest()


# ---- what compiled steps call


def through(
    given: Residue,
    lost: Residue,
    id: str,
    value: Any,
    there: Callable[[Any], Any],
    back: Callable[[Any], Any],
) -> Any:
    """What a step makes of a value: what was lost, where the witness still is there; else what
    `there` makes of it, and if that does not lead back, the value is kept.
    """
    entry = given.pop(id, None)
    if entry is not None and entry[1] is not UNSET and same(entry[0], _witness(value)):
        return entry[1]
    made = there(deepcopy(value))
    try:
        leads_back = same(back(deepcopy(made)), value)
    except (ValueError, TypeError, LookupError, ArithmeticError):
        leads_back = False
    if not leads_back:
        lost[id] = _witness(made), deepcopy(value)
    return made


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same in JSON: -0.0 and 0, 3 and 3.0 are equal, but of another
    fingerprint, and the residue of a field beside them would not be put back.
    """
    if one.__class__ is str or one is None or one != other:
        return bool(one == other)
    return json.encode(one, order="sorted") == json.encode(other, order="sorted")


def _witness(value: Any) -> Any:
    return fingerprint(value) if value.__class__ is dict else deepcopy(value)


def add_back(
    given: Residue, id: str, record: dict[str, Any], name: str, default: Any, inside: bool
) -> None:
    """A field that is added: with what it was, if that is known. `inside` an element of a list,
    only if the element is still the same: others may have moved.
    """
    entry = given.pop(id, None)
    if name in record:
        return
    if entry is not None and (not inside or entry[0] == fingerprint(record)):
        default = entry[1]
    if default is not UNSET:
        record[name] = default


def note_gone(
    lost: Residue, id: str, record: dict[str, Any], name: str, default: Any, inside: bool
) -> None:
    """A field that is removed: kept, where it is not what would be added on the way back; that it
    was left out, too.
    """
    value = record.pop(name, UNSET)
    if value is not default and not same(value, default):
        lost[id] = fingerprint(record) if inside else None, value
