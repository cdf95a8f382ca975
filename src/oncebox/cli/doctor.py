"""Looks for what cannot work before it does not: doctor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from ..service.config import SOURCES, in_variable
from ..service.doctor import Finding, examine
from ..service.places import chosen, services
from .options import said
from .output import counted, remark, say, tell
from .tables import Parts

Names = Annotated[str, said("Services; all of the application if none are named.")]
Instances = Annotated[int, said("How many processes run them.")]
Probe = Annotated[bool, said("Make and delete a topic, to compare the brokers' clock.")]


def doctor(
    *names: Names, instances: Instances = 1, role: Parts = None, probe: Probe = False
) -> int:
    """Whether databases, topics and clocks are fit for these services.

    Connections against max_connections, isolation, tables and rights, topics that
    are missing, compacted, short-lived, with one copy or too few partitions,
    clocks that differ. Each finding says what to do. Exit code 3 if something is
    wrong; what is only doubtful leaves it 0.

    For example:

        oncebox doctor --app myapp.services --instances 6
        oncebox doctor shop --role producer --role relay --json
    """
    found = [
        *_of_configuration(),
        *examine(chosen(names), instances=instances, parts=role or (), probe=probe),
    ]
    for one in found:
        text = f"{one.weight}: {one.where}: {one.name}: {one.what}\n  {one.hint}"
        tell(one, text)
    wrong = sum(one.weight == "wrong" for one in found)
    if not found:
        say("fine")
    else:
        remark(f"{counted(wrong, 'thing')} wrong, {len(found) - wrong} doubtful")
    return 3 if wrong else 0


def _of_configuration() -> Iterator[Finding]:
    """What is said for services that the application does not have: a name mistyped, perhaps."""
    sources, known = SOURCES.get(), services()
    spelled = {in_variable(name) for name in known}
    unknown = [(sources.name, f"[services.{n}]") for n in sources.services() if n not in known]
    unknown += [
        ("the environment", name)
        for name, service in sources.variables().items()
        if service not in spelled
    ]
    hint = f"its services are {', '.join(sorted(known))}"
    for where, name in unknown:
        what = f"{name} is of no service of this application"
        yield Finding("doubtful", "configuration", where, what, hint)
