"""The registry server: schema serve, and lines for its file of users."""

from __future__ import annotations

import getpass
import ipaddress
import os
import ssl
import sys
from pathlib import Path
from typing import Annotated

from ..errors import ConfigurationError
from ..service.places import configured, unknown
from .options import said
from .output import note, tell

HOST, PORT = "127.0.0.1", 8081
TOKEN = "ONCEBOX_REGISTRY_TOKEN"  # noqa: S105  (a variable's name)

Host = Annotated[str, said("Where to listen; elsewhere than on loopback only with a guard.")]
Port = Annotated[int, said("Its port; 0 for any that is free.")]
Level = Annotated[
    str | None, said("Set the compatibility level for all subjects, as PUT /config does.")
]
Users = Annotated[Path | None, said("A file of users; lines by: oncebox schema user NAME.")]
Cert = Annotated[Path | None, said("The server's certificate (PEM): speak HTTPS.")]
Key = Annotated[Path | None, said("Its private key, where it is not in that file.")]
Ca = Annotated[Path | None, said("Let in only whose certificate these authorities signed.")]


def serve(
    *,
    host: Host = HOST,
    port: Port = PORT,
    compatibility: Level = None,
    users: Users = None,
    tls_cert: Cert = None,
    tls_key: Key = None,
    tls_client_ca: Ca = None,
) -> int:
    """A registry of schemas, for whoever speaks Confluent's REST protocol.

    Its tables are made in the database of --store, beside yours. Start as many
    as you like on one PostgreSQL. Stop it with Ctrl-C or SIGTERM. Until another
    level is set, new versions must be able to read all earlier ones
    (BACKWARD_TRANSITIVE).

    For example:

        oncebox schema serve --store sqlite:///registry.db
        oncebox schema serve --store postgresql://localhost/registry --port 8085
        oncebox schema serve --host 0.0.0.0 --users users.txt --tls-cert r.pem

    Clients name themselves with a password of --users, or with the token that the
    variable ONCEBOX_REGISTRY_TOKEN has (Authorization: Bearer …).
    """
    from ..registry.guard import Guard, read_users
    from ..registry.server import listening
    from ..registry.server import serve as run
    from ..registry.store import RegistryStore
    from ..schema.compat.finding import Mode

    if compatibility is not None and compatibility.upper() not in Mode.__members__:
        raise ConfigurationError(
            f"--compatibility {compatibility}", expected=f"one of {', '.join(Mode)}"
        )
    guard = Guard(read_users(users) if users else None, os.environ.get(TOKEN))
    _check_door(host, closed=guard.closed or tls_client_ca is not None)
    tls = _tls(tls_cert, tls_key, tls_client_ca)
    if guard.closed and not tls and not _is_loopback(host):
        note("passwords travel unencrypted: add --tls-cert, or put a proxy in front that has one")
    place = configured(None)
    if place.store is None:
        raise unknown("the store")
    store = RegistryStore(place.store, place.schema)
    try:
        if compatibility is not None:
            store.set("", {"compatibility": compatibility.upper()})
        try:
            at = listening(host, port)
        except OSError as error:
            raise ConfigurationError(f"{host}:{port}: {error.strerror}") from error
        shown = f"[{host}]" if ":" in host else host
        url = f"{'https' if tls else 'http'}://{shown}:{at.getsockname()[1]}"
        tell({"url": url}, f"registry at {url}")
        run(store, guard, at, **tls)
    finally:
        store.close()
    return 0


def user(name: Annotated[str, said("The user's name.")], /) -> None:
    """A line for the file of --users: the name, and what proves its password.

    The password is asked for, or read from standard input.

    For example:

        oncebox schema user alice >> users.txt
    """
    from ..registry.guard import line_for

    if not name or ":" in name or name != name.strip() or not name.isprintable():
        raise ConfigurationError(f"user {name!r}", expected="a name without colons")
    asked = sys.stdin.isatty()
    password = getpass.getpass() if asked else sys.stdin.readline().rstrip("\n")
    if not password:
        raise ConfigurationError("no password", expected="one on standard input")
    line = line_for(name, password)
    tell({"user": line}, line)


def _check_door(host: str, *, closed: bool) -> None:
    if not closed and not _is_loopback(host):
        raise ConfigurationError(
            f"--host {host}: everybody there could change schemas",
            expected=f"--users FILE, {TOKEN}, or --tls-client-ca FILE; or a loopback address",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(cert: Path | None, key: Path | None, ca: Path | None) -> dict[str, object]:
    """As uvicorn takes them. Raises ConfigurationError for files that cannot be read."""
    if cert is None:
        if key or ca:
            raise ConfigurationError("--tls-cert is missing")
        return {}
    for path in (cert, key, ca):
        if path is not None and not path.is_file():
            raise ConfigurationError(f"{path}: no such file")
    found: dict[str, object] = {"ssl_certfile": str(cert), "ssl_keyfile": key and str(key)}
    if ca is not None:
        found |= {"ssl_ca_certs": str(ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return found
