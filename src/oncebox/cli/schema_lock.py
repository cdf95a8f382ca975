"""The contract of a repository: schema lock, schema check."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from msgspec import json, to_builtins

from ..errors import ConfigurationError, SchemaError, redacted
from ..schema.check import (
    Code,
    Deploy,
    Trouble,
    broken,
    locked,
    misread,
    order,
    refuse_changes,
    rerouted,
    unlocked,
    unreleased,
)  # fmt: skip
from ..schema.lock import BYTES_MAX, NAME, Known, Lock, lock_text, read_lock
from ..service.config import SOURCES, find_services
from ..service.contracts import Classes, code_of, outcome
from .options import Texts, said
from .output import counted, remark, say, tell
from .schema_push import client_of

Contracts = Annotated[
    Texts, said("Package with event classes, besides what the application imports. Repeatable.")
]
File = Annotated[Path, said("The lock file.")]
Amend = Annotated[bool, said("Rewrite versions that are locked: nobody has emitted them yet.")]
Forget = Annotated[Texts, said("A consumer that is no more. Repeatable.")]
Against = Annotated[str | None, said("A revision of git, whose lock must be kept.")]
Elsewhere = Annotated[
    Texts,
    said("A folder with the lock of consumers elsewhere, or a registry's URL. Repeatable."),
]

GARBAGE_MIN = 50_000
"""Schemas live as long as the command, and Python's collector would look through them all again."""

WITNESS_SHOWN_MAX = 2000
"""Characters of a witness for people; --json has all of it."""

PATH = Path(NAME)


def lock(
    *, contracts: Contracts = None, file: File = PATH, amend: Amend = False, forget: Forget = None
) -> int:
    """Write what the code declares into oncebox.lock: event versions, lenses, who reads what.

    A version that is locked stays: exit code 3 if the code has it otherwise. Versions
    and consumers that the code does not have any more stay, too. Commit the file.

    For example:

        oncebox schema lock --app myapp.services
        oncebox schema lock --contracts contracts
        oncebox schema lock --amend     # the newest version is not released yet
        oncebox schema lock --forget billing.mail
    """
    old = _read(file, {}) if file.exists() else Lock()
    code, _ = _code(contracts)
    new = locked(old, code, forget=forget or ())
    if not amend:
        refuse_changes(old, new)
    text = lock_text(new)
    changed = not file.exists() or file.read_text(encoding="utf-8") != text
    if changed:
        file.write_text(text, encoding="utf-8")
    document = {
        "file": str(file),
        "changed": changed,
        "versions": len(new.schemas),
        "consumers": len(new.consumers),
    }
    what = f"{counted(len(new.schemas), 'version')}, {counted(len(new.consumers), 'consumer')}"
    tell(document, f"{file}: {what}" + ("" if changed else "; nothing new"))
    if not old.schemas:
        remark(f"commit it, with this line in .gitattributes: {file.name} merge=union")
    return 0


def check(
    *,
    contracts: Contracts = None,
    file: File = PATH,
    against: Against = None,
    consumers: Elsewhere = None,
) -> int:
    """Whether a change of events would break somebody; exit code 3 if so.

    Compares the code with oncebox.lock, its versions with each other, and if asked for,
    with an earlier lock and with those of consumers elsewhere. Says who breaks, shows
    a document that does it, and in which order to deploy. Nothing is fetched, but the
    locks of a registry that is named (see schema push --share).

    For example:

        oncebox schema check --app myapp.services
        oncebox schema check --against origin/main
        oncebox schema check --consumers ../billing --consumers ../mail --json
        oncebox schema check --consumers http://registry:8081
    """
    gc.set_threshold(GARBAGE_MIN)
    known: Known = {}
    if not file.exists():
        raise SchemaError(f"there is no {file}", hint="oncebox schema lock makes it")
    agreed = _read(file, known)
    code, classes = _code(contracts, needed=against is None and consumers is None)
    new = locked(agreed, code)
    troubles = [*unlocked(agreed, new), *broken(new, partial(outcome, classes))]
    base = agreed
    if against is not None:
        base = _at_revision(against, file, known)
        troubles += [*unreleased(base, new, against), *rerouted(base, new, against)]
    others = dict(_elsewhere(consumers or (), known))
    for where, other in others.items():
        troubles += misread(new, other, where)
    for trouble in troubles:
        _told(trouble)
    for number, step in enumerate(order(base, new, others), 1):
        _deploy(number, step)
    errors = sum(trouble.error for trouble in troubles)
    if not troubles:
        say(f"{counted(len(new.schemas), 'version')}: nobody breaks")
    else:
        warnings = len(troubles) - errors
        remark(f"{counted(errors, 'error')}, {counted(warnings, 'warning')}")
    return 3 if errors else 0


# ---- locks and code


def _read(path: Path, known: Known) -> Lock:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(BYTES_MAX + 1)  # more than that is refused
        return read_lock(text, str(path), known=known)
    except (OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path}: {error}", expected="a lock file, as UTF-8") from error


def _elsewhere(places: Iterable[str], known: Known) -> Iterator[tuple[str, Lock]]:
    """Locks by where they are: folders, files, and those that a registry has."""
    for place in places:
        if not place.startswith(("http://", "https://")):
            path = Path(place)
            yield place, _read(path / NAME if path.is_dir() else path, known)
            continue
        from ..registry.locks import shared

        with client_of(place) as client:
            found = shared(client)
        if not found:
            remark(f"{redacted(place)} has no locks: oncebox schema push --share NAME")
        yield from found.items()


def _code(contracts: Texts, *, needed: bool = True) -> tuple[Code, Classes]:
    found = find_services(SOURCES.get().modules())
    if needed and not found and not contracts:
        raise ConfigurationError(
            "no application is named, so no event is known",
            hint='--app myapp.services, --contracts contracts, or both in oncebox.toml',
        )  # fmt: skip
    return code_of(found, contracts or ())


def _at_revision(revision: str, file: Path, known: Known) -> Lock:
    """The lock as git has it; empty where that revision has none."""
    folder = file.resolve().parent
    if revision.startswith("-"):
        raise ConfigurationError(f"--against {revision}", expected="a revision of git")
    commit = _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if commit is None:
        raise ConfigurationError(
            f"git knows no revision {revision} in {folder}",
            hint="in CI, fetch it first: git fetch origin main",
        )
    text = _git(folder, "show", f"{commit.strip()}:./{file.name}")
    if text is None:
        remark(f"{revision} has no {file.name}")
        return Lock()
    return read_lock(text, f"{revision}:{file.name}", known=known)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails."""
    command = ("git", "-C", str(folder), *arguments)
    try:
        done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8")  # noqa: S603
    except FileNotFoundError as error:
        raise ConfigurationError("git is not installed", hint="--against needs it") from error
    return done.stdout if done.returncode == 0 else None


# ---- what is told


def _told(trouble: Trouble) -> None:
    document = {
        "error": trouble.error,
        **to_builtins(trouble, enc_hook=str),
    }
    finding = trouble.finding
    lines = [f"{'error' if trouble.error else 'warning'}: {trouble.what}"]
    if finding is not None:
        lines.append(f"  {finding.rule}: {finding.path}{_change(finding.old, finding.new)}")
    lines += [f"  breaks: {', '.join(trouble.who)}"] if trouble.who else []
    if finding is not None and finding.witness is not None:
        text = json.encode(finding.witness.document).decode()
        if len(text) > WITNESS_SHOWN_MAX:
            text = text[:WITNESS_SHOWN_MAX] + " …"
        lines += [f"  witness: {text}", f"  {finding.witness.outcome}"]
    lines.append(f"  instead: {trouble.instead}")
    tell(document, "\n".join(lines))


def _change(old: Any, new: Any) -> str:
    shown = ["nothing" if one is None else str(one) for one in (old, new)]
    return "" if old is new is None else f": {shown[0]} → {shown[1]}"


def _deploy(number: int, step: Deploy) -> None:
    who = f"{', '.join(step.who)}: " if step.who else ""
    tell(
        {"deploy": number, "who": list(step.who), "why": step.why},
        f"deploy {number}. {who}{step.why}",
    )
