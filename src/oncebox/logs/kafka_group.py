"""What Kafka keeps for a consumer group: the offsets that its own tools show.

A group has a coordinator among the brokers. Where a question to it is given up inside librdkafka
because its time is over, the process ends by a failed assertion when the coordinator is back
(`rd_kafka_coord_req_fsm` sends what is gone; librdkafka 2.16, its issues 3663 and 4605). So these
questions get the longest time that it takes, and a client of their own, which is closed where
nobody waits for the answer any longer: that is safe at any time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, wait
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka import admin as _untyped_admin

from ..ports import TopicPartition as Place
from .kafka_settings import KafkaSettings

logger = logging.getLogger("oncebox.kafka")

ASK_TIMEOUT_S = 3600.0
"""The longest that librdkafka takes."""

PATIENCE_S = 1800.0
"""How long an answer may be waited for until offsets are written by another client."""

CLOSE_TIMEOUT_S = 1.0
FIND_TIMEOUT_S = 10.0
LOADING_POLL_S = 0.05
LOADING = {"COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR"}

_admin: Any = _untyped_admin


class Group:
    """A group's name, and where its offsets are written."""

    def __init__(self, settings: KafkaSettings, name: str) -> None:
        self.name = name
        self._settings = settings
        self._admin: Any = None
        self._next: dict[Place, int] = {}
        self._writing: Future[Any] | None = None
        self._give_up_at = 0.0

    def write(self, positions: Mapping[Place, int]) -> None:
        """Commit offsets: one request at a time, nobody waits.

        By the administrator: a consumer that may not commit tries for ever, and calls back when
        Python is gone.
        """
        self._next.update(positions)
        writing = self._writing
        if writing is not None and not writing.done():
            if time.monotonic() < self._give_up_at:
                return
            self._admin = None
        elif writing is not None and (error := writing.exception()) is not None:
            logger.debug("offsets were not committed: %s", error)
        self._writing = None
        if not self._next:
            return
        offsets = [TopicPartition(*place, at) for place, at in self._next.items()]
        self._next = {}
        self._give_up_at = time.monotonic() + PATIENCE_S
        self._admin = self._admin or self._client()
        (self._writing,) = self._admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(self.name, offsets)], request_timeout=ASK_TIMEOUT_S
        ).values()

    def find(self) -> None:
        """Wait until a coordinator knows the group. Raises Unreachable, and KafkaException for what
        it says, but not while it loads the group.
        """
        deadline = time.monotonic() + FIND_TIMEOUT_S
        admin = self._client()
        try:
            while True:
                answer = admin.describe_consumer_groups([self.name], request_timeout=ASK_TIMEOUT_S)
                try:
                    answer[self.name].result(FIND_TIMEOUT_S)
                except KafkaException as error:
                    if error.args[0].name() not in LOADING or time.monotonic() > deadline:
                        raise
                except TimeoutError as error:
                    admin.poll(0)  # only so it says what is wrong: the credentials, perhaps
                    why = f"no answer within {FIND_TIMEOUT_S:g} s"
                    raise self._settings.unreachable("find its group", why) from error
                else:
                    return
                time.sleep(LOADING_POLL_S)
        finally:
            del admin  # closed, also where an error goes on with this frame

    def close(self) -> None:
        """Waits a moment until what was to be written is."""
        for _ in range(2):  # what is on its way, and what came meanwhile
            if self._writing is not None:
                wait([self._writing], CLOSE_TIMEOUT_S)
                self.write({})
        self._admin = None

    def _client(self) -> Any:
        return self._settings.client(_admin.AdminClient)
