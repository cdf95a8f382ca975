"""Locks in a registry: so a repository sees who elsewhere reads its events, and code that is older
than they gets their lenses.

Any registry can hold them: a lock is a JSON Schema that takes every object, and has the lock's text
as an annotation. So each of its versions is compatible with all others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import MsgspecError, json

from ..errors import NotFound, OnceboxError, SchemaError, Unreachable
from ..event import check_name
from ..lens.chain import Lenses, declared
from ..schema.lock import NAME, Lock, read_lock
from .client import RegistryClient

logger = logging.getLogger("oncebox.registry")

SUBJECT = "oncebox.lock-"
TEXT, TIME = "x-oncebox-lock", "x-oncebox-shared-at"


def share(client: RegistryClient, name: str, text: str) -> bool:
    """Put a lock there by the name of its repository; whether it is another one than was there."""
    subject = SUBJECT + check_name("lock", name)
    try:
        known = _text_of(subject, client.version(subject).schema.text)
    except NotFound:
        known = None
    if known == text:
        return False
    # With the time, since a registry gives the old version for a text that it had before.
    document = {"title": f"oncebox.lock of {name}", "type": "object", TEXT: text, TIME: time.time()}
    client.register(subject, "json", json.encode(document).decode())
    return True


def shared(client: RegistryClient) -> dict[str, str]:
    """The texts of all locks that are there, by name. Raises SchemaError for what is none."""
    found = {}
    for subject in sorted(client.subjects(SUBJECT)):
        text = client.version(subject).schema.text
        found[subject.removeprefix(SUBJECT)] = _text_of(subject, text)
    return found


LOOK_S = 2.0
"""A registry is not asked again for its locks before so long."""


class SharedLocks:
    """The locks of a registry as a process knows them, and the one beside it, which counts before
    the others.
    """

    def __init__(self, client: RegistryClient, lenses: Lenses, own: Path) -> None:
        self.client = client
        self.lenses = lenses
        self.own = own
        self.known: dict[str, str] = {}
        self.due_s = 0.0

    def look(self) -> bool:
        """Learn what they say, if it is something else than before; whether it was. A registry that
        is away, and a lock that cannot be read, are warned of.
        """
        now_s = time.monotonic()
        if now_s < self.due_s:
            return False
        self.due_s = now_s + LOOK_S
        try:
            found = shared(self.client)
            if self.own.exists():
                found[str(self.own)] = self.own.read_text()
        except (Unreachable, SchemaError, OSError) as error:
            logger.warning("locks of %s: %s", self.client.url, error)
            return False
        if found == self.known:
            return False
        self.known = found
        locks = [lock for name, text in found.items() if (lock := _read(name, text)) is not None]
        schemas = [schema for lock in locks for schema in lock.schemas.values()]
        edges = ((type, edge) for lock in locks for (type, _), edge in lock.edges.items())
        self.lenses.learn(schemas, edges)
        return True


@contextmanager
def shared_lenses(url: str, lenses: Lenses = declared) -> Iterator[None]:
    """Know the lenses and schemas of the locks that a registry has, and of the one where the
    process runs. Within the block they are looked at again when an event comes in a version that
    is not known.
    """
    with RegistryClient(url) as client:
        known = SharedLocks(client, lenses, Path(NAME).absolute())
        known.look()
        before, lenses.look_again = lenses.look_again, known.look
        try:
            yield
        finally:
            lenses.look_again = before


def _read(name: str, text: str) -> Lock | None:
    try:
        return read_lock(text, name)
    except OnceboxError as error:
        logger.warning("%s", error)
        return None


def _text_of(subject: str, raw: str) -> str:
    try:
        text = json.decode(raw, type=dict[str, object]).get(TEXT)
    except MsgspecError:
        text = None
    if not isinstance(text, str):
        raise SchemaError(
            f"subject {subject} holds no lock", hint="oncebox schema push --share NAME writes one"
        )
    return text
