"""Kafka for the suite: one real broker in KRaft mode.

`kafka()` starts a broker of its own. `shared_kafka()` is for the session: the broker that
`ONCEBOX_TEST_KAFKA` names if it is set, else one of its own.
"""

import base64
import contextlib
import functools
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from . import lookup
from .server import LOOPBACK, POLL_S, Server, ServerFailed, free_ports

VARIABLE = "ONCEBOX_TEST_KAFKA"
SCHEME = "kafka://"
HEAP = "512m"
ANSWER_TIMEOUT_S = 10.0
FORMAT_TIMEOUT_S = 60.0

QUICK = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Half the processor time of a start and of the first minutes; brokers of tests live no longer."""

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "num.partitions": "4",
    # A topic that a program forgot to make must fail here, not appear with other settings.
    "auto.create.topics.enable": "false",
    # Internal topics for one broker: a copy each, few partitions, no wait for more members.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A killed broker is let in again only when the session of its former life has ended.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "log.retention.check.interval.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "16777216",  # of the heap, where the default takes 128 MiB
}


class Kafka:
    """A running Kafka."""

    def __init__(self, url: str) -> None:
        self.url = url
        """`kafka://host:port`, with further hosts after commas."""

    @property
    def bootstrap(self) -> str:
        """The brokers as Kafka's clients want them: `host:port,host:port`."""
        return self.url.removeprefix(SCHEME).rstrip("/")

    def topics(self) -> list[str]:
        """Return the names of all topics, the internal ones too."""
        return sorted(self.admin.list_topics(timeout=ANSWER_TIMEOUT_S).topics)

    def create_topic(
        self, name: str, partitions: int, settings: dict[str, str] | None = None
    ) -> None:
        """Create a topic and return when the broker knows a leader for each partition."""
        topic = NewTopic(name, partitions, replication_factor=1, config=settings or {})
        self.admin.create_topics([topic])[name].result(ANSWER_TIMEOUT_S)
        end = time.monotonic() + ANSWER_TIMEOUT_S
        while not self._led(name, partitions):
            if time.monotonic() > end:
                raise ServerFailed(f"topic {name} has no leader after {ANSWER_TIMEOUT_S:g} s")
            time.sleep(POLL_S)

    def _led(self, name: str, partitions: int) -> bool:
        found = self.admin.list_topics(name, timeout=ANSWER_TIMEOUT_S).topics[name].partitions
        return len(found) == partitions and all(part.leader >= 0 for part in found.values())

    def delete_topics(self, prefix: str) -> None:
        """Ask the broker to delete the topics whose names start so; does not wait for the disk."""
        known = self.admin.list_topics(timeout=ANSWER_TIMEOUT_S).topics
        doomed = [name for name in known if name.startswith(prefix)]
        if doomed:
            for answer in self.admin.delete_topics(doomed).values():
                answer.result(ANSWER_TIMEOUT_S)

    @functools.cached_property
    def admin(self) -> AdminClient:
        """An administration client, kept: what it was asked is dropped when it is collected."""
        return AdminClient(
            {
                "bootstrap.servers": self.bootstrap,
                "reconnect.backoff.max.ms": 100,
                "log_level": 2,  # a client that outlives its broker is normal here, and no news
            }
        )


class OwnKafka(Kafka):
    """A broker that this process started, and may stop and start as a test wants."""

    def __init__(
        self,
        settings: dict[str, str] | None = None,
        users: dict[str, str] | None = None,
        certificate: tuple[str, str] | None = None,
        beside: "OwnKafka | None" = None,
        *,
        lasting: bool = False,
    ) -> None:
        self._java = [str(lookup.java()), *(() if lasting else QUICK)]
        self._class_path = str(lookup.kafka_jars() / "*")
        self._server = Server("kafka")
        self.port, self.controller_port, self.third_port = free_ports(3)
        self.cluster: str = beside.cluster if beside else _new_cluster()
        super().__init__(f"{SCHEME}{LOOPBACK}:{self.port}")
        more: dict[str, str] = {}
        if users:
            more = self._third_listener("SASL_PLAINTEXT") | _for_users(users)
        elif certificate:
            more = self._third_listener("SSL") | _with_certificate(*certificate)
        elif beside:
            more = self._second_of(beside.controller_port)
        try:
            self._configure(more | (settings or {}))
            self.start()
        except BaseException:
            self.remove()
            raise

    @property
    def pid(self) -> int:
        """The broker's process id, 0 while it is stopped."""
        return self._server.pid

    def is_running(self) -> bool:
        """Whether the broker lives; asked anew each time, hence no property."""
        return self._server.is_running()

    @property
    def log(self) -> Path:
        """The broker's log of warnings and errors."""
        return self._server.log

    @property
    def data(self) -> Path:
        """The folder of the broker's partitions."""
        return self._server.folder / "data"

    def start(self) -> None:
        """Start the stopped broker on its data and its ports."""
        self._server.start(self._command("kafka.Kafka", str(self._properties)), self._ready)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the broker in order, or immediately (SIGKILL)."""
        self._server.end(signal.SIGKILL if immediate else signal.SIGTERM)

    def restart(self, *, immediate: bool = False) -> None:
        """Stop and start again, on the same data and port."""
        self.stop(immediate=immediate)
        self.start()

    def remove(self) -> None:
        """End the broker and remove its data."""
        self._server.remove()

    @property
    def _properties(self) -> Path:
        return self._server.folder / "server.properties"

    def _command(self, main: str, *arguments: str) -> list[str]:
        options = [f"-Xmx{HEAP}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        return [*self._java, *options, "-cp", self._class_path, main, *arguments]

    def _third_listener(self, protocol: str) -> dict[str, str]:
        return {
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},"
            f"CONTROLLER://{LOOPBACK}:{self.controller_port},{protocol}://{LOOPBACK}:{self.third_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},"
            f"{protocol}://{LOOPBACK}:{self.third_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            f"{protocol}:{protocol}",
        }

    def _second_of(self, controller_port: int) -> dict[str, str]:
        """A broker beside the one that controls the cluster."""
        return {
            "process.roles": "broker",
            "node.id": "2",
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        }

    def url_of(self, user: str, password: str) -> str:
        """The URL for one of `users`."""
        place = f"{user}:{password}@{LOOPBACK}:{self.third_port}"
        return f"{SCHEME}{place}?security.protocol=SASL_PLAINTEXT"

    def _configure(self, settings: dict[str, str]) -> None:
        lines = SETTINGS | {
            "listeners": f"PLAINTEXT://{LOOPBACK}:{self.port},"
            f"CONTROLLER://{LOOPBACK}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self.port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{self.controller_port}",
            "log.dirs": str(self.data),
        }
        lines |= settings
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        command = self._command(
            "kafka.tools.StorageTool", "format", f"--cluster-id={self.cluster}",  # may begin with -
            "--config", str(self._properties),
        )  # fmt: skip
        made = subprocess.run(
            command, capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False
        )
        if made.returncode:
            raise ServerFailed(f"Kafka's storage was not formatted:\n{made.stdout}{made.stderr}")

    def _ready(self) -> bool:
        """Whether a client can list topics; a client is made only once the port answers."""
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, self.port)):
                return False
        try:
            return bool(self.admin.list_topics(timeout=ANSWER_TIMEOUT_S).brokers)
        except KafkaException:
            return False


def _new_cluster() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _for_users(users: dict[str, str]) -> dict[str, str]:
    """Users with passwords, who may do what they are granted; whoever comes by the first listener
    may do everything.
    """
    known = " ".join(f'user_{user}="{password}"' for user, password in users.items())
    place = "listener.name.sasl_plaintext"
    return {
        f"{place}.sasl.enabled.mechanisms": "PLAIN",
        f"{place}.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain"
        f".PlainLoginModule required {known};",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }


def _with_certificate(chain: str, key: str) -> dict[str, str]:
    """PEM texts, the key as PKCS#8; a property's lines are joined by a backslash."""
    place = "listener.name.ssl.ssl.keystore"
    return {
        f"{place}.type": "PEM",
        f"{place}.certificate.chain": chain.strip().replace("\n", " \\\n"),
        f"{place}.key": key.strip().replace("\n", " \\\n"),
    }


@contextlib.contextmanager
def kafka(
    settings: dict[str, str] | None = None,
    users: dict[str, str] | None = None,
    certificate: tuple[str, str] | None = None,
    beside: OwnKafka | None = None,
    *,
    lasting: bool = False,
) -> Iterator[OwnKafka]:
    """Start a broker on free ports and remove it after.

    `settings` are added to, or replace, those of `SETTINGS`; `users`: passwords of users with
    no right but those that a test grants; `certificate`: a chain and its key for a TLS listener at
    `third_port`; `beside`: the broker in whose cluster this one is a second; `lasting`:
    compiled for minutes of load, not for a quick start. Raises `EngineMissing`.
    """
    broker = OwnKafka(settings, users, certificate, beside, lasting=lasting)
    try:
        yield broker
    finally:
        broker.remove()


@contextlib.contextmanager
def shared_kafka(*, lasting: bool = False) -> Iterator[Kafka]:
    """Yield the broker that the environment names, or start one."""
    url = os.environ.get(VARIABLE)
    if not url:
        with kafka(lasting=lasting) as own:
            yield own
        return
    yield Kafka(url if url.startswith(SCHEME) else SCHEME + url)
