"""What would break whom: code against the lock, the lock against itself, an earlier lock, and the
locks of consumers elsewhere. Pure.

Events of every version may still be in a log, and readers of every version may run. So between
each version and the next a way has to lead in both directions: because the difference needs no
steps, or by a lens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from operator import itemgetter
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..errors import NotFound, SchemaBreak
from ..lens.chain import VERSION_MAX, Edge, Lenses
from ..lens.fit import check_steps
from ..lens.steps import Each, Member, Rename, Step, cannot_travel, converts
from .compare import unreadable
from .compat.finding import Broken, Finding, Witness
from .lock import NAME, Lock, Place, step_text, version_lines
from .model import Schema
from .numbers import numbered, same
from .sample import smallest

Reads = Callable[[str, int, Any], str | None]
"""What the class of a type and version makes of a document: "refused: …", "read as …", or None
where there is no such class any more."""


class Code(Struct):
    """What the application's modules declare; schemas are not numbered yet."""

    schemas: dict[Place, Schema]
    consumers: dict[str, dict[str, int]]
    edges: dict[Place, Edge]


RELOCK = "oncebox schema lock, and commit what it writes"
KEEP = "leave it as it was, and make a new version with evolve(…)"


class Trouble(Struct, frozen=True):
    """Something that keeps a change from being shipped, or with a finding that has no witness, a
    warning.
    """

    what: str
    type: str
    version: int
    who: tuple[str, ...] = ()
    finding: Finding | None = None
    instead: str = RELOCK

    @property
    def error(self) -> bool:
        """Whether it fails the check."""
        return self.finding is None or self.finding.error


# ---- the lock that the code asks for


def locked(lock: Lock, code: Code, *, forget: Iterable[str] = ()) -> Lock:
    """The lock with what the code declares: new versions, lenses and consumers. Versions, lenses
    and consumers that are in the lock only stay. Raises NotFound for a consumer to `forget` that
    is not such a one.
    """
    edges = {**lock.edges, **code.edges}
    schemas, by_type = dict(lock.schemas), dict[str, dict[int, Schema]]()
    for (type, version), schema in schemas.items():
        by_type.setdefault(type, {})[version] = schema
    for place, schema in sorted(code.schemas.items(), key=itemgetter(0)):
        known = by_type.setdefault(schema.type, {})
        known[schema.version] = schemas[place] = _numbered(schema, known, edges.get(place))
    consumers = {**lock.consumers, **code.consumers}
    gone = sorted(lock.consumers.keys() - code.consumers.keys())
    for name in forget:
        if name not in gone:
            what = f"{name} cannot be forgotten: " + (
                "in the code" if name in consumers else "unknown"
            )
            raise NotFound(what, expected=f"who is in {NAME} only: {', '.join(gone) or 'nobody'}")
        del consumers[name]
    return Lock(schemas, edges, {name: reads for name, reads in consumers.items() if reads})


def _numbered(schema: Schema, known: Mapping[int, Schema], edge: Edge | None) -> Schema:
    """Numbers as this version has them in the lock; else as the version before it has them, or the
    one after it. `known`: the versions of this type.
    """
    others = [known[version] for version in sorted(known) if version != schema.version]
    lower = [one for one in others if one.version < schema.version]
    higher = others[len(lower) :]
    before = next((one for one in (*lower[::-1], *higher)), None)
    steps = () if edge is None else edge.steps
    return numbered(schema, others, before, renames(steps), known.get(schema.version))


def renames(steps: Iterable[Step], inside: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """From a field's path in the newer version to its name in the older one."""
    found: dict[tuple[str, ...], str] = {}
    for step in steps:
        if isinstance(step, Rename):
            *record, old = (*inside, *step.path.split("."))
            was = found.pop((*record, old), old)
            found[(*record, step.name)] = was
        elif isinstance(step, Each | Member):
            path = step.path.removesuffix("[]")
            found |= renames(step.steps, (*inside, *path.split(".")))
    return found


def refuse_changes(lock: Lock, new: Lock) -> None:
    """Raises SchemaBreak where a version that is locked would become another."""
    for place, was in lock.schemas.items():
        if not same(new.schemas[place], was):
            raise SchemaBreak(
                f"{place[0]} {place[1]} is in {NAME}, and the code has it otherwise:\n"
                f"{difference(lock, new, place)}",
                expected="versions that stay as they are",
                hint=f"make it version {max(lock.versions(place[0])) + 1}; or, as long as nobody "
                "has emitted it: oncebox schema lock --amend",
            )


def difference(old: Lock, new: Lock, place: Place) -> str:
    """The lines of a version that are different, as a diff shows them."""
    was, now = (dict.fromkeys(version_lines(place, lock)) for lock in (old, new))
    gone = [f"  - {line.rstrip()}" for line in was if line not in now]
    come = [f"  + {line.rstrip()}" for line in now if line not in was]
    return "\n".join((*gone, *come))


# ---- code against lock


def unlocked(lock: Lock, new: Lock) -> Iterator[Trouble]:
    """What the code declares and the lock does not have."""
    for place in sorted(new.schemas.keys() | new.edges.keys()):
        known, asked = lock.schemas.get(place), new.schemas.get(place)
        type, version = place
        if known is None and asked is not None:
            yield Trouble(f"{type} {version} is not in {NAME}", *place)
        elif known is not None and asked is not None and not same(known, asked):
            what = f"{type} {version} is not as {NAME} has it:\n{difference(lock, new, place)}"
            anew = f"make it a new version: {max(new.versions(type)) + 1}"
            yield Trouble(what, *place, _readers(lock.consumers, type), instead=anew)
        elif _texts(lock.edges.get(place)) != _texts(new.edges.get(place)):
            yield Trouble(f"the steps to {type} {version} are not those of {NAME}", *place)
    said, asks = _readings(lock), _readings(new)
    for consumer, type, version in sorted(asks - said):
        yield Trouble(f"{consumer} reads {type} {version}: {NAME} does not say so", type, version)
    for consumer, type, version in sorted(said - asks):
        if type not in new.consumers.get(consumer, {}):
            what = f"{consumer} does not read {type} any more: {NAME} says {version}"
            yield Trouble(what, type, version)


def _readings(lock: Lock) -> set[tuple[str, str, int]]:
    return {(who, *read) for who, reads in lock.consumers.items() for read in reads.items()}


def _texts(edge: Edge | None) -> tuple[Any, ...]:
    return () if edge is None else (edge.older, *map(step_text, edge.steps))


# ---- from version to version


def broken(lock: Lock, reads: Reads | None = None) -> Iterator[Trouble]:
    """Who cannot read what, of all versions in the lock. Raises SchemaError for a lens that does
    not make documents of one version from those of the other.
    """
    by_type: dict[str, list[int]] = {}
    for type, version in sorted(lock.schemas):
        by_type.setdefault(type, []).append(version)
    lenses = lenses_of(lock)
    for type, versions in by_type.items():
        for older, newer in pairwise(versions):
            yield from _between(lock, lenses, type, older, newer, reads)


def lenses_of(lock: Lock) -> Lenses:
    """The lenses of a lock, with its schemas."""
    lenses = Lenses()
    for schema in lock.schemas.values():
        lenses.know(schema)
    for (type, _), edge in lock.edges.items():
        lenses.add(type, edge)
    return lenses


def _between(
    lock: Lock, lenses: Lenses, type: str, older: int, newer: int, reads: Reads | None
) -> Iterator[Trouble]:
    old, new = lock.schemas[type, older], lock.schemas[type, newer]
    edge = lenses.edge(type, older)
    found = list(_moved(old, new))
    if edge is None or edge.newer != newer:
        found += _refused(old, new, "new readers", reads) + _refused(new, old, "old readers", reads)
    elif (type, newer) in lock.edges:
        check_steps(old, new, edge.steps)
        check_steps(new, old, edge.stage(up=False).steps)
        found += _lost(lock, old, new, edge)
    for finding in found:
        after = finding.breaks == "new readers"
        low, high = (newer, VERSION_MAX) if after else (1, older)
        reader, writer = (newer, older) if after else (older, newer)
        what = f"{type}: readers of version {reader} cannot read version {writer}"
        readers = _readers(lock.consumers, type, low, high)
        instead = finding.instead.replace("evolve(…)", f'evolve("{type}", {older}, {newer}, …)')
        yield Trouble(what, type, newer, readers, finding, instead)


def _lost(lock: Lock, old: Schema, new: Schema, edge: Edge) -> Iterator[Finding]:
    """Functions that the lock knows of, and the code does not have any more."""
    if all(one.up is not cannot_travel for one in converts(edge.steps)):
        return
    for breaks, writer, low, high in (
        ("new readers", old, edge.newer, VERSION_MAX), ("old readers", new, 1, edge.older),
    ):  # fmt: skip
        readers = _readers(lock.consumers, old.type, low, high)
        outcome = "waits: the functions between these versions are not in the code"
        if readers or breaks == "new readers":
            yield Finding(
                rule="functions-missing", path=old.type, old=edge.older, new=edge.newer,
                breaks=breaks, instead="keep evolve(…) with convert(…) in a module that stays",  # type: ignore[arg-type]
                witness=Witness(smallest(writer), outcome) if readers else None,
            )  # fmt: skip


def _moved(old: Schema, new: Schema) -> Iterator[Finding]:
    if old.stream != new.stream:
        for breaks, writer, reader in (("new readers", old, new), ("old readers", new, old)):
            outcome = f"not read: it is on {writer.stream}, and readers are at {reader.stream}"
            yield Finding(
                rule="stream-changed", path="stream", old=old.stream, new=new.stream,
                breaks=breaks, instead="keep the stream, or make it another type of events",  # type: ignore[arg-type]
                witness=Witness(smallest(writer), outcome),
            )  # fmt: skip
    if old.key != new.key:
        yield Finding(
            rule="key-changed", path="key", old=list(old.key), new=list(new.key),
            breaks="new readers", instead="keep the key: order holds along one key only",
        )  # fmt: skip


def _refused(writer: Schema, reader: Schema, breaks: Broken, reads: Reads | None) -> list[Finding]:
    found = unreadable(writer, reader, breaks)
    for at, finding in enumerate(found):
        witness = finding.witness
        if reads is not None and witness is not None:
            outcome = reads(reader.type, reader.version, witness.document)
            if outcome is not None and outcome.startswith("refused"):
                found[at] = replace(finding, witness=replace(witness, outcome=outcome))
    if not found:  # the other direction breaks, and a lens leads both ways or not at all
        outcome = f"waits: nothing leads from version {writer.version} to {reader.version}"
        witness = Witness(smallest(writer), outcome)
        found = [
            Finding(
                rule="no-way", path=writer.root, old=None, new=None, breaks=breaks,
                instead="declare what leads there: evolve(…)", witness=witness,
            )
        ]  # fmt: skip
    return found


def _readers(
    consumers: Mapping[str, Mapping[str, int]], type: str, low: int = 1, high: int = VERSION_MAX
) -> tuple[str, ...]:
    """Consumers that read a type in one of these versions."""
    found = (name for name, reads in consumers.items() if low <= reads.get(type, 0) <= high)
    return tuple(sorted(found))


# ---- against an earlier lock, and the locks of consumers elsewhere


def unreleased(base: Lock, lock: Lock, where: str) -> Iterator[Trouble]:
    """What was agreed on in `base` (as of `where`) and is not kept."""
    for place, was in sorted(base.schemas.items()):
        type, version = place
        who = _readers(base.consumers, type)
        now = lock.schemas.get(place)
        if now is None:
            outcome = f"not readable: {NAME} does not have its schema any more"
            gone = Finding(
                rule="version-removed", path=was.root, old=version, new=None,
                breaks="new readers", instead="keep it: its events may still be in a log",
                witness=Witness(smallest(was), outcome),
            )  # fmt: skip
            yield Trouble(f"{type} {version} is gone since {where}", *place, who, gone, KEEP)
        elif not same(now, was):
            what = f"{type} {version} is not what it was in {where}:\n"
            what += difference(base, lock, place)
            differing = [*unreadable(was, now, "new readers"), *unreadable(now, was, "old readers")]
            for finding in differing or (None,):
                yield Trouble(what, *place, who, finding, KEEP)


def rerouted(base: Lock, lock: Lock, where: str) -> Iterator[Trouble]:
    """Steps that are other ones than in `base`: what was lost under the old ones does not fit."""
    for place, edge in sorted(base.edges.items()):
        now = lock.edges.get(place)
        if _texts(now) != _texts(edge):
            finding = Finding(
                rule="steps-changed", path=place[0], old=_texts(edge), new=_texts(now),
                breaks="old readers", instead="leave them, unless they were wrong",
            )  # fmt: skip
            way = f"from {place[0]} {edge.older} to {place[1]}"
            what = f"the steps {way} are not those of {where}"
            yield _found(what, *place, _readers(base.consumers, place[0]), finding)


def misread(lock: Lock, other: Lock, where: str) -> Iterator[Trouble]:
    """What consumers elsewhere, with a lock of their own, cannot read of what is locked here."""
    for consumer, reads in sorted(other.consumers.items()):
        for type, version in sorted(reads.items()):
            if not lock.versions(type):
                continue
            theirs, ours = other.schemas.get((type, version)), lock.schemas.get((type, version))
            who = (f"{consumer} ({where})",)
            if ours is None or theirs is None:
                yield _unknown_version(lock, type, version, who)
                continue
            for finding in unreadable(ours, theirs, "old readers"):
                what = f"{who[0]} has {type} {version} otherwise"
                instead = "take the schema of the repository that emits it"
                yield Trouble(what, type, version, who, finding, instead)
            yield from _untravelled(lock, type, version, who)


def _unknown_version(lock: Lock, type: str, version: int, who: tuple[str, ...]) -> Trouble:
    known = ", ".join(map(str, lock.versions(type)))
    finding = Finding(
        rule="version-unknown", path=type, old=version, new=known, breaks="old readers",
        instead="let it name a version that is emitted",
    )  # fmt: skip
    what = f"{who[0]} reads {type} {version}; known here: {known}"
    return _found(what, type, version, who, finding)


def _untravelled(lock: Lock, type: str, version: int, who: tuple[str, ...]) -> Iterator[Trouble]:
    """Steps that are functions do not reach code elsewhere."""
    for (name, newer), edge in sorted(lock.edges.items()):
        if name == type and newer > version and any(converts(edge.steps)):
            finding = Finding(
                rule="functions-do-not-travel", path=type, old=edge.older, new=newer,
                breaks="old readers", instead="say it with other steps, or deploy them first",
            )  # fmt: skip
            what = f"{who[0]} cannot run the functions from {type} {newer} to {edge.older}"
            yield _found(what, type, newer, who, finding)


def _found(what: str, type: str, version: int, who: tuple[str, ...], finding: Finding) -> Trouble:
    return Trouble(what, type, version, who, finding, finding.instead)


# ---- in which order to deploy


class Deploy(Struct, frozen=True):
    """A step of the way out: who goes now, and why."""

    who: tuple[str, ...]
    why: str


def order(base: Lock, lock: Lock, elsewhere: Mapping[str, Lock]) -> list[Deploy]:
    """Who is to be deployed before whom, so that no key waits: readers first, each with the new
    lock, then whoever emits the new versions.
    """
    new = sorted(lock.schemas.keys() - base.schemas.keys())
    fresh = [place for place in new if base.versions(place[0])]
    steps = []
    for type in sorted({type for type, _ in fresh}):
        versions = ", ".join(str(version) for name, version in fresh if name == type)
        readers = [*_readers({**base.consumers, **lock.consumers}, type)]
        for where, other in elsewhere.items():
            readers += [f"{name} ({where})" for name in _readers(other.consumers, type)]
        if readers:
            why = f"reads {type}: with this {NAME} it takes version {versions}, too"
            steps.append(Deploy(tuple(readers), why))
        steps.append(Deploy((), f"whoever emits {type} {versions}"))
    return steps
