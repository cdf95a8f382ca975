"""The quarantine: records that cannot be read."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from cyclopts import App

from ..errors import ConfigurationError, OnceboxError
from ..program import Program
from .common import NO_OPTIONS, Flag, Options, desk_of, locate, log_to_stderr, perform, store_of
from .output import clipped, complain, line, moment, say, table

if TYPE_CHECKING:
    from ..desk import Desk
    from ..ports import Record
    from ..quarantine import Quarantined
    from ..session import Session, Store

SHOWN_MAX = 2000

app = App(
    name="quarantine",
    help="Records that cannot be read: list, show, retry, drop.",
    version_flags=(),
)


@app.command(name="list")
def list_(consumer: str, /, *, limit: int = 100, options: Options = NO_OPTIONS) -> int:
    """The records of a consumer's quarantine, oldest first.

    For example:

        oncebox quarantine list billing

    Parameters
    ----------
    consumer:
        `billing`, or `billing.mail`.
    limit:
        How many at most. With --json, all are shown.
    """
    log_to_stderr(options)
    found = _all(consumer, options, None if options.json else limit)
    if options.json:
        for one in found:
            line({"consumer": consumer, **one._asdict()})
    elif found:
        rows = [(o.n, o.position, moment(o.at_ms), o.size, clipped(o.reason, 80)) for o in found]
        table(("n", "position", "since", "bytes", "reason"), rows)
    else:
        say("nothing is in quarantine")
    return 0


@app.command
def show(consumer: str, n: int, /, *, options: Options = NO_OPTIONS) -> int:
    """One record, as it came.

    For example:

        oncebox quarantine show billing 3
        oncebox quarantine show billing 3 --json      # value and headers in base64

    Parameters
    ----------
    consumer:
        `billing`, or `billing.mail`.
    n:
        Its number in the list.
    """
    from ..quarantine import shown

    log_to_stderr(options)
    store = store_of(locate(consumer, options))
    record: Record = perform(store, lambda s: shown(desk_of(store, s, consumer), n))
    if options.json:
        headers = [[name, _base64(value)] for name, value in record.headers]
        line({**record._asdict(), "key": _base64(record.key), "value": _base64(record.value),
              "headers": headers})  # fmt: skip
        return 0
    say(f"{record.topic}/{record.partition}@{record.offset}, {moment(record.time_ms)}")
    say(f"key: {record.key!r}")
    for name, value in record.headers:
        say(f"{name}: {value!r}")
    value = record.value or b""
    say(f"{value[:SHOWN_MAX]!r}" + (f" … {len(value)} bytes" if len(value) > SHOWN_MAX else ""))
    return 0


@app.command
def retry(
    consumer: str,
    /,
    *numbers: int,
    all: Flag = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Read records again, after what reads them was mended: as if they came from the log now.

    For example:

        oncebox quarantine retry billing 3 4
        oncebox quarantine retry billing --all

    Parameters
    ----------
    consumer:
        `billing`, or `billing.mail`.
    numbers:
        Their numbers in the list.
    all:
        All of them.
    """
    from ..quarantine import retry as again

    return _each(consumer, numbers, options, again, all=all)


@app.command
def drop(
    consumer: str,
    /,
    *numbers: int,
    because: str = "no reason given",
    all: Flag = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Give records up for good. Noted in the journal.

    For example:

        oncebox quarantine drop billing 3 --because "sent by a test"

    Parameters
    ----------
    consumer:
        `billing`, or `billing.mail`.
    numbers:
        Their numbers in the list.
    because:
        Why, for the journal.
    all:
        All of them.
    """
    from ..quarantine import drop as give_up

    def one(desk: Desk, n: int) -> Program[str]:
        yield from give_up(desk, n, because)
        return "dropped"

    return _each(consumer, numbers, options, one, all=all)


def _each(
    consumer: str,
    numbers: tuple[int, ...],
    options: Options,
    one: Callable[[Desk, int], Program[str]],
    *,
    all: bool,
) -> int:
    """Do it for each number; 1 when one of them was refused."""
    log_to_stderr(options)
    if not numbers and not all:
        raise ConfigurationError("which records?", expected="their numbers, or --all")
    store = store_of(locate(consumer, options))
    if all:
        numbers = tuple(found.n for found in _all(consumer, options, None))
    refused = 0
    for n in numbers:
        try:
            result = perform(store, partial(_one, store, consumer, n, one))
        except OnceboxError as error:
            refused += 1
            complain(error, as_json=options.json)
            continue
        if options.json:
            line({"consumer": consumer, "n": n, "result": result})
        else:
            say(f"{n}: {result}")
    return 1 if refused else 0


def _one(
    store: Store, consumer: str, n: int, one: Callable[[Desk, int], Program[str]], session: Session
) -> Program[str]:
    return one(desk_of(store, session, consumer), n)


def _all(consumer: str, options: Options, limit: int | None) -> list[Quarantined]:
    from ..quarantine import quarantined

    store = store_of(locate(consumer, options))

    def work(session: Session) -> Program[list[Quarantined]]:
        desk = desk_of(store, session, consumer)
        found: list[Quarantined] = []
        while limit is None or len(found) < limit:
            page = yield from quarantined(desk, found[-1].n if found else 0)
            if not page:
                break
            found += page
        return found[:limit]

    return perform(store, work)


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()
