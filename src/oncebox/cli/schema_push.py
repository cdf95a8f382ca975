"""The versions of the lock to a registry: schema push."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ..errors import ConfigurationError, SchemaError
from ..schema.compat.finding import Format
from ..schema.images.names import event_name, namespace
from ..schema.lock import NAME, read_lock
from ..schema.model import Schema
from .options import DryRun, said
from .output import counted, progress, say, tell
from .schema_export import text_of
from .schema_serve import TOKEN

if TYPE_CHECKING:
    from ..registry.client import RegistryClient

Url = Annotated[str | None, said("The registry, http://host:8081; or ONCEBOX_REGISTRY.")]
Which = Annotated[Format, said("avro, protobuf or json.")]
Names = Annotated[
    Literal["record", "topic", "topic-record"],
    said("Subjects by the record's name, the topic's (TOPIC-value), or both (TOPIC-RECORD)."),
]
Share = Annotated[
    str | None, said("Also the lock itself, by this name, for `schema check --consumers URL`.")
]
Ca = Annotated[Path | None, said("Authorities to trust, besides the system's (PEM).")]
File = Annotated[Path, said("The lock file.")]


def push(
    *,
    registry: Url = None,
    format: Which = "avro",
    subjects: Names = "record",
    share: Share = None,
    ca: Ca = None,
    dry_run: DryRun = False,
    file: File = Path(NAME),
) -> int:
    """Register every version of oncebox.lock in a registry, oldest first.

    What is there already stays as it is. A version that would break readers by the
    level of its subject is refused: exit code 3. User and password go into the URL, a
    token into the variable ONCEBOX_REGISTRY_TOKEN.

    For example:

        oncebox schema push --registry http://localhost:8081
        oncebox schema push --registry https://user:password@registry --format protobuf
        oncebox schema push --registry http://localhost:8081 --subjects topic --dry-run
        oncebox schema push --registry http://localhost:8081 --share billing
    """
    if registry is None:
        raise ConfigurationError(
            "no registry is known",
            expected="--registry URL, ONCEBOX_REGISTRY, or the configuration",
        )
    if not file.exists():
        raise SchemaError(f"there is no {file}", hint="oncebox schema lock makes it")
    whole = file.read_text(encoding="utf-8")
    lock = read_lock(whole, str(file))
    ordered = [schema for _, schema in sorted(lock.schemas.items())]
    named = {(one.type, one.version): _subject(one, subjects) for one in ordered}
    _one_type_each(named)
    broken = 0
    with client_of(registry, ca) as client, progress("registering") as note:
        for done, schema in enumerate(ordered, 1):
            subject = named[schema.type, schema.version]
            text = text_of(lock, schema, format)
            about = {"type": schema.type, "version": schema.version, "subject": subject}
            where = f"{schema.type} {schema.version}: {subject}"
            if dry_run:
                breaks = client.compatible(subject, format, text)
                broken += bool(breaks)
                tell(about | {"breaks": breaks}, "; ".join([where, *(breaks or ["fits"])]))
            else:
                id = client.register(subject, format, text)
                tell(about | {"id": id}, f"{where}, id {id}")
            note(done, len(ordered))
        if share is not None and not dry_run:
            from ..registry import locks

            changed = locks.share(client, share, whole)
            tell({"lock": share, "changed": changed}, f"{file}: shared as {share}")
    say(f"{counted(len(ordered), 'version')} {'looked at' if dry_run else 'registered'}")
    return 3 if broken else 0


def client_of(registry: str, ca: Path | None = None) -> RegistryClient:
    """A registry's client, with the token of the environment."""
    from ..registry.client import RegistryClient

    return RegistryClient(registry, token=os.environ.get(TOKEN), ca=ca)


def _subject(schema: Schema, how: str) -> str:
    record = f"{namespace(schema.type)}.{event_name(schema.type)}"
    if how == "record":
        return record
    if not schema.stream:
        raise SchemaError(
            f"{schema.type} {schema.version} has no stream", expected="--subjects record"
        )
    return f"{schema.stream}-value" if how == "topic" else f"{schema.stream}-{record}"


def _one_type_each(named: dict[tuple[str, int], str]) -> None:
    """Raises SchemaError where two types would be versions of one subject."""
    found: dict[str, str] = {}
    for (type, _), subject in named.items():
        if found.setdefault(subject, type) != type:
            raise SchemaError(
                f"{subject} would hold {found[subject]} and {type}",
                expected="one type of events in each subject",
                hint="--subjects record, or topic-record, tells them apart",
            )
