"""A process of its own that translates events from topic to topic, for consumers elsewhere.

It is a consumer like any other, whose one handler takes all types and publishes a list of copies:
so its positions, its keys that wait, its redrives are those of a consumer, and nothing overtakes
what waits. A list is published before its transaction commits, and once more if that fails: whoever
reads the topic may see an event again, with the same id and chain, and never misses one.
"""

from __future__ import annotations

from typing import Any

from ..consumer.reading import EVERY, Handler
from ..errors import ConfigurationError, PublishRefused, Unreachable
from ..event import EventType
from ..lens.copies import Copies
from ..ports import Log, Outgoing, Record
from .service import Consumer, Service

PUBLISH_TIMEOUT_S = 20.0


def translator(service: Service, copies: Copies, log: Log) -> Consumer[Any]:
    """The consumer that publishes copies to their topic on `log`. Its name ends with the topic's.

    Raises ConfigurationError where its store and the log are one file: what it publishes would wait
    for its own transaction.
    """
    if service.store is not None and service.store == service.log:
        raise ConfigurationError(
            f"{service.name}: store and log are both {service.store}",
            expected="a store of its own: --store sqlite:///translate.db",
        )
    consumer = service.consumer(copies.topic)

    def publish(tx: object, records: list[Outgoing]) -> None:
        del tx
        refusals = log.publish(records, PUBLISH_TIMEOUT_S)
        if refusals:
            first = min(refusals, key=lambda refusal: not refusal.permanent)
            kind = PublishRefused if first.permanent else Unreachable
            raise kind(f"{copies.topic} did not take a record: {first.reason}")

    def copy(version: int | None, record: Record, content: str) -> Outgoing:
        del version, content
        _, _, _, key, value, headers, time_ms = record
        return copies.of(Outgoing(copies.stream, key, value, headers, time_ms))

    every = EventType(EVERY, copies.stream, None, 0, object)
    consumer.handlers[EVERY] = Handler(
        publish, every, _never, with_context=False, listed=True, translate=copy, voids=True
    )
    return consumer


def _never(value: bytes) -> Any:
    raise AssertionError(value)  # no event says version 0


def make_topic(log: Log, copies: Copies, partitions: int) -> None:
    """See that the topic is there: with as many partitions as the one it comes from."""
    if log.describe(copies.topic) is None:
        found = log.describe(copies.stream)
        log.create(copies.topic, partitions if found is None else found.partitions)
