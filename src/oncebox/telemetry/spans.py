"""Spans for OpenTelemetry, by its messaging conventions: *create* when an event is emitted, *send*
when a batch is published, *process* around a handler.

An event may wait for long, come again, and be handled with others; so what goes on with it is
linked to its creation, and no child of it. Where nobody traces nothing is made: without the API's
package, without a provider, and for events whose trace was not sampled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..ports import Outgoing

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opentelemetry.trace import Link, SpanContext, Tracer, TracerProvider

LINKS_MAX = 128
"""What the SDK keeps of a span's links unless it is told otherwise."""

NAME = "oncebox"
SAMPLED = 1


def tracing() -> bool:
    """Whether somebody in this process has set a provider of tracers."""
    if "opentelemetry.trace" not in sys.modules:
        return False
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def created(stream: str, id: str, key: str | None) -> str | None:
    """The W3C trace context to travel with an event: of a span of its own, where somebody traces;
    None where no span is current.
    """
    from opentelemetry import trace

    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return None
    if current.trace_flags.sampled:
        span = _tracer().start_span(
            f"create {stream}",
            kind=trace.SpanKind.PRODUCER,
            attributes=_about("create", NAME, stream) | _of_event(id, key),
        )
        current = span.get_span_context()
        span.end()
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-{int(current.trace_flags):02x}"


def sending(system: str, records: Sequence[Outgoing]) -> AbstractContextManager[Any]:
    """Around the publishing of a batch: a span with a link to each event's creation, if any was
    traced.
    """
    if not tracing():
        return nullcontext()
    found = (_traceparent(record) for record in records)
    links = _links(parent for parent in found if parent is not None)
    return _span_of_batch(system, records, links) if links else nullcontext()


@contextmanager
def _span_of_batch(system: str, records: Sequence[Outgoing], links: list[Link]) -> Iterator[None]:
    from opentelemetry import trace

    topics = {record.topic for record in records}
    dest = topics.pop() if len(topics) == 1 else "several"
    about = _about("send", system, dest) | {"messaging.batch.message_count": len(records)}
    with _tracer().start_as_current_span(
        f"send {dest}", kind=trace.SpanKind.CLIENT, attributes=about, links=links
    ):
        yield


def processed(
    function: Callable[..., Any], system: str, consumer: str, *, with_context: bool
) -> Callable[..., Any]:
    """A handler inside a span of its own, which is current while it runs. What is returned takes
    contexts, the handler only if it is to get them.
    """

    def span(context: Context[Any] | list[Context[Any]]) -> AbstractContextManager[Any]:
        several = context if isinstance(context, list) else [context]
        traced = [one.traceparent for one in several if one.traceparent is not None]
        links = _links(traced)
        if traced and not links:
            return nullcontext()  # whoever began has decided that this is not traced
        return _span_of_handler(system, consumer, several, links)

    def call(tx: Any, event: Any, context: Any) -> Any:
        with span(context):
            return function(tx, event, context) if with_context else function(tx, event)

    async def call_async(tx: Any, event: Any, context: Any) -> Any:
        with span(context):
            return await (function(tx, event, context) if with_context else function(tx, event))

    made = call_async if iscoroutinefunction(function) else call
    made.__qualname__ = getattr(function, "__qualname__", "handler")
    return made


@contextmanager
def _span_of_handler(
    system: str, consumer: str, several: list[Context[Any]], links: list[Link]
) -> Iterator[None]:
    from opentelemetry import trace
    from opentelemetry.context import Context as NoParent

    first = several[0]
    dest = first.record.topic
    about = _about("process", system, dest) | {"messaging.consumer.group.name": consumer}
    if len(several) > 1:
        about["messaging.batch.message_count"] = len(several)
    else:
        about |= _of_event(first.id, first.key)
        about["messaging.destination.partition.id"] = str(first.record.partition)
        if system == "kafka":
            about["messaging.kafka.offset"] = first.record.offset
    with _tracer().start_as_current_span(
        f"process {dest}", NoParent(), trace.SpanKind.CONSUMER, about, links
    ) as span:
        try:
            yield
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            raise


def _tracer() -> Tracer:
    from opentelemetry import trace

    return _tracer_of(trace.get_tracer_provider())


@lru_cache(1)
def _tracer_of(provider: TracerProvider) -> Tracer:
    """Made once: to ask for it takes as long as a span."""
    return provider.get_tracer(NAME)


def _about(operation: str, system: str, dest: str) -> dict[str, Any]:
    """Attributes of every span of ours."""
    return {
        "messaging.system": system,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": dest,
    }


def _of_event(id: str, key: str | None) -> dict[str, Any]:
    about: dict[str, Any] = {"messaging.message.id": id}
    return about if key is None else about | {"messaging.kafka.message.key": key}


def _traceparent(record: Outgoing) -> str | None:
    """What `emit` made of it: the last header, if there is one."""
    if not record.headers:
        return None
    name, value = record.headers[-1]
    return value if name == "traceparent" and isinstance(value, str) else None


def _links(parents: Iterator[str] | list[str]) -> list[Link]:
    """Links to contexts that were sampled, as many as a span keeps."""
    from opentelemetry.trace import Link

    found: list[Link] = []
    for parent in parents:
        context = _read(parent)
        if context is not None and len(found) < LINKS_MAX:
            found.append(Link(context))
    return found


def _read(parent: str) -> SpanContext | None:
    """A sampled W3C trace context (version 00). It comes from outside, so it may be anything."""
    from opentelemetry.trace import SpanContext, TraceFlags

    parts = parent.split("-")
    if len(parts) != 4 or parts[0] != "00" or len(parts[1]) != 32 or len(parts[2]) != 16:
        return None
    try:
        trace_id, span_id, flags = (int(part, 16) for part in parts[1:])
    except ValueError:
        return None
    if not flags & SAMPLED:
        return None
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None
