"""What a schema is to the registry: a text that can be read, in one form, with what it refers to.

White space in JSON means nothing, so it is not kept; a descriptor of Protobuf becomes the text of
a .proto file. `normalize` also sorts the names of objects, and takes comments and white space out
of .proto files. Nothing else changes a text.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec.json import encode

from ..errors import SchemaError
from .protocol import Reference, digest, guid


class Candidate(NamedTuple):
    """A schema to register or to look for. `format` as the protocol says it: AVRO, JSON, PROTOBUF;
    `more`: metadata and rules as JSON.
    """

    format: str
    text: str
    references: tuple[Reference, ...] = ()
    more: str = ""

    @property
    def refs(self) -> str:
        """The references as the tables keep them."""
        return encode(self.references).decode()

    @property
    def guid(self) -> str:
        """Its name by content."""
        return guid(self.text, self.references, self.more.encode())

    @property
    def digest(self) -> str:
        """What it is known by."""
        return digest(self.format, self.text, self.references, self.more.encode())

    @property
    def columns(self) -> tuple[str, ...]:
        """Its columns in the tables, behind id and digest."""
        return self.guid, self.format, self.text, self.refs, self.more


_JSON_SPACE = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')
_PROTO_SPACE = re.compile(
    r"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|//[^\n]*|/\*.*?\*/|\s+""", re.DOTALL
)


def formed(format: str, text: str, *, normalize: bool) -> str:
    """A text in the form in which it is kept. Raises SchemaError for what is not JSON."""
    if format == "PROTOBUF":
        from ..schema.images.prototext import read_base64, written

        file = read_base64(text)
        text = text if file is None else written(file)
        return _PROTO_SPACE.sub(_one_space, text).strip() if normalize else text.strip() + "\n"
    value = parsed(text)
    if normalize:
        try:
            return json.dumps(
                value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
            )
        except ValueError:  # a number beyond floats
            pass
    return _JSON_SPACE.sub(r"\1", text)


def _one_space(match: re.Match[str]) -> str:
    return match[1] or " "


def parsed(text: str) -> Any:
    """JSON as Python's values. Raises SchemaError."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise SchemaError("the schema is nested too deeply") from error
    except ValueError as error:
        raise SchemaError(f"the schema is not JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SchemaError(f"the schema has {twice!r} twice in one object")
    return found


def described(text: str, references: Mapping[str, str]) -> str:
    """A .proto file as Base64 of its FileDescriptorProto. Raises SchemaError."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    from ..schema.compat.proto_compile import Source, compile_all

    (files,) = compile_all([Source(text, tuple(references.items()), "the schema")])
    own = FileDescriptorSet.FromString(files).file[-1]
    return base64.b64encode(own.SerializeToString(deterministic=True)).decode()
