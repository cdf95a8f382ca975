"""The audit on real engines: what is clean is called clean, and what is planted is found."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from audited import FUTURE_S, System, flags, header, kinds, of, partition_of, read_all, with_header
from oncebox.audit import survey
from oncebox.audit.survey import Side, audit
from oncebox.errors import LogTruncated, MissingRight
from oncebox.operate.desk import now_ms
from oncebox.ports import Record
from oncebox.program import call
from oncebox.service.places import Place
from operating import Run

Records = list[Record]


# ---- a clean system


def test_a_system_that_agrees_is_clean(system: System) -> None:
    system.pays("a", 1, 2, 3)
    system.pays("b", 1)
    system.emit(system.opened("monday"))
    system.session.begin()
    system.services[0].emit(system.session.handle, system.paid("a", 99))
    system.session.rollback()
    system.pays("a", 4)
    system.drain()
    report = system.audit()
    assert (report.findings, report.clean) == ([], True)
    assert (report.rows, report.records, report.keys) == (6, 6, 3)
    assert (report.unseen, report.waiting, report.unknown) == (0, 0, [])


# ---- what is planted in the log


def removed(key: str, *numbers: int) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        for number in numbers:
            del records[of(records, key, number)]

    return edit


def swapped(records: Records) -> None:
    two, three = of(records, "a", 2), of(records, "a", 3)
    records[two], records[three] = records[three], records[two]


def changed(number: int, change: Callable[[Record], Record]) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        at = of(records, "a", number)
        records[at] = change(records[at])

    return edit


def again(number: int, change: Callable[[Record], Record]) -> Callable[[Records], None]:
    def edit(records: Records) -> None:
        records.append(change(records[of(records, "a", number)]))

    return edit


def elsewhere(record: Record) -> Record:
    """Where no number of partitions up to three would have put it."""
    return record._replace(partition=(record.partition + 2) % 3)


def chain(change: Callable[[int, int, int], tuple[int, int, Any]]) -> Callable[[Record], Record]:
    def edit(record: Record) -> Record:
        numbers = map(int, header(record, "ce_chain").split(b":"))
        return with_header(record, "ce_chain", ":".join(map(str, change(*numbers))).encode())

    return edit


def invented(record: Record) -> Record:
    """The event after this one, which nobody emitted."""
    made = chain(lambda n, stamp, previous: (n + 1, stamp + 5000, stamp))(record)
    return with_header(made, "ce_id", b"invented")


def first_of_nobody(record: Record) -> Record:
    made = with_header(record, "ce_chain", b"1:%d:" % (record.time_ms * 1_024_000))
    return with_header(made, "ce_id", b"invented")._replace(key=b"nobody")


def the_unkeyed(records: Records) -> int:
    return next(at for at, record in enumerate(records) if record.key is None)


def unkeyed_removed(records: Records) -> None:
    del records[the_unkeyed(records)]


def unkeyed_with_other_bytes(records: Records) -> None:
    records.append(records[the_unkeyed(records)]._replace(value=b'{"order":"tuesday"}'))


def id_of_another(records: Records) -> None:
    two, four = of(records, "a", 2), of(records, "a", 4)
    records[four] = with_header(records[four], "ce_id", header(records[two], "ce_id"))


IN_THE_LOG: dict[str, tuple[Callable[[Records], None], set[str]]] = {
    "removed in the middle": (removed("a", 3), {"lost"}),
    "removed at the end": (removed("a", 5), {"lost"}),
    "removed at the start": (removed("a", 1), {"lost"}),
    "all of a key removed": (removed("a", 1, 2, 3, 4, 5), {"lost"}),
    "one without a key removed": (unkeyed_removed, {"lost"}),
    "swapped": (swapped, {"inversion"}),
    "another partition": (changed(3, elsewhere), {"moved"}),
    "other bytes": (changed(3, lambda r: r._replace(value=b'{"order":"a","cents":9}')), {"conflict"}),
    "another id": (changed(3, lambda r: with_header(r, "ce_id", b"other")), {"conflict"}),
    "the id of another": (id_of_another, {"conflict"}),
    "other bytes a second time": (again(3, lambda r: r._replace(value=b"{}")), {"conflict"}),
    "without key, other bytes": (unkeyed_with_other_bytes, {"conflict"}),
    "another version": (changed(
        3, lambda r: with_header(r, "ce_dataschema", b"oncebox:order.paid/2")), {"conflict"}),
    "made void": (changed(3, lambda r: with_header(r, "ce_void", b"1")), {"conflict"}),
    "another stamp": (changed(3, chain(lambda n, s, p: (n, s + 1, p))), {"fork"}),
    "another previous": (changed(3, chain(lambda n, s, p: (n, s, p - 1))), {"fork"}),
    "another history": (again(3, chain(lambda n, s, p: (n, s + 9, p))), {"fork"}),
    "not readable": (changed(3, lambda r: with_header(r, "ce_chain", b"x")), {"undecodable", "lost"}),
    "invented": (again(5, invented), {"phantom"}),
    "invented key": (again(1, first_of_nobody), {"phantom"}),
    "twice": (again(3, lambda r: r), set()),
}  # fmt: skip


def planted(system: System, edit: Callable[[Records], None] = lambda records: None) -> None:
    """A shop that has published and a biller that has done all; and a log that was edited."""
    for cents in range(1, 6):
        system.pays("a", cents)
        system.pays("b", cents)
    system.emit(system.opened("monday"))
    records = system.consume_elsewhere()
    edit(records)
    system.publish(records)
    system.read_past()


@pytest.mark.parametrize("name", IN_THE_LOG)
def test_what_is_wrong_in_the_log_is_named(system: System, name: str) -> None:
    edit, expected = IN_THE_LOG[name]
    planted(system, edit)
    report = system.audit()
    assert kinds(report) == expected, report
    assert report.clean is not bool(expected)
    assert all(one.key != "b" for one in report.findings)
    assert all(one.decide and one.what for one in report.findings)
    if name == "twice":
        assert report.settled == {"duplicate": 1}
        partition = partition_of("a")
        last = system.log.extents(system.stream)[partition].end - 1
        assert report.findings[0].record == f"{system.stream}/{partition}@{last}"


def test_evidence(system: System) -> None:
    planted(system, removed("a", 3))
    (one,) = system.audit().findings
    ((id, stamp),) = evidence(system)
    assert (one.source, one.key, one.sequence) == (system.source, "a", 3)
    assert (one.event, one.stamp) == (str(id), stamp)
    assert one.decide == f"oncebox republish --source {system.source} --key a --from 3 --to 3"


def evidence(system: System) -> list[tuple[Any, ...]]:
    if system.store.dialect == "sqlite":
        return system.run("SELECT id, stamp FROM oncebox.event WHERE key = 'a' AND sequence = 3")
    return system.run(
        "SELECT e.id, c.stamp FROM oncebox.chain c JOIN oncebox.event e ON e.n = c.n"
        " WHERE e.key = 'a' AND c.sequence = 3"
    )


def test_only_what_sums_cannot_say_comes_row_by_row(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: set[str | None] = set()
    row = survey._Survey._row

    def noted(survey: Any, columns: Any, *, marked: bool) -> Any:
        keys.add(columns[2])
        return row(survey, columns, marked=marked)

    monkeypatch.setattr(survey._Survey, "_row", noted)
    monkeypatch.setattr(survey, "WINDOW_MAX", 2)
    planted(system)
    report = system.audit()
    assert (report.clean, report.rows) == (True, 11)
    adds_up = system.store.dialect == "postgres"
    assert keys == ({None} if adds_up else {None, "a", "b"})
    keys.clear()
    records = read_all(system.log, system.stream)
    system.publish([records[of(records, "a", 3)]])
    report = system.audit()
    assert (report.clean, report.rows, report.settled) == (True, 11, {"duplicate": 1})
    assert keys == ({None, "a"} if adds_up else {None, "a", "b"})


# ---- what is planted in the outbox and in the inbox

THIRD = "n = (SELECT n FROM oncebox.event WHERE key = 'a' ORDER BY n LIMIT 1 OFFSET 2)"
LAST = "n = (SELECT max(n) FROM oncebox.event WHERE key = 'a')"
ID_OF_B = "(SELECT id FROM oncebox.event WHERE key = 'b' ORDER BY n LIMIT 1)"
COUNTER = "WHERE key = 'a'"
INBOX = "WHERE key = 'a'"
BY_ID = "(SELECT id FROM oncebox.subscription WHERE source LIKE '%#id')"

IN_THE_OUTBOX = {
    "row deleted": ([f"DELETE FROM oncebox.PLACE WHERE {THIRD}"], {"phantom"}),
    "event deleted": ([f"DELETE FROM oncebox.event WHERE {THIRD}"], {"phantom"}),
    "last row deleted": ([f"DELETE FROM oncebox.PLACE WHERE {LAST}"], {"phantom"}),
    "the id of another": ([f"UPDATE oncebox.event SET id = {ID_OF_B} WHERE {THIRD}"], {"conflict"}),
    "bytes changed": ([f"UPDATE oncebox.event SET data = $1 WHERE {THIRD}"], {"conflict"}),
    "stamp changed": ([f"UPDATE oncebox.PLACE SET stamp = stamp + 1 WHERE {THIRD}"], {"fork"}),
    "counter set back": ([f"UPDATE oncebox.counter SET sequence = 3 {COUNTER}"], {"fork"}),
    "counter set ahead": ([f"UPDATE oncebox.counter SET sequence = 8 {COUNTER}"], {"gap"}),
    "counter deleted": ([f"DELETE FROM oncebox.counter {COUNTER}"], {"fork"}),
    "erased": ([f"UPDATE oncebox.event SET data = NULL WHERE {THIRD}"], set()),
}  # fmt: skip

IN_THE_INBOX = {
    "ahead of all": (f"UPDATE oncebox.key SET sequence = 9 {INBOX}", {"phantom"}),
    "set back": ("", {"unapplied"}),
    "row deleted": (f"DELETE FROM oncebox.key {INBOX}", {"unapplied"}),
    "row of an event without key deleted":
        (f"DELETE FROM oncebox.key WHERE subscription = {BY_ID}", {"unapplied"}),
    "another stamp": (f"UPDATE oncebox.key SET stamp = stamp + 1 {INBOX}", {"fork"}),
    "another id": (f"UPDATE oncebox.key SET id = 'other' {INBOX}", {"conflict"}),
    "other bytes": (f"UPDATE oncebox.key SET digest = 7 {INBOX}", {"conflict"}),
}  # fmt: skip


@pytest.mark.parametrize("name", IN_THE_OUTBOX)
def test_what_is_wrong_in_the_outbox_is_named(system: System, name: str) -> None:
    statements, expected = IN_THE_OUTBOX[name]
    planted(system)
    place = "event" if system.store.dialect == "sqlite" else "chain"
    for sql in statements:
        parameters = (b'{"order":"a","cents":9}',) if "$1" in sql else ()
        system.run(sql.replace("PLACE", place), *parameters)
    report = system.audit()
    assert kinds(report) == expected, report
    assert {one.key for one in report.findings} == {"a"}
    if name == "erased":
        assert (report.clean, report.settled) == (True, {"void": 1})


@pytest.mark.parametrize("name", IN_THE_INBOX)
def test_what_is_wrong_in_the_inbox_is_named(system: System, name: str) -> None:
    sql, expected = IN_THE_INBOX[name]
    planted(system)
    if name == "set back":
        ((id, stamp),) = evidence(system)
        sql = (
            f"UPDATE oncebox.key SET sequence = 3, stamp = {stamp}, id = '{id}', digest = 0 {INBOX}"
        )
    system.run(sql)
    report = system.audit()
    assert kinds(report) == expected, report
    assert all(one.consumer == "billing" for one in report.findings)
    if name == "set back":
        assert [one.sequence for one in report.findings] == [4, 5]


def test_lost_on_both_sides_is_a_gap(system: System) -> None:
    planted(system, removed("a", 3))
    place = "event" if system.store.dialect == "sqlite" else "chain"
    system.run(f"DELETE FROM oncebox.{place} WHERE {THIRD}")
    report = system.audit()
    assert kinds(report) == {"gap"}
    assert [one.sequence for one in report.findings] == [3]


def test_what_was_read_past_and_not_done_is_unapplied(system: System) -> None:
    system.pays("a", 1)
    system.drain()
    system.pays("a", 2, 3)
    system.services[1].consumers.clear()
    system.drain()
    assert system.audit().clean
    system.read_past()
    report = system.audit()
    assert [(one.kind, one.sequence) for one in report.findings] == [
        ("unapplied", 2), ("unapplied", 3)]  # fmt: skip


def test_an_id_is_given_once_and_what_cannot_be_read_is_said(system: System) -> None:
    """All three sides agree in both, and in the bytes that a consumer keeps nobody else does."""
    system.pays("a", 1)
    system.pays("b", 1, 2)
    system.run(f"UPDATE oncebox.event SET id = {ID_OF_B} WHERE key = 'a'")
    last = LAST.replace("'a'", "'b'")
    system.run(f"UPDATE oncebox.event SET data = $1 WHERE {last}", b'{"order":"b"}')
    system.drain()
    one, two = sorted(system.audit().findings)
    assert (one.kind, one.key, one.what) == (
        "conflict",
        "b",
        "its id is that of number 1 of 'a' too",
    )
    assert (two.kind, two.key, two.sequence, two.consumer) == ("undecodable", "b", 2, "billing")
    assert "DecodeFailed" in two.what
    assert "oncebox redrive billing --key b" in two.decide
    system.run("UPDATE oncebox.kept SET digest = 7")
    kept = next(one for one in system.audit().findings if "keeps it" in one.what)
    assert (kept.kind, kept.key, kept.sequence) == ("conflict", "b", 2)
    system.run("UPDATE oncebox.kept SET sequence = 9")
    assert kinds(system.audit()) == {"conflict", "undecodable", "phantom", "unapplied"}


@pytest.mark.parametrize("system", ["sqlite embedded"], indirect=True)
def test_a_log_with_a_hole_is_said_at_once(system: System) -> None:
    """An embedded log has every offset; nobody waits for one that will not come."""
    system.pays("a", 1, 2, 3)
    system.drain()
    with closing(sqlite3.connect(system.log_url.removeprefix("sqlite:///"))) as file, file:
        file.execute("DELETE FROM oncebox_log_record WHERE id & 1 = 1")
    with pytest.raises(LogTruncated):
        system.audit()


def test_an_outbox_that_was_emptied_is_noticed(system: System) -> None:
    planted(system)
    if system.store.dialect == "sqlite":
        system.run("DROP TRIGGER oncebox_newest")
    system.run(f"DELETE FROM oncebox.{'event' if system.store.dialect == 'sqlite' else 'chain'}")
    report = system.audit()
    assert (report.counts, report.clean) == ({"phantom": 11}, False)


# ---- the command, rights, what operators decide


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (removed("a", 3), {"gap"}),
        (removed("a", 5), set()),
        (swapped, {"inversion"}),
        (again(3, lambda r: r._replace(value=b"{}")), {"conflict"}),
        (again(3, chain(lambda n, s, p: (n, s + 9, p))), {"fork"}),
    ],
)
def test_without_the_outbox_the_log_speaks_for_itself(
    system: System, edit: Callable[[Records], None], expected: set[str]
) -> None:
    planted(system, edit)
    system.run("DELETE FROM oncebox.source")
    report = system.audit()
    assert (kinds(report), report.rows) == (expected, 0)
    assert report.unknown == [system.source]


def test_a_role_that_may_select_is_enough(postgres_url: str, tmp_path: Path) -> None:
    system = System(postgres_url, f"sqlite:///{tmp_path}/events.db", "orders", tmp_path)
    system.pays("a", 1, 2)
    system.broken.add("a")
    system.drain()
    role = f"auditor_{secrets.token_hex(4)}"
    system.run(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    system.run(f"GRANT USAGE ON SCHEMA oncebox TO {role}")
    system.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA oncebox TO {role}")
    parts = urlsplit(postgres_url)
    place = Place(
        parts._replace(netloc=f"{role}:x@{parts.netloc.rpartition('@')[2]}").geturl(),
        None, "oncebox", {},
    )  # fmt: skip
    report = audit([Side(lambda work: place.at_desk("", work), system.log)], younger_s=FUTURE_S)
    assert (report.clean, report.rows, report.records, report.waiting) == (True, 2, 2, 2)
    with pytest.raises(MissingRight):
        place.perform(lambda session: call(session.run, "DELETE FROM oncebox.key"))
    system.run(f"DROP OWNED BY {role}")
    system.run(f"DROP ROLE {role}")
    system.close()


def test_since_a_time_what_was_before_is_not_judged(oncebox: Run, system: System) -> None:
    """What was published out of order, for example."""
    planted(system, lambda records: records.append(records.pop(of(records, "a", 2))))
    assert kinds(system.audit()) == {"inversion"}
    since_ms = now_ms() + 1
    while now_ms() <= since_ms:
        pass
    system.pays("a", 6, 7)
    system.pays("c", 1)
    system.emit(system.opened("tuesday"))
    system.drain()
    report = system.audit(since_ms=since_ms)
    assert (report.findings, report.clean) == ([], True)
    assert (report.rows, report.records) == (4, 4)
    asked = ("audit", "--since", f"{since_ms}", "--younger-s=-60", *flags(system))
    assert "is no time" in oncebox(*asked).err
    assert oncebox("audit", "--since", "7d", "--younger-s=-60", *flags(system)).code == 3

    records = read_all(system.log, system.stream)
    system.publish([with_header(records[of(records, "a", 7)], "ce_id", b"other")])
    assert kinds(system.audit(since_ms=since_ms)) == {"conflict"}


def test_the_command(oncebox: Run, system: System) -> None:
    planted(system, removed("a", 3))
    asked = ("--younger-s=-60", *flags(system))
    done = oncebox("audit", *asked)
    assert (done.code, "lost" in done.out) == (3, True)
    assert f"oncebox republish --source {system.source} --key a --from 3 --to 3" in done.err
    assert "not clean: 1 finding in 11 rows, 10 records, 3 keys" in done.out
    finding, summary = oncebox("audit", *asked, "--json").rows()
    assert (finding["kind"], finding["key"], finding["sequence"]) == ("lost", "a", 3)
    assert (summary["clean"], summary["counts"], summary["records"]) == (False, {"lost": 1}, 10)
    assert oncebox("republish", *finding["decide"].split()[2:], *flags(system)).code == 0
    system.drain()
    assert oncebox("audit", *asked).code == 3  # the log has it, out of order
    assert "not clean" in oncebox("audit", "billing", *asked).out
    nobody = oncebox("audit", "billing", "mial", *asked)
    assert (nobody.code, "mial has no rows here" in nobody.err) == (1, True)
    without_log = oncebox("audit", "--store", system.store_url)
    assert (without_log.code, "the log is not known" in without_log.err) == (2, True)


FORGET = {
    "sqlite": [
        "DELETE FROM oncebox.event WHERE key = 'a' AND sequence > 1",
        (
            "UPDATE oncebox.counter SET (sequence, stamp, n) = (SELECT 1, stamp, n FROM oncebox.event"
            " WHERE key = 'a') WHERE key = 'a'"
        ),
    ],
    "postgres": [
        (
            "delete from oncebox.chain c using oncebox.event e"
            " where e.n = c.n and e.key = 'a' and c.sequence > 1"
        ),
        (
            "update oncebox.counter k set sequence = 1, stamp = c.stamp, position = c.position,"
            " previous = null, before = null from oncebox.chain c join oncebox.event e on e.n = c.n"
            " where k.key = 'a' and e.key = 'a'"
        ),
    ],
}


def test_what_was_accepted_is_settled(oncebox: Run, system: System) -> None:
    """A source that forgot what it had published: a fork, until an operator follows it."""
    system.pays("a", 1, 2, 3)
    system.pays("b", 1)
    system.drain()
    for sql in FORGET[system.store.dialect]:
        system.run(sql)
    assert kinds(system.audit()) == {"phantom"}
    system.pays("a", 4)
    system.drain()
    assert "fork" in kinds(system.audit())
    follow = ("accept", "billing", "--key", "a", "--source", system.source)
    assert oncebox(*follow, *flags(system)).code == 0
    system.drain()
    report = system.audit()
    assert (report.clean, kinds(report)) == (True, set()), report
    assert report.settled == {"fork": 1, "phantom": 1}
    system.run("DELETE FROM oncebox.source")  # nor does the log alone look as if it were not done
    assert "unapplied" not in kinds(system.audit())
