"""oncebox schema push: the versions of a lock, registered by their subjects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oncebox.registry import locks
from oncebox.registry.client import RegistryClient
from registry_server import Server, serving
from test_schema_check import EVOLVE, SERVICES, V1, V2, Made, Repository, make, repository

__all__ = ["make", "repository"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(f"sqlite:///{tmp_path}/registry.db") as running:
        yield running


def push(repository: Repository, url: str, *more: str) -> list[dict[str, object]]:
    done = repository.schema("push", "--registry", url, "--json", *more)
    assert done.code == 0, done.err
    return done.rows()


def test_versions_are_registered_once_by_the_names_of_their_records(
    repository: Repository, server: Server
) -> None:
    for _ in range(2):
        (row,) = push(repository, server.url)
        assert row == {
            "type": "order.placed", "version": 1, "subject": "order.placed.OrderPlaced", "id": 1,
        }  # fmt: skip
    assert push(repository, server.url, "--format", "json", "--subjects", "topic")[0]["id"] == 2
    assert (
        push(repository, server.url, "--format", "protobuf", "--subjects", "topic-record")[0][
            "subject"
        ]
        == "orders-order.placed.OrderPlaced"
    )
    with RegistryClient(server.url) as client:
        ((_, _, known),) = client.versions("order.placed.OrderPlaced")
        assert (known.format, '"cents"' in known.text) == ("avro", True)


def test_a_version_that_breaks_readers_by_its_level_is_refused(
    repository: Repository, server: Server
) -> None:
    repository.write("contracts/orders/v2.py", V2)
    repository.write("contracts/orders/evolve.py", EVOLVE)
    assert repository.schema("lock").code == 0
    told = repository.schema("push", "--registry", server.url, "--dry-run", "--json")
    assert (told.code, [row["breaks"] for row in told.rows()]) == (0, [[], []]), "nothing is there"
    done = repository.schema("push", "--registry", server.url)
    assert (done.code, "Proof" in done.err) == (3, True), done
    told = repository.schema("push", "--registry", server.url, "--dry-run", "--json")
    assert (told.code, [bool(row["breaks"]) for row in told.rows()]) == (3, [False, True])


def test_what_cannot_be_pushed_says_why(repository: Repository, server: Server) -> None:
    done = repository.schema("push")
    assert (done.code, "no registry is known" in done.err) == (2, True)
    server.kill()
    done = repository.schema("push", "--registry", server.url)
    assert (done.code, "does not answer" in done.err) == (4, True)
    second = V2.replace("order.placed", "order.moved").replace("version=2", "version=1")
    repository.write("contracts/orders/moved.py", second)
    assert repository.schema("lock").code == 0
    done = repository.schema("push", "--registry", server.url, "--subjects", "topic")
    assert (done.code, "orders-value would hold" in done.err) == (2, True)


def test_locks_that_are_shared_tell_who_breaks_elsewhere(
    repository: Repository, make: Made, server: Server
) -> None:
    assert "has no locks" in repository.schema("check", "--consumers", server.url).err
    mail = make("mail")
    mail.write("oncebox.toml", 'app = "services"\n')
    mail.write("contracts/orders/v1.py", V1 + "    note: str\n")
    mail.write("services.py", SERVICES.format(version="v1").replace("billing", "mail"))
    assert mail.schema("lock").code == 0
    first = (mail.path / "oncebox.lock").read_text()
    done = mail.schema("push", "--registry", server.url, "--share", "mail", "--json")
    assert done.rows()[-1] == {"lock": "mail", "changed": True}
    broken = repository.schema("check", "--consumers", server.url)
    assert (broken.code, "breaks: mail (mail)" in broken.out) == (3, True), broken
    with RegistryClient(server.url) as client:
        assert not locks.share(client, "mail", first), "it is there"
        mended = first.replace(
            '"order.placed".1.in.OrderPlaced.note = { number = 3, type = "str" }\n', ""
        )
        assert locks.share(client, "mail", mended)
        assert repository.schema("check", "--consumers", server.url).code == 0
        assert locks.share(client, "mail", first), "an old text is the newest one again"
        assert repository.schema("check", "--consumers", server.url).code == 3
        client.register("oncebox.lock-odd", "json", '{"type": "object"}')
    odd = repository.schema("check", "--consumers", server.url)
    assert (odd.code, "oncebox.lock-odd holds no lock" in odd.err) == (2, True)
    server.kill()
    assert repository.schema("check", "--consumers", server.url).code == 4
