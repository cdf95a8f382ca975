"""Events that take effect once, in order, from any version.

Names are imported when they are used: `import oncebox` loads no engine, no event loop, and
nothing of the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .event import event  # now: once the module of that name is loaded, it would take the place

if TYPE_CHECKING:
    from . import errors
    from .consumer.others import Foreign, foreign
    from .consumer.reading import Settings
    from .context import Context
    from .emit import Emitted
    from .envelope import Reference
    from .errors import (
        BadEvent,
        ConfigurationError,
        MissingTables,
        NoTransaction,
        OnceboxError,
        UnknownId,
        Unreachable,
    )
    from .inbox import claim
    from .lens.chain import evolve
    from .lens.steps import (
        add,
        convert,
        each,
        hoist,
        member,
        merge,
        nest,
        remove,
        rename,
        retype,
        split,
        unwrap,
        values,
        wrap,
    )
    from .order import Chain
    from .ports import Record
    from .service.service import Consumer, Service

    __version__: str

__all__ = [
    "BadEvent",
    "Chain",
    "ConfigurationError",
    "Consumer",
    "Context",
    "Emitted",
    "Foreign",
    "MissingTables",
    "NoTransaction",
    "OnceboxError",
    "Record",
    "Reference",
    "Service",
    "Settings",
    "UnknownId",
    "Unreachable",
    "add",
    "claim",
    "convert",
    "each",
    "errors",
    "event",
    "evolve",
    "foreign",
    "hoist",
    "member",
    "merge",
    "nest",
    "remove",
    "rename",
    "retype",
    "split",
    "unwrap",
    "values",
    "wrap",
]

_HOME = {
    "BadEvent": "errors",
    "Chain": "order",
    "ConfigurationError": "errors",
    "Consumer": "service.service",
    "Context": "context",
    "Emitted": "emit",
    "Foreign": "consumer.others",
    "MissingTables": "errors",
    "NoTransaction": "errors",
    "OnceboxError": "errors",
    "Record": "ports",
    "Reference": "envelope",
    "Service": "service.service",
    "Settings": "consumer.reading",
    "UnknownId": "errors",
    "Unreachable": "errors",
    "add": "lens.steps",
    "claim": "inbox",
    "convert": "lens.steps",
    "each": "lens.steps",
    "evolve": "lens.chain",
    "foreign": "consumer.others",
    "hoist": "lens.steps",
    "member": "lens.steps",
    "merge": "lens.steps",
    "nest": "lens.steps",
    "remove": "lens.steps",
    "rename": "lens.steps",
    "retype": "lens.steps",
    "split": "lens.steps",
    "unwrap": "lens.steps",
    "values": "lens.steps",
    "wrap": "lens.steps",
}
"""The module that each name comes from."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("oncebox")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
