"""The end of a round: everything comes to rest, is compared, and nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from .stage import ROLES, Stage, TortureFailed

PRODUCERS = tuple(role for role in ROLES if role.startswith("producer"))
WORKERS = tuple(role for role in ROLES if role not in PRODUCERS)
STILL_S = 45.0
"""When no effect has come for so long, and some are missing, they will not come."""

LEFTOVERS = {
    "event kept": "select count(*) from oncebox.kept",
    "key parked": "select count(*) from oncebox.key where park is not null",
    "key held": "select count(*) from oncebox.key where kept > 0 or due_ms is not null",
    "record in quarantine": "select count(*) from oncebox.quarantine",
    "record refused": "select count(*) from oncebox.refused",
    "outside effect open": "select count(*) from oncebox.effect where done_ms is null",
    "batch open": "select (select count(*) from oncebox.open_batch)"
    " + (select count(*) from oncebox.cursor where open_batch is not null)",
    "lease held": "select count(*) from oncebox.cursor where holder is not null",
    "member left": "select count(*) from oncebox.member m where lease_until >"
    " extract(epoch from clock_timestamp()) * 1000",
    "fork, orphan or late event": "select count(*) from oncebox.journal"
    " where what in ('fork', 'orphan', 'late')",
}
OF_SERVERS = {
    "connection": "select count(*), min(concat_ws(' ', pid, state, left(query, 200)))"
    " from pg_stat_activity where datname = any (%s)"
    " and application_name <> 'torture' and coalesce(client_port, 0) <> all (%s)",
    "lock": "select count(*), min(l.pid || ' ' || l.mode) from pg_locks l join pg_database d on d.oid = l.database"
    " where d.datname = any (%s) and l.pid not in"
    " (select pid from pg_stat_activity where application_name = 'torture') and %s is not null",
    "prepared transaction": "select count(*), min(gid) from pg_prepared_xacts where database = any (%s)"
    " and %s is not null",
}

HOLDERS = "select holder from oncebox.cursor where holder is not null"

SUCCESSORS_S = 15.0
"""Five times as long as a lease lasts."""

POOL_STATE, POOL_PORT = 3, 7
"""Columns of PgBouncer's SHOW SERVERS; its idle connections to PostgreSQL are nobody's leak."""


def come_to_rest(stage: Stage) -> int:
    """Producers end; then everything takes effect. How many keys an operator had to redrive.

    Raises TortureFailed for what never takes effect.
    """
    stage.stop(PRODUCERS)
    redriven, before, changed = 0, None, time.monotonic()
    while True:
        stage.look_after()
        counts = stage.count()
        if len(set(counts)) == 1:
            return redriven
        now = time.monotonic()
        if counts != before:
            before, changed = counts, now
        elif now - changed > STILL_S:
            raise TortureFailed(f"no progress for {STILL_S:g} s at {counts}\n{waiting(stage)}")
        redriven += redrive(stage)
        time.sleep(0.2)


def wait_for_successors(stage: Stage) -> None:
    """Until whoever is gone holds nothing any more: one that was killed keeps its lease for a
    while, also when it is the last that happened. Raises TortureFailed where nobody takes over.
    """
    deadline = time.monotonic() + SUCCESSORS_S
    while True:
        stage.look_after()
        alive = {process.pid for process in stage.processes.values()}
        gone = [
            f"{service}: {holder}"
            for service in ("shop", "stock", "ledger")
            for (holder,) in stage.databases.ask(service, HOLDERS)
            if int(holder.split(":")[-2]) not in alive
        ]
        if not gone:
            return
        if time.monotonic() > deadline:
            raise TortureFailed(f"for {SUCCESSORS_S:g} s nobody took over from {', '.join(gone)}")
        time.sleep(0.2)


def redrive(stage: Stage) -> int:
    """What an operator does with keys that wait for somebody: those without a time to try again."""
    count = 0
    for service in ("stock", "ledger"):
        keys = stage.databases.ask(
            service,
            "select key from oncebox.key where park = 'poison' and due_ms is null",
        )
        for (key,) in keys:
            done = stage.oncebox("redrive", service, "--key", key)
            if done.returncode:
                raise TortureFailed(f"redrive {service} {key}: {done.stdout}{done.stderr}")
            count += 1
    return count


def waiting(stage: Stage) -> str:
    """What waits, for whoever looks why."""
    lines = []
    for service in ("shop", "stock", "ledger"):
        lines += [
            f"{service}: {row}"
            for row in stage.databases.ask(
                service,
                "select s.source, k.key, k.sequence, k.park, k.kept, k.attempts, k.reason, k.due_ms"
                " from oncebox.key k join oncebox.subscription s on s.id = k.subscription"
                " where park is not null or kept > 0 limit 20",
            )
        ]
        lines += [
            f"{service}: {row}"
            for row in stage.databases.ask(
                service,
                "select reader, topic, partition, position, holder, term, takeovers, suspect"
                " from oncebox.cursor",
            )
        ]
    return "\n".join(lines)


def audited(stage: Stage) -> dict[str, Any]:
    """`oncebox audit` of the running system. Raises TortureFailed unless it is clean."""
    done = stage.oncebox("audit", "--json", "--younger-s", "1")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines or not lines[-1].get("clean"):
        wrong = "\n".join(json.dumps(line) for line in lines if not line.get("settled"))
        raise TortureFailed(f"audit: {done.returncode}\n{wrong[-6000:]}\n{done.stderr[-3000:]}")
    summary: dict[str, Any] = lines[-1]
    if summary.get("unseen") or summary.get("waiting"):
        raise TortureFailed(f"audit: not all has come: {summary}")
    return summary


def checked(stage: Stage) -> dict[str, Any]:
    """What the independent checker says. Raises TortureFailed for anything wrong."""
    names, direct = stage.databases.names, stage.place
    given = {
        **{service: direct.url(name) for service, name in names.items()},
        "kafka": direct.kafka.bootstrap,
        "topics": dict(zip(("moves", "bookings"), stage.topics, strict=True)),
        "folder": str(stage.folder),
    }
    path = stage.folder / "check.json"
    path.write_text(json.dumps(given))
    done = subprocess.run(
        [sys.executable, "-m", "torture.checker", str(path)], text=True, capture_output=True,
        env=stage.environment("", direct.kafka.url), cwd=stage.folder, check=False,
    )  # fmt: skip
    if done.returncode:
        raise TortureFailed(f"the independent checker:\n{done.stdout}{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def nothing_left(stage: Stage) -> None:
    """After everybody has ended in order. Raises TortureFailed for what is left behind."""
    left = []
    for service in ("shop", "stock", "ledger"):
        for what, sql in LEFTOVERS.items():
            count = stage.databases.ask(service, sql)[0][0]
            if count:
                left.append(f"{service}: {count} × {what}")
    names = list(stage.databases.names.values())
    servers = stage.place.bouncer.ask("show servers")
    pooled = [int(row[POOL_PORT]) for row in servers if row[POOL_STATE] != "active"]
    deadline = time.monotonic() + 5.0  # backends need a moment to see that their client has left
    for what, sql in OF_SERVERS.items():
        while (found := stage.databases.ask("shop", sql, names, pooled)[0])[0]:
            if time.monotonic() > deadline:
                left.append(f"PostgreSQL: {found[0]} × {what}, one is {found[1]}")
                break
            time.sleep(0.1)
    if left:
        raise TortureFailed("left behind: " + "; ".join(left) + "\n" + waiting(stage))


def end_round(stage: Stage) -> dict[str, Any]:
    """All of it; what was found."""
    redriven = come_to_rest(stage)
    wait_for_successors(stage)
    audit = audited(stage)
    check = checked(stage)
    stage.stop(WORKERS)
    nothing_left(stage)
    return {"redriven": redriven, "audit": audit, "check": check}
