"""Every error that oncebox raises on purpose, under one root.

An error says what happened, to which event, key or position, what was expected, and what to
do. `retryable` is true where the same call may succeed later without anybody's help.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

_SECRETS = re.compile(
    r"((?:^|[?&;\s])(?:[\w.]*(?:password|passwd|secret|token|passphrase)[\w.]*)\s*=\s*)[^&;\s]+",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(://[^:@/?#\s]*):.*@", re.DOTALL)


def redacted(url: str) -> str:
    """A URL that can be shown: its secrets replaced.

    Everything between `user:` and the last `@` counts as the password, so that one with
    characters that a URL does not allow is not shown in part.
    """
    return _SECRETS.sub(r"\1***", _USER_INFO.sub(r"\1:***@", url))


class OnceboxError(Exception):
    """Root of all errors. Fields that are not known are None.

    `event` is the event's id, `source` and `key` name its chain, `position` is its place in the
    log (`topic/partition@offset`) or outbox, `expected` what was required, `hint` what to do.
    """

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str = "",
        *,
        event: str | None = None,
        source: str | None = None,
        key: str | None = None,
        position: str | None = None,
        expected: str | None = None,
        hint: str | None = None,
    ) -> None:
        what = what or (type(self).__doc__ or "").split("\n")[0]
        super().__init__(what)
        self.what = what
        self.event = event
        self.source = source
        self.key = key
        self.position = position
        self.expected = expected
        self.hint = hint

    def fields(self) -> dict[str, str]:
        """The known fields by name, for logs and `--json`."""
        names = ("event", "source", "key", "position", "expected", "hint")
        known = {name: getattr(self, name) for name in names}
        return {name: str(value) for name, value in known.items() if value is not None}

    def __str__(self) -> str:
        about = [f"{n} {v}" for n, v in self.fields().items() if n not in ("expected", "hint")]
        text = self.what + (f" ({', '.join(about)})" if about else "")
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.hint is not None:
            text += f". {self.hint}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.fields())


def _rebuild(kind: type[OnceboxError], what: str, fields: dict[str, str]) -> OnceboxError:
    return kind(what, **fields)


class ConfigurationError(OnceboxError):
    """A setting, URL, name or declaration that cannot work."""

    exit_code = 2


class MissingDependency(ConfigurationError):
    """An engine's client library is not installed; the hint names the extra."""


class SchemaError(ConfigurationError):
    """A schema, lock file or lens that cannot be read or cannot work."""


class SchemaBreak(OnceboxError):
    """A change of schemas that would break somebody, or that the lock does not have."""

    exit_code = 3


# ---- the producer's side


class NoTransaction(OnceboxError):
    """emit or claim was called outside a transaction: it would not be atomic with anything."""


class BadEvent(OnceboxError):
    """An object that cannot be emitted: not an event class, a bad key, too large."""


class UnknownId(OnceboxError):
    """A claim for an id that is older than the pruning floor: whether it was done is not known."""


# ---- the envelope and the log


class BadRecord(OnceboxError):
    """A record whose headers or chain cannot be read. It goes to quarantine as raw bytes."""


class DecodeFailed(OnceboxError):
    """An event whose payload does not fit the type that its handler names. Parks its key."""


class UnknownSchema(DecodeFailed):
    """A payload whose schema the registry does not know. Its key waits until it does."""


class WrongSchema(OnceboxError):
    """A registry gave another schema under an id or GUID that is known."""


class PublishRefused(OnceboxError):
    """The log refused a record for good (too large, no rights). Its key waits in the outbox."""


class LogTruncated(OnceboxError):
    """The stored position is not in the log any more: records expired, or the topic is another."""


class Unreachable(OnceboxError):
    """A store or log does not answer, or refuses the credentials."""

    retryable = True
    exit_code = 4


class StoreUnavailable(Unreachable):
    """The database cannot work now: locked, full, read-only, shutting down."""


# ---- the store


class MissingTables(OnceboxError):
    """oncebox's tables are absent, older than this code needs, or newer than it knows."""

    exit_code = 3


class MissingRight(OnceboxError):
    """The database role, or the log's user, lacks a right; the error names both."""

    exit_code = 3


class CorruptStore(OnceboxError):
    """A database file that is damaged. Nothing was written."""


# ---- the consumer


class Fenced(OnceboxError):
    """Another owner took this partition or source. Nothing of this batch was committed."""

    retryable = True


class HandlerBroke(OnceboxError):
    """A handler committed, rolled back or left the transaction of its batch unusable."""


class TransactionEnded(HandlerBroke):
    """A handler committed or rolled back, by a method or in SQL."""


class HandlerTimeout(OnceboxError):
    """A handler ran longer than `handler_timeout_s`."""


class Refused(OnceboxError):
    """An operator's action that would guess. The error says what has to be decided."""


class NotFound(OnceboxError):
    """The consumer, key, event or topic that was named does not exist."""
