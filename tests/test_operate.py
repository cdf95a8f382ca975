"""What operators see and do, on both stores, with a consumer that runs."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from chains import SOURCE, TOPIC, Opened, Paid, World, make_store
from oncebox.envelope import Reference
from oncebox.errors import ConfigurationError, NotFound, Refused
from oncebox.operate import accept, consider, redrive, skip
from oncebox.order import Link
from oncebox.outbox import History
from oncebox.program import Program, drive
from oncebox.quarantine import drop, quarantined, retry, shown
from oncebox.reading import take_in
from oncebox.rewind import finish, prepare, rebuild, replay
from oncebox.session import Session
from oncebox.summary import lag, summary
from oncebox.waiting import PAGE_MAX, START, Waiting, Where, conditions, waiting
from operating import ALL, desk_of, wait_list


@pytest.fixture(params=["sqlite", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    made = World(make_store(request.param, tmp_path, url), tmp_path)
    yield made
    made.close()


def one_waiting(world: World) -> Waiting:
    (one,) = wait_list(world)
    return one


def ask_producer(world: World) -> Any:
    """The producer's present history, as its outbox would tell it."""
    reading = drive(desk_of(world).reading())

    def ask(source: str, key: str, first: int, last: int | None) -> Program[History]:
        assert source == SOURCE
        links: list[Link] = []
        records = {}
        for sent in world.producer.history[key]:
            log_record = world_record(sent)
            (item,), _ = take_in(reading, [log_record])
            if item.link.sequence >= first:
                links.append(item.link)
                records[item.link[:2]] = log_record
        yield from ()
        return History(tuple(links), records)

    return ask


def world_record(sent: Any) -> Any:
    from oncebox.ports import Record

    out = sent.outgoing
    headers = [(n, v.encode() if isinstance(v, str) else v) for n, v in out.headers]
    return Record(out.topic, 0, -1, out.key, out.value, headers, out.time_ms)


def failing(world: World, broken: set[str]) -> None:
    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if f"{paid.order}{paid.cents}" in broken or paid.order in broken:
            raise ValueError(f"no account {paid.order}")
        world.record(tx, paid.order, paid.cents)


# ---- what waits


def test_a_failed_key_is_listed_with_what_releases_it(world: World) -> None:
    failing(world, {"a"})
    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 1))
    world.settle(world.loop(attempts_max=1))
    one = one_waiting(world)
    assert (one.source, one.key, one.kind) == (SOURCE, "a", "poison")
    assert one.reason == "ValueError: no account a"
    assert one.head is not None
    assert (one.head.sequence, one.head.type) == (1, "order.paid")
    assert (one.attempts, one.due_ms, one.kept) == (1, None, 2)
    assert one.since_ms == world.now_ms
    assert one.release()[0] == "oncebox redrive billing --source /shop/orders --key a"


def test_a_gap_says_which_numbers_are_missing(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3, 4)
    world.deliver(a[0], a[3])
    world.settle()
    one = one_waiting(world)
    assert (one.kind, one.missing, one.sequence) == ("gap", (2, 3), 1)
    assert "oncebox republish --source /shop/orders --key a --from 2 --to 3" in one.release()


def test_a_gap_at_the_beginning_begins_with_one(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[2])
    world.settle()
    assert one_waiting(world).missing == (1, 2)


def test_a_fork_is_released_by_accept(world: World) -> None:
    world.handles_paid()
    fork(world, "a")
    one = one_waiting(world)
    assert one.kind == "fork"
    assert one.release() == ["oncebox accept billing --source /shop/orders --key a"]


def test_an_event_that_waits_for_another_key_names_it(world: World) -> None:
    world.handles_paid()
    (x,) = world.producer.paid("x", 1)
    y = world.producer.commit(Paid("y", 2), after=x.reference)
    world.deliver(y)
    world.settle()
    one = one_waiting(world)
    assert one.kind == "waits"
    assert one.after is not None
    assert (one.after.source, one.after.key) == (SOURCE, "x")


def test_an_unkeyed_event_that_fails_is_listed_by_its_id(world: World) -> None:
    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        raise ValueError("closed")

    sent = world.producer.commit(Opened(1))
    world.deliver(sent)
    world.settle()
    one = one_waiting(world)
    assert (one.kind, one.key, one.source) == ("poison", sent.id, SOURCE + "#id")


def test_conditions_choose_keys(world: World) -> None:
    failing(world, {"a", "b", "o'c", "d"})
    for key in ("a", "b", "o'c", "d"):
        world.deliver(*world.producer.paid(key, 1))
    world.settle()
    assert len(wait_list(world)) == 4
    assert [w.key for w in wait_list(world, Where(None, "b"))] == ["b"]
    found = wait_list(world, Where(None, None, conditions(["reason~o'c", "kind=poison"])))
    assert [w.key for w in found] == ["o'c"]
    assert found[0].release()[0].endswith("--key 'o'\"'\"'c'")
    assert wait_list(world, Where(None, None, conditions(["type=order.noted"]))) == []
    assert len(wait_list(world, Where(SOURCE))) == 4
    assert wait_list(world, Where("/other/orders")) == []


@pytest.mark.parametrize("text", ["", "reason", "colour=red", "=x", "reason=", "~x"])
def test_a_condition_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="condition"):
        conditions([text])


def test_pages_cover_everything_once(world: World) -> None:
    failing(world, {f"k{i}" for i in range(PAGE_MAX * 2 + 3)})
    for i in range(PAGE_MAX * 2 + 3):
        world.deliver(*world.producer.paid(f"k{i}", 1))
    world.settle(world.loop(parked_max=10_000))
    seen: list[str] = []
    behind = START
    pages = 0
    while True:
        page = drive(waiting(desk_of(world), ALL, behind))
        seen += [w.key for w in page.found]
        pages += 1
        if page.behind is None:
            break
        behind = page.behind
    assert pages == 3
    assert len(seen) == len(set(seen)) == PAGE_MAX * 2 + 3


def test_a_large_record_is_listed_too(world: World) -> None:
    failing(world, {"a"})
    (sent,) = world.producer.paid("a", 1)
    padded = sent.altered(value=b'{"order":"a","cents":1,"note":"' + b"x" * 200_000 + b'"}')
    world.deliver(padded)
    world.settle()
    one = one_waiting(world)
    assert one.head is not None
    assert one.head.type == "order.paid"


# ---- redrive


def test_redrive_tries_again_and_applies_in_order(world: World) -> None:
    broken = {"a"}
    failing(world, broken)
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle(world.loop(attempts_max=1))
    broken.clear()
    world.after(600, loop)
    assert world.of("a") == []
    places = drive(redrive(desk_of(world), wait_list(world)))
    assert len(places) == 1
    world.after(2, loop)
    assert world.of("a") == [1, 2, 3]
    assert wait_list(world) == []


def test_redrive_leaves_alone_what_is_no_failure(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[0], a[2])
    fork(world, "b")
    assert {w.kind for w in wait_list(world)} == {"gap", "fork"}
    assert drive(redrive(desk_of(world), wait_list(world))) == []


def test_redrive_of_what_went_on_meanwhile_does_nothing(world: World) -> None:
    broken = {"a"}
    failing(world, broken)
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    listed = wait_list(world)
    broken.clear()
    world.after(2, loop)
    assert drive(redrive(desk_of(world), listed)) == []
    world.after(2, loop)
    assert world.of("a") == [1]


def test_redrive_counts_attempts_anew(world: World) -> None:
    failing(world, {"a"})
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle(world.loop(attempts_max=2))
    world.after(60, loop)
    assert one_waiting(world).attempts == 2
    drive(redrive(desk_of(world), wait_list(world)))
    world.after(1, loop)
    one = one_waiting(world)
    assert one.attempts == 1
    assert one.due_ms is not None


@pytest.mark.parametrize("done", [False, True])
def test_an_id_older_than_the_floor_waits_for_an_answer(world: World, done: bool) -> None:
    """Nobody knows whether it was done: redrive says that it was not, skip that it was."""

    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        world.record(tx, "opened", event.cents)

    sent = world.producer.commit(Opened(5))
    world.deliver(sent)
    later = datetime.fromtimestamp(world.now_ms / 1000 + 60, UTC)
    loop = world.settle(world.loop(start=later))
    one = one_waiting(world)
    assert (one.kind, one.key) == ("poison", sent.id)
    assert "older than the floor" in (one.reason or "")
    if done:
        drive(skip(desk_of(world), one, None, "it was done"))
    else:
        drive(redrive(desk_of(world), [one]))
    world.after(2, loop)
    assert world.of("opened") == ([] if done else [5])
    assert wait_list(world) == []
    world.deliver(sent)
    world.settle(loop)
    assert world.of("opened") == ([] if done else [5])


# ---- skip


def test_skip_gives_up_the_failing_event_only(world: World) -> None:
    failing(world, {"a2"})
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle()
    given = drive(skip(desk_of(world), one_waiting(world), None, "a test order"))
    assert given == ("event", 2, 2)
    world.after(2, loop)
    assert world.of("a") == [1, 3]
    assert wait_list(world) == []
    (noted,) = world.rows("SELECT what, key, sequence, detail FROM oncebox.journal")
    assert noted[:3] == ("skip", "a", 2)
    assert "a test order" in noted[3]
    assert "(by a test)" in noted[3]


def test_a_skipped_event_that_comes_again_is_late(world: World) -> None:
    failing(world, {"a2"})
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(*a)
    loop = world.settle()
    drive(skip(desk_of(world), one_waiting(world), None, ""))
    world.after(2, loop)
    world.deliver(a[1])
    world.settle(loop)
    assert world.of("a") == [1, 3]
    assert world.count("late") == 1


def test_skip_gives_up_what_is_missing_after_asking(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3, 4)
    world.deliver(a[0], a[3])
    loop = world.settle()
    given = drive(skip(desk_of(world), one_waiting(world), ask_producer(world), "lost"))
    assert given == ("missing", 2, 3)
    world.after(2, loop)
    assert world.of("a") == [1, 4]


@pytest.mark.parametrize("done", [0, 1])
def test_skip_of_missing_events_without_anybody_to_ask(world: World, done: int) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3, 4, 5)
    world.deliver(*a[:done], a[3], a[4])
    loop = world.settle()
    assert drive(skip(desk_of(world), one_waiting(world), None, "")) == ("missing", done + 1, 3)
    world.after(2, loop)
    assert world.of("a") == [*[1][:done], 4, 5]
    world.deliver(a[2])
    world.settle(loop)
    assert world.count("late") == 1


def test_skip_asks_first_and_finds_a_fork(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[0], a[2])
    world.settle()
    world.producer.restore("a", 1)
    world.producer.paid("a", 20)
    given = drive(skip(desk_of(world), one_waiting(world), ask_producer(world), ""))
    assert given.what == "fork"
    assert one_waiting(world).kind == "fork"
    assert world.of("a") == [1]


def test_skip_drops_a_wait_for_an_event_that_was_lost(world: World) -> None:
    world.handles_paid()
    lost = Reference(SOURCE, "x", world.producer.clock * 1024)
    y = world.producer.commit(Paid("y", 2), after=lost)
    z = world.producer.paid("y", 3)
    world.deliver(y, *z)
    loop = world.settle()
    given = drive(skip(desk_of(world), one_waiting(world), None, "x is gone"))
    assert given.what == "wait"
    world.after(2, loop)
    assert world.of("y") == [2, 3]
    world.deliver(y)
    world.settle(loop)
    assert world.of("y") == [2, 3]


def test_skip_gives_up_only_what_was_listed(world: World) -> None:
    broken = {"a1", "a2"}
    failing(world, broken)
    world.deliver(*world.producer.paid("a", 1, 2))
    loop = world.settle()
    listed = one_waiting(world)
    broken.remove("a1")
    world.after(2, loop)
    assert one_waiting(world).head != listed.head
    assert drive(skip(desk_of(world), listed, None, "")).what == "changed"
    broken.clear()
    world.after(60, loop)
    assert world.of("a") == [1, 2]


def test_a_fork_is_not_skipped(world: World) -> None:
    world.handles_paid()
    fork(world, "a")
    with pytest.raises(Refused, match="not skipped"):
        drive(skip(desk_of(world), one_waiting(world), None, ""))


def test_an_unkeyed_event_that_fails_can_be_skipped(world: World) -> None:
    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        raise ValueError("closed")

    sent = world.producer.commit(Opened(1))
    world.deliver(sent)
    loop = world.settle()
    assert drive(skip(desk_of(world), one_waiting(world), None, "")).what == "event"
    world.after(2, loop)
    world.deliver(sent)
    world.settle(loop)
    assert wait_list(world) == []


# ---- accept


def fork(world: World, key: str) -> list[Any]:
    """Three events are done, the source forgets two, and publishes two others."""
    first = world.producer.paid(key, 1, 2, 3)
    world.deliver(*first)
    world.settle()
    world.producer.restore(key, 1)
    other = world.producer.paid(key, 20, 30)
    world.deliver(other[1])
    world.settle()
    return other


def test_accept_goes_on_with_the_present_history(world: World) -> None:
    world.handles_paid()
    fork(world, "a")
    low = drive(consider(desk_of(world), SOURCE, "a", ask_producer(world), None))
    assert low > 0
    assert one_waiting(world).kind == "fork"
    done = drive(accept(desk_of(world), SOURCE, "a", ask_producer(world), None, "restored"))
    assert (done.sequence, done.kept) == (1, 2)
    world.after(2, world.loops[0])
    assert world.of("a") == [1, 2, 3, 20, 30]
    assert wait_list(world) == []
    whats = [what for (what,) in world.rows("SELECT what FROM oncebox.journal ORDER BY n")]
    assert whats == ["fork", "accept"]


def test_accept_lists_what_it_gives_up(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3, 4)
    world.deliver(a[0], a[3])
    world.settle()
    world.producer.restore("a", 1)
    other = world.producer.paid("a", 20)
    world.deliver(*other)
    world.settle()
    one = one_waiting(world)
    assert one.kind == "fork"
    done = drive(accept(desk_of(world), SOURCE, "a", ask_producer(world), None, ""))
    assert done.orphans == [a[3].id]
    world.after(2, world.loops[0])
    assert world.of("a") == [1, 20]
    world.deliver(a[3], a[1])
    world.settle(world.loops[0])
    assert world.of("a") == [1, 20]
    assert world.count("orphans") >= 1
    assert world.rows("SELECT id FROM oncebox.journal WHERE what = 'orphaned'") == [(a[3].id,)]


def test_accept_refuses_to_guess_and_takes_the_answer(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2)
    world.deliver(*a)
    world.settle()
    world.producer.restore("a", 0)
    world.producer.clock -= 10_000_000  # the clock of the restored database is behind
    other = world.producer.paid("a", 10, 20, 30)
    world.deliver(*other)
    world.settle()
    ask = ask_producer(world)
    with pytest.raises(Refused) as refused:
        drive(accept(desk_of(world), SOURCE, "a", ask, None, ""))
    assert "--after NUMBER" in str(refused.value)
    assert "0 to 3" in str(refused.value.expected)
    assert one_waiting(world).kind == "fork"
    done = drive(accept(desk_of(world), SOURCE, "a", ask, 0, "none of it is here"))
    assert done.kept == 3
    world.after(2, world.loops[0])
    assert world.of("a") == [1, 2, 10, 20, 30]


def test_accept_of_a_number_that_is_not_there(world: World) -> None:
    world.handles_paid()
    fork(world, "a")
    with pytest.raises(Refused, match="not one of the source's events"):
        drive(accept(desk_of(world), SOURCE, "a", ask_producer(world), 9, ""))


def test_accept_names_what_it_does_not_know(world: World) -> None:
    world.handles_paid()
    fork(world, "a")
    ask = ask_producer(world)
    with pytest.raises(NotFound, match="no source"):
        drive(accept(desk_of(world), "/other/orders", "a", ask, None, ""))
    with pytest.raises(NotFound, match="no key"):
        drive(accept(desk_of(world), SOURCE, "zzz", ask, None, ""))


def test_an_orphan_that_is_in_the_history_again_is_a_fork_until_accepted(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3, 4)
    world.deliver(a[0], a[3])
    world.settle()
    old = list(world.producer.history["a"])
    world.producer.restore("a", 1)
    other = world.producer.paid("a", 20)
    world.deliver(*other)
    world.settle()
    ask = ask_producer(world)
    drive(accept(desk_of(world), SOURCE, "a", ask, None, ""))
    world.after(2, world.loops[0])
    world.producer.history["a"] = old  # restored once more: onto the branch that was given up
    with pytest.raises(Refused, match="again"):
        drive(accept(desk_of(world), SOURCE, "a", ask, None, ""))
    done = drive(accept(desk_of(world), SOURCE, "a", ask, 1, ""))
    assert done.kept == 3
    world.after(2, world.loops[0])
    assert world.of("a") == [1, 20, 2, 3, 4]
    assert wait_list(world) == []


# ---- against live traffic


class Race:
    """Real threads: consumer loops, and operators who act on whatever they see."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.keys = [f"k{i}" for i in range(12)]
        self.broken = set(self.keys)
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        self.skipped: list[tuple[str, int | None]] = []
        self.threads: list[threading.Thread] = []

    def pay(self, tx: Any, paid: Paid) -> None:
        with self.lock:
            bad = paid.order in self.broken and paid.cents % 3 == 1
        if bad:
            raise ValueError("not yet")
        self.world.record(tx, paid.order, paid.cents)

    def mend(self) -> None:
        with self.lock:
            self.broken.clear()

    def start(self, work: Any, *arguments: Any) -> None:
        def guarded() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self.failures.append(error)

        self.threads.append(threading.Thread(target=guarded))
        self.threads[-1].start()

    def consume(self, name: str) -> None:
        loop = self.world.loop(name, backoff_s=0.001, attempts_max=2)
        while not self.stop.is_set():
            try:
                drive(loop.turn())
            except Exception as error:
                drive(loop.outage(error))

    def operate(self, seed: float) -> None:
        session = self.world.store.open()
        desk, mine = desk_of(self.world, session), random.Random(seed)
        while not self.stop.is_set():
            for one in drive(waiting(desk, ALL)).found:
                if one.kind == "poison" and mine.random() < 0.2:
                    given = drive(skip(desk, one, None, "race"))
                    if given.what == "event":
                        self.skipped.append((one.key, given.first))
                elif mine.random() < 0.7:
                    drive(redrive(desk, [one]))
            self.world.now_ms += 50
        cast("Session", session).close()

    def until_parked_once(self) -> None:
        """Until operators had something to do."""
        pause = threading.Event()
        for _ in range(3000):
            if self.skipped or self.failures:
                return
            pause.wait(0.02)
        raise AssertionError("nothing was skipped")

    def until_done(self, last: int) -> None:
        """Until every key stands at its last event."""
        pause = threading.Event()
        sql = f"SELECT key FROM oncebox.key WHERE sequence = {last} AND kept = 0"
        for _ in range(3000):
            if len(self.world.rows(sql)) == len(self.keys) or self.failures:
                return
            pause.wait(0.02)
        raise AssertionError(f"still waiting: {wait_list(self.world)}")


def test_redrive_and_skip_race_with_running_consumers(world: World, rng: random.Random) -> None:
    """In the end each event took effect once, in order, or was skipped, and nothing waits."""
    race = Race(world, rng)
    world.consumer.on(Paid)(race.pay)
    sent = {key: world.producer.paid(key, *range(1, 9)) for key in race.keys}
    for name in ("one", "two"):
        race.start(race.consume, name)
    for _ in range(2):
        race.start(race.operate, rng.random())
    try:
        for step in range(8):
            world.deliver(*(events[step] for events in sent.values()))
        race.until_parked_once()
        race.mend()
        race.until_done(last=8)
    finally:
        race.stop.set()
        for thread in race.threads:
            thread.join(60)
    assert race.failures == []
    for key in race.keys:
        gone = [n for k, n in race.skipped if k == key]
        assert len(gone) == len(set(gone))
        assert world.of(key) == [n for n in range(1, 9) if n not in gone]


# ---- quarantine


def bad_record(world: World) -> Any:
    (sent,) = world.producer.paid("a", 1)
    world.deliver(sent.with_header("ce_chain", "nonsense"))
    world.settle()
    return sent


def test_the_quarantine_lists_and_shows_what_came(world: World) -> None:
    world.handles_paid()
    bad_record(world)
    (one,) = drive(quarantined(desk_of(world)))
    assert one.position == f"{TOPIC}/0@0"
    assert "chain" in one.reason
    record = drive(shown(desk_of(world), one.n))
    assert (record.key, record.topic) == (b"a", TOPIC)
    with pytest.raises(NotFound):
        drive(shown(desk_of(world), one.n + 1))


def test_retry_refuses_what_still_cannot_be_read(world: World) -> None:
    world.handles_paid()
    bad_record(world)
    (one,) = drive(quarantined(desk_of(world)))
    with pytest.raises(Refused, match="still cannot be read"):
        drive(retry(desk_of(world), one.n))
    assert len(drive(quarantined(desk_of(world)))) == 1


@pytest.mark.parametrize("again", [False, True])
def test_retry_takes_a_record_in_that_can_be_read_now(world: World, again: bool) -> None:
    """As after an update that reads more: the row holds a record that is fine by now."""
    from oncebox.reading import record_bytes

    world.handles_paid()
    sent = bad_record(world)
    loop = world.loops[0]
    (one,) = drive(quarantined(desk_of(world)))
    good = record_bytes(world_record(sent))
    sql = "UPDATE oncebox.quarantine SET record = $1"
    if world.store.dialect == "sqlite":
        sql = sql.replace("oncebox.", "oncebox_").replace("$1", "?")
    cast("Session", world.session).run(sql, (good,))
    if again:
        world.deliver(sent)
        world.settle(loop)
    result = drive(retry(desk_of(world), one.n))
    assert result == ("dropped" if again else "kept")
    world.after(2, loop)
    assert world.of("a") == [1]
    assert drive(quarantined(desk_of(world))) == []


def test_drop_is_noted(world: World) -> None:
    world.handles_paid()
    bad_record(world)
    (one,) = drive(quarantined(desk_of(world)))
    drive(drop(desk_of(world), one.n, "a test sent it"))
    assert drive(quarantined(desk_of(world))) == []
    ((what, detail),) = world.rows("SELECT what, detail FROM oncebox.journal")
    assert what == "drop"
    assert "a test sent it" in detail


# ---- replay and rebuild


def test_a_replay_changes_no_state(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle()
    seen = drive(replay(desk_of(world), {(TOPIC, 0): 0}, "", dry_run=True))
    assert [(m.position, m.to) for m in seen] == [(3, 0)]
    world.settle(loop)
    assert world.count("duplicates") == 0
    drive(replay(desk_of(world), {(TOPIC, 0): 1}, "a check", dry_run=False))
    world.after(2, loop)
    assert world.of("a") == [1, 2, 3]
    assert world.count("duplicates") == 2
    assert world.rows("SELECT position FROM oncebox.cursor") == [("3",)]


def test_a_replay_never_goes_forward(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2))
    world.settle()
    assert drive(replay(desk_of(world), {(TOPIC, 0): 2}, "", dry_run=False)) == []
    assert drive(replay(desk_of(world), {(TOPIC, 0): 99}, "", dry_run=False)) == []


def test_a_replay_of_nobody(world: World) -> None:
    with pytest.raises(NotFound, match="no position"):
        drive(replay(desk_of(world), {}, "", dry_run=False))


def test_a_rebuild_applies_everything_anew_on_emptied_tables(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2, 3), *world.producer.paid("b", 9))
    loop = world.settle()
    ends = {(TOPIC, 0): 4}
    drive(rebuild(desk_of(world), ends, ["DELETE FROM ledger"], "new rules", perform=False))
    assert world.ledger() == []
    assert drive(summary(desk_of(world))).rebuilding == ends
    world.after(2, loop)
    assert world.of("a") == [1, 2, 3]
    assert world.of("b") == [9]
    assert drive(summary(desk_of(world))).rebuilding == {}
    assert drive(finish(desk_of(world), "")) == 1


def test_a_rebuild_that_cannot_clear_changes_nothing(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    with pytest.raises(Exception, match="nowhere"):
        drive(rebuild(desk_of(world), {}, ["DELETE FROM nowhere"], "", perform=False))
    world.after(2, loop)
    assert world.of("a") == [1]
    assert world.count("duplicates") == 0


def test_a_new_consumer_may_begin_like_a_rebuild(world: World) -> None:
    world.handles_paid()
    drive(prepare(desk_of(world), 0, 9, {(TOPIC, 0): 7}, ""))
    assert drive(summary(desk_of(world))).rebuilding == {(TOPIC, 0): 7}
    world.deliver(*world.producer.paid("a", 1))
    world.settle()
    with pytest.raises(Refused, match="has begun"):
        drive(prepare(desk_of(world), 0, 9, {(TOPIC, 0): 7}, ""))


# ---- at a glance


def test_the_summary_counts_what_waits_and_what_was_done(world: World) -> None:
    failing(world, {"a"})
    a = world.producer.paid("g", 1, 2, 3)
    world.deliver(*world.producer.paid("a", 1, 2), a[0], a[2], a[0], *world.producer.paid("b", 1))
    world.settle()
    one = drive(summary(desk_of(world)))
    assert (one.retrying, one.failed, one.forked) == (1, 0, 0)
    assert (one.gaps, one.behind, one.kept) == (1, 1, 3)
    assert one.gap_since_ms == world.now_ms
    assert one.total("applied") == 2
    assert one.total("duplicates") == 1
    (cursor,) = one.cursors
    assert (cursor.topic, cursor.partition, cursor.position) == (TOPIC, 0, 6)
    assert cursor.holder == "one"


def test_lag_is_told_in_records_and_seconds(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2))
    world.settle()
    late = world.producer.paid("a", 3, 4, 5)
    world.deliver(*late)
    cursors = drive(summary(desk_of(world))).cursors
    now_ms = late[0].outgoing.time_ms + 5000
    found = lag(world.log, cursors, now_ms)
    assert found[TOPIC, 0] == (3, 5.0, 0)
    world.settle()
    cursors = drive(summary(desk_of(world))).cursors
    assert lag(world.log, cursors, now_ms)[TOPIC, 0] == (0, 0.0, 0)
