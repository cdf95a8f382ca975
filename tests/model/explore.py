"""Everything that can happen to one key: breadth first, so that what it finds is shortest.

A script says what the producer does, and when it is done relative to nothing: between any two of
its commands any record in the log may be delivered, again and again, and the operator may act.
That covers partitions, retries, zombies and crashes, since all of them only deliver.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import combinations_with_replacement, product
from types import ModuleType
from typing import NamedTuple

from oncebox import order

from .world import Broken, Consumer, Producer, Record, Rig, Setup, link

STATES_MAX = 50_000  # of one script: a guard, no script comes near it


class Moment(NamedTuple):
    """How far the script is, and how the two databases and the log stand."""

    at: int
    producer: Producer
    consumer: Consumer


class Failure(AssertionError):
    """A broken promise, with the shortest trace to it."""


def explore(script: tuple[str, ...], setup: Setup, rules: ModuleType = order) -> Counter[str]:
    """Visit every moment that a script can lead to; counts of what was seen. Raises Failure."""
    rig, seen = Rig(setup, rules), Counter[str]()
    first = Moment(0, Producer(), rig.consumer())
    cause: dict[Moment, tuple[Moment, str] | None] = {first: None}
    queue = deque([first])
    while queue:
        moment = queue.popleft()
        try:
            for word, after in steps(rig, script, moment, seen):
                if after not in cause:
                    cause[after] = (moment, word)
                    queue.append(after)
            if moment.at == len(script):
                seen["ends"] += 1
                check_end(rig, moment.producer, moment.consumer, seen)
        except Broken as broken:
            words = []
            while (known := cause[moment]) is not None:
                moment, word = known
                words.append(word)
            trace = " ".join(reversed(words))
            raise Failure(
                f"{broken}, next or when all is settled after: {trace} | {setup}"
            ) from broken
        if len(cause) > STATES_MAX:
            raise Failure(f"more than {STATES_MAX} states: {' '.join(script)} with {setup}")
    seen["runs"] += 1
    seen["states"] += len(cause)
    return seen


def steps(
    rig: Rig, script: tuple[str, ...], moment: Moment, seen: Counter[str]
) -> Iterator[tuple[str, Moment]]:
    """All that can happen next."""
    at, producer, consumer = moment
    if at < len(script):
        moved = producer.act(script[at])
        if moved is not None and not forgets_what_was_pruned(rig, producer, moved, consumer):
            yield script[at], Moment(at + 1, moved, consumer)
    for record in producer.log:
        yield (
            f">{record}",
            Moment(at, producer, check_delivery(rig, producer, consumer, record, seen)),
        )
    state = consumer.state
    if state.park == "poison":
        yield "redrive", moment._replace(consumer=must(rig.redrive(producer, consumer), "redrive"))
    if state.park == "fork":
        yield "accept", Moment(at, *accept(rig, producer, consumer, seen))
    if state.kept and state.park is None and (asked := rig.ask(producer, consumer)):
        yield "ask", moment._replace(consumer=asked)
    if state.kept and state.park != "fork" and (skipped := rig.skip(producer, consumer)):
        yield "skip", moment._replace(consumer=skipped)
    if pruned := rig.prune(producer, consumer):
        yield "prune", Moment(at, *pruned)


def must(found: Consumer | None, command: str) -> Consumer:
    """The state after a command that has to be possible."""
    if found is None:
        raise Broken(f"{command} does not leave the state that it is for")
    return found


def accept(
    rig: Rig, producer: Producer, consumer: Consumer, seen: Counter[str]
) -> tuple[Producer, Consumer]:
    """Accept; where that is refused, with what the operator finds out."""
    found = rig.accept(producer, consumer)
    if isinstance(found, str):
        seen[f"accept refused: {found}"] += 1
        found = rig.accept(producer, consumer, after=rig.branch(producer, consumer))
        if isinstance(found, str):
            raise Broken(f"accept refuses the operator's branch, too: {found}")
    return found


def forgets_what_was_pruned(
    rig: Rig, before: Producer, after: Producer, consumer: Consumer
) -> bool:
    """Whether a restore goes below a floor that was raised: nobody may do that unannounced."""
    if consumer.floor == rig.consumer().floor or after.made != before.made:  # a commit
        return False
    changed = set(before.history) ^ set(after.history)
    return any(event.stamp < consumer.floor for event in changed)


# --- the promises


def check_delivery(
    rig: Rig, producer: Producer, consumer: Consumer, record: Record, seen: Counter[str]
) -> Consumer:
    """Deliver a record; the promises that can be seen at once."""
    verdict, after = rig.deliver(producer, consumer, record)
    seen[str(verdict)] += 1
    state, id_ = after.state, record.event.id
    if after.effects != consumer.effects and sees_fork(producer, consumer, record):
        raise Broken(f"{record} ran although what was kept contradicted it")
    if rig.deliver(producer, after, record)[1] != after:
        raise Broken(f"a second delivery of {record} changes the state")
    kept = [k.id for k in state.kept]
    if record.event in producer.history and not is_accounted(rig, after, record, kept):
        if not is_blind_spot(producer, consumer, record, verdict):
            raise Broken(f"{record} was dropped silently as {verdict}")
        seen["blind spot"] += 1
    if record.form == "v" and any(k.id == id_ and not k.void for k in state.kept):
        raise Broken(f"{id_} was erased, and its bytes stay kept")
    if kept and state.park is None and rig.rules.gap(state, after.floor) is None:
        raise Broken(f"{kept} wait for nothing")
    if state.park == "poison" and state.kept[0].void:
        raise Broken(f"{kept[0]} was erased, and is still parked for its failure")
    if verdict == "duplicate" and has_other_bytes(consumer, record):
        raise Broken(f"{record} has other bytes than what is known as {id_}, unnoticed")
    if list(state.kept) != sorted(state.kept, key=lambda k: (k.sequence, k.stamp)):
        raise Broken(f"kept out of order: {kept}")
    return after


def is_accounted(rig: Rig, consumer: Consumer, record: Record, kept: list[str]) -> bool:
    """Whether an event took effect, is kept, or is listed with a reason."""
    id_ = record.event.id
    return id_ in consumer.done() or id_ in kept or record.event.stamp < rig.consumer().floor


def sees_fork(producer: Producer, consumer: Consumer, record: Record) -> bool:
    """Whether an event and what is kept are plainly of two branches."""
    kept = {k.id for k in consumer.state.kept}
    at_hand = [e for e in producer.made if e.id in kept or e == record.event]
    return any(
        x.sequence == y.sequence or (x.sequence + 1 == y.sequence and x.id not in y.past)
        for x in at_hand
        for y in at_hand
        if x != y
    )


def has_other_bytes(consumer: Consumer, record: Record) -> bool:
    """Whether the consumer holds an event's id with other bytes, and only with other bytes."""
    arrived, row = link(record), consumer.state
    held = [k.digest for k in (*row.kept, row) if k.id == arrived.id]
    return bool(held) and not arrived.void and 0 not in held and arrived.digest not in held


def is_blind_spot(producer: Producer, consumer: Consumer, record: Record, verdict: str) -> bool:
    """The known limits of O(keys), which need an unnoticed restore and one thing more.

    With the clock behind, an event of the new branch can lie below the row in both numbers. With
    that, or after a second restore onto an abandoned branch, an accept may have taken an event of
    the source's history for one that took effect here.
    """
    if verdict in ("orphan", "before_start"):
        return producer.clock_fell_behind() or producer.went_back
    row, event = consumer.state, record.event
    past = next((e.past for e in producer.made if e.id == row.id), ())
    below = event.sequence < row.sequence and event.stamp < row.stamp
    return verdict in ("duplicate", "late") and below and event.id not in past


def check_end(rig: Rig, producer: Producer, consumer: Consumer, seen: Counter[str]) -> None:
    """Finitely many redeliveries and commands lead to a clean state, which then stays."""
    producer, consumer = settle(rig, producer, consumer, seen)
    wrong = unsettled(rig, producer, consumer)
    if wrong:
        if not (producer.clock_fell_behind() or producer.went_back):
            raise Broken(f"a dead end: {wrong}")
        seen["settled by the operator's branch"] += 1
        branch = rig.branch(producer, consumer)
        found = rig.accept(producer, consumer, after=branch)
        if isinstance(found, str) or unsettled(rig, *settle(rig, *found, seen)):
            raise Broken(f"a dead end even with the branch {branch}: {wrong}")
        return

    # Everything once more, also what other branches published; then nothing changes any more.
    for record in sorted(producer.log):
        producer, consumer = attend(rig, producer, consumer, record, seen)
    producer, consumer = settle(rig, producer, consumer, seen)
    for record in producer.log:
        again = rig.deliver(producer, consumer, record)[1]
        if (again.state, again.effects) != (consumer.state, consumer.effects):
            raise Broken(f"a redelivery of {record} after all was settled changes the state")


def settle(
    rig: Rig, producer: Producer, consumer: Consumer, seen: Counter[str]
) -> tuple[Producer, Consumer]:
    """What a diligent operator does: the source sends everything again, and nothing is left."""
    for _ in range(4):
        for event in producer.history:
            form = "" if Record(event) in producer.log else "v"
            producer, consumer = attend(rig, producer, consumer, Record(event, form), seen)
        consumer = rig.ask(producer, consumer) or consumer
        if consumer.state.park == "fork":
            producer, consumer = accept(rig, producer, consumer, seen)
        if consumer.state.park == "poison":
            consumer = must(rig.redrive(producer, consumer), "redrive")
        if not unsettled(rig, producer, consumer):
            break
    return producer, consumer


def attend(
    rig: Rig, producer: Producer, consumer: Consumer, record: Record, seen: Counter[str]
) -> tuple[Producer, Consumer]:
    """Deliver a record and do at once what it asks for."""
    consumer = rig.deliver(producer, consumer, record)[1]
    if consumer.state.park == "fork":
        producer, consumer = accept(rig, producer, consumer, seen)
    if consumer.state.park == "poison":
        consumer = must(rig.redrive(producer, consumer), "redrive")
    return producer, consumer


def unsettled(rig: Rig, producer: Producer, consumer: Consumer) -> str | None:
    """What is wrong, if anything is: parked, kept, or an event of the history without effect."""
    state, done, start = consumer.state, consumer.done(), rig.consumer().floor
    if state.park or state.kept:
        return f"park {state.park}, kept {[k.id for k in state.kept]}"
    missing = [e.id for e in producer.history if e.stamp >= start and e.id not in done]
    return f"{missing} never took effect" if missing else None


# --- what to explore


def scripts(commits: int, deviations: int, words: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """All scripts of so many commits with so many deviations, anywhere behind the first commit."""
    for chosen in product(words, repeat=deviations):
        for places in combinations_with_replacement(range(1, commits + 1), deviations):
            script = []
            for at in range(commits + 1):
                script += [w for w, place in zip(chosen, places, strict=True) if place == at]
                script += ["c"] if at < commits else []
            if is_possible(tuple(script)):
                yield tuple(script)


def is_possible(script: tuple[str, ...]) -> bool:
    """Whether the producer can do all of it."""
    producer: Producer | None = Producer()
    for command in script:
        producer = producer.act(command) if producer is not None else None
    return producer is not None


def deviations(commits: int) -> list[str]:
    """The words of all that can go wrong at a producer."""
    return [
        *("back", "ahead", "N", "N!", "Z"),
        *(f"R{count}{mark}" for count in range(commits) for mark in ("", "!")),
        *(f"{letter}{number}" for letter in "EQT" for number in range(1, commits + 1)),
    ]
