"""An event once more in another version, for a topic of its own: by a relay, or by `translate`.

The copy has the id, key and chain of the event. `translated` says which version it was emitted in
and the digest of what it said then, so that both are one event for whoever reads both topics; what
the copy cannot say travels as residue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..codecs.events import document_in, written
from ..codecs.framing import HEADER
from ..envelope import JSON, KAFKA, digest, read_schema
from ..errors import ConfigurationError, DecodeFailed
from ..event import check_name, check_type
from ..ports import Outgoing
from .chain import VERSION_MAX, Lenses, declared
from .residue import read_residue, write_residue

Headers = Sequence[tuple[str, str | bytes | None]]

_OWN = {"content-type", KAFKA.dataschema, KAFKA.residue, KAFKA.translated, HEADER}


@dataclass(frozen=True)
class Copies:
    """Where copies of a stream's events go, and in which version those of some types: all others go
    there as they are, so that the chains of the topic have no holes. Without `residue`, what the
    other versions cannot say is not sent along.
    """

    stream: str
    topic: str
    versions: Mapping[str, int]
    residue: bool = True
    lenses: Lenses = field(default=declared, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_name("topic", self.topic)
        for type, version in self.versions.items():
            check_type(type)
            if not 1 <= version <= VERSION_MAX:
                raise ConfigurationError(f"version {version!r} of {type}", expected="1 to 9999")
        if self.topic == self.stream:
            raise ConfigurationError(
                f"copies of {self.stream} go to {self.topic}", expected="another topic"
            )

    def of(self, record: Outgoing) -> Outgoing:
        """The copy of a record. Raises DecodeFailed where nothing leads to the version wanted."""
        said = {name: value for name, value in record.headers if name.startswith("c")}
        type, schema = _text(said.get(KAFKA.type)), _text(said.get(KAFKA.dataschema))
        wanted = self.versions.get(type)
        version = None if wanted is None else read_schema(type, schema)
        if wanted is None or version is None or version == wanted:
            return record._replace(topic=self.topic)
        content = _text(said.get("content-type")) or JSON
        value, residue = record.value, None
        if value is not None:  # a void has nothing to say, and says nothing along with it
            document = document_in(content, value, type, version)
            result, residue = self._translated(type, version, wanted, document, said)
            content, value = written(content, result, type, wanted)
        if KAFKA.translated in said:
            origin = _text(said[KAFKA.translated])
        else:
            origin = f"{version}:{digest(type, KAFKA.void in said, record.value)}"
        headers = [header for header in record.headers if header[0] not in _OWN]
        headers.append(("content-type", content))
        headers.append((KAFKA.dataschema, f"oncebox:{type}/{wanted}"))
        headers.append((KAFKA.translated, origin))
        if residue is not None:
            headers.append((KAFKA.residue, residue))
        return record._replace(topic=self.topic, value=value, headers=headers)

    def _translated(
        self,
        type: str,
        version: int,
        wanted: int,
        document: Any,
        said: Mapping[str, str | bytes | None],
    ) -> tuple[Any, str | None]:
        """The document in the version wanted, and the residue as a header has it."""
        translation = self.lenses.translation(type, version, wanted)
        if translation is None:
            low, high = sorted((version, wanted))
            raise DecodeFailed(
                f"{type} came in version {version}",
                expected=f"what leads to version {wanted}: evolve({type!r}, {low}, {high}, …)",
                hint="deploy me with it; the key waits until then",
            )
        if not isinstance(document, dict):
            raise DecodeFailed(f"{type} is no object of JSON")
        if not self.residue:
            return translation(document), None
        raw = said.get(KAFKA.residue)
        given = {} if raw is None else read_residue(_bytes(raw))
        result, lost = translation.with_residue(document, given)
        return result, write_residue(lost)


def _text(value: str | bytes | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
