"""A process that traces: shop emits, billing handles and emits in turn; its spans as JSON lines.

Arguments: store URL, log URL, stream, share of traces that are sampled.
"""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from oncebox import Service, event
from oncebox.service.running import running
from oncebox.stores.adapt import open_store

STORE, LOG, STREAM, SHARE = sys.argv[1:]

exporter = InMemorySpanExporter()
provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(float(SHARE))))
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("application")


@event("order.paid", stream=STREAM, key="order")
@dataclass(frozen=True)
class Paid:
    order: str
    n: int


shop = Service("shop", store=STORE, log=LOG)
billing = Service("billing", store=STORE, log=LOG)
mail = Service("mail", store=STORE, log=LOG)
currents: list[str] = []


@billing.on(Paid)
def book(tx: Any, paid: Paid) -> None:
    span: Any = trace.get_current_span()
    currents.append(getattr(span, "name", "none"))
    if paid.order == "fails":
        raise ValueError("no account")
    if paid.n == 1:
        billing.emit(tx, Paid("reply", 2))


@mail.on(Paid)
async def write(tx: Any, paid: Paid) -> None:
    await asyncio.sleep(0)
    currents.append(getattr(trace.get_current_span(), "name", "none"))


def emit() -> None:
    session: Any = open_store(STORE).open()
    for order, n in (("a", 1), ("b", 5), ("fails", 6)):
        with tracer.start_as_current_span(f"request {order}"):
            session.begin()
            shop.emit(session.handle, Paid(order, n))
            session.commit()
    session.begin()
    shop.emit(session.handle, Paid("untraced", 9))
    session.commit()
    session.close()


async def main() -> None:
    emit()
    async with running([shop, billing, mail]) as work:
        while True:
            done = [work.parts[f"consumer:{name}"].handlers for name in ("billing", "mail")]
            counts = [sum(sum(h.counts) for h in handlers.values()) for handlers in done]
            if counts[0] >= 5 and counts[1] >= 5:
                break
            await asyncio.sleep(0.02)


asyncio.run(main())
for span in exporter.get_finished_spans():
    assert span.context is not None
    print(json.dumps({
        "name": span.name, "kind": span.kind.name, "id": span.context.span_id,
        "trace": span.context.trace_id, "parent": span.parent and span.parent.span_id,
        "links": [link.context.span_id for link in span.links],
        "status": span.status.status_code.name, **dict(span.attributes or {}),
    }))  # fmt: skip
print(json.dumps({"currents": sorted(set(currents))}))
