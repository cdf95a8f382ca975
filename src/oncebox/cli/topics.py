"""Topics of the log: check, create."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from cyclopts import App

from ..errors import NotFound
from ..ports import Log
from ..service.places import Place, chosen, configured, place_of, streams, unknown
from .options import said
from .output import tell

PARTITIONS = 4
MISSING = "it does not exist: oncebox topics create"

Topics = Annotated[str, said("Topics; if none are named, those of the services.")]
Partitions = Annotated[int, said("Of each. Be generous: more, later, move keys.")]

app = App(name="topics", help="Topics of the log: check, create.")


@app.command
def create(*names: Topics, partitions: Partitions = PARTITIONS) -> None:
    """Make topics with safe settings; those that exist are left as they are.

    For example:

        oncebox topics create --app myapp.services --partitions 12
        oncebox topics create orders payments --log kafka://localhost:9092
    """
    for log, topic in _wanted(names):
        known = log.describe(topic)
        log.create(topic, partitions)
        count = partitions if known is None else known.partitions
        text = f"{topic}: {'created' if known is None else 'exists'} with {count} partitions"
        tell({"topic": topic, "created": known is None, "partitions": count}, text)


@app.command
def check(*names: Topics) -> int:
    """Whether topics exist, and their settings keep the promises; exit code 3 if not.

    For example:

        oncebox topics check --app myapp.services
        oncebox topics check orders --log kafka://localhost:9092 --json
    """
    found = 0
    for log, topic in _wanted(names):
        exists = log.describe(topic) is not None
        wrong = log.check(topic) if exists else [MISSING]
        found += len(wrong)
        text = "".join(f"\n  {what}" for what in wrong) or " fine"
        tell({"topic": topic, "exists": exists, "wrong": wrong}, f"{topic}:{text}")
    return 3 if found else 0


def _wanted(names: tuple[str, ...]) -> Iterator[tuple[Log, str]]:
    """The topics that are meant, each with its log: those that are named, else those of the
    services.
    """
    place = configured(None)
    wanted: dict[str, tuple[Place, set[str]]] = {}
    if names and place.log is not None:
        wanted[place.log] = place, set(names)
    else:
        for service in chosen(()):
            if service.log is not None:
                at = wanted.setdefault(service.log, (place_of(service), set()))
                at[1].update(names or streams(service))
    if not wanted:
        raise unknown("the log", "log")
    if not any(topics for _, topics in wanted.values()):
        raise NotFound(
            "no topics are known", expected="names of topics, or services with handlers or events"
        )
    for place, topics in wanted.values():
        with place.open_log() as log:
            for topic in sorted(topics):
                yield log, topic
