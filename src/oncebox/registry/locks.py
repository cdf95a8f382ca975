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

from ..errors import NotFound, OnceboxError, SchemaError
from ..event import check_name
from ..lens.chain import declared
from ..schema.lock import NAME, Known, Lock, read_lock
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


def shared(client: RegistryClient) -> dict[str, Lock]:
    """All locks that are there, by name. Raises SchemaError for one that cannot be read."""
    known: Known = {}
    return {
        name: read_lock(_text_of(SUBJECT + name, raw), f"{client.url}: {name}", known=known)
        for name, raw in _raw(client).items()
    }


def _raw(client: RegistryClient) -> dict[str, str]:
    """What stands in the subjects of locks, by the locks' names."""
    subjects = sorted(client.subjects(SUBJECT))
    return {one.removeprefix(SUBJECT): client.version(one).schema.text for one in subjects}


LOOK_S = 2.0
"""A registry is not asked again for its locks before so long."""


class SharedLocks:
    """The locks of a registry as a process knows them, and the one beside it, which counts before
    the others.
    """

    def __init__(self, client: RegistryClient, own: Path) -> None:
        self.client = client
        self.own = own
        self.raw: dict[str, str] = {}
        self.known: tuple[dict[str, str], str] | None = None
        self.due_s = 0.0

    def look(self) -> bool:
        """Learn what they say, if it is something else than before; whether it was. A registry that
        is away, and a lock of others that cannot be read, are warned of. Raises SchemaError for the
        one beside.
        """
        now_s = time.monotonic()
        if now_s < self.due_s:
            return False
        self.due_s = now_s + LOOK_S
        try:
            self.raw = _raw(self.client)
        except OnceboxError as error:
            logger.warning("locks of %s: %s", self.client.url, error)
        own = self.own.read_text() if self.own.exists() else ""
        if (self.raw, own) == self.known:
            return False
        self.known = self.raw, own
        locks = [*self._readable()] + ([read_lock(own, str(self.own))] if own else [])
        schemas = [schema for lock in locks for schema in lock.schemas.values()]
        edges = ((type, edge) for lock in locks for (type, _), edge in lock.edges.items())
        declared.learn(schemas, edges)
        return True

    def _readable(self) -> Iterator[Lock]:
        for name, raw in self.raw.items():
            try:
                yield read_lock(_text_of(SUBJECT + name, raw), f"{self.client.url}: {name}")
            except SchemaError as error:  # of one repository: the others' are as good as ever
                logger.warning("%s", error)


@contextmanager
def shared_lenses(url: str) -> Iterator[None]:
    """Know the lenses and schemas of the locks that a registry has, and of the one where the
    process runs. Within the block they are looked at again when an event comes in a version that
    is not known.
    """
    with RegistryClient(url) as client:
        known = SharedLocks(client, Path(NAME).absolute())
        known.look()
        before, declared.look_again = declared.look_again, known.look
        try:
            yield
        finally:
            declared.look_again = before


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
