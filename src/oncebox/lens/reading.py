"""Events read in the version that their class names, whichever they were written in."""

from __future__ import annotations

from typing import Any

from ..codec import decode, event_of
from ..codecs.events import EventReader, document_in
from ..envelope import JSON, KAFKA
from ..errors import DecodeFailed
from ..event import EventType
from ..ports import Record
from .chain import Lenses, Translation, declared
from .residue import read_residue


class Translator:
    """Reads events of a type in other versions than the one of its class."""

    def __init__(self, type: EventType, lenses: Lenses = declared) -> None:
        self.type = type
        self.lenses = lenses

    def __call__(self, version: int | None, record: Record) -> Any:
        """The event of a record that says this version, or none. Raises DecodeFailed."""
        cls, value = self.type.cls, record.value or b""
        if version is None:
            return EventReader(self.type)(_content(record), value)
        translation = self.lenses.translation(self.type.type, version, self.type.version)
        if translation is None and self.lenses.look_again():
            translation = self.lenses.translation(self.type.type, version, self.type.version)
        if translation is None:
            raise self._unknown(version)
        document = document_in(_content(record), value, self.type.type, version)
        if not isinstance(document, dict):
            return decode(cls, value)  # which says what is wrong
        return event_of(cls, translated(translation, document, record))

    def _unknown(self, version: int) -> DecodeFailed:
        name, mine = self.type.type, self.type.version
        deploy = "deploy me" if version > mine else "declare it"
        low, high = sorted((version, mine))
        return DecodeFailed(
            f"{name} came in version {version}",
            expected=f"version {mine}, or what leads there: evolve({name!r}, {low}, {high}, …)",
            hint=f"{deploy}: the event is kept; then oncebox redrive",
        )


def _content(record: Record) -> str:
    raw = next((value for name, value in record.headers if name == "content-type"), None)
    return JSON if raw is None else raw.decode("latin-1")


def translated(translation: Translation, document: dict[str, Any], record: Record) -> Any:
    """A record's document in the other version, with what was lost before, if it travels along."""
    raw = next((value for name, value in record.headers if name == KAFKA.residue), None)
    if raw is None:
        return translation(document)
    return translation.with_residue(document, read_residue(raw))[0]
