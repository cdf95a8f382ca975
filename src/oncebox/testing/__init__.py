"""For tests: of applications (`deliver`, `emitted`), and of engines (`log_contract`)."""

from .helpers import EmittedEvent, deliver, deliver_async, emitted

__all__ = ["EmittedEvent", "deliver", "deliver_async", "emitted"]
