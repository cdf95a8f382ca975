"""Compare `oncebox.order` with the project's first model of the verdict, state by state.

    python tools/check_model.py FOLDER [--budget SECONDS]

FOLDER holds that model: `m.py` (rules and explorer), `run.py` (campaigns), `r7.py` (the final
ones). Its explorer runs as it is; wherever it delivers an event or lets an operator act, our
functions do the same from the same state, and verdict, effects, listed orphans and the state after
it must be equal. Prints the campaigns' own lines, then what was compared. Exits with 1 if the two
disagree anywhere, with the trace, and if the model itself finds a violation.

Without a budget it explores everything: about 5.9 million states. With one, every
campaign gets its share of the time and runs its smallest scripts first.

Two differences are meant. Behind a fork that is known, our verdict on a further event is KEEP
where the model may say FORK again; both keep it, and the key stays parked. And where the model
looks up what took effect, ours refuses (`Undecided`) and is then told, as by an operator.
"""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from oncebox.order import (
    KeyState,
    Link,
    Park,
    Undecided,
    Verdict,
    accept,
    advance,
    ask,
    following,
    fork,
    is_next,
    judge,
    poison,
    redrive,
    skip,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from model.world import prunable

VERDICTS = {
    "duplicate": Verdict.DUPLICATE,
    "replace": Verdict.REPLACE,
    "old": Verdict.ORPHAN,
    "before": Verdict.BEFORE_START,
    "conflict": Verdict.FORK,
    "fork": Verdict.FORK,
    "behind": Verdict.KEEP,
    "keep": Verdict.KEEP,
    "ok": Verdict.KEEP,
}
UNSEEN_ROW = (-1, 0, 0, 0)

counts: Counter[str] = Counter()
verdicts: Counter[str] = Counter()


def id_of(number: int) -> str:
    """Our id for the model's number, where 0 is none."""
    return str(number) if number else ""


def plain(state: KeyState) -> tuple[Any, ...]:
    """What both models know of a state."""
    kept = tuple((k.sequence, k.stamp, k.id, k.void) for k in state.kept)
    return (*state[:3], state.cutoff, state.park, kept)


def done_in(st: tuple[Any, ...]) -> set[int]:
    """The numbers of the events that were applied, voided, ignored or skipped."""
    return set(st[4]) | {i for i, how in st[5] if how != "O"}


_Base: Any = object  # in `run`, the model's class comes behind ours


class Beside(_Base):  # type: ignore[misc]
    """The model's consumer, with ours beside it at every step.

    `EV` holds the model's events by number: (sequence, stamp, previous, parent). Its states are
    tuples: (row, kept, park, floor, effects, listed, skips).
    """

    EV: dict[int, tuple[int, int, int, int]]
    poisons: set[int]
    ignoreds: set[int]
    disagreement: type[Exception]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compared: set[Any] = set()

    def our_state(self, st: tuple[Any, ...]) -> KeyState:
        """Our state for the model's."""
        n, stamp, number, cutoff = st[0] or UNSEEN_ROW
        return KeyState(
            n,
            -1 if n < 0 else stamp,
            id_of(number),
            number,  # as digest: one id has one content here
            cutoff,
            Park(st[2]) if st[2] else None,
            kept=tuple(self.our_link(k[2], void=k[3]) for k in st[1]),
        )

    def our_link(self, number: int, *, void: int) -> Link:
        """An event of the model as ours."""
        sequence, stamp, previous, _ = self.EV[number]
        digest = 0 if void else number
        before = None if previous < 0 else previous
        return Link(sequence, stamp, before, id_of(number), digest, void=bool(void))

    def our_history(self, past: Any, voided: Any) -> tuple[Link, ...]:
        """The source's present events."""
        return tuple(self.our_link(i, void=i in voided) for i in past)

    def our_drain(
        self, state: KeyState, floor: int, how: str = ""
    ) -> tuple[KeyState, set[tuple[str, int]]]:
        """Do what is next for as long as something is; `how`: what becomes of a poison event."""
        done: set[tuple[str, int]] = set()
        while True:
            step = following(state, floor)
            if step is None:
                return state, done
            if step is Park.FORK:
                counts["kept that contradicts the row"] += 1
                state = fork(state)
                continue
            number = int(str(step.id))
            letter = "V" if step.void else "I" if number in self.ignoreds else "A"
            if letter == "A" and number in self.poisons:
                if not how:
                    state = poison(state, step)
                    continue
                letter = how
            done.add((letter, number))
            state = advance(state, step)

    def equal(self, what: str, theirs: object, ours: object) -> None:
        if theirs != ours:
            counts["disagreements"] += 1
            text = f"DISAGREE on {what}. Model: {theirs}. Oncebox: {ours}. Trace"
            raise self.disagreement(text)

    def explore(self, *args: Any, **kwargs: Any) -> Any:
        found = super().explore(*args, **kwargs)
        if found is not None:
            states, bad = found
            counts["runs"] += 1
            counts["states"] += len(states)
            counts["violations"] += bool(bad)
        return found

    def first_time(self, what: str, st: Any, *more: Any) -> bool:
        """Ours are functions of these values alone, so once per script is enough."""
        counts[f"{what}: calls"] += 1
        key = (what, st[:4], *more)
        if key in self.compared:
            return False
        self.compared.add(key)
        counts[f"{what}: compared"] += 1
        return True

    def compare(self, what: str, before: Any, after: Any, ours: KeyState, done: Any) -> None:
        self.equal(f"the state after {what}", plain(self.our_state(after)), plain(ours))
        applied = {i for i in after[4][len(before[4]) :] if i != "F"}
        self.equal(f"what {what} applied", applied, {i for how, i in done if how == "A"})
        others = {(how, i) for how, i in done if how != "A"}
        listed = {(how, i) for i, how in after[5]}
        fresh = {(how, i) for i, how in after[5] - before[5] if how in "VI"}
        self.equal(f"what {what} did else", (set(), set()), (fresh - others, others - listed))

    def deliver(self, st: Any, rec: Any) -> Any:
        after, said = super().deliver(st, rec)
        if not self.first_time("deliver", st, rec):
            return after, said
        state, link, floor = self.our_state(st), self.our_link(rec[0], void=rec[1]), st[3]
        ours, judged = judge(state, link, floor)
        verdicts[ours] += 1
        theirs = VERDICTS[said]
        if state.park is Park.FORK and (theirs, ours) == (Verdict.FORK, Verdict.KEEP):
            verdicts["keep, where the model says fork again behind a fork"] += 1
        else:
            self.equal("the verdict", theirs, ours)
        settled, done = self.our_drain(judged, floor)
        self.compare("the delivery", st, after, settled, done)
        if is_next(state, link, floor):
            counts["is_next"] += 1
            self.equal("is_next", (Verdict.KEEP, link), (ours, following(judged, floor)))
            self.equal("advance", advance(judged, link), advance(state, link))
        return after, said

    def redrive(self, st: Any) -> Any:
        after = super().redrive(st)
        if after is not None and self.first_time("redrive", st):
            ours, done = self.our_drain(redrive(self.our_state(st)), st[3], "A")
            self.compare("redrive", st, after, ours, done)
        return after

    def ask(self, st: Any, source: Any) -> Any:
        after = super().ask(st, source)
        orphans = {i for i, how in st[5] if how == "O" and i not in st[4]}
        if self.first_time("ask", st, source[3], frozenset(orphans)):
            state, history = self.our_state(st), self.our_history(source[3], ())
            ours = ask(state, history, self.our_history(orphans, ()))
            self.equal("ask", after and plain(self.our_state(after)), ours and plain(ours))
        return after

    def skip(self, st: Any, past: Any) -> Any:
        after = super().skip(st, past)
        if after is not None and self.first_time("skip", st, past):
            ours, given_up = skip(self.our_state(st), self.our_history(past, ()), st[3])
            failing = st[2] == "poison"
            ours, done = self.our_drain(ours, st[3], "S" if failing else "")
            if failing:
                failed = st[1][0]
                self.equal("the skipped number", (failed[0], failed[0]), given_up)
            else:
                self.equal("the last skipped number", st[1][0][0] - 1, given_up and given_up[1])
            self.compare("skip", st, after, ours, {d for d in done if d[0] != "S"})
        return after

    def resolve(self, st: Any, past: Any, low: int, voided: Any, **more: Any) -> Any:
        told = self.asked
        result = super().resolve(st, past, low, voided, **more)
        refused, truth = self.asked > told, bool(more.get("truth"))
        orphans = {i for i, how in st[5] if how == "O"} - done_in(st)
        if result is None or not self.first_time(
            "accept", st, past, voided, truth, frozenset(orphans), self.branch(st, past)
        ):
            return result
        state, history, floor = self.our_state(st), self.our_history(past, voided), st[3]
        listed = self.our_history(orphans, ())
        ours = accept(state, history, floor, listed)
        known = state.sequence >= 0
        if known and not truth:
            self.equal("refusing accept", refused, isinstance(ours, Undecided))
        if known and (truth or refused):
            counts["accept: told the branch"] += 1
            ours = accept(state, history, floor, listed, after=self.branch(st, past))
        if isinstance(ours, Undecided):
            self.equal("accept", "accepted", ours)
            return result
        after, new_low = result
        given_up = {i for i, how in after[5] - st[5] if how == "O"}
        fresh = {i for i in (int(str(k.id)) for k in ours.orphans) if (i, "O") not in st[5]}
        self.equal("orphans", given_up, fresh)
        self.equal("low", ours.state.cutoff, min(ours.low, new_low))
        settled, done = self.our_drain(ours.state, floor, "A" if truth or refused else "")
        self.compare("accept", (*st[:4], _marked(st[4]), *st[5:]), after, settled, done)
        return result

    def branch(self, st: Any, past: Any) -> int:
        """How many events of the source's history took effect: what an operator would say."""
        done, count = done_in(st), 0
        while count < len(past) and (past[count] in done or self.EV[past[count]][1] < self.T):
            count += 1
        return count

    def prune(self, st: Any, source: Any) -> Any:
        result = super().prune(st, source)
        row = st[0]
        if row is not None and row[0] >= 0 and self.first_time("prune", st, source[:4]):
            to = max(source[1] * 1000 + 5000, row[1] + 1)
            ours = to > st[3] and prunable(self.our_state(st), self.our_history(source[3], ()), to)
            self.equal("prune", result is not None, ours)
        return result


def _marked(effects: tuple[Any, ...]) -> tuple[Any, ...]:
    """The model marks an accepted fork among the effects, once."""
    return effects if effects[-1:] == ("F",) else (*effects, "F")


def run(folder: Path, budget_s: float | None) -> None:
    """Run the model's final campaigns with our functions beside its own."""
    sys.path.insert(0, str(folder))
    model: Any = importlib.import_module("m")
    model.M = type("Checked", (Beside, model.M), {"disagreement": model.Bad})
    campaigns: Any = importlib.import_module("run")
    theirs, shares = campaigns.campaign, _shares(folder, campaigns)

    def campaign(
        name: str, n: int, ds: Any, fl: Any, share: float, *rest: Any, **more: Any
    ) -> None:
        limit = float("inf") if budget_s is None else budget_s * share / shares
        theirs(name, n, ds, fl, limit, *rest, **more)

    campaigns.campaign = campaign
    runpy.run_path(str(folder / "r7.py"))


def _shares(folder: Path, campaigns: Any) -> float:
    """The sum of the seconds that the final campaigns give themselves."""
    shares: list[float] = []
    real = campaigns.campaign
    campaigns.campaign = lambda *arguments, **_: shares.append(arguments[4])
    runpy.run_path(str(folder / "r7.py"))
    campaigns.campaign = real
    return sum(shares)


def main() -> int:
    """Parse the arguments, explore, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="where m.py, run.py and r7.py are")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="default: explore it all")
    arguments = parser.parse_args()
    start = time.monotonic()
    run(arguments.folder, arguments.budget)
    print(
        f"\n{counts['runs']:,} runs, {counts['states']:,} states, {time.monotonic() - start:.0f} s"
    )
    for what in sorted(set(counts) - {"runs", "states"}):
        print(f"  {what:40} {counts[what]:>12,}")
    print("verdicts compared")
    for what, count in sorted(verdicts.items()):
        print(f"  {what:40} {count:>12,}")
    if counts["disagreements"] or counts["violations"]:
        print("NOT in agreement: see the violations above")
        return 1
    print("in agreement")
    return 0


if __name__ == "__main__":
    sys.exit(main())
