"""Bad names, keys and times, from the issue's list."""

from __future__ import annotations

from typing import Any

import pytest

from bad_input.site import Site
from bad_input.test_records import header
from oncebox.codecs.payload import DEPTH_MAX
from oncebox.envelope import STAMP_UNITS_PER_US, VALUE_BYTES_MAX
from oncebox.errors import BadEvent, ConfigurationError, Refused
from oncebox.event import event
from oncebox.logs.embedded import TOPIC_NAME_MAX
from oncebox.program import drive

DAY_S = 24 * 3600.0
YEAR_S = 365 * DAY_S

ODD_NAMES = ["or'ders", 'or"ders', "or\0ders", "../orders", "a/b", "/etc/passwd", "", "o" * 300]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


REFUSED: list[tuple[str, Any, str]] = [
    # order, cents, and what the error says
    ("", 1, "key '' is empty"),
    ("k" * 10_000, 1, "has 10000 bytes"),
    ("o\0o", 1, "holds NUL"),
    ("o\ud800", 1, "is not UTF-8"),
    ("o", "x" * VALUE_BYTES_MAX, "bytes of JSON"),
    ("o", nested(DEPTH_MAX), "too deep"),
    ("o", nested(100_000), "too deep"),
    ("o", float("nan"), "nan"),
    ("o", "\ud800", "lone surrogate"),
]


def test_what_cannot_be_emitted_is_refused_before_anything_is_written(site: Site) -> None:
    """Keys of 0 and 10,000 bytes; oversized and deep payloads: the transaction goes on without."""
    site.shop.begin()
    site.service.emit(site.shop.handle, site.Paid("good", 1))
    for order, cents, says in REFUSED:
        with pytest.raises(BadEvent) as refused:
            site.service.emit(site.shop.handle, site.Paid(order, cents))
        assert says in refused.value.what
        assert refused.value.expected, says
        assert refused.value.hint, says
    site.service.emit(site.shop.handle, site.Paid("good", 2))
    site.shop.commit()
    site.flow()
    assert site.of("good") == [1, 2]
    assert site.delivered() == 2


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_stream_has_a_plain_name(name: str) -> None:
    """Stream names with quotes, NUL, path parts: refused where they are declared."""
    with pytest.raises(ConfigurationError, match="stream .* expected 1 to 200 of letters"):
        event("order.paid", stream=name, key=None)


def test_topics_with_odd_names_are_refused_or_are_only_names(site: Site) -> None:
    """What a log does not take as a topic's name it refuses; what it takes is a name and no more."""
    for name in ODD_NAMES:
        if site.place.on_kafka or not name or "\0" in name or len(name) > TOPIC_NAME_MAX:
            with pytest.raises(ConfigurationError, match="topic"):
                site.log.create(name, 1)
            continue
        site.log.create(name, 1)
        made = site.log.describe(name)
        assert made is not None
        assert made.partitions == 1
    site.paid("good", 1)
    site.flow()
    assert site.of("good") == [1]


def test_a_source_with_an_odd_name_is_a_source_of_its_own(site: Site) -> None:
    """Quotes and path parts in a record's source: data, whatever it looks like."""
    odd = ["/shop/'; DROP TABLE ledger; --/", '/"shop"/', "/../../", "/shop/%s/$1/?/"]
    sources = [name + site.place.topic for name in odd]
    for number, source in enumerate(sources):
        site.hurt(f"odd-{number}", header("ce_source", source))
        site.paid(f"odd-{number}", number)
        site.paid("good", number)
    site.flow()
    assert site.of("good") == list(range(len(odd)))
    assert [site.of(f"odd-{number}") for number in range(len(odd))] == [
        [n] for n in range(len(odd))
    ]
    known = {source for (source,) in site.rows("SELECT source FROM oncebox.subscription")}
    assert known == {"", site.source, *sources}


@pytest.mark.parametrize("ahead_s", [YEAR_S, DAY_S], ids=["a year ahead", "back by a day"])
def test_a_producers_clock_may_be_wrong(site: Site, ahead_s: float) -> None:
    """Stamps a year ahead; a clock that jumps back a day: order is by the chain, not the clock."""
    name, now_us = site.source, int(site.clock.now * 1_000_000)
    site.paid("a", 1)
    set_low(site, name, now_us + int(ahead_s * 1_000_000))  # as a clock that is ahead gives stamps
    site.paid("a", 2)
    site.paid("b", 1)
    site.flow()
    set_low(site, name, 0)
    site.paid("a", 3)
    site.paid("b", 2)
    site.paid("c", 1)
    site.flow()
    assert (site.of("a"), site.of("b"), site.of("c")) == ([1, 2, 3], [1, 2], [1])
    assert site.waiting() == {}


def test_a_stamp_that_is_wrong_on_the_wire_is_a_fork(site: Site) -> None:
    """A stamp a year ahead that the next event knows nothing of."""
    ahead = int(YEAR_S * 1_000_000) * STAMP_UNITS_PER_US

    def later(record: Any) -> Any:
        sequence, stamp, previous = str(dict(record.headers)["ce_chain"]).split(":")
        return header("ce_chain", f"{sequence}:{int(stamp) + ahead}:{previous}")(record)

    site.hurt("a", later)
    site.paid("a", 1, 2)
    site.paid("good", 1)
    site.flow()
    assert site.of("good") == [1]
    assert site.of("a") == [1]
    waiting = site.waiting()["a"]
    assert (waiting.kind, waiting.kept) == ("fork", 1)
    with pytest.raises(Refused, match="times do not tell"):
        site.accept("a")
    site.accept("a", after=1)
    site.later(1.0)
    site.paid("a", 3)
    site.flow()
    assert site.of("a") == [1, 2, 3]


def set_low(site: Site, source: str, low_us: int) -> None:
    sql = "UPDATE oncebox.source SET low = $1 WHERE name = $2"
    if site.place.dialect == "sqlite":
        sql = sql.replace("oncebox.", "oncebox_").replace("$", "?")
    site.shop.run(sql, (low_us * STAMP_UNITS_PER_US, source))


def test_a_consumers_clock_may_jump_back(site: Site) -> None:
    """A clock that jumps back a day: what was to be tried again in a second still is."""
    site.failing = {"shaky"}
    site.paid("shaky", 1, 2)
    site.paid("good", 1)
    loop = site.flow()
    assert site.waiting()["shaky"].kind == "poison"
    site.failing.clear()
    site.clock.now -= DAY_S
    site.paid("good", 2)
    site.later(1.0)
    assert site.of("good") == [1, 2]
    assert site.of("shaky") == [1, 2]
    assert site.loops == [loop], "the same process"


def test_leases_end_though_the_clock_jumped_back(site: Site) -> None:
    """A clock that jumps back a day, after a process died: its partitions are taken all the same."""
    site.paid("good", 1)
    dead = site.flow()
    site.loops.remove(dead)  # it never leaves
    ahead = f"lease_until = lease_until + {int(DAY_S * 1000)}"
    for table in ("cursor", "member"):
        site.rows(f"UPDATE oncebox.{table} SET {ahead} RETURNING 1")
    site.relays[0].held = None
    site.relays[0].holder = "another"
    site.paid("good", 2)
    site.flow()
    assert site.of("good") == [1, 2]
    dead.reader.close()
    drive(dead.leave())
