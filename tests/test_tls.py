"""Encrypted connections to both servers, with certificates that are checked."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from conftest import hint_if_missing
from engines.kafka import kafka
from engines.postgres import postgres
from oncebox.errors import OnceboxError, Unreachable
from oncebox.logs import kafka as kafka_log
from oncebox.logs.kafka import KafkaLog
from oncebox.ports import Outgoing, Record
from oncebox.stores.adapt import open_store


class Papers:
    """An authority, and a certificate of a server on this machine; another authority."""

    def __init__(self, folder: Path) -> None:
        self.authority = folder / "authority.pem"
        self.another = folder / "another.pem"
        ours = trustme.CA()
        ours.cert_pem.write_to_path(str(self.authority))
        trustme.CA().cert_pem.write_to_path(str(self.another))
        made = ours.issue_cert("127.0.0.1", "localhost")
        self.chain = b"".join(one.bytes() for one in made.cert_chain_pems).decode()
        key = load_pem_private_key(made.private_key_pem.bytes(), None)
        self.key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


def test_kafka_over_tls(papers: Papers, monkeypatch: pytest.MonkeyPatch) -> None:
    with hint_if_missing(), kafka(certificate=(papers.chain, papers.key)) as broker:
        broker.create_topic("t", 1)
        url = f"kafka://127.0.0.1:{broker.third_port}?security.protocol=SSL&ssl.ca.location="
        with closing(KafkaLog(url + str(papers.authority))) as log:
            assert log.publish([Outgoing("t", b"k", b"v", [], 0)], 20) == []
            with closing(log.reader("g")) as reader:
                reader.assign({("t", 0): 0})
                records: list[Record] = []
                while not records:
                    records = reader.fetch(10, 1000, 5)
            assert records[0].value == b"v"
        monkeypatch.setattr(kafka_log, "REQUEST_TIMEOUT_S", 3.0)
        with closing(KafkaLog(url + str(papers.another))) as log, pytest.raises(OnceboxError) as no:
            log.describe("t")
        assert isinstance(no.value, Unreachable)
        assert "certificate" in str(no.value)
        assert broker.topics() != []


def test_postgres_over_tls(papers: Papers) -> None:
    with hint_if_missing(), postgres() as server:
        chain, key = server.beside / "server.crt", server.beside / "server.key"
        for path, text in ((chain, papers.chain), (key, papers.key)):
            path.write_text(text)
            path.chmod(0o600)
            if server.user is not None:
                shutil.chown(path, server.user)
        server.settings |= {"ssl": "on", "ssl_cert_file": str(chain), "ssl_key_file": str(key)}
        server.restart()
        url = f"{server.url}?sslmode=verify-full&sslrootcert="
        session: Any = open_store(url + str(papers.authority)).open()
        asked = session.run("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert asked == [(True,)]
        session.close()
        with pytest.raises(Unreachable, match="certificate verify failed"):
            open_store(url + str(papers.another)).open()
