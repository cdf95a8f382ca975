"""The registry server as a process: who is let in, how it ends, and what a death cannot take."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trustme

from engines.postgres import Postgres
from oncebox.errors import ConfigurationError, Unreachable
from oncebox.registry.client import RegistryClient
from oncebox.registry.guard import Guard, line_for, read_users
from producing import await_true
from registry_server import Server, serving

ORDER = '{"type":"record","name":"Order%s","fields":[]}'


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/r.db"
        return
    engine: Postgres = request.getfixturevalue("postgres_server")
    with engine.database() as url:
        yield url


def register(url: str, text: str, subject: str = "s") -> int:
    answer = httpx.post(f"{url}/subjects/{subject}/versions", json={"schema": text}, verify=False)
    id: int = answer.raise_for_status().json()["id"]
    return id


def enough_of(answered: dict[str, int], least: int) -> bool:
    return len(answered) >= least


def test_a_death_takes_nothing_that_was_answered(store: str) -> None:
    """SIGKILL while clients register: what was answered is there, and no id is that of another."""
    answered: dict[str, int] = {}
    numbers = count()

    def work(server: Server, http: httpx.Client) -> None:
        with contextlib.suppress(httpx.HTTPError):
            while True:
                text = ORDER % next(numbers)
                path = f"/subjects/s{len(answered) % 3}/versions"
                answer = http.post(server.url + path, json={"schema": text})
                answered[text] = answer.raise_for_status().json()["id"]

    for _ in range(2):
        with (
            serving(store, "--compatibility", "none") as server,
            httpx.Client() as http,
            ThreadPoolExecutor(4) as pool,
        ):
            for text, id in answered.items():  # of the life before
                assert http.get(f"{server.url}/schemas/ids/{id}").json()["schema"] == text
                assert register(server.url, text, "again") == id
            for _ in range(4):
                pool.submit(work, server, http)
            await_true(partial(enough_of, answered, len(answered) + 15), "registrations")
            server.kill()
    assert len(set(answered.values())) == len(answered) > 25
    with serving(store) as server, httpx.Client() as http:
        for text, id in answered.items():
            assert http.get(f"{server.url}/schemas/ids/{id}").json()["schema"] == text


def test_two_servers_of_one_database_are_one_registry(store: str) -> None:
    with serving(store) as one, serving(store) as other, ThreadPoolExecutor(8) as pool:
        urls = [one.url, other.url] * 12
        found = list(pool.map(lambda url: register(url, ORDER % "", "s"), urls))
        assert len(set(found)) == 1
        assert httpx.get(f"{other.url}/subjects/s/versions").json() == [1]


def test_it_ends_in_order_and_says_where_it_is(tmp_path: Path) -> None:
    server = Server(f"sqlite:///{tmp_path}/r.db")
    with httpx.Client() as idle:  # a connection that is kept open does not hold it up
        assert idle.get(server.url).json() == {}
        assert server.end() == (0, "")


# ---- who is let in


def refused(*arguments: str) -> str:
    command = [sys.executable, "-m", "oncebox", "schema", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done
    return done.stderr


def test_elsewhere_than_on_loopback_somebody_has_to_be_at_the_door(tmp_path: Path) -> None:
    said = refused("--host", "0.0.0.0", "--store", f"sqlite:///{tmp_path}/r.db")
    assert "everybody there could change schemas" in said and "--users" in said
    assert not (tmp_path / "r.db").exists()


def test_users_and_tokens(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"# who may\n{line_for('alice', 'pa:ss')}\n")
    store, token = f"sqlite:///{tmp_path}/r.db", {"ONCEBOX_REGISTRY_TOKEN": "tok"}
    with serving(store, "--users", str(users), **token) as server:
        plain = server.url.removeprefix("http://")
        asked = [
            httpx.get(server.url),
            httpx.get(server.url, auth=("alice", "wrong")),
            httpx.get(server.url, auth=("bob", "pa:ss")),
            httpx.get(server.url, headers={"Authorization": "Bearer no"}),
            httpx.get(server.url, headers={"Authorization": "Basic !"}),
        ]
        assert {one.status_code for one in asked} == {401}
        assert asked[0].json() == {"error_code": 401, "message": "Unauthorized"}
        with RegistryClient(f"http://alice:pa%3Ass@{plain}") as client:
            id = client.register("s", "avro", ORDER % "")
        with RegistryClient(server.url, token="tok") as client:
            assert client.schema(id).text == ORDER % ""
        assert httpx.get(f"{server.url}/schemas/ids/{id}").status_code == 401, "kept or not"
        with (
            RegistryClient(f"http://alice:wrong@{plain}", attempts_max=1) as client,
            pytest.raises(Unreachable, match="Unauthorized") as failure,
        ):
            client.subjects()
        assert "wrong" not in str(failure.value)


def test_a_file_of_users_says_which_line_is_wrong(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"{line_for('a', 'b')}\nbob:secret\n")
    with pytest.raises(ConfigurationError, match="line 2") as failure:
        read_users(users)
    assert "secret" not in str(failure.value)
    with pytest.raises(ConfigurationError, match="No such file"):
        read_users(tmp_path / "none")
    assert Guard({"a": line_for("a", "b").partition(":")[2]}).closed and not Guard().closed


def test_tls_and_certificates_of_clients(tmp_path: Path) -> None:
    authority = trustme.CA()
    made = {"server": authority.issue_cert("127.0.0.1"), "client": authority.issue_cert("client")}
    paths = {name: tmp_path / f"{name}.pem" for name in (*made, "ca")}
    authority.cert_pem.write_to_path(str(paths["ca"]))
    for name, one in made.items():
        one.private_key_and_cert_chain_pem.write_to_path(str(paths[name]))
    ca = ("--tls-client-ca", str(paths["ca"]))
    store = f"sqlite:///{tmp_path}/r.db"
    with serving(store, "--tls-cert", str(paths["server"]), *ca) as server:
        assert server.url.startswith("https://")
        known: dict[str, Any] = {"ca": paths["ca"], "certificate": paths["client"]}
        with RegistryClient(server.url, **known) as client:
            assert client.subjects() == []
        for ca_known in (paths["ca"], None):  # without a certificate, or without trust
            with (
                RegistryClient(server.url, attempts_max=1, ca=ca_known) as client,
                pytest.raises(Unreachable),
            ):
                client.subjects()
    with pytest.raises(ConfigurationError, match="none.pem"):
        RegistryClient("https://localhost", ca=tmp_path / "none.pem")
    assert "no such file" in refused("--tls-cert", str(tmp_path / "none.pem"), "--store", store)


# ---- a store that goes away


def test_a_store_that_was_away_is_found_again(postgres_server: Postgres) -> None:
    with postgres_server.database() as url, serving(url) as server:
        id = register(server.url, ORDER % "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
        assert register(server.url, ORDER % "", "other") == id
