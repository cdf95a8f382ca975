"""The audit of topics that oncebox did not write."""

from __future__ import annotations

import pytest

from audited import System
from oncebox.operate.desk import now_ms
from oncebox.ports import Record
from operating import Run


def others(system: System, *texts: str) -> None:
    """Records of somebody else: `partition id key number` each."""
    records = []
    for text in texts:
        partition, id, key, number = text.split()
        value = f'{{"order": {{"id": "{key}"}}, "n": {number}}}'.encode()
        value = value if key != "broken" else b"{"
        headers = [("x-id", id.encode())]
        records.append(Record(system.stream, int(partition), 0, None, value, headers, now_ms()))
    system.publish(records)


OTHERS: dict[str, tuple[list[str], set[str], set[str]]] = {
    "fine": ([], set(), set()),
    "a repeated record": (["0 i2 a 2"], set(), set()),
    "an id with other bytes": (["0 i2 a 9"], {"conflict"}, {"conflict", "gap"}),
    "a key elsewhere": (["1 i4 a 4", "0 i5 a 5"], {"moved"}, {"moved"}),
    "no JSON": (["0 i4 broken 4"], {"undecodable"}, {"undecodable"}),
    "a number missing": (["0 i5 a 5"], set(), {"gap"}),
    "out of order": (["0 i5 a 5", "0 i4 a 4"], set(), {"inversion"}),
    "a number twice": (["0 i4 a 3"], set(), {"conflict"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_topic_of_others(oncebox: Run, system: System, name: str) -> None:
    more, by_id, by_number = OTHERS[name]
    others(system, "0 i1 a 1", "0 i2 a 2", "0 i3 a 3", "2 j1 b 1", *more)
    asked = ("--topic", system.stream, "--id", "header:x-id", "--key", "$.order.id", "--json")
    for number, expected in (((), by_id), (("--number", "$.n"), by_number)):
        done = oncebox("audit", *asked, *number, "--log", system.log_url)
        *findings, summary = done.rows()
        assert {one["kind"] for one in findings if not one["settled"]} == expected, done
        assert summary["settled"] == ({"duplicate": 1} if name == "a repeated record" else {})
        assert done.code == (3 if expected else 0)


def test_expressions_that_say_nothing_are_refused(oncebox: Run, system: System) -> None:
    asked = ("audit", "--topic", system.stream, "--log", system.log_url)
    for wrong in ("x", "header:", "$.", "$.a..b"):
        assert oncebox(*asked, "--key", wrong).code == 2
    assert oncebox("audit", "--topic", "nowhere", "--log", system.log_url).code == 1
