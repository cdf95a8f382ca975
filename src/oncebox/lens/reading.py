"""Events read in the version that their class names, whichever they were written in."""

from __future__ import annotations

from typing import Any

from ..codecs.events import EventReader, document_in
from ..codecs.payload import document_of, event_of
from ..envelope import JSON, KAFKA
from ..errors import DecodeFailed
from ..event import EventType
from ..ports import Record
from .chain import BAD, Lenses, Translation, declared
from .residue import read_residue

PLAIN_HEADERS = 7
"""As many as an event has that carries nothing rare: no residue, for one."""


class Translator:
    """Reads events of a type in other versions than the one of its class."""

    def __init__(self, type: EventType, lenses: Lenses = declared) -> None:
        self.type = type
        self.lenses = lenses
        self._known: dict[int | None, Translation] = {}
        self._since = -1

    def __call__(self, version: int | None, record: Record, content: str) -> Any:
        """The event of a record that says this version, or none, and has this content type. Raises
        DecodeFailed.
        """
        if self._since != self.lenses.changes:
            self._known, self._since = {}, self.lenses.changes
        translation = self._known.get(version)
        if translation is None or content is not JSON or len(record.headers) > PLAIN_HEADERS:
            return self._seldom(version, record, content)
        document = document_of(self.type.type, record.value or b"")
        try:
            document = translation.plain(document)
        except BAD as error:
            raise translation.failed(error) from error
        return event_of(self.type.cls, document)

    def _seldom(self, version: int | None, record: Record, content: str) -> Any:
        """The same for any event: a version's first, another format, with residue."""
        value = record.value or b""
        if version is None:
            return EventReader(self.type)(content, record)
        translation = self.lenses.translation(self.type.type, version, self.type.version)
        if translation is None:
            raise self._unknown(version)
        self._known[version] = translation
        document = document_in(content, value, self.type.type, version)
        raw = dict(record.headers).get(KAFKA.residue)
        given = {} if raw is None else read_residue(raw)
        return event_of(self.type.cls, translation.with_residue(document, given)[0])

    def _unknown(self, version: int) -> DecodeFailed:
        name, mine = self.type.type, self.type.version
        deploy = "deploy me" if version > mine else "declare it"
        low, high = sorted((version, mine))
        return DecodeFailed(
            f"{name} came in version {version}",
            expected=f"version {mine}, or what leads there: evolve({name!r}, {low}, {high}, …)",
            hint=f"{deploy}: the event is kept; then oncebox redrive",
        )
