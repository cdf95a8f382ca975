"""A Kafka URL as librdkafka's settings, and clients made with them. Secrets stay inside.

`kafka://[user:password@]host[:port][,host[:port]…][?setting=value&…]`, with librdkafka's settings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import ConfigurationError, Unreachable

C = TypeVar("C")

logger = logging.getLogger("oncebox.kafka")

LOOPBACK = ("localhost", "127.0.0.1", "::1")
LOG_REPEAT_S = 10.0
"""librdkafka reports a lost broker 20 times a second; a kind of line is passed on this often."""

DEFAULTS = {
    "client.id": "oncebox",
    "socket.timeout.ms": 10_000,
    "socket.keepalive.enable": True,
    "reconnect.backoff.max.ms": 1_000,
    "topic.metadata.propagation.max.ms": 3_000,
}

OURS = frozenset({
    "acks", "auto.offset.reset", "bootstrap.servers", "delivery.report.only.error",
    "delivery.timeout.ms", "enable.auto.commit", "enable.auto.offset.store",
    "enable.gapless.guarantee", "enable.idempotence", "enable.partition.eof", "group.id",
    "group.instance.id", "group.protocol", "max.in.flight",
    "max.in.flight.requests.per.connection", "message.send.max.retries", "message.timeout.ms",
    "metadata.broker.list", "partitioner", "queuing.strategy", "request.required.acks",
    "retries", "transactional.id",
})  # fmt: skip
"""What the promises rest on: a URL cannot set it."""

_warned: set[str] = set()
"""Hosts whose plain text was warned about."""

_SECRET = ("password", "passphrase", "secret", ".pem", "jwt", "sasl.oauthbearer.config")


class KafkaSettings:
    """What a URL says. `hosts` and `user` may be shown. Raises ConfigurationError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        credentials, _, hosts = parts.netloc.rpartition("@")
        if parts.scheme != "kafka" or not hosts or parts.path.strip("/") or parts.fragment:
            raise ConfigurationError(
                "not a URL of Kafka", expected="kafka://host:port[,host:port][?setting=value]"
            )
        named = parse_qsl(parts.query, keep_blank_values=True)
        given = dict(named)
        refused = sorted(OURS & given.keys())
        if refused or len(given) < len(named):
            raise ConfigurationError(
                f"{', '.join(refused) or 'a setting that is given twice'} in the URL of Kafka",
                expected="settings that oncebox's promises do not rest on, each once",
            )
        user, _, password = credentials.partition(":")
        if credentials:
            given.setdefault("security.protocol", "SASL_SSL")
            if "sasl.mechanism" not in given:
                given.setdefault("sasl.mechanisms", "PLAIN")
            given["sasl.username"] = unquote(user)
            given["sasl.password"] = unquote(password)
        self.hosts = hosts
        self.user = given.get("sasl.username", "this client")
        self._given = given
        self._secrets = [v for n, v in given.items() if v and any(part in n for part in _SECRET)]
        self._trouble = ""
        away = [h for h in hosts.split(",") if urlsplit(f"//{h}").hostname not in LOOPBACK]
        if (
            away
            and hosts not in _warned
            and not given.get("security.protocol", "").lower().endswith("ssl")
        ):
            _warned.add(hosts)
            logger.warning(
                "records travel unencrypted to %s: set security.protocol=SSL or SASL_SSL",
                ", ".join(away),
            )

    def client(
        self,
        kind: Callable[[dict[str, Any]], C],
        settings: Mapping[str, Any] | None = None,
        on_error: Callable[[Any], None] | None = None,
    ) -> C:
        """A client of confluent-kafka; the URL's settings win over `settings`."""

        def note(error: Any) -> None:
            if error.name() != "_ALL_BROKERS_DOWN":  # which follows from what was said before
                self._trouble = self.masked(str(error.str()))
            if on_error is not None:
                on_error(error)

        everything = {
            **DEFAULTS,
            **(settings or {}),
            **self._given,
            "bootstrap.servers": self.hosts,
            "error_cb": note,
            "logger": _Lines(self.masked),
        }
        try:
            return kind(everything)
        except Exception as error:
            text = self.masked(str(error))
        raise ConfigurationError(f"librdkafka does not take the settings: {text}")

    def masked(self, text: str) -> str:
        """The text without the secrets of the URL."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def unreachable(self, doing: str, why: str) -> Unreachable:
        """The error for want of an answer, with what librdkafka complained about last."""
        about = f" ({self._trouble})" if self._trouble else ""
        return Unreachable(
            f"Kafka at {self.hosts} did not {doing}: {why}{about}",
            hint="check that the brokers run, the addresses that they advertise, TLS and the"
            " credentials; it goes on by itself when they are back",
        )


class _Lines:
    """librdkafka's log lines for Python's logging, without secrets and repetitions."""

    def __init__(self, masked: Callable[[str], str]) -> None:
        self._masked = masked
        self._passed_on: dict[str, float] = {}

    def log(self, level: int, text: str, *details: Any) -> None:
        """Called by confluent-kafka; the first of `details` is the kind of line."""
        kind = str(details[0]) if details else ""
        now = time.monotonic()
        if kind == "CONFWARN" or now - self._passed_on.get(kind, -LOG_REPEAT_S) < LOG_REPEAT_S:
            return  # CONFWARN: the URL's settings go to every client, whichever they are for
        self._passed_on[kind] = now
        logger.log(level, "%s", self._masked(text % details))
