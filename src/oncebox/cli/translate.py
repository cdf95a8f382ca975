"""`oncebox translate`: events from topic to topic, in other versions."""

from __future__ import annotations

import contextlib
from typing import Annotated

from ..errors import ConfigurationError
from ..lens.copies import Copies
from ..service.config import SOURCES, configure
from ..service.places import in_loop, place_of, services
from ..service.running import check_runnable
from ..service.service import Service
from ..service.translate import make_topic, translator
from ..service.work import STOP_S
from .options import Texts, said
from .run import Http, Lock, Migrate, Stop, make_ready, serve
from .topics import PARTITIONS

SERVICE = "translate"

Source = Annotated[str, said("The topic to read.")]
Target = Annotated[str, said("The topic to write; it is made if it is not there.")]
To = Annotated[Texts, said("TYPE=VERSION that is wanted, order.placed=1; repeatable.")]
NoResidue = Annotated[bool, said("Send nothing along of what the other version cannot say.")]


def translate(
    source: Source,
    target: Target,
    *,
    to: To = None,
    no_residue: NoResidue = False,
    migrate: Migrate = False,
    stop_s: Stop = STOP_S,
    http: Http = None,
    lock: Lock = None,
) -> int:
    r"""Publish a topic's events once more, with some types in another version.

    For consumers that cannot translate, in another language perhaps. Events
    keep their id, key and chain; those of other types are copied as they are.
    It is a consumer, translate.TARGET, with a store of its own: start it as
    often as you like. What cannot be translated waits, and only its key: see
    oncebox parked, oncebox redrive.

    The steps are those of the application (--app) and of oncebox.lock.

    For example:

        oncebox translate orders orders.v1 --to order.placed=1 --migrate \
            --store sqlite:///translate.db --log kafka://localhost:9092
        oncebox parked translate.orders.v1 --store sqlite:///translate.db
    """
    services()  # what they declare
    copies = Copies(source, target, dict(map(_pair, to or ())), not no_residue)
    service = Service(SERVICE)
    configure(service, SOURCES.get())
    check_runnable(service)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(place_of(service).open_log())
        translator(service, copies, log)
        make_ready([service], migrate=migrate)
        make_topic(log, copies, PARTITIONS)
        runs = serve([service], None, stop_s, http, None, consume=True, relay=False, lock=lock)
        return in_loop(runs)


def _pair(text: str) -> tuple[str, int]:
    type, _, version = text.rpartition("=")
    if not type or not version.isdecimal():
        raise ConfigurationError(f"--to {text}", expected="TYPE=VERSION, as order.placed=1")
    return type, int(version)
