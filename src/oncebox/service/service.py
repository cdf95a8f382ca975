"""A service: it emits events and handles events. The face of oncebox.

Declarations only: importing this loads no engine. `running.py` puts the parts together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Generic, TypeVar

from ..codecs.events import EventReader
from ..codecs.payload import codec_of, decode
from ..consumer.others import Foreign
from ..consumer.reading import Handler, Settings
from ..emit import Emitter
from ..errors import ConfigurationError
from ..event import check_name, event_type, source_name
from ..lens.copies import Copies
from ..lens.reading import Translator
from ..statements import check_schema
from ..transaction import StoreOf, Tx

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from .work import Running

E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")
Function = Callable[Concatenate[T, E, ...], R]
"""A handler: `(tx, event)` or `(tx, event, context)`, plain or a coroutine function."""
ListFunction = Callable[Concatenate[T, list[E], ...], R]
"""A batch handler: `(tx, events)` or `(tx, events, contexts)`, plain or a coroutine function."""
F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Consumer(Generic[Tx]):
    """A named consumer of a service: rows, positions and parked keys of its own."""

    name: str
    settings: Settings = field(default_factory=Settings)
    handlers: dict[str, Handler] = field(default_factory=dict)
    foreign: dict[str, Foreign[Any]] = field(default_factory=dict)
    """How it reads the topics that others write."""

    def on(self, cls: type[E] | Foreign[E]) -> Callable[[Function[Tx, E, R]], Function[Tx, E, R]]:
        """Register a function for an event class, or for a topic that others write (`foreign`); the
        function is returned unchanged.

        It is called as `(tx, event)`, or `(tx, event, context)` if it takes three, inside one
        transaction of the consumer's store, which it neither commits nor rolls back. On PostgreSQL,
        `SET CONSTRAINTS` names the handler's own constraints: `ALL IMMEDIATE` would meet oncebox's,
        which fails for as long as the batch is open. Raises ConfigurationError for a second handler
        of the same type, for one that takes something else, and where plain functions and
        coroutines are mixed.
        """
        return self._register(cls, listed=False)

    def on_batch(
        self, cls: type[E] | Foreign[E]
    ) -> Callable[[ListFunction[Tx, E, R]], ListFunction[Tx, E, R]]:
        """Register a function for lists of events, as projections by set-based SQL take them.

        It is called as `(tx, events)`, or `(tx, events, contexts)` if it takes three: a list of at
        most `Settings.list_max` events in order, which may have several of a key, and a context
        for each of them (without `once`). If it raises, nothing of the list is done, and it runs
        again with fewer events, until the one that fails is alone. All else is as for `on`.
        """
        return self._register(cls, listed=True)

    def _register(self, cls: type[Any] | Foreign[Any], *, listed: bool) -> Callable[[F], F]:
        declared = cls.type if isinstance(cls, Foreign) else event_type(cls)

        def register(function: F) -> F:
            self._check_topic(cls, declared.stream)
            known = self.handlers.get(declared.type)
            if known is not None and (known.function is not function or known.listed != listed):
                raise ConfigurationError(
                    f"{self.name} has a handler for {declared.type} already: {known.name}",
                    hint='give the second one a consumer of its own: service.consumer("mail")',
                )
            with_context = _positional_count(function) >= 3
            _check_takes(function, 3 if with_context else 2)
            if isinstance(cls, Foreign):
                handler = Handler(
                    function, declared, cls.read, with_context, listed, read=cls.framed
                )
            else:
                codec_of(cls)  # a class that cannot be decoded is found now
                read, translate = partial(decode, cls), Translator(declared)
                handler = Handler(
                    function, declared, read, with_context, listed, translate,
                    read=EventReader(declared),
                )  # fmt: skip
            for other in self.handlers.values():
                if _is_coroutine(other.function) != _is_coroutine(function):
                    raise ConfigurationError(
                        f"{self.name} mixes plain functions and coroutines: "
                        f"{other.name}, {handler.name}",
                        hint="one consumer's handlers are all plain or all coroutines",
                    )
            self.handlers[declared.type] = handler
            if isinstance(cls, Foreign):
                self.foreign[cls.topic] = cls
            return function

        return register

    def _check_topic(self, cls: object, topic: str) -> None:
        """A topic is one that others write, read in one way, or it is one of ours."""
        known = self.foreign.get(topic)
        if (
            known != cls
            if known is not None
            else isinstance(cls, Foreign) and topic in self.streams
        ):
            raise ConfigurationError(
                f"{self.name} reads topic {topic} in another way already",
                hint='give the second handler a consumer of its own: service.consumer("mail")',
            )

    @property
    def asynchronous(self) -> bool:
        """Whether its handlers are coroutine functions."""
        return any(_is_coroutine(handler.function) for handler in self.handlers.values())

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that its handlers' types travel on."""
        return tuple(sorted({handler.type.stream for handler in self.handlers.values()}))


class Service(Emitter, Generic[Tx]):
    """A service by its name. Emitting needs nothing else; handling needs a store and a log.

    `store`: a URL (`sqlite:///billing.db`, `postgresql://…`) or what the application has already:
    a SQLAlchemy engine or sessionmaker, a pool, `django://alias`; what it opens is what handlers
    receive. `log`: a URL (`sqlite:///events.db`, `kafka://host:9092`). `instance` tells shards or
    tenants of one service apart. `schema`: the name of oncebox's tables. `sources`: stores of
    other services that this one may read, by source, to fill gaps at once.
    """

    def __init__(
        self,
        name: str,
        *,
        store: StoreOf[Tx] | str | None = None,
        log: str | None = None,
        instance: str | None = None,
        schema: str = "oncebox",
        sources: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.name = check_name("service", name)
        self.instance = None if instance is None else check_name("instance", instance)
        self.schema = check_schema(schema)
        self.store: Any = store
        self.log = log
        self.sources = dict(sources or {})
        self.consumers: dict[str, Consumer[Tx]] = {}
        self.copies: dict[str, Copies] = {}
        self.settings = settings or Settings()

    def on(self, cls: type[E] | Foreign[E]) -> Callable[[Function[Tx, E, R]], Function[Tx, E, R]]:
        """Register a handler of the service's own consumer; see `Consumer.on`."""
        return self.consumer().on(cls)

    def on_batch(
        self, cls: type[E] | Foreign[E]
    ) -> Callable[[ListFunction[Tx, E, R]], ListFunction[Tx, E, R]]:
        """Register a batch handler of the service's own consumer; see `Consumer.on_batch`."""
        return self.consumer().on_batch(cls)

    def consumer(
        self,
        name: str | None = None,
        *,
        concurrency: int | None = None,
        settings: Settings | None = None,
    ) -> Consumer[Tx]:
        """A consumer of this service: the default one, or another with its own rows.

        `concurrency`: handlers of so many events, of different keys, run at the same time: for
        handlers that wait. Each event has its own transaction, on PostgreSQL.
        """
        full = self.name if name is None else f"{self.name}.{check_name('consumer', name)}"
        found = self.consumers.get(full)
        if found is None:
            found = self.consumers[full] = Consumer(full, settings or self.settings)
        elif settings is not None:
            found.settings = settings
        if concurrency is not None:
            found.settings = replace(found.settings, concurrency=concurrency)
        return found

    def legacy(
        self, topic: str, *, of: str, versions: Mapping[str, int], residue: bool = True
    ) -> None:
        """Have the relay publish a stream once more, to a topic of its own, with events of some
        types in an older version: `shop.legacy("orders.v1", of="orders", versions={"order.placed":
        1})`. So a consumer in another language need not move.

        A copy has the id and chain of its event. Events of other types go there as they are. An
        event that has no such version, by `evolve` or `oncebox.lock`, holds its key until it has.
        Without `residue`, what the older version cannot say is not sent along in the header
        `residue`. Raises ConfigurationError.
        """
        self.copies[topic] = Copies(check_name("stream", of), topic, dict(versions), residue)

    def source(self, stream: str) -> str:
        """The CloudEvents source of this service's events on a stream."""
        return source_name(self.name, self.instance, stream)

    def running(self, *, state: Any = None) -> AbstractAsyncContextManager[Running]:
        """Relay and consume for as long as the block lasts: for a web application's lifespan."""
        from .running import running

        return running([self], state=state)


def _positional_count(function: Callable[..., Any]) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(1 for p in parameters if p.kind in kinds and p.default is p.empty)


def _check_takes(function: Callable[..., Any], count: int) -> None:
    """Raises ConfigurationError for a function that cannot be called as handlers are: each of its
    events would fail.
    """
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError as error:
        raise ConfigurationError(
            f"{getattr(function, '__qualname__', function)} cannot be a handler: {error}",
            expected="a function of (tx, event), or of (tx, event, context)",
        ) from error


def _is_coroutine(function: Callable[..., Any]) -> bool:
    """Whether it is a coroutine function, or an object that is called like one."""
    function = inspect.unwrap(function)
    is_coroutine = inspect.iscoroutinefunction
    return is_coroutine(function) or is_coroutine(type(function).__call__)
