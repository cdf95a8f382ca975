"""What happens every day, what retentions drop and what is still on its way: the audit is clean."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from audited import System, flags, kinds, of
from oncebox.audit import examine
from oncebox.envelope import STAMP_UNITS_PER_US
from oncebox.operate.desk import now_ms
from oncebox.outbox import void
from oncebox.program import drive
from oncebox.statements import statements
from oncebox.testing import drain
from operating import Run


def erase(system: System, key: str, number: int) -> None:
    sql = statements(system.store.dialect)
    system.session.begin()
    drive(void(system.session, sql, system.source, key, number))
    system.session.commit()


def test_what_happens_every_day_is_clean(oncebox: Run, system: System) -> None:
    """A failing handler that is tried again, a skip, voids, events that wait for another key, a
    relay that begins again, a replay, a rebuild.
    """
    system.broken.update({"c", "d"})
    system.pays("a", 1, 2, 3)
    system.emit(system.paid("w", 1), after=system.emit(system.paid("b", 1)))
    system.pays("c", 1, 2)
    system.pays("d", 1, 2)
    system.emit(system.opened("monday"))
    erase(system, "a", 2)  # not published yet
    drain(*system.services)
    report = system.audit()
    assert (report.clean, kinds(report), report.waiting) == (True, set(), 4)

    system.broken.clear()
    assert oncebox("skip", "billing", "--key", "c", *flags(system)).code == 0
    assert oncebox("redrive", "billing", "--key", "d", *flags(system)).code == 0
    system.drain()
    paid = {(who, what) for who, what in system.run("SELECT who, what FROM ledger")}
    assert {("c", 2), ("d", 1), ("d", 2)} <= paid
    assert ("c", 1) not in paid
    erase(system, "a", 3)  # published before
    system.run("UPDATE oncebox.cursor SET position = NULL WHERE reader = 'relay:shop'")
    system.drain()
    report = system.audit()
    assert (report.clean, kinds(report), report.waiting) == (True, set(), 0)
    assert report.settled == {"duplicate": 9, "void": 1}  # of ten: one came again as a void

    again = oncebox("replay", "billing", "--from", "start", *flags(system))
    assert again.code == 0
    assert system.audit().clean
    clear = ("--clear", "DELETE FROM ledger", "--yes")
    assert oncebox("rebuild", "billing", *clear, *flags(system)).code == 0
    assert system.audit().clean
    system.drain()
    assert system.audit().clean


def test_what_comes_late_after_a_skip_is_clean(oncebox: Run, system: System) -> None:
    """And what is missing is lost until somebody decides."""
    system.pays("a", 1, 2, 3, 4)
    records = system.consume_elsewhere()
    for table in ("key", "kept", "subscription", "cursor"):
        which = "reader = 'billing'" if table == "cursor" else "true"
        system.run(f"DELETE FROM oncebox.{table} WHERE {which}")
    three = records.pop(of(records, "a", 3))
    system.publish(records)
    system.drain()
    assert kinds(system.audit()) == {"lost"}
    assert oncebox("skip", "billing", "--key", "a", *flags(system)).code == 0
    system.drain()
    report = system.audit()
    assert (report.clean, report.settled) == (True, {"lost": 1})
    system.publish([three])
    system.drain()
    report = system.audit()
    assert (report.clean, report.settled) == (True, {"inversion": 1})


def test_what_is_young_or_behind_is_not_lost(system: System) -> None:
    system.pays("a", 1)
    system.drain()
    planted_later = system.audit(younger_s=60.0)
    assert planted_later.clean
    system.pays("a", 2)
    system.pays("b", 1)
    report = system.audit()
    assert (report.clean, report.unseen, report.lag) == (True, 2, {})
    system.services[1].consumers.clear()
    system.drain()
    report = system.audit()
    assert (report.clean, report.unseen, report.lag) == (True, 0, {"billing": 2})


def test_what_retentions_dropped_is_not_missing(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first event that is not number 1 is not lost where retention dropped what came before."""
    monkeypatch.setattr(examine, "MARGIN", 0)
    before = datetime.now(UTC).isoformat()[:19]
    system.pays("a", *range(6))
    began_ms = now_ms()
    while now_ms() <= began_ms:
        pass
    system.pays("b", *range(3))
    system.drain()
    report = system.audit()
    assert (report.clean, report.since) == (True, {})
    system.run("DELETE FROM oncebox.event WHERE n <= 4")
    if system.store.dialect == "postgres":
        system.run("UPDATE oncebox.partition SET lower = 5 WHERE parent = 'event' AND lower = 0")
    report = system.audit()
    assert (report.clean, report.findings) == (True, [])
    assert report.since.keys() == {system.source}
    assert report.since[system.source] >= before
    system.run("DELETE FROM oncebox.event WHERE n = 8")
    report = system.audit()
    assert {(one.kind, one.key) for one in report.findings} == {("phantom", "b")}


def test_what_a_log_dropped_is_not_lost_but_perhaps_unread(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "MARGIN", 0)
    system.pays("a", 1, 2)
    system.pays("b", 1)
    system.drain()
    system.expire()
    later = [system.paid(key, 9) for key in ("a", "b", "c", "d", "e", "f")]
    system.emit(*later)
    system.drain()
    report = system.audit()
    assert (report.clean, report.findings) == (True, [])

    system.pays("a", 4)
    drain(system.services[0])  # published, and not read
    system.expire()
    system.emit(*later)
    system.drain()
    (one,) = system.audit().findings
    assert (one.kind, one.key, one.sequence, one.record) == ("unapplied", "a", 4, None)
    assert one.decide == f"oncebox republish --source {system.source} --key a --from 4 --to 4"


def test_what_has_no_key_and_both_sides_dropped_is_no_phantom(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consumers know ids for longer than outbox and log have their events."""
    # Stamps of one millisecond of SQLite's clock are in no order.
    monkeypatch.setattr(examine, "MARGIN", 1000 * STAMP_UNITS_PER_US)
    system.emit(system.opened("monday"))
    system.pays("a", 1)
    system.drain()
    system.expire()
    system.run("DELETE FROM oncebox.event WHERE n = 1")
    if system.store.dialect == "postgres":
        system.run("UPDATE oncebox.partition SET lower = 2 WHERE parent = 'event' AND lower = 0")
    system.emit(*(system.paid(key, 9) for key in ("a", "b", "c", "d", "e", "f")))
    system.drain()
    report = system.audit()
    assert (report.clean, report.findings) == (True, [])


def test_a_partition_that_dropped_all_says_nothing_of_its_keys(system: System) -> None:
    """Others go on, and have dropped nothing. Of a key there, nobody can say what was lost."""
    keys = [f"k-{n}" for n in range(12)]
    system.emit(*(system.paid(key, 1) for key in keys), system.opened("monday"))
    system.drain()
    system.expire(0)
    report = system.audit()
    assert (report.clean, report.findings) == (True, [])


def test_keys_move_when_partitions_are_added(system: System) -> None:
    keys = [f"k-{n}" for n in range(12)]
    for cents in (1, 2):
        system.emit(*(system.paid(key, cents) for key in keys))
    drain(system.services[0])
    system.grow(7)
    system.services = system.services_on(system.log_url)
    for cents in (3, 4):
        system.emit(*(system.paid(key, cents) for key in keys))
    system.drain()
    report = system.audit()
    assert (report.clean, report.records, report.lag) == (True, 48, {})
    assert report.settled.keys() == {"moved"}
    assert (system.looks, report.settled["moved"]) == (1, len(report.findings))


def test_nothing_looks_wrong_while_everything_runs(system: System) -> None:
    """Emits, relay and consumer go on in other threads; each audit is clean."""
    stopped = threading.Event()
    failed: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    def emit() -> None:
        session: Any = system.store.open()
        numbers = count()
        while not stopped.wait(0.001):
            session.begin()
            for key in range(3):
                system.services[0].emit(session.handle, system.paid(f"k-{key}", next(numbers)))
            session.commit()
        session.close()

    def go_on() -> None:
        while not stopped.is_set():
            with suppress(TimeoutError):  # it is never quiet
                drain(*system.services, timeout_s=0.5)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (emit, go_on)]
    for thread in threads:
        thread.start()
    reports = [system.audit(younger_s=0.0)]
    while not failed and (len(reports) < 8 or reports[-1].records < reports[0].records + 50):
        reports.append(system.audit(younger_s=0.0))
    stopped.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [report.findings for report in reports if not report.clean] == []
