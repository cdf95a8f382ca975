"""The quarantine: records that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from cyclopts import App

from ..errors import ConfigurationError, OnceboxError
from ..operate import quarantine
from ..operate.desk import Desk
from ..ports import Record
from ..program import Program
from ..service.places import locate
from .options import UNSAID, Because, Name, said
from .output import complain, listing, moment, plain, say, tell

SHOWN_MAX = 2000

Number = Annotated[int, said("Its number in the list.")]
Numbers = Annotated[int, said("Their numbers in the list.")]
All = Annotated[bool, said("All of them.")]
Limit = Annotated[int, said("How many at most.")]

app = App(name="quarantine", help="Records that cannot be read: list, show, retry, drop.")


@app.command(name="list")
def list_(consumer: Name, /, *, limit: Limit = 100) -> None:
    """The records of a consumer's quarantine, oldest first.

    For example:

        oncebox quarantine list billing
    """
    found = locate(consumer).at_desk(consumer, lambda desk: quarantine.everything(desk, limit))
    listing([one._asdict() for one in found])
    if not found:
        say("nothing is in quarantine")


@app.command
def show(consumer: Name, n: Number, /) -> None:
    """One record, as it came.

    For example:

        oncebox quarantine show billing 3
        oncebox quarantine show billing 3 --json      # value and headers in base64
    """
    record: Record = locate(consumer).at_desk(consumer, lambda desk: quarantine.shown(desk, n))
    value = record.value or b""
    lines = [
        f"{record.topic}/{record.partition}@{record.offset}, {moment(record.time_ms)}",
        f"key: {record.key!r}",
        *(f"{name}: {header!r}" for name, header in record.headers),
        f"{value[:SHOWN_MAX]!r}" + (f" … {len(value)} bytes" if len(value) > SHOWN_MAX else ""),
    ]
    tell(plain(record), "\n".join(lines))


@app.command
def retry(consumer: Name, /, *numbers: Numbers, all: All = False) -> int:
    """Read records again, after what reads them was mended: as if they came now.

    For example:

        oncebox quarantine retry billing 3 4
        oncebox quarantine retry billing --all
    """
    return _each(consumer, numbers, quarantine.retry, all=all)


@app.command
def drop(consumer: Name, /, *numbers: Numbers, because: Because = UNSAID, all: All = False) -> int:
    """Give records up for good. Noted in the journal.

    For example:

        oncebox quarantine drop billing 3 --because "sent by a test"
    """

    def act(desk: Desk, n: int) -> Program[str]:
        yield from quarantine.drop(desk, n, because)
        return "dropped"

    return _each(consumer, numbers, act, all=all)


def _each(
    consumer: str, numbers: tuple[int, ...], act: Callable[[Desk, int], Program[str]], *, all: bool
) -> int:
    """Do it for each number; 1 when one of them was refused."""
    if not numbers and not all:
        raise ConfigurationError("which records?", expected="their numbers, or --all")

    def work(desk: Desk) -> Program[int]:
        refused = 0
        known = (yield from quarantine.everything(desk)) if all else []
        for n in [one.n for one in known] or numbers:
            try:
                result = yield from act(desk, n)
            except OnceboxError as error:
                refused += 1
                complain(error)
            else:
                tell({"consumer": consumer, "n": n, "result": result}, f"{n}: {result}")
        return refused

    return 1 if locate(consumer).at_desk(consumer, work) else 0
