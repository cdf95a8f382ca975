"""What commands are told: the options of every command, and those that several share."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from ..config import Sources

if TYPE_CHECKING:
    from ..waiting import Where

SOURCES: ContextVar[Sources] = ContextVar("oncebox_sources")
"""What this run of the command line was given, and from where."""

UNSAID = "no reason given"

Name = Annotated[str, Parameter(help="A consumer: billing, or billing.mail.")]
Because = Annotated[str, Parameter(help="Why, for the journal.")]
DryRun = Annotated[bool, Parameter(help="Change nothing; say what would be done.")]
SourceStore = Annotated[str | None, Parameter(help="URL of the source's own database.")]


@Parameter(name="*", group=Group("Everywhere", sort_key=99))
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command understands. Commands find the values in `SOURCES`.

    Attributes
    ----------
    store:
        Database URL for all services; or ONCEBOX_STORE.
    log:
        Log URL; or ONCEBOX_LOG.
    schema:
        Name of oncebox's tables; or ONCEBOX_SCHEMA.
    app:
        MODULE[:NAME] with services; or ONCEBOX_APP. May be repeated.
    config:
        Configuration file, instead of oncebox.toml.
    json:
        Print JSON, one document per line.
    verbose:
        Log more; show tracebacks.
    """

    store: str | None = None
    log: str | None = None
    schema: str | None = None
    app: list[str] | None = None
    config: str | None = None
    json: bool = False
    verbose: Annotated[bool, Parameter(name=("--verbose", "-v"))] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Which:
    """Which keys are meant; all that is said has to hold.

    Attributes
    ----------
    key:
        This key only.
    source:
        Keys of this source only.
    reason:
        Keys whose reason contains this.
    where:
        FIELD=VALUE or FIELD~PART (contains); may be repeated. Fields: source, key,
        kind, reason, type, id.
    """

    key: str | None = None
    source: str | None = None
    reason: str | None = None
    where: list[str] | None = None

    def chosen(self) -> Where:
        """As the list of what waits takes it. Raises ConfigurationError."""
        from ..waiting import Where, conditions

        reason = () if self.reason is None else (f"reason~{self.reason}",)
        return Where(self.source, self.key, conditions((*reason, *(self.where or ()))))


NO_OPTIONS, EVERY_KEY = Options(), Which()


def log_to_stderr(*, verbose: bool) -> None:
    """Our loggers' lines on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("oncebox")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
