"""A repository with two services: `oncebox schema check` fails where a change breaks somebody, with
a document that does it, and passes once the change says how versions become each other.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from oncebox import event
from oncebox.cli import main
from oncebox.event import event_classes, event_type
from oncebox.lens.chain import declared

V1 = """
from dataclasses import dataclass
from oncebox import event

@event("order.placed", stream="orders", key="order_id", version=1)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    cents: int
"""
V2 = """
from dataclasses import dataclass
from oncebox import event

@dataclass(frozen=True)
class Amount:
    minor: int
    currency: str

@event("order.placed", stream="orders", key="order_id", version=2)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: Amount
"""
EVOLVE = """
from oncebox import add, evolve, wrap

evolve("order.placed", 1, 2, wrap("cents", into="amount.minor"), add("amount.currency", default="EUR"))
"""
SERVICES = """
from contracts.orders import {version}
from oncebox import Service

shop, billing = Service("shop"), Service("billing")

@billing.on({version}.OrderPlaced)
def owe(tx, placed: {version}.OrderPlaced) -> None: ...
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Repository:
    """A folder under git, and oncebox in it."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.capsys = path, capsys
        path.mkdir()
        self.run("git", "init", "-q", "-b", "main")
        self.write("oncebox.toml", 'app = "services"\ncontracts = "contracts"\n')
        self.write("services.py", SERVICES.format(version="v1"))
        self.write("contracts/__init__.py", "")
        self.write("contracts/orders/__init__.py", "")
        self.write("contracts/orders/v1.py", V1)

    def write(self, name: str, text: str) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)

    def run(self, *command: str) -> Done:
        environment = {n: v for n, v in os.environ.items() if not n.startswith(("ONCEBOX", "GIT_"))}
        done = subprocess.run(
            command, cwd=self.path, env=environment, capture_output=True, text=True, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def schema(self, *arguments: str) -> Done:
        """The command as a process of its own would have it: nothing is imported yet."""
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]
        sys.path[:] = [path for path in sys.path if not Path(path, "services.py").exists()]
        declared.edges.clear()
        importlib.invalidate_caches()
        self.capsys.readouterr()
        with contextlib.chdir(self.path):
            code = main(("schema", *arguments))
        out, err = self.capsys.readouterr()
        return Done(code, str(out), str(err))

    def commit(self) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        self.run("git", "add", "-A")
        done = self.run("git", *who, "commit", "-q", "-m", "more")
        assert done.code == 0, done


OURS = ("contracts", "services")
Made = Callable[[str], Repository]


@pytest.fixture
def make(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Made]:
    """Makes a repository by name, beside others."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(declared, "edges", {})
    others = event_classes()  # of tests in this process: ours are declared over theirs
    for name in [name for name in os.environ if name.startswith("ONCEBOX_") and "TEST" not in name]:
        monkeypatch.delenv(name)
    yield lambda name: Repository(tmp_path / name, capsys)
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    for cls in others.values():
        type, stream, key, version, _, format, id = event_type(cls)
        event(type, stream=stream, key=key, version=version, format=format, schema_id=id)(cls)


@pytest.fixture
def repository(make: Made) -> Repository:
    made = make("shop")
    assert made.schema("lock").code == 0
    made.commit()
    return made


def test_from_the_shell(make: Made) -> None:
    made = make("shop")
    for arguments, code in ((("check",), 2), (("lock",), 0), (("check", "--json"), 0)):
        assert made.run(sys.executable, "-m", "oncebox", "schema", *arguments).code == code


def test_a_change_that_breaks_fails_with_its_witness_and_passes_once_it_evolves(
    repository: Repository,
) -> None:
    assert repository.schema("check").out == "1 version: nobody breaks\n"
    repository.write("contracts/orders/v2.py", V2)
    failed = repository.schema("check", "--against", "main")
    assert failed.code == 3
    assert (
        "error: order.placed: readers of version 1 cannot read version 2\n"
        "  field-missing: cents: int → nothing\n"
        "  breaks: billing\n"
        '  witness: {"order_id":"","amount":{"minor":0,"currency":""}}\n'
        "  refused: OrderPlaced at $: Object missing required field `cents`"
    ) in failed.out
    assert 'evolve("order.placed", 1, 2, …)' in failed.out

    repository.write("contracts/orders/v2.py", V2 + EVOLVE)
    assert "order.placed 2 is not in oncebox.lock" in repository.schema("check").out
    assert repository.schema("lock").code == 0
    passed = repository.schema("check", "--against", "main")
    assert passed.code == 0
    assert "nobody breaks" in passed.out
    lines = [line for line in passed.out.splitlines() if line.startswith("deploy")]
    assert lines[0].startswith("deploy 1. billing: ")
    assert lines[1] == "deploy 2. whoever emits order.placed 2"


def test_a_class_may_go_when_its_version_is_locked(repository: Repository) -> None:
    repository.write("contracts/orders/v2.py", V2 + EVOLVE)
    repository.write("services.py", SERVICES.format(version="v2"))
    (repository.path / "contracts/orders/v1.py").unlink()
    assert repository.schema("lock").code == 0
    assert '"order.placed".1.in.OrderPlaced.cents' in (repository.path / "oncebox.lock").read_text()
    assert repository.schema("check", "--against", "HEAD").code == 0
    repository.write("contracts/orders/v2.py", V2 + EVOLVE.replace('"cents"', '"cent"'))
    wrong = repository.schema("check")
    assert wrong.code != 0
    assert (
        "lens of order.placed from version 1 to 2, wrap('cent'): there is no field cent"
        in wrong.err
    )


def test_a_consumer_that_reads_no_more(repository: Repository) -> None:
    services = SERVICES.format(version="v1")
    repository.write("services.py", services.partition("@billing")[0] + "billing.consumer()\n")
    told = repository.schema("check")
    assert told.code == 3
    assert "billing does not read order.placed any more: oncebox.lock says 1" in told.out
    repository.schema("lock")
    assert repository.schema("check").code == 0
    repository.write("services.py", "from oncebox import Service\n\nshop = Service('shop')\n")
    assert repository.schema("check").code == 0


def test_other_steps_than_before_are_told(repository: Repository) -> None:
    repository.write("contracts/orders/v2.py", V2 + EVOLVE)
    repository.schema("lock")
    repository.commit()
    repository.write("contracts/orders/v2.py", V2 + EVOLVE.replace("EUR", "USD"))
    repository.schema("lock")
    (found,) = repository.schema("check", "--against", "main", "--json").rows()
    assert (found["error"], found["finding"]["rule"]) == (False, "steps-changed")


def test_a_version_that_only_adds_needs_no_steps(repository: Repository) -> None:
    added = V1.replace("version=1", "version=2") + '    channel: str = "web"\n'
    repository.write("contracts/orders/v2.py", added)
    assert repository.schema("lock").code == 0
    assert repository.schema("check", "--against", "main").code == 0


def test_what_is_locked_does_not_change(repository: Repository) -> None:
    repository.write("contracts/orders/v1.py", V1.replace("cents: int", "cents: float"))
    changed = repository.schema("check")
    assert changed.code == 3
    assert '- "order.placed".1.in.OrderPlaced.cents = { number = 2, type = "int" }' in changed.out
    before = (repository.path / "oncebox.lock").read_text()
    refused = repository.schema("lock")
    assert refused.code == 3
    assert "make it version 2" in refused.err
    assert (repository.path / "oncebox.lock").read_text() == before
    assert repository.schema("lock", "--amend").code == 0
    assert repository.schema("check").code == 0
    released = repository.schema("check", "--against", "main", "--json")
    assert released.code == 3
    found = released.rows()[0]
    assert found["who"] == ["billing"]
    assert found["finding"]["rule"] == "type-changed"
    assert found["finding"]["witness"]["document"]["cents"] == 2**53 + 1


def test_a_version_that_is_gone_from_the_lock(repository: Repository) -> None:
    lock = repository.path / "oncebox.lock"
    lock.write_text(
        "".join(line for line in lock.read_text().splitlines(True) if '".1.' not in line)
    )
    repository.write("services.py", "from oncebox import Service\nshop = Service('shop')\n")
    repository.write("oncebox.toml", 'app = "services"\n')
    gone = repository.schema("check", "--against", "main", "--json")
    assert gone.code == 3
    assert [(row["finding"]["rule"], row["who"]) for row in gone.rows()] == [
        ("version-removed", ["billing"])
    ]


def test_consumers_elsewhere(repository: Repository, make: Made) -> None:
    mail = make("mail")
    mail.write("oncebox.toml", 'app = "services"\n')
    mail.write("contracts/orders/v1.py", V1 + "    note: str\n")
    mail.write("services.py", SERVICES.format(version="v1").replace("billing", "mail"))
    assert mail.schema("lock").code == 0
    broken = repository.schema("check", "--consumers", "../mail")
    assert broken.code == 3
    assert "breaks: mail (../mail)\n  witness: " in broken.out
    assert "refused: order.placed 1 at $.note: expected a value" in broken.out
    mail.write("contracts/orders/v1.py", V1)
    assert mail.schema("lock", "--amend").code == 0
    assert repository.schema("check", "--consumers", "../mail/oncebox.lock").code == 0
    repository.write("contracts/orders/v2.py", V2 + EVOLVE)
    repository.schema("lock")
    ordered = repository.schema("check", "--against", "main", "--consumers", "../mail", "--json")
    assert ordered.code == 0
    assert [row["who"] for row in ordered.rows()] == [["billing", "mail (../mail)"], []]


def test_what_else_breaks_readers(repository: Repository) -> None:
    moved = V1.replace("version=1", "version=2").replace('stream="orders"', 'stream="sales"')
    repository.write("contracts/orders/v2.py", moved)
    found = repository.schema("check", "--json")
    assert found.code == 3
    rules = {(row["finding"] or {}).get("rule"): row for row in found.rows() if "finding" in row}
    assert rules["stream-changed"]["finding"]["witness"]["outcome"].startswith("not read: ")
    other_key = V1.replace("version=1", "version=2").replace('key="order_id"', "key=None")
    repository.write("contracts/orders/v2.py", other_key)
    warned = repository.schema("check")
    assert "warning: order.placed" in warned.out and "key-changed" in warned.out


def test_one_direction_is_not_enough(repository: Repository) -> None:
    """Version 2 takes what version 1 was, and more: older readers do not."""
    repository.write("contracts/orders/v1.py", V1 + "    note: str\n")
    repository.schema("lock", "--amend")
    nullable = V1.replace("version=1", "version=2") + "    note: str | None\n"
    repository.write("contracts/orders/v2.py", nullable)
    rows = repository.schema("check", "--json").rows()
    rules = {row["finding"]["breaks"]: row["finding"]["rule"] for row in rows if row.get("finding")}
    assert rules == {"old readers": "may-be-null", "new readers": "no-way"}


def test_classes_that_contradict_each_other(repository: Repository) -> None:
    repository.write("contracts/other.py", V1.replace("cents: int", "cents: str"))
    twice = repository.schema("check")
    assert twice.code == 2
    assert "order.placed 1 is declared twice, and differently: by" in twice.err
    repository.write(
        "contracts/other.py",
        V1.replace("cents: int", "at: datetime").replace(
            "\nfrom", "\nfrom datetime import datetime\nfrom", 1
        ),
    )
    assert (
        "OrderPlaced.at is a datetime that may be without a zone" in repository.schema("check").err
    )


def test_what_is_missing_is_named(repository: Repository, tmp_path: Path) -> None:
    assert "git knows no revision nowhere" in repository.schema("check", "--against", "nowhere").err
    assert repository.schema("check", "--against=--version").code == 2
    assert "no/oncebox.lock" in repository.schema("check", "--consumers", "no/oncebox.lock").err
    (repository.path / "oncebox.lock").rename(tmp_path / "away")
    assert "there is no oncebox.lock" in repository.schema("check").err
    repository.commit()
    (tmp_path / "away").rename(repository.path / "oncebox.lock")
    first = repository.schema("check", "--against", "HEAD")
    assert (first.code, "HEAD has no oncebox.lock" in first.err) == (0, True)
    repository.write("oncebox.toml", "")
    unnamed = repository.schema("check")
    assert unnamed.code == 2
    assert "no application is named" in unnamed.err
