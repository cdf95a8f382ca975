"""What commands are told: the options of every command, and those that several share."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from ..operate.waiting import Where

UNSAID = "no reason given"


def said(text: str, **more: Any) -> Parameter:
    """An option with its help text."""
    return Parameter(help=text, **more)


Name = Annotated[str, said("A consumer: billing, or billing.mail.")]
Because = Annotated[str, said("Why, for the journal.")]
DryRun = Annotated[bool, said("Change nothing; say what would be done.")]
SourceStore = Annotated[str | None, said("URL of the source's own database.")]
Texts = list[str] | None


@Parameter(name="*", group=Group("Everywhere", sort_key=99))
@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command understands. Commands find the values in `SOURCES`."""

    store: Annotated[str | None, said("Database URL for all services; or ONCEBOX_STORE.")] = None
    log: Annotated[str | None, said("Log URL; or ONCEBOX_LOG.")] = None
    schema: Annotated[str | None, said("Name of oncebox's tables; or ONCEBOX_SCHEMA.")] = None
    app: Annotated[
        Texts, said("MODULE[:NAME] with services; or ONCEBOX_APP, by commas. Repeatable.")
    ] = None
    config: Annotated[str | None, said("Configuration file, instead of oncebox.toml.")] = None
    json: Annotated[bool, said("Print JSON, one document per line.")] = False
    log_format: Annotated[
        Literal["text", "json"], said("How log lines look; or ONCEBOX_LOG_FORMAT.")
    ] = "text"
    verbose: Annotated[bool, said("Log more; show tracebacks.", name=("--verbose", "-v"))] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Which:
    """Which keys are meant; all that is said has to hold."""

    key: Annotated[str | None, said("This key only.")] = None
    source: Annotated[str | None, said("Keys of this source only.")] = None
    reason: Annotated[str | None, said("Keys whose reason contains this.")] = None
    where: Annotated[Texts, said("Such as kind=gap or reason~Timeout; repeatable.")] = None

    def chosen(self) -> Where:
        """As the list of what waits takes it. Raises ConfigurationError."""
        from ..operate.waiting import Where, conditions

        reason = () if self.reason is None else (f"reason~{self.reason}",)
        return Where(self.source, self.key, conditions((*reason, *(self.where or ()))))


NO_OPTIONS, EVERY_KEY = Options(), Which()


def log_to_stderr(*, verbose: bool, format: str = "text") -> None:
    """Our loggers' lines on standard error, with times in UTC."""
    handler = logging.StreamHandler(sys.stderr)
    if format == "json":
        from ..telemetry.lines import JsonLines

        handler.setFormatter(JsonLines())
    else:
        text = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s")
        text.converter, text.datefmt = time.gmtime, "%Y-%m-%dT%H:%M:%S"
        handler.setFormatter(text)
    logger = logging.getLogger("oncebox")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
