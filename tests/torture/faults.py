"""What happens: each fault is a generator that acts, waits by `yield`, and returns the evidence that
it fired, or None if it did not.

`targets` says what a fault needs for itself: processes by role, servers and proxies by name.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

from oncebox.lease import LEASE_S

from .points import BY_NAME
from .stage import ROLES, Stage, state_of

Evidence = dict[str, Any]
Course = Generator[None, None, Evidence | None]

REACH_S = 20.0
"""How long a point may take to be reached, until the fault is given up for now."""
PARK_S = 40.0
"""How long until a key that fails has spent its tries."""
REPLACED_S = 25.0
"""How long it may take until a consumer that stands still in its batch is replaced."""
PARTITIONS_MAX = 6
CLOCK_STEPS_S = (-86_400.0, -3_600.0, -30.0, -1.5, 1.5, 30.0, 3_600.0, 86_400.0)
OTHER_RELAY = {"relay-1": "relay-2", "relay-2": "relay-1"}


class Wish(NamedTuple):
    """A fault that is to happen: its kind, for points which one and how, and how often it was
    tried in vain.
    """

    kind: str
    point: str = ""
    how: str = ""
    tries: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.point}" if self.point else self.kind


@dataclass
class Fault:
    """A wish on its way."""

    id: str
    wish: Wish
    targets: frozenset[str]
    course: Course
    begun: float = field(default_factory=time.monotonic)


def wait(seconds: float) -> Iterator[None]:
    """Let others go on for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield


def until(seen: Callable[[], Any], timeout_s: float) -> Generator[None, None, Any]:
    """Wait for what is to be seen; what it was, or None."""
    end = time.monotonic() + timeout_s
    while not (found := seen()):
        if time.monotonic() > end:
            return None
        yield
    return found


def meanwhile(*steps: Callable[[], Any]) -> Iterator[None]:
    """Do what takes long in a thread, while others go on. Raises what it raises."""

    def work() -> None:
        for step in steps:
            step()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        while not done.done():
            yield
        done.result()


# ---- processes


def at_point(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """SIGKILL or SIGSTOP at a named point of a process."""
    point = BY_NAME[wish.point]
    if point.leading:
        yield from stand_by(stage, role)
    pid = stage.processes[role].pid
    skip = 0 if point.leaving or point.leading else rng.choice((0, 0, 1, 3))
    stage.tell(role, do="arm", fault=fault, point=point.name, how=wish.how, skip=skip)
    if point.leaving or point.leading:
        yield from wait(0.2)
        stage.signal(role if point.leaving else OTHER_RELAY[role], signal.SIGTERM)
    found = yield from until(lambda: stage.evidence(fault) or not stage.is_up(role), REACH_S)
    evidence = stage.evidence(fault)
    if not found or evidence is None:
        if stage.is_up(role) and stage.processes[role].pid == pid:
            stage.tell(role, do="disarm")
            yield from wait(0.1)
            evidence = stage.evidence(fault)
        if evidence is None:
            return None
    if wish.how == "SIGKILL":
        gone = yield from until(lambda: state_of(pid) in ("", "Z"), 5.0)
        return evidence if gone else None
    stopped = yield from until(lambda: state_of(pid) == "T", 2.0)
    yield from wait(rng.choice((0.1, 0.5, 1.5, LEASE_S + 1.5)))
    stage.signal(role, signal.SIGCONT)
    return evidence if stopped else None


def stand_by(stage: Stage, role: str) -> Iterator[None]:
    """Have the other relay lead, so that this one can take over."""
    if stage.leads(role):
        pid = stage.signal(role, signal.SIGTERM)
        yield from until(lambda: stage.processes[role].pid != pid, REACH_S)
    both = (role, OTHER_RELAY[role])
    yield from until(lambda: all(stage.is_ready(one) for one in both), REACH_S)


def killed(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """SIGKILL at a random time."""
    yield from wait(rng.uniform(0.0, 1.0))
    pid = stage.signal(role, signal.SIGKILL)
    gone = yield from until(lambda: state_of(pid) in ("", "Z"), 5.0)
    return {"pid": pid, "role": role} if gone else None


def stopped(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """SIGSTOP at a random time, for a while; perhaps past the lease."""
    yield from wait(rng.uniform(0.0, 1.0))
    pid = stage.signal(role, signal.SIGSTOP)
    seen = yield from until(lambda: state_of(pid) == "T", 2.0)
    yield from wait(rng.choice((0.2, 0.5, 1.0, 2.0, LEASE_S + 1.5)))
    stage.signal(role, signal.SIGCONT)
    return {"pid": pid, "role": role} if seen else None


def replaced(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """A consumer is stopped inside its batch for so long that another one has its partitions."""
    pid = stage.processes[role].pid
    stage.tell(role, do="arm", fault=fault, point="handler-after", how="SIGSTOP", skip=0)
    found = yield from until(lambda: stage.evidence(fault) or not stage.is_up(role), REACH_S)
    if not found or stage.evidence(fault) is None:
        stage.tell(role, do="disarm")
        return None
    service = role.partition("-")[0]
    before = stage.holders(service, service)
    mine = {place: term for place, (holder, term, _) in before.items() if holder == pid}
    begun, term = time.monotonic(), None
    while time.monotonic() < begun + REPLACED_S and term is None:
        yield from wait(0.5)
        now = stage.holders(service, service)
        term = next((now[p][1] for p, old in mine.items() if now[p][1] > old), None)
    after_s = time.monotonic() - begun
    stage.signal(role, signal.SIGCONT)
    return None if term is None else {"pid": pid, "term": term, "after_s": round(after_s, 1)}


def rolled(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """SIGTERM to all processes of a kind, one after the other, each ending in order."""
    ended = []
    for one in (r for r in ROLES if r.partition("-")[0] == role.partition("-")[0]):
        yield from until(lambda one=one: stage.is_ready(one), 20.0)  # type: ignore[misc]
        pid = stage.signal(one, signal.SIGTERM)
        gone = yield from until(lambda pid=pid: state_of(pid) in ("", "Z"), 40.0)  # type: ignore[misc]
        if not gone:
            return None
        ended.append(pid)
    return {"ended": ended}


def clock_set(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """The process's wall clock is set, forward or back."""
    stage.tell(role, do="clock", fault=fault, offset_s=rng.choice(CLOCK_STEPS_S))
    evidence = yield from until(lambda: stage.evidence(fault), 5.0)
    step = evidence["after"] - evidence["before"] if evidence else 0.0
    return {**evidence, "step_s": round(step, 1)} if abs(step) > 1.0 else None


def poison(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """A handler fails for one account until somebody mends it, and redrives."""
    service = role.partition("-")[0]
    account = f"a{rng.randrange(48)}"
    path = stage.folder / "poison" / f"{service}.{account}"
    sql = (
        "select attempts, reason from oncebox.key where key = %s and park = 'poison'"
        " and due_ms is null and reason like '%%Poisoned%%'"
    )
    path.touch()
    begun, parked = time.monotonic(), None
    while time.monotonic() < begun + PARK_S and not parked:
        yield from wait(0.3)
        parked = stage.databases.ask(service, sql, account)
    path.unlink()
    if not parked:
        return None
    done = stage.oncebox("redrive", service, "--key", account)
    if done.returncode:
        return None
    return {"service": service, "account": account, "attempts": parked[0][0]}


# ---- PostgreSQL, PgBouncer, Kafka


def terminated(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """An operator ends a database connection."""
    yield from wait(rng.uniform(0.0, 0.5))
    sql = (
        "select pid, state from pg_stat_activity where datname = any (%s)"
        " and application_name <> 'torture' order by state = 'idle', random() limit 1"
    )
    found = stage.databases.ask("shop", sql, list(stage.databases.names.values()))
    if not found:
        return None
    pid, state = found[0]
    ended = stage.databases.ask("shop", "select pg_terminate_backend(%s, 5000)", pid)[0][0]
    return {"backend": pid, "state": state} if ended else None


def postgres_restarted(
    stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random
) -> Course:
    """PostgreSQL is stopped in immediate mode, and recovers."""
    server = stage.place.postgres
    before = server.pid
    pause = partial(time.sleep, rng.uniform(0.0, 1.5))
    yield from meanwhile(partial(server.stop, immediate=True), pause, server.start)
    return {"before": before, "after": server.pid}


def kafka_restarted(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """The only broker is stopped in order, or killed, and comes back."""
    server, immediate = stage.place.kafka, rng.random() < 0.5
    before, begun = server.pid, time.monotonic()
    yield from meanwhile(partial(server.stop, immediate=immediate), server.start)
    seconds = round(time.monotonic() - begun, 1)
    return {"before": before, "after": server.pid, "killed": immediate, "seconds": seconds}


def bouncer_restarted(
    stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random
) -> Course:
    """PgBouncer is killed, and comes back."""
    server = stage.place.bouncer
    before = server.pid
    yield from meanwhile(server.kill, server.start)
    return {"before": before, "after": server.pid}


def grown(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """A topic gets one partition more."""
    topic, admin = rng.choice(stage.topics), stage.place.kafka.admin
    count = len(admin.list_topics(topic, timeout=10.0).topics[topic].partitions)
    if count >= PARTITIONS_MAX:
        return None
    admin.create_partitions([NewPartitions(topic, count + 1)])[topic].result(10.0)
    seen = yield from until(
        lambda: len(admin.list_topics(topic, timeout=10.0).topics[topic].partitions) > count, 10.0
    )
    return {"topic": topic, "partitions": count + 1} if seen else None


# ---- connections


def cut(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """Half of the connections to a server are reset."""
    yield from wait(rng.uniform(0.0, 0.5))
    proxy = stage.place.proxies[role]
    count = proxy.cut(proxy.pick(rng))
    return {"proxy": role, "connections": count} if count else None


def delayed(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """Half of the connections to a server get slow."""
    proxy, delay_s = stage.place.proxies[role], rng.choice((0.05, 0.2, 0.5))
    links = proxy.pick(rng)
    proxy.delay(links, delay_s)
    yield from wait(rng.uniform(1.0, 3.0))
    proxy.delay(links, 0.0)
    touched = sum(link.touched for link in links)
    return {"proxy": role, "delay_s": delay_s, "bytes": touched} if touched else None


def halved(stage: Stage, role: str, fault: str, wish: Wish, rng: random.Random) -> Course:
    """Half of the connections carry one direction only, until they are reset."""
    proxy, answers = stage.place.proxies[role], rng.random() < 0.5
    links = proxy.pick(rng)
    proxy.halve(links, answers=answers)
    yield from wait(rng.choice((0.5, 2.0, LEASE_S + 2.0)))
    proxy.cut(links)
    touched = sum(link.touched for link in links)
    return {"proxy": role, "answers": answers, "bytes": touched} if touched else None


class Kind(NamedTuple):
    """A kind of fault: what happens, to whom, its share of all faults, what it needs alone.

    `together`: nothing else that needs one of these may happen at the same time; the chosen target
    is needed in any case.
    """

    course: Callable[[Stage, str, str, Wish, random.Random], Course]
    targets: tuple[str, ...]
    share: float
    together: tuple[str, ...] = ()


KINDS: dict[str, Kind] = {
    "killed at a point": Kind(at_point, (), 0.30),
    "stopped at a point": Kind(at_point, (), 0.12),
    "killed": Kind(killed, ROLES, 0.13),
    "stopped": Kind(stopped, ROLES, 0.08),
    "stopped in its batch past its lease": Kind(
        replaced, ("stock-1", "stock-2"), 0.015, ("stock-1", "stock-2", "postgres", "pgbouncer")
    ),
    "rolling restart": Kind(rolled, ("relay-1", "stock-1", "ledger-1", "producer-1"), 0.03, ROLES),
    "clock set": Kind(clock_set, ROLES[2:], 0.06),
    "poison": Kind(poison, ("stock-1", "ledger-1"), 0.04, ("kafka", "poison")),
    "backend terminated": Kind(terminated, ("backend",), 0.06, ("postgres",)),
    "PostgreSQL restarted": Kind(postgres_restarted, ("postgres",), 0.02, ("pgbouncer",)),
    "PgBouncer killed": Kind(bouncer_restarted, ("pgbouncer",), 0.015),
    "Kafka restarted": Kind(kafka_restarted, ("kafka",), 0.012),
    "partition added": Kind(grown, ("topic",), 0.012, ("kafka",)),
    "connections cut": Kind(cut, ("postgres", "pgbouncer", "kafka"), 0.06),
    "connections delayed": Kind(delayed, ("postgres", "pgbouncer", "kafka"), 0.04),
    "connections halved": Kind(halved, ("postgres", "pgbouncer", "kafka"), 0.04),
}

OUTAGES = ("PostgreSQL restarted", "PgBouncer killed", "Kafka restarted")
"""While these go on, no effect can be asked for."""


def wishes(total: int, rng: random.Random) -> list[Wish]:
    """All faults of a campaign in a random order: each kind at least once; points in turn."""
    points = itertools.cycle(rng.sample(sorted(BY_NAME), len(BY_NAME)))
    every = sum(kind.share for kind in KINDS.values())
    made = []
    for name, kind in KINDS.items():
        for _ in range(max(1, round(total * kind.share / every))):
            if kind.course is at_point:
                how = "SIGKILL" if name.startswith("killed") else "SIGSTOP"
                made.append(Wish(name, next(points), how))
            else:
                made.append(Wish(name))
    while len(made) < total:
        made.append(Wish("killed"))
    rng.shuffle(made)
    return made


def aim(
    wish: Wish, busy: set[str], stage: Stage, rng: random.Random
) -> tuple[str, set[str]] | None:
    """Whom a fault is to meet, and what it needs for itself; None: not now."""
    kind = KINDS[wish.kind]
    targets, together = kind.targets, set(kind.together)
    if wish.point:
        together |= set(OTHER_RELAY if BY_NAME[wish.point].leading else ())
        roles = BY_NAME[wish.point].roles
        targets = tuple(role for role in ROLES if role.partition("-")[0] in roles)
        if "relay" in roles and not BY_NAME[wish.point].leading and "postgres" not in busy:
            targets = tuple(role for role in targets if stage.leads(role))
    free = [
        target
        for target in targets
        if target not in busy and (target not in ROLES or stage.is_ready(target))
    ]
    if not free or busy & together:
        return None
    target = rng.choice(free)
    return target, {target, *together}
