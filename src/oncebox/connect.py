"""From URLs to engines. An engine is imported when its URL is used, and never before."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from .errors import ConfigurationError, MissingDependency
from .ports import Log

_LOGS = {"sqlite": ("embedded", "EmbeddedLog", None), "kafka": ("kafka", "KafkaLog", "kafka")}


def open_log(url: str) -> Log:
    """The log behind a URL: `sqlite:///events.db` or `kafka://host:9092`.

    Raises ConfigurationError for an unknown scheme, MissingDependency, Unreachable.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _LOGS:
        raise ConfigurationError(
            f"log URL {redacted(url)}", expected=" or ".join(f"{name}://…" for name in _LOGS)
        )
    module, name, extra = _LOGS[scheme]
    if scheme == "sqlite":
        if not url.startswith("sqlite:///"):
            raise ConfigurationError(f"log URL {url!r}", expected="sqlite:///events.db")
        url = url.removeprefix("sqlite:///")
    log: Log = getattr(load(f"oncebox.logs.{module}", extra), name)(url)
    return log


def load(module: str, extra: str | None) -> Any:
    """Import an engine's file. Raises MissingDependency with the extra that installs its client."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("oncebox"):
            raise
        raise MissingDependency(
            f"{error.name} is not installed", hint=f"pip install 'oncebox[{extra}]'"
        ) from error


def redacted(url: str) -> str:
    """A URL that can be shown: its password replaced."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}:***@{host}"))
