"""A client for any registry that speaks Confluent's REST protocol.

What an id names never changes, so schemas are kept, in memory and in a folder, and go on to be
known when the registry is away. A folder's entry is compared with the registry once in the life of
a process: one that was emptied and filled anew gives old ids to other schemas. References are
those of the registry, by subject and version; nothing else is ever fetched.
"""

from __future__ import annotations

import hashlib
import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

from msgspec import UNSET, MsgspecError, json

from ..errors import (
    ConfigurationError,
    MissingDependency,
    NotFound,
    SchemaBreak,
    SchemaError,
    UnknownSchema,
    Unreachable,
    WrongSchema,
    redacted,
)
from ..schema.compat.finding import Format
from .protocol import (
    CONTENT_TYPE,
    FORMATS,
    TYPES,
    Body,
    Reference,
    Registered,
    guid,
    texts_of,
)

try:
    import httpx
except ModuleNotFoundError as error:
    raise MissingDependency(
        "httpx is not installed", hint="pip install 'oncebox[registry]'"
    ) from error

logger = logging.getLogger("oncebox.registry")

T = TypeVar("T")

TIMEOUT_S = 5.0
"""For one answer, whole."""

ATTEMPTS_MAX = 3
BACKOFF_S, BACKOFF_MAX_S = 0.2, 2.0
"""Before the second attempt, and at most; doubled each time, less a random part."""

AWAY_S = 2.0
"""A registry that did not answer is not asked again for so long: what needs it fails at once."""

UNKNOWN_S = 2.0
"""An id that the registry did not know is not asked for again for so long."""

KEPT_MAX = 10_000
"""Schemas in memory."""

ANSWER_BYTES_MAX = 32 << 20


class Known(NamedTuple):
    """A schema, and by the names that it uses the texts that it refers to."""

    format: Format
    text: str
    references: Mapping[str, str]


class Version(NamedTuple):
    """A version of a subject."""

    number: int
    id: int
    schema: Known


class RegistryClient:
    """`url` may have user and password in it. Threads may share it.

    `token`: for Authorization: Bearer; `ca`: authorities (PEM) besides the system's; `certificate`
    and `key`: the client's own; `cache`: a folder for what is known; `offline`: nothing is asked.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        cache: Path | None = None,
        offline: bool = False,
        timeout_s: float = TIMEOUT_S,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"registry {redacted(url)}", expected="http://host:8081 or https://…"
            )
        place = parts.netloc.rpartition("@")[2]
        self.url = f"{parts.scheme}://{place}{parts.path.rstrip('/')}"
        user = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._http = httpx.Client(
            base_url=self.url,
            auth=user,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            verify=_trusted(ca, certificate, key),
            timeout=timeout_s,
            follow_redirects=False,
        )
        named = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self._folder = None if cache is None else cache / named
        self.offline, self.timeout_s, self.attempts_max = offline, timeout_s, attempts_max
        self._kept: dict[str, Known] = {}
        self._unknown: dict[str, float] = {}
        self._away_until, self._away = 0.0, ""
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- what readers need

    def schema(self, id: int | UUID | bytes) -> Known:
        """The schema that a record names, by id or GUID; registries know none by fingerprint.

        Raises UnknownSchema if the registry does not know it now, WrongSchema if it says another
        than before, Unreachable if it does not answer and the schema is not kept.
        """
        if isinstance(id, bytes):
            raise _unknown(id, self.url)
        path = f"guids/{id}" if isinstance(id, UUID) else f"ids/{id}"
        known = self._kept.get(path)
        if known is None:
            with self._lock:  # what many wait for is asked once
                known = self._kept.get(path) or self._keep(path, self._found(path, id))
        return known

    __call__ = schema

    def _keep(self, path: str, known: Known) -> Known:
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        self._kept[path] = known
        return known

    def _found(self, path: str, id: int | UUID) -> Known:
        stored = self._stored(path)
        if stored is not None and self.offline:
            return stored
        if time.monotonic() < self._unknown.get(path, 0.0):
            raise _unknown(id, self.url)
        try:
            answer = self._ask("GET", f"/schemas/{path}", Registered)
            known = self._known(answer)
        except (Unreachable, NotFound) as error:
            if stored is not None:
                logger.warning("%s is used as it was kept: %s", path, error)
                return stored
            if isinstance(error, Unreachable):
                raise
            if len(self._unknown) >= KEPT_MAX:
                self._unknown.clear()
            self._unknown[path] = time.monotonic() + UNKNOWN_S
            raise _unknown(id, self.url) from error
        _check(answer, id, self.url)
        if stored is not None and stored != known:
            raise _wrong(id, self.url, "another one than it had before")
        if stored is None:
            self._store(path, known)
        return known

    # ---- what tools need

    def subjects(self, prefix: str = "") -> list[str]:
        """Their names."""
        return self._ask("GET", "/subjects", list[str], query={"subjectPrefix": prefix})

    def versions(self, subject: str) -> list[Version]:
        """All versions of a subject, oldest first; none where there is no such subject."""
        try:
            numbers = self._ask("GET", f"/subjects/{_quoted(subject)}/versions", list[int])
        except NotFound:
            return []
        return [self.version(subject, number) for number in sorted(numbers)]

    def version(self, subject: str, number: int | None = None) -> Version:
        """One version, or the latest. Raises NotFound."""
        path = f"/subjects/{_quoted(subject)}/versions/{number or 'latest'}"
        answer = self._ask("GET", path, Registered)
        if answer.id is UNSET or answer.version is UNSET:
            raise self._no_registry("a version without id")
        known = self._known(answer)
        self._agree(answer.id, known)
        return Version(answer.version, answer.id, known)

    def register(
        self, subject: str, format: Format, text: str, references: Sequence[Reference] = ()
    ) -> int:
        """The id of a schema, registered if need be. Raises SchemaBreak if it would break readers,
        SchemaError if the registry cannot read it or refuses it.
        """
        body = Body(text, TYPES[format], list(references))
        path = f"/subjects/{_quoted(subject)}/versions"
        answer: dict[str, Any] = self._ask("POST", path, dict[str, Any], body=body)
        id = answer.get("id")
        if not isinstance(id, int):
            raise self._no_registry("a registration without id")
        return id

    def compatible(self, subject: str, format: Format, text: str) -> list[str]:
        """What a schema would break of the subject's versions, by its level; empty: nothing."""
        body = Body(text, TYPES[format], [])
        path, query = f"/compatibility/subjects/{_quoted(subject)}/versions", {"verbose": "true"}
        answer: dict[str, Any] = self._ask("POST", path, dict[str, Any], body=body, query=query)
        if answer.get("is_compatible") is True:
            return []
        return [str(one) for one in answer.get("messages") or ["incompatible"]]

    # ---- references

    def _known(self, answer: Registered) -> Known:
        format = FORMATS.get(answer.format or "AVRO")
        if format is None:
            raise SchemaError(f"a schema of type {answer.format[:40]}", expected=", ".join(FORMATS))
        return Known(format, answer.schema, texts_of(answer.references, self._at))

    def _at(self, reference: Reference) -> tuple[str, Sequence[Reference]]:
        path = f"/subjects/{_quoted(reference.subject)}/versions/{reference.version}"
        answer = self._ask("GET", path, Registered, query={"deleted": "true"})
        return answer.schema, answer.references

    def _agree(self, id: int, known: Known) -> None:
        """Raises WrongSchema if this id is kept as another schema."""
        path = f"ids/{id}"
        kept = self._kept.get(path) or self._stored(path)
        if kept is not None and kept != known:
            raise _wrong(id, self.url, "another one than it had before")

    # ---- the folder

    def _stored(self, path: str) -> Known | None:
        if self._folder is None:
            return None
        try:
            return json.decode((self._folder / f"{path}.json").read_bytes(), type=Known)
        except (OSError, MsgspecError, UnicodeDecodeError):
            return None

    def _store(self, path: str, known: Known) -> None:
        """Keep it: whole or not at all. A folder that cannot be written only costs time."""
        if self._folder is None:
            return
        file = self._folder / f"{path}.json"
        part = file.with_suffix(f".{random.getrandbits(64):x}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(json.encode(known))
            part.replace(file)
        except OSError as error:
            logger.warning("schemas are not kept in %s: %s", self._folder, error)
            with suppress(OSError):
                part.unlink(missing_ok=True)

    # ---- requests

    def _ask(
        self,
        method: str,
        path: str,
        type: type[T],
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
    ) -> T:
        if self.offline:
            raise Unreachable(f"registry {self.url} is not asked", hint="it was told: offline")
        if time.monotonic() < self._away_until:
            raise Unreachable(self._away, hint="it is asked again soon")
        for attempt in range(1, self.attempts_max + 1):
            try:
                return self._in_time(lambda: self._asked(method, path, type, body, query))
            except Unreachable as error:
                if attempt == self.attempts_max:
                    self._away, self._away_until = error.what, time.monotonic() + AWAY_S
                    raise
                wait_s = min(BACKOFF_S * 2 ** (attempt - 1), BACKOFF_MAX_S)
                time.sleep(wait_s * random.uniform(0.5, 1.0))
        raise AssertionError

    def _in_time(self, ask: Callable[[], T]) -> T:
        """What a request brings within `timeout_s`. httpx has no bound for looking up a name, nor
        for headers that come drop by drop. A request that goes on keeps one of 100 connections.
        """
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(ask())
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=run, name="registry", daemon=True).start()
        try:
            return answer.result(self.timeout_s)
        except TimeoutError:
            raise Unreachable(f"registry {self.url} is too slow") from None

    def _asked(self, method: str, path: str, type: type[T], body: Body | None, query: Any) -> T:
        content = None if body is None else json.encode(body)
        headers = {
            "Content-Type": CONTENT_TYPE,
            "Accept": f"{CONTENT_TYPE}, application/json",
            "Accept-Encoding": "identity",  # a few bytes could unpack to gigabytes
        }
        deadline = time.monotonic() + self.timeout_s
        try:
            with self._http.stream(
                method, path, content=content, headers=headers, params=query
            ) as answer:
                parts, size = [], 0
                for part in answer.iter_raw():
                    size += len(part)
                    if size > ANSWER_BYTES_MAX:
                        raise self._no_registry("an answer that is too large")
                    if time.monotonic() > deadline:
                        raise Unreachable(f"registry {self.url} is too slow")
                    parts.append(part)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            what = f"registry {self.url} does not answer: {str(error) or error.__class__.__name__}"
            raise Unreachable(what, hint="is it running, and the URL right?") from error
        raw = b"".join(parts)
        if answer.status_code != 200:
            raise self._refusal(answer.status_code, raw)
        try:
            return json.decode(raw, type=type)
        except (MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._no_registry(str(error)) from error

    def _refusal(self, status: int, raw: bytes) -> Exception:
        """What an answer other than 200 means."""
        code, what = status, raw[:200].decode("utf-8", "replace")
        with suppress(MsgspecError, UnicodeDecodeError, RecursionError):
            said = json.decode(raw, type=dict[str, Any])
            code, what = said.get("error_code", status), str(said.get("message", what))
        where = f"registry {self.url}: {what}"
        if status == 404 and code != 404:
            return NotFound(where)
        if status == 409:
            return SchemaBreak(where)
        if status in (400, 413, 422):
            return SchemaError(where)
        if status in (401, 403):
            return Unreachable(where, hint="does it take this user, token or certificate?")
        return Unreachable(f"{where} (HTTP {status})")

    def _no_registry(self, what: str) -> Unreachable:
        return Unreachable(
            f"registry {self.url} answers what is not of its protocol: {what[:200]}",
            hint="is there a proxy in between, or another server?",
        )


def _check(answer: Registered, id: int | UUID, url: str) -> None:
    """Raises WrongSchema for an answer about another schema than was asked for. A GUID is computed
    where the text is all there is to it: for references and rules, registries differ.
    """
    if isinstance(id, int):
        if answer.id not in (UNSET, id):
            raise _wrong(id, url, f"that of id {answer.id}")
        return
    alone = not answer.references and answer.metadata is UNSET and answer.rules is UNSET
    if alone and guid(answer.schema) != str(id):
        raise _wrong(id, url, f"one whose content is {guid(answer.schema)}")


def _unknown(id: int | UUID | bytes, url: str) -> UnknownSchema:
    return UnknownSchema(
        f"schema {id.hex() if isinstance(id, bytes) else id} is not known to registry {url}",
        expected="a schema that is registered",
        hint="the event is kept, and goes on when its schema is registered",
    )


def _wrong(id: int | UUID, url: str, what: str) -> WrongSchema:
    return WrongSchema(
        f"registry {url} gives another schema for {id}: {what}",
        expected="the same schema for ever",
        hint="was the registry emptied, or is the URL that of another one? Events that were"
        " written with the old schema would be read wrongly",
    )


def _quoted(subject: str) -> str:
    return quote(subject, safe="")


def _trusted(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """Raises ConfigurationError for files that cannot be read."""
    context = ssl.create_default_context()
    try:
        if ca is not None:
            context.load_verify_locations(ca)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        which = ca if certificate is None else f"{ca or ''} {certificate}".strip()
        raise ConfigurationError(f"certificates in {which}: {error}") from error
    return context
