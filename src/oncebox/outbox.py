"""The outbox as it is read: what a relay has passed, and events as records on their way to a log.

What `emit` writes is in `sql/*/0001_outbox.sql`: an event gets its place in its key's chain, and a
position that rises along the key, in its own transaction. Reading never decodes a payload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from msgspec import json

from .codecs.framing import beside
from .envelope import (
    JSON,
    STAMP_UNITS_PER_US,
    Reference,
    after_text,
    digest,
    event_headers,
    read_attributes,
)
from .errors import BadEvent, ConfigurationError, NotFound
from .event import check_name, stream_of
from .order import Link
from .ports import Outgoing, Record, Refusal
from .program import Program, call
from .session import Rows, Session

Headers = list[tuple[str, str | bytes | None]]

PAGE_MAX = 1_000
PAGE_BYTES_MAX = 8 * 1024 * 1024
"""Events, and bytes of payload, that one statement of `history` brings (one event at least)."""

BEYOND_ALL = 2**63 - 1
"""A position that no event has: `read` from there brings the holes alone."""

_NOBODY: frozenset[str] = frozenset()
_UNFIT = (ValueError, TypeError, AttributeError, OverflowError, ConfigurationError)
"""What making a record raises for values that are not those of an event."""

_STAMP_UNITS_PER_MS = STAMP_UNITS_PER_US * 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Stored(NamedTuple):
    """A row of the statement `read`. `id` is None where the event is another service's or gone;
    `data` is None for a void; `attributes` is a JSON object of strings.
    """

    position: int
    n: int
    source: str
    key: str | None
    sequence: int | None
    stamp: int
    previous: int | None
    after_stamp: int | None
    id: str | None
    type: str
    version: int | None
    content_type: str | None
    attributes: str | None
    after_source: str | None
    after_key: str | None
    data: bytes | None


# ---- what was read


class Hole(NamedTuple):
    """Positions that were drawn but not seen, `first` to `last`: by a transaction that had not
    committed yet, or never will. `suspects`: those that could own it and have not ended since;
    None: not asked for yet.
    """

    first: int
    last: int
    suspects: frozenset[str] | None = None


class Reached(NamedTuple):
    """Everything up to `position` was read, but for `holes`, which rise."""

    position: int = 0
    holes: tuple[Hole, ...] = ()


def pass_over(reached: Reached, found: Sequence[int]) -> Reached:
    """After a read of all above `reached` that brought the positions `found`, which rise.

    The read may have been cut behind the last of them. A hole without suspects that the read has
    covered is nobody's: its transaction was rolled back.
    """
    position, holes = reached
    if not found:
        return Reached(position, tuple(h for h in holes if h.suspects != _NOBODY))
    last = found[-1]
    if not holes and last - position == len(found):
        return Reached(last)
    unseen = [*holes, Hole(position + 1, last)] if last > position else holes
    left: list[Hole] = []
    at = 0
    for hole in unseen:
        first, end, suspects = hole
        while at < len(found) and found[at] <= end:
            if found[at] > first:
                left.append(Hole(first, found[at] - 1, suspects))
            first = max(first, found[at] + 1)
            at += 1
        if first <= end:
            left.append(Hole(first, end, suspects))
    return Reached(
        max(last, position), tuple(h for h in left if h.suspects != _NOBODY or h.last > last)
    )


class Still(NamedTuple):
    """A transaction that runs nothing for as long as `token` stays the same. It was so before the
    position `since` was the last one drawn: those above are others' (None: seen once only).
    """

    token: str
    since: int | None


class Suspects:
    """Who may own the positions that are missing: `look` takes the rows of the statement
    `numbering`, asked again and again.

    Those who had not ended when a hole was noticed own it, or nobody does. Of these, one that ran
    nothing while a position was drawn did not draw it: else a prepared transaction that is left
    open would keep open what every later rollback leaves.
    """

    def __init__(self) -> None:
        self.drawn = 0
        self.still: dict[str, Still] = {}

    def look(self, reached: Reached, numbering: Iterable[tuple[str, str | None, int]]) -> Reached:
        """What was reached, with the suspects that are left."""
        rows = list(numbering)
        before, drawn_before = self.still, self.drawn
        self.still = {}
        for name, token, self.drawn in rows:
            if token is not None:
                known = before.get(name)
                same = known is not None and known.token == token
                since = known.since if known is not None and same else None
                self.still[name] = Still(token, self.drawn if same and since is None else since)

        def may_own(name: str, hole: Hole) -> bool:
            since = self.still[name].since if name in self.still else None
            # Above `drawn_before`: perhaps drawn after it was seen to be still, this time.
            return since is None or hole.first <= since or hole.last > drawn_before

        def left(hole: Hole) -> Hole:
            owners = frozenset(name for name, *_ in rows if may_own(name, hole))
            return hole._replace(
                suspects=owners if hole.suspects is None else hole.suspects & owners
            )

        return reached._replace(holes=tuple(map(left, reached.holes)))


def holes_text(holes: Iterable[Hole]) -> str:
    """Holes as the statements take them: a JSON array of [first, last]."""
    return json.encode([(h.first, h.last) for h in holes]).decode()


def reached_text(reached: Reached, refused: Iterable[int] = ()) -> str:
    """What the cursor stores: [needed, position, holes]. Below `needed`, nothing is open; it takes
    the positions `refused` into account.
    """
    first = [h.first for h in reached.holes[:1]]
    needed = min([reached.position + 1, *first, *refused])
    holes = [(h.first, h.last) for h in reached.holes]
    return json.encode((needed, reached.position, holes)).decode()


def read_reached(text: str | None) -> Reached:
    """The reverse of `reached_text`."""
    if text is None:
        return Reached()
    _, position, holes = json.decode(text)
    return Reached(position, tuple(Hole(first, last) for first, last in holes))


# ---- events as records


class Envelopes:
    """Makes records of stored events. `topics`: topics of streams that are not called as the
    stream.
    """

    def __init__(self, topics: Mapping[str, str] | None = None) -> None:
        self.topics = topics or {}
        self._kinds: dict[tuple[Any, ...], tuple[str, Headers]] = {}

    def topic(self, source: str) -> str:
        stream = stream_of(source)
        return self.topics.get(stream, stream)

    def records(self, rows: Sequence[Any]) -> tuple[list[Outgoing], Sequence[int], list[Refusal]]:
        """Rows as records, and their places among the rows; refusals of those that are no events,
        which hold back what is behind them in their key.
        """
        try:
            return [self._record(row) for row in rows], range(len(rows)), []
        except _UNFIT:
            pass
        records: list[Outgoing] = []
        places: list[int] = []
        refusals: list[Refusal] = []
        held: set[tuple[str, str]] = set()
        for at, row in enumerate(rows):
            source, key = row[2:4]
            if (source, key) in held:
                continue
            try:
                records.append(self.record(row))
                places.append(at)
            except BadEvent as error:
                refusals.append(Refusal(at, str(error), permanent=True))
                if key is not None:
                    held.add((source, key))
        return records, places, refusals

    def record(self, row: Any) -> Outgoing:
        """A `Stored` row, or plain tuple, as a record. Forwards its bytes as they are. Raises
        BadEvent for a row that somebody wrote past `emit`, and that is no event.
        """
        try:
            return self._record(row)
        except _UNFIT as error:
            raise BadEvent(
                f"a row of the outbox is no event: {error}",
                event=row[8], source=row[2], key=row[3], position=str(row[0]),
                expected="what emit writes",
                hint="mend the row; it is tried again within a minute, and its key waits for it",
            ) from error  # fmt: skip

    def _record(self, row: Any) -> Outgoing:
        (
            _, _, source, key, sequence, stamp, previous, after_stamp,
            id, type, version, content_type, attributes, after_source, after_key, data,
        ) = row  # fmt: skip
        try:
            topic, fixed = self._kinds[source, type, version, content_type]
        except KeyError:
            topic, fixed = self._kind(source, type, version, content_type)
        if sequence is not None:
            place = ("ce_chain", f"{sequence}:{stamp}:{'' if previous is None else previous}")
        else:
            place = ("ce_time", _time_text(stamp))
        headers: Headers = [*fixed, ("ce_id", id), place]
        if attributes is not None or after_key is not None or data is None:
            headers += _rare(attributes, after_source, after_key, after_stamp, data)
        return Outgoing(
            topic,
            None if key is None else key.encode(),
            data,
            headers,
            stamp // _STAMP_UNITS_PER_MS,
        )

    def _kind(
        self, source: str, type: str, version: int | None, content_type: str | None
    ) -> tuple[str, Headers]:
        """Topic and headers that all events of a kind share; kinds are few."""
        check_name("stream", stream_of(source))
        headers = event_headers("", source, type, version, None, content_type=content_type or JSON)
        fixed: Headers = [header for header in headers if header[0] != "ce_id"]
        fixed += beside(content_type or JSON)
        kind = self._kinds[source, type, version, content_type] = self.topic(source), fixed
        return kind


def _rare(
    attributes: str | None,
    after_source: str | None,
    after_key: str | None,
    after_stamp: int | None,
    data: bytes | None,
) -> Iterable[tuple[str, str]]:
    if data is None:
        yield "ce_void", "1"
    if after_source is not None and after_key is not None and after_stamp is not None:
        yield "ce_after", after_text(Reference(after_source, after_key, after_stamp))
    if attributes is not None:
        for name, value in read_attributes(attributes).items():
            yield name if name == "traceparent" else "ce_" + name, value


def _time_text(stamp: int) -> str:
    """RFC 3339, microseconds, UTC."""
    moment = _EPOCH + timedelta(microseconds=stamp // STAMP_UNITS_PER_US)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


# ---- the history of a key


class History(NamedTuple):
    """What a source has of a key: its events in order, without holes, from the oldest that it
    still has (or was asked for), and their records by (sequence, stamp).
    """

    links: tuple[Link, ...]
    records: Mapping[tuple[int, int], Record]


class Located(NamedTuple):
    """A row of the statement `links`: where an event of a key is, and its place in the chain."""

    position: int
    sequence: int
    stamp: int
    previous: int | None
    id: str
    void: bool


def locate(
    session: Session, sql: Mapping[str, str], source: str, key: str, first: int = 1
) -> Program[list[Located]]:
    """Where the events of a key are, from number `first` on, without holes up to its last one."""
    rows = yield from call(session.run, sql["links"], (source, key, first))
    found = [Located(*row) for row in rows]
    for i in range(len(found) - 1, 0, -1):
        if found[i].previous != found[i - 1].stamp:  # retention dropped what lay between
            return found[i:]
    return found


def read_at(
    session: Session, sql: Mapping[str, str], positions: Sequence[int]
) -> Program[list[Stored]]:
    """Events at these positions, which rise: as many of the first PAGE_MAX as fit in
    PAGE_BYTES_MAX, one at least.
    """
    holes = holes_text(Hole(p, p) for p in positions[:PAGE_MAX])
    parameters = (BEYOND_ALL, holes, PAGE_MAX, PAGE_BYTES_MAX, "")
    rows: Rows = yield from call(session.run, sql["read"], parameters)
    return [Stored(*row) for row in rows]


def history(
    session: Session,
    sql: Mapping[str, str],
    source: str,
    key: str,
    first: int = 1,
    last: int | None = None,
) -> Program[History]:
    """What a source has of a key from number `first` on; records only up to number `last`."""
    located = yield from locate(session, sql, source, key, first)
    envelopes = Envelopes()
    wanted = [one.position for one in located if last is None or one.sequence <= last]
    records: dict[tuple[int, int], Record] = {}
    digests: dict[int, int] = {}
    while wanted:
        page = yield from read_at(session, sql, wanted)
        for row in page:
            if row.id is not None and row.sequence is not None:
                records[row.sequence, row.stamp] = _as_record(envelopes.record(row), row.position)
                digests[row.position] = digest(row.type, row.data is None, row.data)
        wanted = [p for p in wanted if p > page[-1].position] if page else []
    links = tuple(
        Link(o.sequence, o.stamp, o.previous, o.id, digests.get(o.position, 0), bool(o.void))
        for o in located
    )
    return History(links, records)


def _as_record(outgoing: Outgoing, position: int) -> Record:
    """A record as a reader of a log would get it; partition -1 is the outbox itself."""
    headers = [(n, v.encode() if isinstance(v, str) else v) for n, v in outgoing.headers]
    topic, key, value, _, time_ms = outgoing
    return Record(topic, -1, position, key, value, headers, time_ms)


def void(
    session: Session, sql: Mapping[str, str], source: str, key: str, sequence: int
) -> Program[None]:
    """Erase an event's payload for good; a relay that did not publish it yet publishes a void.

    In the caller's transaction. Raises NotFound.
    """
    located = yield from locate(session, sql, source, key, sequence)
    found = next((one for one in located if one.sequence == sequence), None)
    if found is None:
        raise NotFound(
            f"no event {sequence}", source=source, key=key, hint="retention may have dropped it"
        )
    (row,) = yield from read_at(session, sql, [found.position])
    yield from call(session.run, sql["void"], (row.n,))
    yield from call(session.run, sql["retry_refused"], (row.position,))
