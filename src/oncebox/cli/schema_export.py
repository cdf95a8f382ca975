"""The versions of the lock as files of other formats: schema export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from ..errors import SchemaError
from ..schema.compat.finding import Format
from ..schema.lock import NAME, Lock, read_lock
from ..schema.model import Schema
from .options import said
from .output import counted, tell

Which = Annotated[list[Format] | None, said("avro, protobuf or json; all three. Repeatable.")]
Out = Annotated[Path, said("The folder to write into.")]
File = Annotated[Path, said("The lock file.")]

ENDS: dict[Format, str] = {"avro": ".avsc", "protobuf": ".proto", "json": ".json"}


def export(*, format: Which = None, out: Out = Path("schemas"), file: File = Path(NAME)) -> int:
    """Write every version of oncebox.lock as .avsc, .proto and .json (JSON Schema 2020-12).

    One file for each version: schemas/order.placed/2.avsc. Field tags, documentation,
    defaults and the names that fields had before go along, where the format has a place.
    Exit code 2 if a name is none in the format.

    For example:

        oncebox schema export
        oncebox schema export --format avro --out contracts/avro
    """
    if not file.exists():
        raise SchemaError(f"there is no {file}", hint="oncebox schema lock makes it")
    lock = read_lock(file.read_text(encoding="utf-8"), str(file))
    formats = format or [*ENDS]
    made = {
        out / type / f"{version}{ENDS[one]}": text_of(lock, schema, one)
        for (type, version), schema in sorted(lock.schemas.items())
        for one in formats
    }
    changed = [path for path, text in made.items() if _differs(path, text)]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], encoding="utf-8")
    document = {"files": [str(path) for path in made], "changed": [str(path) for path in changed]}
    tell(document, f"{out}: {counted(len(made), 'file')}, {len(changed)} new or changed")
    return 0


def text_of(lock: Lock, schema: Schema, format: Format) -> str:
    """A version in a format. Raises SchemaError where the format has no image of it."""
    if format == "avro":
        from ..schema.images.avro import avsc

        versions = (v for v in lock.versions(schema.type) if v < schema.version)
        return avsc(schema, [lock.schemas[schema.type, version] for version in versions])
    make: Callable[[Schema], str]
    if format == "protobuf":
        from ..schema.images.protobuf import proto as make
    else:
        from ..schema.images.json import json_text as make
    return make(schema)


def _differs(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != text
