"""Events read in the version that their class names, whichever they were written in."""

from __future__ import annotations

from typing import Any

from ..codec import decode, document_of, event_of
from ..codecs.events import EventReader, document_in
from ..envelope import JSON, KAFKA
from ..errors import DecodeFailed
from ..event import EventType
from ..ports import Record
from .chain import BAD, Lenses, declared
from .residue import read_residue


class Translator:
    """Reads events of a type in other versions than the one of its class."""

    def __init__(self, type: EventType, lenses: Lenses = declared) -> None:
        self.type = type
        self.lenses = lenses

    def __call__(self, version: int | None, record: Record) -> Any:
        """The event of a record that says this version, or none. Raises DecodeFailed."""
        cls, value, said = self.type.cls, record.value or b"", dict(record.headers)
        raw_content = said.get("content-type")
        content = JSON if raw_content is None else raw_content.decode("latin-1")
        if version is None:
            return EventReader(self.type)(content, record)
        translation = self.lenses.translation(self.type.type, version, self.type.version)
        if translation is None and self.lenses.look_again():
            translation = self.lenses.translation(self.type.type, version, self.type.version)
        if translation is None:
            raise self._unknown(version)
        if content == JSON:
            document = document_of(cls.__name__, value)
        else:
            document = document_in(content, value, self.type.type, version)
        if not isinstance(document, dict):
            return decode(cls, value)  # which says what is wrong
        raw = said.get(KAFKA.residue)
        if raw is not None:
            return event_of(cls, translation.with_residue(document, read_residue(raw))[0])
        try:
            return event_of(cls, translation.plain(document))  # without a call in between
        except BAD as error:
            raise translation.failed(error) from error

    def _unknown(self, version: int) -> DecodeFailed:
        name, mine = self.type.type, self.type.version
        deploy = "deploy me" if version > mine else "declare it"
        low, high = sorted((version, mine))
        return DecodeFailed(
            f"{name} came in version {version}",
            expected=f"version {mine}, or what leads there: evolve({name!r}, {low}, {high}, …)",
            hint=f"{deploy}: the event is kept; then oncebox redrive",
        )
