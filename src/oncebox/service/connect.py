"""From URLs to engines. An engine is imported when its URL is used, and never before."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..errors import ConfigurationError, redacted
from ..ports import Log
from ..stores.adapt import load

_LOGS = {"sqlite": "logs.embedded:EmbeddedLog", "kafka": "logs.kafka:KafkaLog"}


def open_log(url: str) -> Log:
    """The log behind a URL: `sqlite:///events.db` or `kafka://host:9092`.

    Raises ConfigurationError for an unknown scheme, MissingDependency, Unreachable.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _LOGS:
        raise ConfigurationError(
            f"log URL {redacted(url)}", expected=" or ".join(f"{name}://…" for name in _LOGS)
        )
    if scheme == "sqlite":
        if not url.startswith("sqlite:///"):
            raise ConfigurationError(f"log URL {redacted(url)}", expected="sqlite:///events.db")
        url = url.removeprefix("sqlite:///")
    log: Log = load(_LOGS[scheme])(url)
    return log
