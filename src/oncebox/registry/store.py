"""Where the registry server keeps schemas: tables of its own, on SQLite or PostgreSQL.

Whoever changes something locks one row first, so all servers of one database change it in turn.
What takes long (a compatibility check) is done before that, and again if the facts have changed.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeVar

from msgspec import json

from ..errors import OnceboxError, StoreUnavailable
from ..program import drive
from ..session import Session
from ..statements import Migration, migrations, statements
from ..stores.adapt import open_store
from ..stores.base import trouble, typed
from ..tables.migrate import migrate
from .forms import Candidate
from .protocol import (
    DEFAULT_LEVEL,
    ID_DOES_NOT_MATCH,
    INVALID_SCHEMA,
    NOT_PERMITTED,
    REFERENCE_EXISTS,
    STORE_FAILED,
    SUBJECT_NOT_FOUND,
    SUBJECT_NOT_SOFT_DELETED,
    SUBJECT_SOFT_DELETED,
    VERSION_NOT_FOUND,
    VERSION_NOT_SOFT_DELETED,
    VERSION_SOFT_DELETED,
    Declined,
    Reference,
)

T = TypeVar("T")

ATTEMPTS_MAX = 3
"""Of a transaction, where the connection is gone or another transaction was in the way."""

RACES_MAX = 20
"""How often a registration is judged anew because others have changed its subject meanwhile."""

SESSIONS_MAX = 8
"""Connections, and so transactions at once."""

SESSION_WAIT_S = 30.0
"""For one of them."""

DEFAULTS = {"compatibility": DEFAULT_LEVEL.value, "mode": "READWRITE", "normalize": "false"}


class Stored(NamedTuple):
    """A schema of the tables; `version` is 0 where it was asked for by id."""

    subject: str
    version: int
    deleted: int
    id: int
    guid: str
    format: str
    text: str
    refs: str
    more: str

    @property
    def references(self) -> tuple[Reference, ...]:
        """What it refers to."""
        return json.decode(self.refs, type=tuple[Reference, ...])

    def holds(self, candidate: Candidate) -> bool:
        """Whether it is the same schema."""
        mine = (self.format, self.text, self.refs, self.more)
        return mine == (candidate.format, candidate.text, candidate.refs, candidate.more)


class Facts(NamedTuple):
    """What the judgement of a candidate rests on: a subject's versions in order, soft-deleted ones
    too, and the settings that count for it.
    """

    versions: tuple[Stored, ...]
    settings: Mapping[str, str]

    @property
    def live(self) -> tuple[Stored, ...]:
        """The versions that are not deleted."""
        return tuple(one for one in self.versions if not one.deleted)


class At(NamedTuple):
    """A session and its statements."""

    session: Any
    sql: Mapping[str, str]

    def rows(self, name: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement."""
        found: list[tuple[Any, ...]] = self.session.run(self.sql[name], parameters)
        return found

    def stored(self, name: str, *parameters: Any) -> tuple[Stored, ...]:
        """Run a query for schemas."""
        return tuple(Stored(*row) for row in self.rows(name, *parameters))

    def settings(self, subject: str) -> dict[str, str]:
        """What counts for a subject."""
        return DEFAULTS | dict(self.rows("settings", "")) | dict(self.rows("settings", subject))

    def facts(self, subject: str) -> Facts:
        """What is known of a subject."""
        return Facts(self.stored("bodies", subject), self.settings(subject))


@cache
def _sql(dialect: str, schema: str) -> dict[str, str]:
    named = statements("registry", schema).items()
    return {name: _of(dialect, sql, schema) for name, sql in named}


@cache
def _tables(dialect: str, schema: str) -> tuple[Migration, ...]:
    steps = migrations("registry", schema)
    return tuple(m._replace(sql=_of(dialect, m.sql, schema)) for m in steps)


def _of(dialect: str, sql: str, schema: str) -> str:
    """SQL for a dialect: the file is PostgreSQL's."""
    return (
        sql if dialect == "postgres" else sql.replace(f"{schema}.", f"{schema}_").replace("$", "?")
    )


class RegistryStore:
    """The tables behind a URL, made if need be. Threads may share it: each transaction borrows a
    connection. Raises Unreachable, StoreUnavailable, MissingTables, MissingRight.
    """

    def __init__(self, url: Any, schema: str = "oncebox") -> None:
        self.schema = f"{schema}_registry"
        self.store = open_store(url, self.schema)
        self.sql = _sql(self.store.dialect, self.schema)
        self._places: queue.LifoQueue[Session | None] = queue.LifoQueue()
        session: Any = self.store.open()
        try:
            drive(migrate(session, self.schema, known=_tables(session.dialect, self.schema)))
        finally:
            session.close()
        for _ in range(SESSIONS_MAX):
            self._places.put(None)

    def close(self) -> None:
        """Close the connections that are not at work."""
        while not self._places.empty():
            session = self._places.get()
            if session is not None:
                session.close()

    # ---- transactions

    def read(self, work: Callable[[At], T]) -> T:
        """What `work` finds out, each statement by itself."""
        return self._patiently(work)

    def write(self, work: Callable[[At], T]) -> T:
        """What `work` does, alone among all writers, and committed. Nothing is tried again once
        COMMIT was sent: whether it was done is not known then.
        """
        sent = False

        def locked(at: At) -> T:
            nonlocal sent
            at.session.begin()
            try:
                at.rows("lock")
                result = work(at)
                sent = True
                at.session.commit()
            except BaseException:
                at.session.rollback()
                raise
            return result

        return self._patiently(locked, over=lambda: sent)

    def _patiently(self, work: Callable[[At], T], over: Callable[[], bool] = bool) -> T:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                with self._lent() as session:
                    return work(At(session, self.sql))
            except OnceboxError:
                raise
            except Exception as error:
                again = trouble(error) in ("retry", "unavailable") and not over()
                if attempt == ATTEMPTS_MAX or not again:
                    raise typed(error, None) from error
        raise AssertionError

    @contextmanager
    def _lent(self) -> Iterator[Any]:
        try:
            session: Any = self._places.get(timeout=SESSION_WAIT_S)
        except queue.Empty as error:
            raise StoreUnavailable("all connections of the registry are at work") from error
        try:
            session = session or self.store.open()
            yield session
        except BaseException as error:
            if session is not None and not isinstance(error, Declined):
                session.close()
                session = None
            raise
        finally:
            self._places.put(session)

    # ---- registering

    def register(
        self,
        subject: str,
        candidate: Candidate,
        judge: Callable[[Facts], None],
        id: int | None = None,
        version: int | None = None,
    ) -> Stored:
        """The version that has this schema: there already, or new if `judge` does not raise.

        `id`, `version`: as another registry had them (mode IMPORT). Raises Declined.
        """
        for _ in range(RACES_MAX):
            facts = self.read(lambda at: at.facts(subject))
            for one in reversed(facts.live):
                if one.holds(candidate) and id in (None, one.id):
                    return one
            judge(facts)
            added = self.write(_adding(subject, candidate, facts, id, version))
            if added is not None:
                return added
        raise Declined(STORE_FAILED, f"subject {subject} changes all the time", hint="try again")

    # ---- deleting

    def delete_version(self, subject: str, version: int | None, *, permanent: bool) -> int:
        """Delete one version (None: the last one), softly, or for good once that was done."""

        def work(at: At) -> int:
            permitted(subject, at.settings(subject))
            rows = at.rows("versions", subject)
            live = [n for n, _, deleted in rows if not deleted]
            if not rows or (version is None and not live):
                raise subject_not_found(subject)
            number = max(live) if version is None else version
            found = next((row for row in rows if row[0] == number), None)
            if found is None:
                raise version_not_found(number)
            if permanent and not found[2]:
                what = f"{named(subject, number)} was not deleted first, before permanently"
                raise Declined(VERSION_NOT_SOFT_DELETED, what)
            if not permanent and found[2]:
                what = f"{named(subject, number)} was soft deleted. Set permanent=true to delete it"
                raise Declined(VERSION_SOFT_DELETED, what)
            _delete(at, subject, [found], permanent=permanent)
            return number

        return self.write(work)

    def delete_subject(self, subject: str, *, permanent: bool) -> list[int]:
        """Delete all versions of a subject, and its settings; the versions."""

        def work(at: At) -> list[int]:
            permitted(subject, at.settings(subject))
            rows = at.rows("versions", subject)
            live = [row for row in rows if not row[2]]
            if not rows:
                raise subject_not_found(subject)
            if permanent and live:
                what = f"Subject '{subject}' was not deleted first, before permanently"
                raise Declined(SUBJECT_NOT_SOFT_DELETED, what)
            if not permanent and not live:
                what = f"Subject '{subject}' was soft deleted. Set permanent=true to delete it"
                raise Declined(SUBJECT_SOFT_DELETED, what)
            doomed = rows if permanent else live
            _delete(at, subject, doomed, permanent=permanent)
            for name in DEFAULTS:
                at.rows("unset", subject, name)
            return [row[0] for row in doomed]

        return self.write(work)

    # ---- settings

    def set(self, subject: str, values: Mapping[str, str | None]) -> dict[str, str]:
        """Change settings of a subject (''; those of all), None: no longer; those before."""

        def work(at: At) -> dict[str, str]:
            before = dict(at.rows("settings", subject))
            for name, value in values.items():
                if value is None:
                    at.rows("unset", subject, name)
                else:
                    at.rows("set", subject, name, value)
            return before

        return self.write(work)


def _adding(
    subject: str, candidate: Candidate, facts: Facts, id: int | None, version: int | None
) -> Callable[[At], Stored | None]:
    """Add a version, unless the facts are others by now."""

    def work(at: At) -> Stored | None:
        if at.facts(subject) != facts:
            return None
        for reference in candidate.references:
            if not at.rows("body", reference.subject, reference.version):
                raise reference_not_found(reference)
        known = at.rows("by_digest", candidate.digest)
        number = known[0][0] if known else id
        if number is None:
            number = at.rows("take_id")[0][0]
        elif id is not None and (
            number != id or at.rows("digest_of", id) not in ([], [(candidate.digest,)])
        ):
            raise Declined(ID_DOES_NOT_MATCH, f"id {id} is that of another schema here")
        at.rows("raise_id", number + 1)
        at.rows("add_schema", number, candidate.digest, *candidate.columns)
        for reference in candidate.references:
            at.rows("add_reference", reference.subject, reference.version, number)
        last = max((one.version for one in facts.versions), default=0)
        place = version or last + 1
        if any(one.version == place for one in facts.versions):
            raise Declined(NOT_PERMITTED, f"{named(subject, place)} is another schema here")
        at.rows("add_version", subject, place, number)
        return at.stored("body", subject, place)[0]

    return work


def _delete(at: At, subject: str, rows: list[tuple[Any, ...]], *, permanent: bool) -> None:
    for number, _, _ in rows:
        if users := at.rows("referrers", subject, number, int(permanent)):
            by = ", ".join(str(id) for (id,) in users)
            what = (
                f"One or more references exist to the schema {named(subject, number)}: of id {by}"
            )
            raise Declined(REFERENCE_EXISTS, what)
    for number, schema, _ in rows:
        at.rows("hard_delete" if permanent else "soft_delete", subject, number)
        if permanent:
            at.rows("forget_references", schema)
            at.rows("forget_body", schema)


# ---- what is refused


def permitted(subject: str, settings: Mapping[str, str]) -> None:
    """Raises Declined where nothing may be changed."""
    if settings["mode"] == "READONLY":
        what = f"Subject {subject}" if subject else "The registry"
        raise Declined(NOT_PERMITTED, f"{what} is in read-only mode")


def named(subject: str, version: int) -> str:
    """A version in a sentence."""
    return f"Subject '{subject}' Version {version}"


def subject_not_found(subject: str) -> Declined:
    """For a subject without versions."""
    return Declined(SUBJECT_NOT_FOUND, f"Subject '{subject}' not found.")


def version_not_found(version: int) -> Declined:
    """For a version that a subject does not have."""
    return Declined(VERSION_NOT_FOUND, f"Version {version} not found.")


def reference_not_found(reference: Reference) -> Declined:
    """For a schema that refers to what is not there."""
    return Declined(
        INVALID_SCHEMA,
        f'No schema reference found for subject "{reference.subject}"'
        f" and version {reference.version}",
        hint="register what is referred to first",
    )
