"""A consumer group's coordinator that is away and comes back: where a question to it had been given
up meanwhile, Kafka's client ended the process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition

from engines.kafka import OwnKafka
from producing import await_true

TOPIC = "away"
AWAY_S = 13.0
"""Longer than anybody waits for an answer."""

PROCESS = """
import sys
from oncebox.errors import Unreachable
from oncebox.logs import kafka_group
from oncebox.logs.kafka import KafkaLog

way, url = sys.argv[1:]
reader = KafkaLog(url).reader(way)
reader.fetch(1, 1, 0.0)
print("ready", flush=True)
sys.stdin.readline()  # the brokers are away
if way == "find":
    try:
        reader.acknowledged([("away", 0)])
    except Unreachable as error:
        print(error, flush=True)
else:
    if way == "given-up":
        kafka_group.PATIENCE_S = 0.0
        reader.acknowledge({("away", 0): 3})
    reader.acknowledge({("away", 0): 5})
    print("asked", flush=True)
sys.stdin.readline()  # they are back
if way == "find":
    print(reader.acknowledged([("away", 0)]), flush=True)
sys.stdin.readline()
reader.close()
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[OwnKafka]:
    kafka = OwnKafka()
    kafka.create_topic(TOPIC, 1)
    yield kafka
    kafka.remove()


def committed(broker: OwnKafka, group: str) -> int:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    with closing(consumer):
        (found,) = consumer.committed([TopicPartition(TOPIC, 0)], timeout=30)
    return int(found.offset)


class Asking(subprocess.Popen[str]):
    """A process that asks in its way, and goes on when it is told to."""

    def __init__(self, way: str, url: str) -> None:
        command = [sys.executable, "-c", PROCESS, way, url]
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def go_on(self) -> None:
        assert self.stdin is not None
        self.stdin.write("\n")
        self.stdin.flush()

    def line(self) -> str:
        assert self.stdout is not None
        return self.stdout.readline().strip()


def test_questions_to_a_coordinator_that_is_away_do_not_end_the_process(broker: OwnKafka) -> None:
    with (
        Asking("write", broker.url) as writing,
        Asking("given-up", broker.url) as given_up,
        Asking("find", broker.url) as finding,
    ):
        asking = (writing, given_up, finding)
        assert [one.line() for one in asking] == ["ready"] * 3
        broker.stop(immediate=True)
        for one in asking:
            one.go_on()
        assert writing.line() == given_up.line() == "asked"
        assert "did not find its group: no answer within 10 s" in finding.line()
        time.sleep(AWAY_S - 10.0)
        broker.start()
        await_true(lambda: committed(broker, "write") == 5, "its offset is committed")
        await_true(lambda: committed(broker, "given-up") == 5, "the other's, too")
        finding.go_on()
        assert finding.line() == "{}"
        for one in asking:
            one.communicate("\n\n", timeout=30)
            assert one.returncode == 0
