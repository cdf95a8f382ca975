"""For tests: of applications (`deliver`, `emitted`, `drain`), and of engines (`log_contract`)."""

from .drain import drain, drain_async
from .helpers import EmittedEvent, deliver, deliver_async, emitted

__all__ = ["EmittedEvent", "deliver", "deliver_async", "drain", "drain_async", "emitted"]
