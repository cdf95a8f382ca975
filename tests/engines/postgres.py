"""PostgreSQL for the suite: real servers with their default durability, and databases by the test.

`postgres()` starts a server of its own. `shared_postgres()` is for the session: the server that
`ONCEBOX_TEST_POSTGRES` names if it is set, else one of its own.
"""

import contextlib
import functools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from . import lookup
from .keeper import credentials
from .server import LOOPBACK, Server, ServerFailed, free_ports, open_to_others

VARIABLE = "ONCEBOX_TEST_POSTGRES"
SUPERUSER = "postgres"
CONNECT_TIMEOUT_S = 10

# Durability stays at PostgreSQL's defaults (fsync, synchronous_commit): it is under test.
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a socket's path has 107 bytes at most; a temp folder may not
    "wal_level": "logical",
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


class Postgres:
    """A running PostgreSQL server, with the means to make and drop databases."""

    def __init__(self, url: str) -> None:
        self.url = url
        """The superuser's URL, `postgresql://user:password@host:port/database`."""
        self._admin: psycopg.Connection[Any] | None = None

    def url_of(self, database: str) -> str:
        """Return the superuser's URL of another database of this server."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(path="/" + quote(database)))

    @property
    def version(self) -> str:
        """The server's version, such as `18.1`."""
        row = self._run(sql.SQL("show server_version")).fetchone()
        assert row is not None
        return str(row[0])

    def create_database(self, template: str | None = None) -> str:
        """Create a database with a new name and return the name.

        A `template` is a database that nobody is connected to: copying one with its tables made
        is quicker than making them again. Its files are copied, where the server can: through the
        WAL, making and dropping took five times as long.
        """
        name = f"oncebox_{secrets.token_hex(6)}"
        strategy = sql.SQL("strategy file_copy" if self._has_strategies else "")
        statement = sql.SQL("create database {} template {} {}").format(
            sql.Identifier(name), sql.Identifier(template or "template0"), strategy
        )
        self._run(statement)
        return name

    @functools.cached_property
    def _has_strategies(self) -> bool:
        (number,) = self._run(sql.SQL("show server_version_num")).fetchone() or ("0",)
        return int(number) >= 150000

    def drop_database(self, name: str) -> None:
        """Drop a database, its connections with it; its absence is no error."""
        # Replication slots hold a database, and WITH (FORCE) does not drop them.
        self._run(
            sql.SQL(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                " where database = {} and not active"
            ).format(sql.Literal(name))
        )
        self._run(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    @contextlib.contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """Yield the URL of a new database, which is dropped afterwards."""
        name = self.create_database(template)
        try:
            yield self.url_of(name)
        finally:
            self.drop_database(name)

    def close(self) -> None:
        """Close this object's own connection; the server runs on."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _run(self, statement: sql.SQL | sql.Composed) -> psycopg.Cursor[Any]:
        """Run a statement as superuser, on one kept connection: connecting dominates the cost."""
        for _ in range(2):
            if self._admin is None or self._admin.closed:
                self._admin = psycopg.connect(
                    self.url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
                )
            try:
                return self._admin.execute(statement)
            except psycopg.OperationalError:
                if not self._admin.closed:
                    raise
        raise psycopg.OperationalError("the connection ended twice; has the server stopped?")


class OwnPostgres(Postgres):
    """A PostgreSQL server that this process started, and may stop and start as a test wants."""

    def __init__(
        self,
        version: int | None = None,
        settings: dict[str, str] | None = None,
        standby_of: "OwnPostgres | None" = None,
    ) -> None:
        user = _unprivileged_user()
        programs = lookup.postgres_programs(version)
        self._server = Server("postgres", user)
        self._password: str = secrets.token_hex(8) if standby_of is None else standby_of._password
        self.port = free_ports(1)[0]
        super().__init__(
            f"postgresql://{SUPERUSER}:{self._password}@{LOOPBACK}:{self.port}/postgres"
        )
        self.programs = programs if user is None else _reachable(programs, self._server.folder)
        self.data = self._server.folder / "data"
        self.settings = SETTINGS | {"port": str(self.port)} | (settings or {})
        try:
            if standby_of is None:
                self._initdb()
            else:
                standby_of.base_backup(self.data, standby=True)
            self.start()
        except BaseException:
            self.remove()
            raise

    @property
    def pid(self) -> int:
        """The server's process id (the postmaster's), 0 while it is stopped."""
        return self._server.pid

    @property
    def user(self) -> str | None:
        """Whom it runs as; None: as we do."""
        return self._server.user

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._server.log

    def start(self) -> None:
        """Start the stopped server on its data and its port."""
        options = [part for item in self.settings.items() for part in ("-c", "=".join(item))]
        self._server.start(
            [str(self.programs / "postgres"), "-D", str(self.data), *options], self._ready
        )

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server: its clients are disconnected; immediate is like a loss of power."""
        self.close()
        self._server.end(signal.SIGQUIT if immediate else signal.SIGINT)

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start again, on the same data and port."""
        self.stop(immediate=immediate)
        self.start()

    def base_backup(self, folder: Path, *, standby: bool = False) -> None:
        """Copy the running server's data into a new folder, by `pg_basebackup`: whole, with the log
        of what was committed meanwhile. `standby`: a server that starts there follows this one.
        """
        command = [
            str(self.programs / "pg_basebackup"), f"--dbname={self.url}", f"--pgdata={folder}",
            "--checkpoint=fast", "--no-sync", *(["--write-recovery-conf"] if standby else []),
        ]  # fmt: skip
        self._perform(command)

    def restore(self, folder: Path) -> None:
        """Stop at once, and start again on a base backup, which is used up."""
        self.stop(immediate=True)
        shutil.rmtree(self.data)
        folder.rename(self.data)
        self.start()

    @property
    def beside(self) -> Path:
        """A folder that the server's user may write to; it goes with the server."""
        return self._server.folder

    def remove(self) -> None:
        """End the server and remove its data."""
        # Not SIGKILL: that would orphan the server's children and its shared memory.
        self.stop(immediate=True)
        self._server.remove()

    def _initdb(self) -> None:
        folder, user = self._server.folder, self._server.user
        secret = folder / "password"
        secret.write_text(self._password)
        if user is not None:
            shutil.chown(secret, user)
        command = [
            str(self.programs / "initdb"),
            f"--pgdata={self.data}",
            f"--username={SUPERUSER}",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",  # an empty cluster may be lost; what tests write to it may not
        ]
        self._perform(command)

    def _perform(self, command: list[str]) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        ended = subprocess.run(
            command, cwd=self._server.folder, capture_output=True, text=True, check=False,
            **credentials(self._server.user),
        )  # fmt: skip
        if ended.returncode:
            raise ServerFailed(f"{command[0]} failed:\n{ended.stdout}{ended.stderr}")

    def _ready(self) -> bool:
        # The last line of postmaster.pid says so, and asking it needs no connection.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"


def _unprivileged_user() -> str | None:
    """Return whom to run PostgreSQL as: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _reachable(programs: Path, folder: Path) -> Path:
    """Return the programs, or a copy in `folder` where they lie out of the other user's reach.

    A checkout in root's home is closed to every other user.
    """
    if open_to_others(programs):
        return programs
    copy = folder / "programs"
    shutil.copytree(programs.parent, copy, symlinks=True)
    return copy / programs.name


@contextlib.contextmanager
def postgres(
    version: int | None = None,
    settings: dict[str, str] | None = None,
    standby_of: OwnPostgres | None = None,
) -> Iterator[OwnPostgres]:
    """Start a server, of a major version (14 to 18) or of the system's packages; remove it after.

    `settings` are added to, or replace, those of `SETTINGS`. `standby_of`: a copy of that server,
    which follows it until it is promoted. Raises `EngineMissing`.
    """
    server = OwnPostgres(version, settings, standby_of)
    try:
        yield server
    finally:
        server.remove()


@contextlib.contextmanager
def shared_postgres() -> Iterator[Postgres]:
    """Yield the server that the environment names, or start one."""
    url = os.environ.get(VARIABLE)
    if not url:
        with postgres() as own:
            yield own
        return
    running = Postgres(url)
    try:
        yield running
    finally:
        running.close()
