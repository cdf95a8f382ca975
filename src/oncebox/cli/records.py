"""The quarantine: records that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from ..errors import ConfigurationError, OnceboxError
from ..program import Program
from .common import UNSAID, Because, Name, locate
from .output import clipped, complain, moment, plain, say, table, tell

if TYPE_CHECKING:
    from ..desk import Desk
    from ..ports import Record

SHOWN_MAX = 2000

Numbers = Annotated[int, Parameter(help="Their numbers in the list.")]
All = Annotated[bool, Parameter(help="All of them.")]

app = App(name="quarantine", help="Records that cannot be read: list, show, retry, drop.")


@app.command(name="list")
def list_(consumer: Name, /, *, limit: int = 100) -> int:
    """The records of a consumer's quarantine, oldest first.

    For example:

        oncebox quarantine list billing

    Parameters
    ----------
    limit:
        How many at most.
    """
    from ..quarantine import everything

    found = locate(consumer).at_desk(consumer, lambda desk: everything(desk, limit))
    for one in found:
        tell({"consumer": consumer, **one._asdict()})
    rows = [(o.n, o.position, moment(o.at_ms), o.size, clipped(o.reason, 80)) for o in found]
    table(("n", "position", "since", "bytes", "reason"), rows)
    if not found:
        say("nothing is in quarantine")
    return 0


@app.command
def show(consumer: Name, n: Annotated[int, Parameter(help="Its number in the list.")], /) -> int:
    """One record, as it came.

    For example:

        oncebox quarantine show billing 3
        oncebox quarantine show billing 3 --json      # value and headers in base64
    """
    from ..quarantine import shown

    record: Record = locate(consumer).at_desk(consumer, lambda desk: shown(desk, n))
    value = record.value or b""
    lines = [
        f"{record.topic}/{record.partition}@{record.offset}, {moment(record.time_ms)}",
        f"key: {record.key!r}",
        *(f"{name}: {header!r}" for name, header in record.headers),
        f"{value[:SHOWN_MAX]!r}" + (f" … {len(value)} bytes" if len(value) > SHOWN_MAX else ""),
    ]
    tell(plain(record), "\n".join(lines))
    return 0


@app.command
def retry(consumer: Name, /, *numbers: Numbers, all: All = False) -> int:
    """Read records again, after what reads them was mended: as if they came from the
    log now.

    For example:

        oncebox quarantine retry billing 3 4
        oncebox quarantine retry billing --all
    """
    from ..quarantine import retry as again

    return _each(consumer, numbers, again, all=all)


@app.command
def drop(consumer: Name, /, *numbers: Numbers, because: Because = UNSAID, all: All = False) -> int:
    """Give records up for good. Noted in the journal.

    For example:

        oncebox quarantine drop billing 3 --because "sent by a test"
    """
    from ..quarantine import drop as give_up

    def one(desk: Desk, n: int) -> Program[str]:
        yield from give_up(desk, n, because)
        return "dropped"

    return _each(consumer, numbers, one, all=all)


def _each(
    consumer: str,
    numbers: tuple[int, ...],
    act: Callable[[Desk, int], Program[str]],
    *,
    all: bool,
) -> int:
    """Do it for each number; 1 when one of them was refused."""
    from ..quarantine import everything

    if not numbers and not all:
        raise ConfigurationError("which records?", expected="their numbers, or --all")
    place, refused = locate(consumer), 0
    if all:
        numbers = tuple(found.n for found in place.at_desk(consumer, everything))
    for n in numbers:

        def work(desk: Desk, n: int = n) -> Program[str]:
            return act(desk, n)

        try:
            result = place.at_desk(consumer, work)
        except OnceboxError as error:
            refused += 1
            complain(error)
        else:
            tell({"consumer": consumer, "n": n, "result": result}, f"{n}: {result}")
    return 1 if refused else 0
