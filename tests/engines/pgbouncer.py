"""PgBouncer for the suite: in transaction mode, before a PostgreSQL server of the suite."""

import signal
from typing import Any
from urllib.parse import urlsplit

import psycopg

from . import lookup
from .postgres import OwnPostgres
from .server import LOOPBACK, Server, free_ports


class PgBouncer:
    """PgBouncer in transaction mode, before a PostgreSQL server."""

    def __init__(self, postgres: OwnPostgres) -> None:
        self.program = str(lookup.pgbouncer())
        self.port = free_ports(1)[0]
        self._server = Server("pgbouncer", postgres.user)
        password = urlsplit(postgres.url).password
        self._configuration = self._server.folder / "pgbouncer.ini"
        self._configuration.write_text(
            f"[databases]\n* = host={LOOPBACK} port={postgres.port} user=postgres"
            f" password={password}\n"
            f"[pgbouncer]\nlisten_addr={LOOPBACK}\nlisten_port={self.port}\nunix_socket_dir=\n"
            "auth_type=any\npool_mode=transaction\nmax_client_conn=200\ndefault_pool_size=20\n"
            "server_login_retry=1\nadmin_users=postgres\n"
        )
        self.start()

    @property
    def pid(self) -> int:
        """Its process id, 0 while it is stopped."""
        return self._server.pid

    def url_of(self, database: str) -> str:
        """A database's URL through it."""
        return f"postgresql://postgres@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        self._server.start([self.program, str(self._configuration)], self._ready)

    def _ready(self) -> bool:
        try:
            self.ask("show version")
        except psycopg.Error:
            return False
        return True

    def ask(self, command: str) -> list[tuple[Any, ...]]:
        """An answer of its administration console."""
        with psycopg.connect(
            self.url_of("pgbouncer"), autocommit=True, connect_timeout=5
        ) as console:
            cursor = psycopg.ClientCursor(console)
            return cursor.execute(command.encode()).fetchall()

    def kill(self) -> None:
        self._server.end(signal.SIGKILL)

    def close(self) -> None:
        self._server.remove()
