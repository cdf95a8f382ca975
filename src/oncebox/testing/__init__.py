"""For tests: of applications (`deliver`, `emitted`, `drain`), of the versions of their events
(`check_laws`), and of engines (`log_contract`).
"""

from .drain import drain, drain_async
from .helpers import EmittedEvent, deliver, deliver_async, emitted, record
from .laws import check_laws

__all__ = [
    "EmittedEvent", "check_laws", "deliver", "deliver_async", "drain", "drain_async", "emitted",
    "record",
]  # fmt: skip
