"""Commands that look and act, on both stores: what they print, and their exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from chains import SOURCE, TOPIC, Opened, Paid, World
from oncebox.outbox import history
from oncebox.ports import Outgoing
from oncebox.program import drive
from oncebox.service.service import Service
from oncebox.session import Session
from oncebox.statements import statements
from operating import Run, at, failing

HOUR_S = 3600
"""Commands act by the real clock, which went on while the world's stood still."""


# ---- looking


def test_status_says_how_far_a_consumer_is(oncebox: Run, world: World) -> None:
    failing(world, {"a"})
    gap = world.producer.paid("g", 1, 2, 3)
    world.deliver(*world.producer.paid("a", 1, 2), gap[0], gap[2], gap[0])
    world.settle(world.loop(attempts_max=1))
    world.deliver(*world.producer.paid("b", 1))
    (one,) = oncebox("status", "billing", "--json", *at(world)).rows()
    assert one["name"] == "billing"
    assert one["parked"] == {"retrying": 0, "failed": 1, "forked": 0}
    assert one["gaps"]["open"] == 1
    assert one["counts"]["applied"] == 1
    assert one["counts"]["duplicates"] == 1
    assert one["lag"] == 1
    assert one["lag_s"] is not None
    (partition,) = one["partitions"]
    assert (partition["topic"], partition["position"], partition["lag"]) == (TOPIC, 5, 1)
    assert one["holders"] == ["one"]
    assert partition["lease_ms"] > 0
    table = oncebox("status", *at(world))
    assert "billing" in table.out
    assert "1 failed" in table.out
    assert "oncebox parked billing" in table.err


def test_status_of_nobody(oncebox: Run, world: World) -> None:
    assert oncebox("status", *at(world)).out == "nothing has run yet\n"
    done = oncebox("status", "billing", *at(world))
    assert done.code == 1
    assert "has no rows yet" in done.err


def test_status_shows_the_rest_where_the_log_is_away(
    oncebox: Run, world: World, tmp_path: Path
) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1))
    world.settle()
    url: str = world.url  # type: ignore[attr-defined]
    done = oncebox("status", "--json", "--store", url, "--log", "sqlite:////no/such/log.db")
    assert done.code == 4
    (one,) = done.rows()
    assert one["counts"]["applied"] == 1
    assert one["lag"] is None
    assert "lag of billing" in done.err


def test_parked_lists_what_waits_and_what_releases_it(oncebox: Run, world: World) -> None:
    failing(world, {"a", "b"})
    gap = world.producer.paid("g", 1, 2, 3)
    world.deliver(*world.producer.paid("a", 1), *world.producer.paid("b", 1), gap[2])
    world.settle()
    rows = oncebox("parked", "billing", "--json", *at(world)).rows()
    assert [(r["key"], r["kind"]) for r in rows] == [("a", "poison"), ("b", "poison"), ("g", "gap")]
    assert rows[2]["missing"] == [1, 2]
    assert rows[0]["release"][0].startswith("oncebox redrive billing")
    done = oncebox("parked", "billing", *at(world))
    assert "ValueError: no account a" in done.out
    assert "#1 to #2 have not come" in done.out
    assert "oncebox republish" in done.err
    limited = oncebox("parked", "billing", "--limit", "1", *at(world))
    assert "and 2 more" in limited.err
    assert oncebox("parked", "billing", "--limit", "1", "--json", *at(world)).err == ""
    assert len(oncebox("parked", "billing", "--key", "a", "--json", *at(world)).rows()) == 1
    found = oncebox("parked", "billing", "--where", "reason~account b", "--json", *at(world))
    assert [r["key"] for r in found.rows()] == ["b"]
    assert oncebox("parked", "billing", "--key", "zz", *at(world)).out == "nothing waits\n"


def test_the_journal_lists_what_was_done_and_why(oncebox: Run, world: World) -> None:
    failing(world, {"a", "b"})
    world.deliver(*world.producer.paid("a", 1), *world.producer.paid("b", 1))
    world.settle(world.loop(attempts_max=1))
    assert oncebox("journal", "billing", *at(world)).out == "nothing is noted\n"
    for key in ("a", "b"):
        oncebox("skip", "billing", "--key", key, "--because", f"{key} is a test", *at(world))
    newest, oldest = oncebox("journal", "billing", "--json", *at(world)).rows()
    assert (newest["what"], newest["key"], oldest["key"]) == ("skip", "b", "a")
    assert newest["sequence"] == 1
    assert "b is a test" in newest["detail"]
    (only,) = oncebox("journal", "billing", "--key", "a", "--json", *at(world)).rows()
    assert only == oldest
    assert not oncebox("journal", "billing", "--what", "fork", "--json", *at(world)).rows()
    assert "a is a test" in oncebox("journal", "billing", *at(world)).out


# ---- acting


def test_redrive_by_key_by_reason_and_all(oncebox: Run, world: World) -> None:
    broken = {"a", "b", "c"}
    failing(world, broken)
    for key in sorted(broken):
        world.deliver(*world.producer.paid(key, 1))
    loop = world.settle(world.loop(attempts_max=1))
    done = oncebox("redrive", "billing", "--reason", "account", "--dry-run", *at(world))
    assert "3 keys" in done.out
    broken.clear()
    world.after(HOUR_S, loop)
    assert world.ledger() == []
    because = ("--because", "ticket 812")
    assert oncebox("redrive", "billing", "--key", "b", *because, *at(world)).code == 0
    world.after(HOUR_S, loop)
    assert world.ledger() == [("b", 1)]
    (line,) = oncebox("journal", "billing", "--json", *at(world)).rows()
    assert (line["what"], line["key"], line["sequence"]) == ("redrive", "b", 1)
    assert line["detail"].startswith("ticket 812 (by ")
    done = oncebox("redrive", "billing", "--all", "--json", *at(world))
    assert (done.rows()[0]["found"], done.rows()[0]["done"]) == (2, 2)
    world.after(HOUR_S, loop)
    assert sorted(world.ledger()) == [("a", 1), ("b", 1), ("c", 1)]


def test_redrive_says_why_it_cannot(oncebox: Run, world: World) -> None:
    world.handles_paid()
    gap = world.producer.paid("g", 1, 2, 3)
    world.deliver(gap[0], gap[2], *world.producer.paid("a", 1))
    world.settle()
    done = oncebox("redrive", "billing", "--key", "g", *at(world))
    assert done.code == 1
    assert "gap" in done.err
    assert "oncebox republish" in done.err
    done = oncebox("redrive", "billing", "--key", "a", *at(world))
    assert done.code == 1
    assert "does not wait" in done.err
    done = oncebox("redrive", "billing", "--key", "zz", *at(world))
    assert "is not known" in done.err
    assert oncebox("redrive", "billing", "--where", "kind=gap", *at(world)).out.startswith("0 of 0")


def test_skip_needs_to_be_told_which_and_says_what_it_gave_up(oncebox: Run, world: World) -> None:
    failing(world, {"a"})
    world.deliver(*world.producer.paid("a", 1, 2))
    loop = world.settle()
    assert oncebox("skip", "billing", *at(world)).code == 2
    done = oncebox("skip", "billing", "--where", "reason~account", "--dry-run", *at(world))
    assert "1 key would be skipped" in done.out
    done = oncebox("skip", "billing", "--key", "a", "--because", "ticket 7", "--json", *at(world))
    assert done.rows()[0]["what"] == "event"
    assert "ticket 7" in world.rows("SELECT detail FROM oncebox.journal")[0][0]
    failing_again = oncebox("skip", "billing", "--key", "zz", *at(world))
    assert failing_again.code == 1
    world.after(HOUR_S, loop)


def test_skip_of_a_gap_without_a_known_source_says_so(oncebox: Run, world: World) -> None:
    world.handles_paid()
    gap = world.producer.paid("g", 1, 2, 3)
    world.deliver(gap[0], gap[2])
    loop = world.settle()
    done = oncebox("skip", "billing", "--key", "g", *at(world))
    assert "is not known, so it is not asked" in done.err
    world.after(HOUR_S, loop)
    assert world.of("g") == [1, 3]


def test_an_unkeyed_event_by_its_id(oncebox: Run, world: World) -> None:
    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        raise ValueError("closed")

    sent = world.producer.commit(Opened(1))
    world.deliver(sent)
    world.settle(world.loop(attempts_max=1))
    assert oncebox("redrive", "billing", "--key", sent.id, *at(world)).code == 0


def test_accept_without_the_source_is_refused(oncebox: Run, world: World) -> None:
    world.handles_paid()
    first = world.producer.paid("a", 1, 2, 3)
    world.deliver(*first)
    loop = world.settle()
    world.producer.restore("a", 1)
    world.deliver(*world.producer.paid("a", 20, 30))
    world.settle(loop)
    done = oncebox("accept", "billing", "--key", "a", *at(world))
    assert done.code == 1
    assert "--source-store" in done.err
    assert oncebox("accept", "billing", "--key", "zz", *at(world)).code == 1
    assert oncebox("accept", "billing", "--after", "1", "--source", SOURCE, *at(world)).code == 2


def test_republish_and_skip_ask_the_outbox_in_the_consumers_own_store(
    oncebox: Run, world: World
) -> None:
    """Where producer and consumer share a database, nobody has to say where the source is."""
    world.handles_paid()
    shop = Service("shop")
    session = cast("Session", world.session)
    for n in (1, 2, 3, 4):
        for key in ("a", "b"):
            session.begin()
            shop.emit(session.handle, Paid(key, n))
            session.commit()
    sql = statements(world.store.dialect)
    for key in ("a", "b"):
        found = drive(history(session, sql, SOURCE, key))
        for link in (found.links[0], found.links[3]):
            record = found.records[link[:2]]
            out = Outgoing(TOPIC, record.key, record.value, record.headers, record.time_ms)
            assert world.log.publish([out], 10.0) == []
    loop = world.settle()
    (one,) = [
        row for row in oncebox("status", "--json", *at(world)).rows() if row["kind"] == "relay"
    ]
    assert (one["service"], one["backlog"], one["holder"]) == ("shop", 8, None)
    assert "shop" in oncebox("status", *at(world)).out
    flags = ("--source", SOURCE, "--key", "a", "--from", "2", "--to", "3")
    seen = oncebox("republish", *flags, "--dry-run", "--json", *at(world)).rows()
    assert seen[0]["numbers"] == [2, 3]
    assert oncebox("republish", *flags, *at(world)).code == 0
    world.settle(loop)
    assert world.of("a") == [1, 2, 3, 4]
    missing = oncebox("republish", "--source", SOURCE, "--key", "zz", *at(world))
    assert missing.code == 1
    done = oncebox("skip", "billing", "--key", "b", "--json", *at(world))
    assert "not asked" not in done.err
    assert done.rows()[0]["what"] == "missing"
    world.after(HOUR_S, loop)
    assert world.of("b") == [1, 4]


def test_replay(oncebox: Run, world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle()
    done = oncebox("replay", "billing", "--from", "start", "--dry-run", "--json", *at(world))
    assert (done.rows()[0]["position"], done.rows()[0]["to"]) == (3, 0)
    assert oncebox("replay", "billing", "--from", "0s", *at(world)).out.startswith("nothing")
    assert "from 0 instead of 3" in oncebox(
        "replay", "billing", "--from", "start", *at(world)).out  # fmt: skip
    world.after(HOUR_S, loop)
    assert world.of("a") == [1, 2, 3]
    assert world.count("duplicates") == 3
    assert oncebox("replay", "nobody", "--from", "start", *at(world)).code == 1
    done = oncebox("replay", "billing", "--from", "start", "--topic", "stock", *at(world))
    assert done.code == 1
    assert f"reads no topic stock\n  expected: {TOPIC}" in done.err


def test_rebuild(oncebox: Run, world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle()
    clear = ("--clear", "DELETE FROM ledger")
    assert oncebox("rebuild", "billing", *clear, *at(world)).code == 2
    done = oncebox("rebuild", "billing", "--clear", "DELETE FROM nowhere", "--yes", *at(world))
    assert done.code == 1
    assert "DELETE FROM nowhere: " in done.err
    assert "nothing was changed" in done.err
    done = oncebox("rebuild", "billing", *clear, "--yes", *at(world))
    assert done.code == 0
    assert world.ledger() == []
    (one,) = oncebox("status", "--json", *at(world)).rows()
    assert one["partitions"][0]["rebuild_until"] == 3
    world.after(HOUR_S, loop)
    assert world.of("a") == [1, 2, 3]
    assert oncebox("rebuild", "billing", "--finish", "--json", *at(world)).rows()[0] == {
        "action": "finish", "consumer": "billing", "partitions": 1}  # fmt: skip


def test_quarantine(oncebox: Run, world: World) -> None:
    world.handles_paid()
    (sent,) = world.producer.paid("a", 1)
    world.deliver(sent.with_header("ce_chain", "nonsense"), sent.with_header("ce_id", b"\xff"))
    world.settle()
    rows = oncebox("quarantine", "list", "billing", "--json", *at(world)).rows()
    assert len(rows) == 2
    n = str(rows[0]["n"])
    assert "chain" in oncebox("quarantine", "list", "billing", *at(world)).out
    assert "b'nonsense'" in oncebox("quarantine", "show", "billing", n, *at(world)).out
    shown = oncebox("quarantine", "show", "billing", n, "--json", *at(world)).rows()[0]
    assert shown["key"] == "YQ=="
    refused = oncebox("quarantine", "retry", "billing", "--all", *at(world))
    assert refused.code == 1
    assert refused.err.count("still cannot be read") == 2
    assert oncebox("quarantine", "drop", "billing", *at(world)).code == 2
    assert oncebox("quarantine", "drop", "billing", n, "--because", "x", *at(world)).code == 0
    assert len(oncebox("quarantine", "list", "billing", "--json", *at(world)).rows()) == 1
    assert oncebox("quarantine", "show", "billing", n, *at(world)).code == 1
    oncebox("quarantine", "drop", "billing", "--all", *at(world))
    assert oncebox("quarantine", "list", "billing", *at(world)).out == "nothing is in quarantine\n"


def test_a_consumers_store_is_found_by_its_service(
    oncebox: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the configuration, without importing an application; else by the application."""
    failing(world, {"a"})
    world.deliver(*world.producer.paid("a", 1))
    world.settle()
    _, url, _, log = at(world)
    (tmp_path / "oncebox.toml").write_text(
        f'app = "breaks"\n[services.billing]\nstore = "{url}"\nlog = "{log}"\n'
    )
    (tmp_path / "breaks.py").write_text("raise RuntimeError('must not be imported')\n")
    assert len(oncebox("parked", "billing", "--json").rows()) == 1
    assert oncebox("parked", "billing.mail", "--json").code == 0
    assert oncebox("status", "--json").code == 0
    (tmp_path / "oncebox.toml").write_text('app = "myapp"\n')
    (tmp_path / "myapp.py").write_text(
        f"from oncebox import Service\nbilling = Service('billing', store={url!r}, log={log!r})\n"
    )
    assert len(oncebox("parked", "billing", "--json").rows()) == 1
    missing = oncebox("parked", "nobody", "--json")
    assert missing.code == 2
    assert "billing" in missing.err
