"""The second pass of the audit, pure: what is wrong with a key, event by event.

`Cases` holds all that the three sides have of some keys, without the events' bytes; `examine` names
what is wrong with one of them, with the evidence and what decides it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby, pairwise
from shlex import quote

from ..consumer.reading import BY_ID
from ..envelope import STAMP_UNITS_PER_US
from ..event import stream_of
from ..order import KeyState, Link
from .facts import Finding, KeyName, Logged, Row, Scope, Seen, Suspect, link_of, moved, repeat
from .unkeyed import short

MARGIN = 60 * 1_000_000 * STAMP_UNITS_PER_US
"""At the edge of a retention, stamps and positions need not be in one order: nothing is said."""


class Case:
    """All that the three sides have of one key. `inbox`: by consumer. `last`: the key's counter,
    where its row is among those that were read.
    """

    def __init__(self, name: KeyName) -> None:
        self.source, self.key = name
        self.inbox: dict[str, KeyState] = {}
        self.records: list[Logged] = []
        self.number = 0
        self.last: tuple[int, int] | None = None
        self.rows: list[Row] = []


class Cases:
    """The second pass: the cases of some keys."""

    detailed = True

    def __init__(self, names: Collection[Suspect]) -> None:
        self.names = set(names)
        self.cases: dict[KeyName, Case] = {}

    def wants(self, source: str, key: str) -> bool:
        return self._case((source, key)) is not None

    def _case(self, name: KeyName) -> Case | None:
        found = self.cases.get(name)
        if found is None:
            known = (name[0], short(name[1])) if name[0].endswith(BY_ID) else name
            if known in self.names:
                found = self.cases[name] = Case(name)
        return found

    def done(self, name: KeyName, consumer: str, state: KeyState, kept: int) -> None:  # noqa: ARG002
        case = self._case(name)
        if case is not None:
            case.inbox[consumer] = state

    def records(self, page: Iterable[Seen]) -> None:
        for seen in page:
            case = self._case(seen[:2])
            if case is not None:
                case.records.append(Logged(*seen[-2:], link_of(seen), seen[8]))

    def counter(self, name: KeyName, sequence: int, stamp: int, *, read: bool) -> None:
        case = self._case(name)
        if case is not None:
            case.number = sequence
            case.last = (sequence, stamp) if read else None

    def row(self, seen: Seen, *, published: bool) -> None:
        case = self._case(seen[:2])
        if case is not None:
            case.rows.append(Row(seen[-1], link_of(seen), published, seen[8]))


def examine(case: Case, scope: Scope) -> Iterator[Finding]:
    """What is wrong with one key; nothing where all agrees, or may."""
    return _Examination(case, scope).run()


class _Examination:
    def __init__(self, case: Case, scope: Scope) -> None:
        self.case = case
        self.scope = scope
        self.bounds = scope.of(case.source)
        self.by_id = case.source.endswith(BY_ID)
        self.source = case.source.removesuffix(BY_ID)
        records = sorted(case.records, key=lambda one: (one.place, one.offset))
        rows = sorted(case.rows, key=lambda one: (one.link.sequence, one.position))
        if self.by_id and (rows or records):  # known by its id, whenever it came
            stamp = (rows[0].link if rows else records[0].link).stamp
            records = [r._replace(link=r.link._replace(stamp=stamp)) for r in records]
            rows = [r._replace(link=r.link._replace(stamp=stamp)) for r in rows]
        self.records, self.rows = records, rows
        topics = {record.place[0] for record in records} or {stream_of(self.source)}
        self.readers = {n for topic in topics for n in scope.readers(topic)} | case.inbox.keys()
        self.by_number: dict[int, list[Logged]] = {}
        for record in records:
            self.by_number.setdefault(record.link.sequence, []).append(record)
        self.row_of = {row.link.sequence: row for row in reversed(rows)}

    def run(self) -> Iterator[Finding]:
        numbers = sorted(self.by_number.keys() | self.row_of.keys())
        for number in numbers:
            yield from self.number(self.row_of.get(number), self.by_number.get(number, []))
        yield from self.ids()
        yield from self.gaps()
        yield from self.outbox()
        yield from self.order()
        for consumer in sorted(self.readers):
            yield from self.inbox(consumer)

    def found(
        self, kind: str, link: Link | int, what: str, decide: str, *, settled: bool = False,
        record: Logged | None = None, row: Row | None = None, consumer: str | None = None,
    ) -> Finding:  # fmt: skip
        number, stamp, event = link if isinstance(link, int) else link.sequence, None, None
        if not isinstance(link, int):
            stamp, event = link.stamp, str(link.id) or None
        return Finding(
            kind, settled, self.case.source, self.case.key, number, stamp, event,
            None if record is None else str(record), None if row is None else str(row.position),
            consumer, what, decide,
        )  # fmt: skip

    # ---- outbox against log

    def number(self, row: Row | None, records: list[Logged]) -> Iterator[Finding]:
        """One number, at both sides."""
        seen: list[tuple[Link, str]] = []
        for record in records:
            said = record.link, "" if record.link.void else record.form
            if said in seen:
                yield repeat((self.case.source, self.case.key), record)
            elif row is None:
                yield from self.without_row(record, [link for link, _ in seen])
            else:
                yield from self.against(record, row)
            seen.append(said)
        if row is not None and not records:
            yield from self.not_in_log(row)

    def against(self, record: Logged, row: Row) -> Iterator[Finding]:
        mine, theirs = record.link, row.link
        if mine == theirs:
            if record.form != row.form and not mine.void:
                what = f"it is to be read as {record.form!r}, the outbox says {row.form!r}"
                yield self.conflict(record, row, what)
            return
        if mine.stamp != theirs.stamp or mine.previous != theirs.previous:
            yield self.forked(record, row, f"the outbox has {_place(theirs)} there")
        elif mine.id != theirs.id or mine.void:
            said = "is void" if mine.void else f"has id {mine.id!s}"
            yield self.conflict(
                record, row, f"the record {said}, the outbox has event {theirs.id!s}"
            )
        elif theirs.void:
            yield self.found(
                "void", mine, "erased in the outbox after it was published",
                "nothing: the log forgets its bytes by retention",
                settled=True, record=record, row=row,
            )  # fmt: skip
        else:
            yield self.conflict(record, row, "the record has other bytes than the outbox")

    def forked(self, record: Logged, row: Row | None, what: str) -> Finding:
        stamp = record.link.stamp
        cutoffs = [state.cutoff for state in self.case.inbox.values()]
        return self.found(
            "fork", record.link, f"{what}: the source forgot what it had published",
            self.command("accept"), record=record, row=row,
            settled=bool(cutoffs) and all(stamp < cutoff for cutoff in cutoffs),
        )  # fmt: skip

    def conflict(self, record: Logged, row: Row | None, what: str) -> Finding:
        see = f"compare {record} with the outbox" if row else f"look at {record}"
        return self.found(
            "conflict", record.link, what, f"{see}: who wrote it?", record=record, row=row
        )

    def without_row(self, record: Logged, seen: list[Link]) -> Iterator[Finding]:
        link = record.link
        other = next((one for one in seen if one[:2] != link[:2]), None)
        if other is not None:
            yield self.forked(record, None, f"the log has {_place(other)} too")
        elif any(one.void is not link.void and one.id == link.id for one in seen):
            yield self.found(
                "void", link, "erased after it was published; the outbox does not have it any more",
                "nothing: the log forgets its bytes by retention", settled=True, record=record,
            )  # fmt: skip
        elif seen:
            what = "the log has this event with other bytes, or to be read otherwise, too"
            yield self.conflict(record, None, what)
        elif self.covered(link):
            cutoffs = [state.cutoff for state in self.case.inbox.values()]
            yield self.found(
                "phantom", link, "the log has it, and the outbox does not",
                self.command("accept"), record=record,
                settled=bool(cutoffs) and all(link.stamp < cutoff for cutoff in cutoffs),
            )  # fmt: skip

    def covered(self, link: Link) -> bool:
        """Whether the outbox would still have it. By the time alone: of events that wait long for
        their commit, retention drops a higher number before a lower one.
        """
        return self.bounds.outbox is not None and link.stamp >= _inside(self.bounds.outbox)

    def is_nobodys(self, link: Link) -> bool:
        """Whether the outbox says that there is no such event."""
        row = self.row_of.get(link.sequence)
        return self.covered(link) if row is None else row.link.stamp != link.stamp

    def edge(self, number: int) -> int:
        """From which stamp on the log has what there is of this number: between others in a place,
        or anywhere.
        """
        below = {one.place for one in self.records if one.link.sequence < number}
        above = {one.place for one in self.records if one.link.sequence > number}
        if self.by_id or below & above:
            return self.bounds.log
        return self.scope.beginning(self.case.source, self.case.key)

    def not_in_log(self, row: Row) -> Iterator[Finding]:
        link = row.link
        if row.published and _inside(self.edge(link.sequence)) <= link.stamp < self.bounds.until:
            yield self.found(
                "lost", link, "the relay has passed it, and the log does not have it",
                self.republish(link.sequence),
                settled=self.given_up(link.sequence), row=row,
            )  # fmt: skip

    def ids(self) -> Iterator[Finding]:
        """One id at two numbers, where there is no outbox that could say it."""
        numbers: dict[str, int] = {}
        for one in self.records if self.bounds.outbox is None else ():
            number = numbers.setdefault(str(one.link.id), one.link.sequence)
            if number != one.link.sequence:
                yield self.found(
                    "conflict", one.link, f"its id is that of number {number} too",
                    "ids are given once: who wrote it?", record=one,
                )  # fmt: skip

    def gaps(self) -> Iterator[Finding]:
        """Numbers that neither side has, though one of them would: by the stamp of the last of
        them, which the event behind them knows. What was republished outlives its neighbours.
        """
        if self.by_id:
            return
        both: list[Row | Logged] = [*self.rows, *self.records]
        previous = {one.link.sequence: one.link.previous or 0 for one in both}
        last, outbox = self.case.last, self.bounds.outbox
        if last is not None and outbox is not None:
            previous.setdefault(last[0] + 1, last[1])
        for before, behind in pairwise([0, *sorted(previous)]):
            edge = self.edge(before + 1)
            edge = _inside(edge if outbox is None else min(outbox, edge))
            if behind > before + 1 and previous[behind] >= edge:
                first, end = before + 1, behind - 1
                what = f"neither outbox nor log has number {first}"
                if outbox is None:
                    what = f"the log does not have number {first}"
                yield self.found(
                    "gap", first, what + (f" to {end}" if end > first else ""),
                    self.command("skip"), settled=all(map(self.given_up, range(first, end + 1))),
                )  # fmt: skip

    def outbox(self) -> Iterator[Finding]:
        """The rows by themselves: they chain, and the counter stands at the last one."""
        for first, second in pairwise(self.rows):
            one, two = first.link, second.link
            if two.sequence == one.sequence:
                kind = "conflict" if one.id == two.id else "fork"
                what = f"the outbox has this number twice, also at {first.position}"
            elif two.sequence == one.sequence + 1 and two.previous != one.stamp:
                kind, what = "fork", f"it does not chain to {_place(one)} of the outbox"
            else:
                continue
            yield self.found(kind, two, what, "who wrote to the outbox past emit?", row=second)
        if self.by_id or not self.rows:
            return
        row = self.rows[-1]
        number = self.case.number
        if number < row.link.sequence:
            yield self.found(
                "fork", row.link, f"the outbox's counter stands at {number}: numbers come twice",
                "set the key's row of oncebox's table counter to this event before it emits again",
                row=row,
            )  # fmt: skip

    # ---- the log's order

    def order(self) -> Iterator[Finding]:
        """A number that comes behind a higher one, and was nowhere before. Of what is in another
        place too, nobody knows which came first; nor of what a log may have dropped.
        """
        for place, group in groupby(self.records, key=lambda one: one.place):
            high: Logged | None = None
            known: set[int] = set()
            oldest = 0
            for record in group:
                link = record.link
                if high is None and self.bounds.log:
                    oldest = link.sequence
                if high is None or link.sequence > high.link.sequence:
                    high = record
                elif (
                    oldest <= link.sequence < high.link.sequence
                    and link.sequence not in known
                    and all(one.place == place for one in self.by_number[link.sequence])
                ):
                    yield self.found(
                        "inversion", link, f"it comes behind number {high.link.sequence} ({high})",
                        "who else writes to this topic? Consumers of oncebox keep the order",
                        record=record, settled=self.given_up(link.sequence),
                    )  # fmt: skip
                known.add(link.sequence)
        if not self.by_id:  # the log chooses anew where there is no key
            yield from self.moves()

    def moves(self) -> Iterator[Finding]:
        """A key in several partitions: no fault, if some were added. To and fro is one."""
        places = {record.place for record in self.records}
        if len(places) > 1:
            topics = sorted({topic for topic, _ in places})
            strays = [one for topic in topics for one in self.astray(topic)]
            record, name = (strays or self.records[-1:])[0], (self.case.source, self.case.key)
            yield moved(name, record.link, places, settled=not strays)._replace(record=str(record))

    def astray(self, topic: str) -> Iterator[Logged]:
        """The first record where the log never puts its key, or whose number is nowhere where it
        may be. Who publishes a number knows as many partitions as the one who published that before
        it, or more. A relay that was stopped in between knows fewer, and repeats what others have
        published since: so one place will do.
        """
        homes, known = self.scope.homes_of(topic, self.case.key), 0
        for number in sorted(self.by_number):
            records = [one for one in self.by_number[number] if one.place[0] == topic]
            if not records:
                continue
            strange = [one for one in records if one.place[1] not in homes]
            places = {one.place[1] for one in records}
            fits = (count for count in range(known, len(homes)) if homes[count] in places)
            known = next(fits, len(homes))
            if strange or known == len(homes):
                yield (strange or records)[0]
                return

    # ---- the inbox

    def inbox(self, consumer: str) -> Iterator[Finding]:
        state = self.case.inbox.get(consumer, KeyState())
        yield from self.last_done(consumer, state)
        positions = self.scope.positions.get(consumer, {})
        kept = {link.sequence for link in state.kept}
        has = f"{consumer} has neither done nor kept it, and stands at number {state.sequence}"
        if self.by_id or state.sequence < 0:
            has = f"{consumer} has neither done nor kept it"
        for record in self.records:
            link, read = record.link, record.offset < positions.get(record.place, 0)
            if (
                read
                and link.sequence not in kept
                and self.is_due(consumer, state, link)
                and not self.is_nobodys(link)
            ):
                kept.add(link.sequence)
                yield self.found(
                    "unapplied", link, f"{has}: it has read past it",
                    f"oncebox replay {consumer} --from start --topic {record.place[0]}",
                    record=record, row=self.row_of.get(link.sequence), consumer=consumer,
                )  # fmt: skip
        yield from self.kept(consumer, state)
        for row in self.rows:
            link = row.link
            dropped = row.published and link.stamp + MARGIN < self.edge(link.sequence)
            if (
                dropped
                and link.sequence not in self.by_number
                and link.sequence not in kept
                and self.is_due(consumer, state, link)
            ):
                yield self.found(
                    "unapplied", link, f"{has}: the log dropped it before it was read",
                    self.republish(link.sequence), row=row, consumer=consumer,
                )  # fmt: skip

    def kept(self, consumer: str, state: KeyState) -> Iterator[Finding]:
        """Whether what a consumer keeps is what there is."""
        for mine in state.kept:
            row = self.row_of.get(mine.sequence)
            links = [one.link for one in self.by_number.get(mine.sequence, ())]
            links += [] if row is None else [row.link]
            same = [link for link in links if self.by_id or link[:2] == mine[:2]]
            if same and not any(mine.void or _may_be(mine, link) for link in same):
                what, decide = "other bytes or another id", f"oncebox parked {consumer}"
                yield self.found(
                    "conflict", mine, f"{consumer} keeps it with {what}", decide,
                    row=row, consumer=consumer,
                )  # fmt: skip
            elif not links and self.covered(mine):
                what = f"{consumer} keeps it, and neither outbox nor log has it"
                yield self.found("phantom", mine, what, self.command("accept"), consumer=consumer)

    def is_due(self, consumer: str, state: KeyState, link: Link) -> bool:
        """Whether a consumer has to do it, and has not."""
        floor = self.scope.floor(consumer, self.case.source)
        before_start = link.stamp < floor and (state.sequence < 0 or link.stamp < state.stamp)
        return link.sequence > state.sequence and link.stamp >= state.cutoff and not before_start

    def last_done(self, consumer: str, state: KeyState) -> Iterator[Finding]:
        """Whether the event that a consumer has done last is one that there is."""
        number = state.sequence
        if number < 1:
            return
        row = self.row_of.get(number)
        links = [one.link for one in self.by_number.get(number, ())]
        links += [] if row is None else [row.link]
        mine = Link(number, state.stamp, None, state.id, state.digest)
        if not links:
            last = max((*self.by_number, *self.row_of, self.case.number))
            dropped = self.by_id and self.bounds.dropped(state.stamp - MARGIN)
            if self.bounds.outbox is not None and number > last and not dropped:
                what = f"{consumer} has done number {number}, and the last one is {last}"
                yield self.found("phantom", mine, what, self.command("accept"), consumer=consumer)
            return
        same = [link for link in links if self.by_id or link.stamp == state.stamp]
        if not same:
            what = f"{consumer} has done {_place(mine)}, and there is {_place(links[-1])}"
            yield self.found("fork", mine, what, self.command("accept"), consumer=consumer, row=row)
        elif not any(_may_be(mine, link) for link in same):
            what = f"{consumer} has done it with another id or other bytes"
            yield self.found(
                "conflict", mine, what, self.command("accept"), consumer=consumer, row=row
            )

    # ---- what decides

    def given_up(self, number: int) -> bool:
        """Whether operators have skipped it for all who read it."""
        states = [self.case.inbox.get(name, KeyState()) for name in self.readers]
        return bool(states) and all(
            any(first <= number <= last for first, last in state.skipped) for state in states
        )

    def republish(self, number: int) -> str:
        if self.by_id:
            return "publish it again from the outbox"
        key, source = quote(self.case.key), quote(self.source)
        return f"oncebox republish --source {source} --key {key} --from {number} --to {number}"

    def command(self, action: str) -> str:
        consumer = min(self.readers, default="CONSUMER")
        key, source = quote(self.case.key), quote(self.case.source)
        return f"oncebox {action} {consumer} --key {key} --source {source}"


def _inside(edge: int) -> int:
    """From which stamp on a side surely has what there is; it begins with `edge`, 0: it has all."""
    return edge + MARGIN if edge else 0


def _may_be(mine: Link, link: Link) -> bool:
    """Whether what a row says fits an event: an empty id and a zero digest say nothing."""
    ids = not mine.id or mine.id == link.id
    return ids and (not mine.digest or not link.digest or mine.digest == link.digest)


def _place(link: Link) -> str:
    return f"{link.sequence}:{link.stamp}"
