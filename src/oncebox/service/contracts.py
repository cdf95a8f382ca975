"""What an application's code says of events: their classes, who reads them, and what leads from
one version to the next.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import json

from ..codecs.payload import decode
from ..consumer.reading import EVERY
from ..errors import DecodeFailed, SchemaError
from ..event import EventType, event_type
from ..lens.chain import declared
from ..schema.check import Code
from ..schema.derive import schema_of
from ..schema.lock import Place
from ..schema.model import Schema
from ..schema.numbers import same
from .config import imported
from .service import Consumer, Service

Classes = dict[Place, type]


def code_of(services: Mapping[str, Service[Any]], packages: Iterable[str]) -> tuple[Code, Classes]:
    """What is declared in the modules of the working folder that are loaded, in these packages
    with all that is in them, and by the handlers of these services. Raises SchemaError.
    """
    named = [module for package in packages for module in modules_of(package)]
    consumers = {c.name: c for service in services.values() for c in service.consumers.values()}
    classes: Classes = {}
    schemas: dict[Place, Schema] = {}
    handled = {name: _handled(consumer) for name, consumer in consumers.items()}
    handlers = (one.cls for found in handled.values() for one in found)
    for cls in (*_in_modules([*named, *_here()]), *handlers):
        type = event_type(cls)
        place = (type.type, type.version)
        if classes.get(place) is cls:
            continue
        schema = schema_of(cls)
        if place in classes and not same(schemas[place], schema):
            raise SchemaError(
                f"{place[0]} {place[1]} is declared twice, and differently: by "
                f"{_name(classes[place])} and {_name(cls)}",
                expected="one class for a version, or several that are the same",
            )
        classes.setdefault(place, cls)
        schemas.setdefault(place, schema)
    reads = {name: {d.type: d.version for d in found} for name, found in handled.items()}
    edges = {
        (type, edge.newer): edge for type, known in declared.edges.items()
        if any(name == type for name, _ in classes) for edge in known.values()
    }  # fmt: skip
    return Code(schemas, reads, edges), classes


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _handled(consumer: Consumer[Any]) -> list[EventType]:
    """The event types of ours that a consumer has a handler for."""
    declared = (handler.type for handler in consumer.handlers.values())
    return [d for d in declared if d.type != EVERY and d.stream not in consumer.foreign]


def modules_of(package: str) -> Iterator[ModuleType]:
    """A package, and all modules in it: imported."""
    found, _ = imported(package)
    yield found
    for one in pkgutil.walk_packages(getattr(found, "__path__", ()), f"{package}."):
        yield imported(one.name)[0]


def _here() -> Iterator[ModuleType]:
    """Loaded modules of the working folder."""
    here = Path.cwd()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and name.partition(".")[0] != "oncebox":  # whose demo has events
            path = Path(file)
            if path.is_relative_to(here) and "site-packages" not in path.parts:
                yield module


def _in_modules(modules: Iterable[ModuleType]) -> Iterator[type]:
    for module in modules:
        for value in list(vars(module).values()):
            if isinstance(value, type) and isinstance(value.__dict__.get("__oncebox__"), EventType):
                yield value


def outcome(classes: Classes, type: str, version: int, document: Any) -> str | None:
    """What the class of a version makes of a document; None where there is no such class."""
    cls = classes.get((type, version))
    if cls is None:
        return None
    try:
        return f"read as {decode(cls, json.encode(document))!r}"
    except DecodeFailed as error:
        return f"refused: {error}"
