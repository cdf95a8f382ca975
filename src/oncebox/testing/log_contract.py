"""What every log has to keep, as functions: the contract of `oncebox.ports.Log` and `Reader`.

Plain asserts and no test framework, so that an engine of a third party proves itself in ten lines:

    from oncebox.testing.log_contract import LOG_CHECKS, LogEngine, check_log

    def test_my_log() -> None:
        check_log(LogEngine(open=partial(MyLog, url), drop=..., grow=..., truncate=..., crash=...))

`LOG_CHECKS` are the single functions, for a test each. Nothing is measured and nothing is waited
for longer than `PATIENCE_S`. Each check makes topics of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import closing
from functools import partial

from ..errors import ConfigurationError, NotFound
from ..operate.desk import now_ms
from ..ports import Extent, Outgoing, Record, TopicPartition
from .log_tools import (
    BYTES_MAX,
    COUNT_MAX,
    PATIENCE_S,
    LogEngine,
    beside,
    by_key,
    check_calls,
    check_offsets_rise,
    everything,
    everything_at_rest,
    filled,
    new_topic,
    numbers,
    publish,
    publish_calls,
    publisher,
    raises,
    read,
    record,
    starts,
    until,
    until_truncated,
)

__all__ = ["LOG_CHECKS", "LogEngine", "check_log"]

PARTITIONS = 4


def check_log(engine: LogEngine) -> None:
    """Run every check. An AssertionError says what the engine does not keep."""
    for check in LOG_CHECKS:
        check(engine)


# ---- topics


def check_topics(engine: LogEngine) -> None:
    """A topic is made once, with an identity; what does not exist is None or NotFound."""
    with closing(engine.open()) as log:
        topic = new_topic()
        assert log.describe(topic) is None
        raises(NotFound, lambda: log.extents(topic))
        raises(NotFound, lambda: log.offsets_at(topic, 0))
        raises(NotFound, lambda: log.check(topic))
        log.create(topic, 3)
        made = log.describe(topic)
        assert made is not None
        assert made.partitions == 3
        assert made.identity
        log.create(topic, 5)
        assert log.describe(topic) == made, "creating again changes nothing"
        assert log.extents(topic) == [Extent(0, 0)] * 3
        with closing(engine.open()) as other:
            assert other.describe(topic) == made
        assert all(isinstance(sentence, str) for sentence in log.check(topic))
        for bad in ("", "x" * 300, "a\0b"):
            raises(ConfigurationError, partial(log.create, bad, 1))
        raises(ConfigurationError, lambda: log.create(new_topic(), 0))


def check_topic_made_anew(engine: LogEngine) -> None:
    """A topic made again is another, and a reader of the old one is told, soon if not at once."""
    for records_anew in (3, 30):
        with filled(engine, partitions=1, count=10) as (log, topic):
            before = log.describe(topic)
            assert before is not None
            with closing(log.reader("anew")) as reader:
                reader.assign({(topic, 0): 0})
                read(reader, 10)
                engine.drop(topic)
                assert log.describe(topic) is None
                log.create(topic, 1)
                publish(log, [record(topic, "k", n) for n in range(records_anew)])
                after = log.describe(topic)
                assert after is not None
                assert after.identity != before.identity
                until_truncated(reader, f"{topic}/0@", records_come=True)
                reader.assign({(topic, 0): 0})
                assert numbers(read(reader, records_anew)) == list(range(records_anew))


def check_unknown_topic(engine: LogEngine) -> None:
    """A reader of a topic, or partition, that does not exist is told so."""
    with filled(engine, partitions=1, count=1) as (log, topic):
        for place in ((new_topic(), 0), (topic, 7)):
            with closing(log.reader("unknown")) as reader:
                reader.assign({place: 0})
                until_truncated(reader, f"{place[0]}/{place[1]}@0")
        nowhere = new_topic()
        refusals = log.publish([record(nowhere, "k", 0), record(nowhere, "j", 1)], PATIENCE_S)
        assert [(r.at, r.permanent) for r in refusals] == [(0, False), (1, False)]
        assert log.describe(nowhere) is None, "publishing made a topic"
        assert log.publish((), PATIENCE_S) == []


def check_growth(engine: LogEngine) -> None:
    """Partitions may be added: identity and records stay, new ones can be read. Where keys are then
    is known.
    """
    with filled(engine, partitions=2, count=20) as (log, topic):
        before = log.describe(topic)
        with closing(log.reader("growth")) as reader:
            reader.assign(starts(log, topic))
            read(reader, 20)
            engine.grow(topic, 6)
            after = log.describe(topic)
            assert before is not None
            assert after is not None
            assert (after.identity, after.partitions) == (before.identity, 6)
            with closing(engine.open()) as fresh:  # one that is open may learn of it much later
                publish(fresh, [record(topic, "k" * (n % 9) + str(n), n) for n in range(200)])
            there = [extent.end for extent in log.extents(topic)]
            reader.assign(dict.fromkeys(((topic, n) for n in range(2, 6)), 0))
            records = read(reader, sum(there[2:]))
            assert records, "no key went to a new partition"
            assert {r.partition for r in records} <= {2, 3, 4, 5}
            assert [r.partition for r in records] == [log.home(r.key or b"", 6) for r in records]


# ---- records


def check_round_trip(engine: LogEngine) -> None:
    """Key, value, headers and time come back as they went."""
    at_ms = now_ms()
    every_byte = bytes(range(256))
    sent = [
        Outgoing("", b"k", b"v", [], at_ms - 1000),
        Outgoing("", None, b"without key", [("a", "b")], at_ms - 1000),
        Outgoing("", b"", b"", [("empty", ""), ("bytes", b""), ("none", None)], at_ms - 999),
        Outgoing("", every_byte, every_byte * 40, [("raw", every_byte)], at_ms - 998),
        Outgoing("", "schlüssel-鍵".encode(), "wert-値".encode(), [("名", "ü-値")], at_ms - 2),
        Outgoing("", b"k", None, [("twice", "1"), ("twice", "2"), ("z", "3")], at_ms - 1),
    ]
    with filled(engine, partitions=1, count=0) as (log, topic):
        publish(log, [outgoing._replace(topic=topic) for outgoing in sent])
        with closing(log.reader("trip")) as reader:
            reader.assign({(topic, 0): 0})
            came = read(reader, len(sent))
    for outgoing, incoming in zip(sent, came, strict=True):
        raw = [(name, v.encode() if isinstance(v, str) else v) for name, v in outgoing.headers]
        assert incoming.topic == topic
        assert incoming.partition == 0
        assert (incoming.key, incoming.value) == (outgoing.key, outgoing.value)
        assert list(incoming.headers) == raw
        assert incoming.time_ms == outgoing.time_ms
    assert [incoming.offset for incoming in came] == list(range(len(sent)))


def check_order(engine: LogEngine) -> None:
    """Offsets rise by partition, a key stays in one, and its records keep their order."""
    with filled(engine, partitions=PARTITIONS, count=0) as (log, topic):
        sent: dict[bytes | None, list[int]] = defaultdict(list)
        number = 0
        for size in (1, 2, 997, 1, 1500, 499):
            call = [record(topic, f"key-{n % 61}", n) for n in range(number, number + size)]
            publish(log, call)
            number += size
            for outgoing in call:
                sent[outgoing.key].append(json.loads(outgoing.value or b"")["n"])
        with closing(log.reader("order")) as reader:
            reader.assign(starts(log, topic))
            came = read(reader, number)
        check_offsets_rise(came)
        assert by_key(came) == sent
        assert len({r.partition for r in came}) == PARTITIONS, "a partition stayed empty"
        assert [r.partition for r in came] == [log.home(r.key or b"", PARTITIONS) for r in came]
        ends = Counter(r.partition for r in came)
        assert log.extents(topic) == [Extent(0, ends[n]) for n in range(PARTITIONS)]
        publish(log, [record(topic, None, n) for n in range(10)])


def check_refusals(engine: LogEngine) -> None:
    """What is too large is refused for good, its key waits, and all the rest is delivered."""
    with filled(engine, partitions=PARTITIONS, count=0) as (log, topic):
        large = Outgoing(topic, b"big", os.urandom(engine.record_bytes_max), [], now_ms())
        broken = record(topic, "text", 0)._replace(headers=[("lone", "\ud800")])
        call = [record(topic, f"key-{n}", n) for n in range(20)]
        call[5:5] = [large, record(topic, "big", 100), broken]
        refusals = {refusal.at: refusal for refusal in log.publish(call, PATIENCE_S)}
        assert set(refusals) - {6} == {5, 7}
        assert refusals[5].permanent
        assert refusals[7].permanent
        assert refusals[5].reason
        assert 6 not in refusals or not refusals[6].permanent
        came = everything(log, topic)
        expected = {f"key-{n}".encode(): [n] for n in range(20)}
        if 6 not in refusals:
            expected[b"big"] = [100]
        assert by_key(came) == expected
        assert log.publish([record(topic, "big", 101)], PATIENCE_S) == []
        assert log.publish([], PATIENCE_S) == []


def check_clock_ahead(engine: LogEngine) -> None:
    """One wrong clock neither loses a record nor bends the log's time."""
    year_ms = 365 * 24 * 3600 * 1000
    with filled(engine, partitions=1, count=1) as (log, topic):
        publish(log, [record(topic, "k", 1)._replace(time_ms=now_ms() + year_ms)])
        publish(log, [record(topic, "k", 2)._replace(time_ms=now_ms() - 10 * year_ms)])
        publish(log, [record(topic, "k", 3)])
        assert numbers(everything(log, topic)) == [0, 1, 2, 3]
        assert log.offsets_at(topic, now_ms() + 3_600_000) == [4]


def check_offsets_at(engine: LogEngine) -> None:
    """The first offset whose time is the given one or later; the end when there is none."""
    base_ms = now_ms() - 60_000
    with filled(engine, partitions=1, count=0) as (log, topic):
        times = [base_ms + step for step in (0, 10, 20, 5, 30, 40, 40, 50)]
        for number, time_ms in enumerate(times[:4]):
            publish(log, [record(topic, "k", number)._replace(time_ms=time_ms)])
        publish(log, [record(topic, "k", 4)._replace(time_ms=time_ms) for time_ms in times[4:]])
        for time_ms in (0, *range(base_ms - 1, base_ms + 52), base_ms + 1000):
            late = [offset for offset, at in enumerate(times) if at >= time_ms]
            assert log.offsets_at(topic, time_ms) == [late[0] if late else len(times)]
        engine.truncate(topic, 0, 5)
        assert log.offsets_at(topic, 0) == [5]
        assert log.offsets_at(topic, base_ms + 45) == [7]


# ---- reading


def check_bounds(engine: LogEngine) -> None:
    """`count_max` and `bytes_max` hold; a record above `bytes_max` comes all the same."""
    with filled(engine, partitions=2, count=300) as (log, topic):
        with closing(log.reader("bounds")) as reader:
            reader.assign(starts(log, topic))
            came: list[Record] = []
            while len(came) < 300:
                fetched = reader.fetch(7, BYTES_MAX, 1.0)
                assert len(fetched) <= 7
                came += fetched
            assert sorted(numbers(came)) == list(range(300))
        middle = {(topic, n): extent.end for n, extent in enumerate(log.extents(topic))}
        publish(log, [_sized(topic, f"key-{n}", n, 10_000) for n in range(60)])
        publish(log, [_sized(topic, "key-0", 60, 400_000), _sized(topic, "key-0", 61, 10)])
        with closing(log.reader("bounds")) as reader:
            reader.assign(middle)
            came = []
            while len(came) < 62:
                fetched = reader.fetch(COUNT_MAX, 100_000, 1.0)
                sizes = [len(r.value or b"") for r in fetched]
                assert sum(sizes) <= 100_000 or max(sizes) > 100_000
                came += fetched
            assert sorted(numbers(came)) == list(range(62))


def check_partitions_take_turns(engine: LogEngine) -> None:
    """A partition with a backlog does not keep the others waiting for ever."""
    with (
        filled(engine, partitions=3, count=6000) as (log, topic),
        closing(log.reader("turns")) as reader,
    ):
        reader.assign(starts(log, topic))
        came: list[Record] = []
        while len(came) < 5000:
            came += reader.fetch(100, BYTES_MAX, 1.0)
        assert {r.partition for r in came} == {0, 1, 2}


def check_two_readers(engine: LogEngine) -> None:
    """Readers do not disturb each other, also when they share a group's name."""
    with (
        filled(engine, partitions=2, count=400) as (log, topic),
        closing(engine.open()) as other,
        closing(log.reader("two")) as one,
        closing(other.reader("two")) as two,
    ):
        one.assign(starts(log, topic))
        two.assign(starts(log, topic))
        first: list[Record] = []
        second: list[Record] = []
        while len(first) < 400 or len(second) < 400:
            first += one.fetch(50, BYTES_MAX, 1.0 if len(first) < 400 else 0)
            second += two.fetch(50, BYTES_MAX, 1.0 if len(second) < 400 else 0)
        assert sorted(numbers(first)) == sorted(numbers(second)) == list(range(400))
        one.acknowledge({(topic, 0): 1, (topic, 1): 1})
        two.acknowledge({(topic, 0): 2, (topic, 1): 2})
        assert two.acknowledged([(topic, 0)]).keys() <= {(topic, 0)}
        publish(log, [record(topic, "k", 400)])
        assert numbers(read(one, 1)) == numbers(read(two, 1)) == [400]


def check_resume(engine: LogEngine) -> None:
    """A reader begins at any offset, as often as it likes."""
    with (
        filled(engine, partitions=1, count=40, call=7) as (log, topic),
        closing(log.reader("resume")) as reader,
    ):
        for offset in (0, 1, 6, 7, 8, 20, 39, 3, 0):
            reader.assign({(topic, 0): offset})
            assert numbers(read(reader, 40 - offset)) == list(range(offset, 40))
        assert reader.fetch(COUNT_MAX, BYTES_MAX, 0.01) == []
        reader.assign({})
        assert reader.fetch(COUNT_MAX, BYTES_MAX, 0.01) == []


def check_assignment_changes(engine: LogEngine) -> None:
    """Partitions come and go; those that stay neither repeat nor lose a record."""
    rng = random.Random(3)
    with filled(engine, partitions=PARTITIONS, count=4000) as (log, topic):
        ends = {(topic, n): extent.end for n, extent in enumerate(log.extents(topic))}
        next_: dict[TopicPartition, int] = dict.fromkeys(ends, 0)
        with closing(log.reader("changes")) as reader:
            deadline = time.monotonic() + PATIENCE_S
            while next_ != ends:
                assert time.monotonic() < deadline, f"stands at {next_} of {ends}"
                open_ = [place for place in ends if next_[place] < ends[place]]
                mine = set(rng.sample(open_, rng.randint(1, len(open_))))
                reader.assign({place: next_[place] for place in mine})
                for _ in range(rng.randint(1, 3)):
                    for r in reader.fetch(rng.choice((1, 50, 300)), BYTES_MAX, 0.2):
                        place = (r.topic, r.partition)
                        assert place in mine, "a record of a partition that was given up"
                        assert r.offset == next_[place], "a record twice, or one missing"
                        next_[place] += 1


def check_truncated(engine: LogEngine) -> None:
    """An offset that is not in the log is reported, again and again, never skipped."""
    with filled(engine, partitions=2, count=100) as (log, topic):
        ends = [extent.end for extent in log.extents(topic)]
        engine.truncate(topic, 0, 7)
        assert log.extents(topic) == [Extent(7, ends[0]), Extent(0, ends[1])]
        with closing(log.reader("truncated")) as reader:
            for offset in (0, 6, ends[0] + 1):
                reader.assign({(topic, 0): offset})
                until_truncated(reader, f"{topic}/0@{offset}")
                until_truncated(reader, f"{topic}/0@{offset}")
            reader.assign({(topic, 0): 7, (topic, 1): 0})
            came = read(reader, ends[0] - 7 + ends[1])
            assert min(r.offset for r in came if r.partition == 0) == 7
            engine.truncate(topic, 0, ends[0])
            publish(log, [record(topic, f"k{n}", n) for n in range(20)])
            read(reader, 20)
            assert log.extents(topic)[0].start == ends[0]


def check_waiting(engine: LogEngine) -> None:
    """A waiting fetch returns with the first record; a bounded wait with nothing."""
    with (
        filled(engine, partitions=2, count=0) as (log, topic),
        closing(log.reader("waiting")) as reader,
    ):
        reader.assign(starts(log, topic))
        assert reader.fetch(COUNT_MAX, BYTES_MAX, 0.0) == []
        assert reader.fetch(COUNT_MAX, BYTES_MAX, 0.05) == []
        for number in range(20):
            call = [record(topic, f"k{number}", number)]
            with beside(partial(publish, log, call)):
                assert numbers(reader.fetch(COUNT_MAX, BYTES_MAX, PATIENCE_S)) == [number]


def check_wake(engine: LogEngine) -> None:
    """`wake` ends a wait, from any thread, and is not lost when it comes before."""
    with (
        filled(engine, partitions=1, count=0) as (log, topic),
        closing(log.reader("wake")) as reader,
    ):
        reader.assign(starts(log, topic))
        for _ in range(10):
            with beside(reader.wake):
                started = time.monotonic()
                assert reader.fetch(COUNT_MAX, BYTES_MAX, PATIENCE_S) == []
                assert time.monotonic() - started < PATIENCE_S, "it was not woken"
        reader.wake()
        publish(log, [record(topic, "k", 1)])
        assert numbers(read(reader, 1)) == [1]


# ---- processes


def check_crash(engine: LogEngine) -> None:
    """Neither the publisher's death nor the engine's loses what was acknowledged."""
    with closing(engine.open()) as log:
        topic = new_topic()
        log.create(topic, PARTITIONS)
        with closing(log.reader("crash")) as reader:
            reader.assign(starts(log, topic))
            with publisher(engine, topic, "a", 30) as acknowledged:
                until(partial(_at_least, acknowledged, 5))
            calls = acknowledged()
            engine.crash()
            there = everything_at_rest(log, topic)
            check_calls(engine, there, {"a": calls}, 30)
            came = read(reader, len(there))
            assert by_key(came) == by_key(there), "a reader did not go on"
            publish(log, [record(topic, "after", 1)])
            assert numbers(read(reader, 1)) == [1]


def check_killed_publishers(engine: LogEngine) -> None:
    """Publishers that die at any moment leave whole records, in order, and a sound log."""
    with closing(engine.open()) as log:
        topic = new_topic()
        log.create(topic, PARTITIONS)
        calls = {}
        for name in "abcdef":
            with publisher(engine, topic, name, 200) as acknowledged:
                until(partial(_at_least, acknowledged, 2))
            calls[name] = acknowledged()
        check_calls(engine, everything_at_rest(log, topic), calls, 200)
        publish(log, [record(topic, "after", 1)])


def check_many_publishers(engine: LogEngine) -> None:
    """Processes publish at once; every key keeps its order, nothing is lost or doubled."""
    context = multiprocessing.get_context("spawn")
    with closing(engine.open()) as log:
        topic = new_topic()
        log.create(topic, PARTITIONS)
        arguments = [(engine.open, topic, name, 40, 25) for name in ("a", "b", "c")]
        processes = [context.Process(target=publish_calls, args=a) for a in arguments]
        for process in processes:
            process.start()
        with closing(log.reader("many")) as reader:
            reader.assign(starts(log, topic))
            came = read(reader, 3 * 40 * 25)
        for process in processes:
            process.join(PATIENCE_S)
            assert process.exitcode == 0
        check_offsets_rise(came)
        for key, found in by_key(came).items():
            assert found == sorted(set(found)), f"key {key!r}"


LOG_CHECKS: tuple[Callable[[LogEngine], None], ...] = (
    check_topics,
    check_topic_made_anew,
    check_unknown_topic,
    check_growth,
    check_round_trip,
    check_order,
    check_refusals,
    check_clock_ahead,
    check_offsets_at,
    check_bounds,
    check_partitions_take_turns,
    check_two_readers,
    check_resume,
    check_assignment_changes,
    check_truncated,
    check_waiting,
    check_wake,
    check_crash,
    check_killed_publishers,
    check_many_publishers,
)


def _at_least(acknowledged: Callable[[], int], calls: int) -> bool:
    return acknowledged() >= calls


def _sized(topic: str, key: str, number: int, size: int) -> Outgoing:
    value = json.dumps({"n": number, "filler": "x" * size}).encode()
    return record(topic, key, number)._replace(value=value)
