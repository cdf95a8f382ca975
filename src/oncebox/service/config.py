"""Configuration: which value counts, and where it came from.

A flag counts before the environment (`ONCEBOX_STORE`; `ONCEBOX_STORE_FILE` names a file that
holds the value, for secrets), that before `oncebox.toml` or `[tool.oncebox]` in `pyproject.toml`,
that before what the code passed to `Service(…)`, and that before the default. An object passed in
code (an engine, a pool) counts before any URL. At each place, what is said for one service
(`[services.billing]`, `ONCEBOX_SERVICES_BILLING_STORE`) counts before what is said for all.

Only the command line reads any of this: the library itself takes objects and never looks at the
environment. The order of the sources is cyclopts' own; here are the sources.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigurationError, OnceboxError, redacted

if TYPE_CHECKING:
    from cyclopts import App, Argument, ArgumentCollection

    from .service import Service

PREFIX = "ONCEBOX_"
SECRET_BYTES_MAX = 64 * 1024
FILES = ("oncebox.toml", "pyproject.toml")

SERVICE_FIELDS = ("store", "log", "schema")
"""What can be said for all services and for one."""

COMMON_FIELDS = (
    *SERVICE_FIELDS,
    "app",
    "contracts",
    "state",
    "config",
    "http",
    "lock",
    "log_format",
    "registry",
)

SEVERAL = ("app", "contracts")
"""What may be a list; in the environment, its parts stand between commas."""


class Value(NamedTuple):
    """A value and where it came from, as `config show` says it."""

    value: Any
    origin: str


class Sources:
    """Where cyclopts asks for what the flags left open; remembers what each place gave.

    An instance serves one run of the command line, and is asked once for the options of every
    command, then for those of the command.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.table: Mapping[str, Any] = {}
        self.name = ""
        self.given: dict[str, Value] = {}

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Fill in what the flags left open, and note all of it. A flag that acts is never taken
        from the environment or a file.
        """
        del app, commands
        ours = {}
        for argument in arguments:
            name = argument.name.removeprefix("--").replace("-", "_")
            if name in COMMON_FIELDS or name.startswith("settings."):
                ours[name] = argument
        for name, argument in ours.items():
            if argument.tokens:
                values = [token.value for token in argument.tokens]
                self.given[name] = Value(values if len(values) > 1 else values[0], argument.name)
            else:
                found = variable(self.environment, name.replace(".", "_"))
                if found is not None and name in SEVERAL and "," in found.value:
                    found = found._replace(value=[part.strip() for part in found.value.split(",")])
                self._fill(name, argument, found)
        if "config" in ours:
            check_variables(self.environment)
            named = self.given.get("config")
            self.name, self.table = read_file(None if named is None else named.value)
        for name, argument in ours.items():
            if name not in self.given:
                self._fill(name, argument, self._in_file(name))

    def _in_file(self, name: str) -> Value | None:
        found: Any = self.table
        for part in name.split("."):
            found = found.get(part, {})
        return None if found == {} else Value(found, self.name)

    def _fill(self, name: str, argument: Argument, found: Value | None) -> None:
        from cyclopts import Token

        if found is None:
            return
        self.given[name] = found
        for value in found.value if isinstance(found.value, list) else [found.value]:
            text = value.isoformat() if hasattr(value, "isoformat") else str(value)
            argument.append(Token(keyword=name, value=text, source=found.origin))

    # ---- what counts for a service

    def value(self, field: str, service: str | None, passed: Any, default: Any = None) -> Value:
        """What counts of `store`, `log` or `schema`, for one service or for all.

        `passed` is what the code gave to `Service`, None if nothing.
        """
        if passed is not None and not isinstance(passed, str):
            return Value(passed, "code")
        given = self.given.get(field)
        own = None if service is None else self.own(service, field)
        in_order = ((given, "--"), (own, PREFIX), (given, PREFIX), (own, ""), (given, ""))
        for found, start in in_order:
            if found is not None and found.origin.startswith(start):
                return found
        return Value(default, "default") if passed is None else Value(passed, "code")

    def settings(self) -> dict[str, Value]:
        """The consumer settings that were given, by name."""
        start = "settings."
        return {n.removeprefix(start): v for n, v in self.given.items() if n.startswith(start)}

    def services(self) -> list[str]:
        """The services that the file has a table for."""
        return sorted(self.table.get("services", {}))

    def variables(self) -> dict[str, str]:
        """The variables that say something for one service, and how each spells its name."""
        found = ((name, _SERVICES.fullmatch(name)) for name in sorted(self.environment))
        return {name: match[1] for name, match in found if match is not None}

    def modules(self) -> list[str]:
        """The modules that hold the application's services."""
        named = self.given.get("app")
        found: Any = [] if named is None else named.value
        return [found] if isinstance(found, str) else list(found)

    def is_configured(self, service: str) -> bool:
        """Whether anything says where this service's tables are, or may say it."""
        return service in self.services() or self.own(service, "store") is not None

    def stores_of_sources(self, service: str) -> dict[str, Value]:
        """Stores of other services that this one may read, by source: `[services.X.sources]`."""
        table = self._table_of(service).get("sources", {})
        return {source: Value(url, self.name) for source, url in table.items()}

    def own(self, service: str, field: str) -> Value | None:
        """What is said for this service alone: by `ONCEBOX_SERVICES_BILLING_STORE`, or the file."""
        value = self._table_of(service).get(field)
        filed = None if value is None else Value(value, f"{self.name} [services.{service}]")
        return variable(self.environment, f"SERVICES_{in_variable(service)}_{field}") or filed

    def _table_of(self, service: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.table.get("services", {}).get(service, {})
        return found


SOURCES: ContextVar[Sources] = ContextVar("oncebox_sources")
"""What this process was told, by whoever runs it: the command line, or a console."""


# ---- the environment


def variable(environment: Mapping[str, str], name: str) -> Value | None:
    """`ONCEBOX_NAME`, or the contents of the file that `ONCEBOX_NAME_FILE` names.

    Raises ConfigurationError when both are set, or the file cannot be read.
    """
    key = PREFIX + name.upper()
    path = environment.get(key + "_FILE")
    if path is None:
        value = environment.get(key)
        return None if value is None else Value(value, key)
    if key in environment:
        raise ConfigurationError(f"{key} and {key}_FILE are both set", hint="unset one of them")
    try:
        with Path(path).open("rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
        text = content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{key}_FILE={path}: {error}") from error
    if len(content) > SECRET_BYTES_MAX or not text:
        what = "is empty" if not text else "is too long"
        raise ConfigurationError(f"{key}_FILE={path} {what}", expected="one value")
    return Value(text, key + "_FILE")


NEAR = 0.8
"""How alike a name has to be to one of ours, from 0 to 1, to be a slip of the pen."""

_SERVICES = re.compile(rf"{PREFIX}SERVICES_(.+)_(STORE|LOG|SCHEMA)(_FILE)?", re.DOTALL)


def in_variable(service: str) -> str:
    """A service's name as variables spell it: what they cannot have is an underscore."""
    return re.sub("[^A-Za-z0-9]", "_", service).upper()


def check_variables(environment: Mapping[str, str]) -> None:
    """Raises ConfigurationError for a variable that must be meant for us and that nobody reads.
    Others may begin with `ONCEBOX_` too: Kubernetes sets some for a service of that name.
    """
    known = {name.upper() + suffix for name in COMMON_FIELDS for suffix in ("", "_FILE")}
    known.add("REGISTRY_TOKEN")
    names = {name.removeprefix(PREFIX) for name in environment if name.startswith(PREFIX)}
    unknown = {name for name in names - known if not _SERVICES.fullmatch(PREFIX + name)}
    if not unknown:
        return
    from difflib import get_close_matches

    settings = [f"SETTINGS_{name.upper()}" for name in setting_names()]
    known.update(settings, [f"{name}_FILE" for name in settings])
    for name in sorted(unknown - known):
        near = get_close_matches(name, known, 1, NEAR)
        if near or name.startswith(("SETTINGS_", "SERVICES_")):
            raise ConfigurationError(
                f"{PREFIX}{name} is set, which is no setting",
                expected=f"{PREFIX}SETTINGS_… with one of {', '.join(setting_names())},"
                f" or {PREFIX}SERVICES_NAME_… with STORE, LOG or SCHEMA",
                hint=f"did you mean {PREFIX}{near[0]}?" if near else None,
            )


# ---- the file


def read_file(path: str | None) -> tuple[str, dict[str, Any]]:
    """The configuration file's name and table: the one that is named, else `oncebox.toml`, else
    `[tool.oncebox]` of `pyproject.toml`, in the working folder or the nearest one above it that
    has either. Raises ConfigurationError, with the place, for what cannot be read.
    """
    import tomllib

    folder = Path.cwd()
    above = (parent / name for parent in (folder, *folder.parents) for name in FILES)
    for found in above if path is None else (Path(path),):
        if path is None and not found.is_file():
            continue
        try:
            with found.open("rb") as file:
                table = tomllib.load(file)
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{found}: {error}") from error
        name = found.name
        if name == FILES[1]:
            table, name = table.get("tool", {}).get("oncebox"), f"{name} [tool.oncebox]"
        if table is not None:
            _check(name, table)
            return name, table
    return "", {}


_OF_A_SERVICE = re.compile(r"services\.[^.]+\.(store|log|schema|sources\..+)", re.DOTALL)
_TABLE = re.compile(r"settings|services(\.[^.]+(\.sources)?)?")


def _check(name: str, table: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for a name that nobody knows, and for a value of another kind."""
    settings = [f"settings.{setting}" for setting in setting_names()]
    known = [*COMMON_FIELDS, *settings]
    known.remove("config")
    for key, value in flat(table).items():
        several = key in SEVERAL and isinstance(value, list)
        texts = value if several else [value]
        converted = key in settings or (key == "http" and type(value) is int)  # by its command
        if _TABLE.fullmatch(key):
            expected = f"a table: [{key}]"
        elif key not in known and not _OF_A_SERVICE.fullmatch(key):
            from difflib import get_close_matches

            part, _, last = key.rpartition(".")
            beside = SERVICE_FIELDS if part.startswith("services.") else known
            close = get_close_matches(key if beside is known else last, beside, 1)
            expected = (
                f"one of {', '.join(known)}, or of [services.NAME]: store, log, schema, sources"
            )
            hint = f"did you mean {close[0]}?" if close else None
            raise ConfigurationError(
                f"{name}: unknown setting {key}",
                expected=None if close else expected,
                hint=hint,
            )
        elif converted or all(isinstance(text, str) and text for text in texts):
            continue
        else:
            expected = "text"
        raise ConfigurationError(f"{name}: {key} = {value!r}", expected=expected)


def setting_names() -> tuple[str, ...]:
    """The names of a consumer's settings."""
    from ..consumer.reading import Settings

    return tuple(field.name for field in dataclasses.fields(Settings))


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted names."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[prefix + key] = value
    return result


# ---- the code


def find_services(modules: Iterable[str]) -> dict[str, Service]:
    """The services in these modules by name. `module` gives every `Service` in it, `module:name`
    the one (or an iterable of them, or what a function without parameters returns).

    The working folder is put first on the import path, as `python -m` does. Raises
    ConfigurationError for what cannot be imported, holds no service, or two with one name.
    """
    found: dict[str, Service] = {}
    for name in modules:
        services = _services_in(name)
        if not services:
            raise ConfigurationError(
                f"{name} holds no service",
                expected='in it, something like: shop = Service("shop")',
            )
        for service in services:
            if found.setdefault(service.name, service) is not service:
                raise ConfigurationError(f"two services are called {service.name}")
    return found


def _services_in(name: str) -> list[Service]:
    from .service import Service

    holder, attribute = imported(name)
    if not attribute:
        unique = {id(v): v for v in vars(holder).values() if isinstance(v, Service)}
        return list(unique.values())
    value: Any = holder
    if callable(holder) and not isinstance(holder, type):
        with of_the_application(name):
            value = holder()
    several = list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(service, Service) for service in several):
        raise ConfigurationError(
            f"{name} is a {type(value).__name__}", expected="a Service, or several"
        )
    return several


def imported(name: str) -> tuple[Any, str]:
    """The module `module`, or the object `module:attribute`, and the attribute's name."""
    module, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    django = os.environ.get("DJANGO_SETTINGS_MODULE")
    if django is not None:  # models can be imported when it is set up only
        with of_the_application(f"DJANGO_SETTINGS_MODULE={django}"):
            from ..stores.adapt import load

            load("stores.django:set_up")()
    with of_the_application(name):
        try:
            holder: Any = import_module(module)
        except ModuleNotFoundError as error:
            if f"{module}.".startswith(f"{error.name}."):
                raise ConfigurationError(
                    f"no module {module}",
                    expected=f"one that can be imported from {folder}, such as myapp.services",
                    hint="its name is that of --app or --contracts, or stands in oncebox.toml "
                    "(here, or in the nearest folder above that has one)",
                ) from error
            raise
    for part in attribute.split(".") if attribute else ():
        try:
            holder = getattr(holder, part)
        except AttributeError as error:
            raise ConfigurationError(f"{module} has no {attribute}") from error
    return holder, attribute


@contextmanager
def of_the_application(name: str) -> Iterator[None]:
    """Run code of the application's: an error of it becomes a ConfigurationError with file and
    line, and one of ours that it met gets them.
    """
    try:
        yield
    except OnceboxError as error:
        error.position = error.position or _where(error)
        raise
    except Exception as error:
        what = error.msg if isinstance(error, SyntaxError) else error
        raise ConfigurationError(
            f"{name}: {type(error).__name__}: {redacted(str(what))}",
            position=_where(error),
            hint="add --verbose for the traceback",
        ) from error


def _where(error: Exception) -> str | None:
    """File and line of the last call of the application's own, or of an installed library's."""
    from sysconfig import get_path
    from traceback import extract_tb

    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    ours = ("<", str(Path(__file__).parents[1]))
    calls = [c for c in extract_tb(error.__traceback__) if not c.filename.startswith(ours)]
    installed = (get_path("stdlib"), get_path("purelib"), get_path("platlib"))
    own = [c for c in calls if not c.filename.startswith(installed)] or calls
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None


def configure(service: Service, sources: Sources) -> dict[str, Value]:
    """Set a service to what counts for it; the values with their origins."""
    own_schema = None if service.schema == "oncebox" else service.schema
    values = {
        "store": sources.value("store", service.name, service.store),
        "log": sources.value("log", service.name, service.log),
        "schema": sources.value("schema", service.name, own_schema, "oncebox"),
    }
    for field, found in values.items():
        setattr(service, field, found.value)
    for source, found in sources.stores_of_sources(service.name).items():
        passed = service.sources.get(source)
        if passed is None or isinstance(passed, str):
            service.sources[source] = found.value
            values[f"sources.{source}"] = found
    for source, passed in service.sources.items():
        values.setdefault(f"sources.{source}", Value(passed, "code"))
    return values


def with_settings(service: Service, sources: Sources, converted: Any) -> None:
    """Give the settings that were given to every consumer. `converted` holds them as `Settings`."""
    names = sources.settings()
    if not names:
        return
    given = {name: getattr(converted, name) for name in names}
    service.settings = dataclasses.replace(service.settings, **given)
    for consumer in service.consumers.values():
        consumer.settings = dataclasses.replace(consumer.settings, **given)


# ---- showing


def shown(value: Any) -> Any:
    """A value that may be printed: passwords replaced, objects by their kind."""
    if isinstance(value, str):
        return redacted(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [shown(part) for part in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    kind = type(value)
    return f"<{kind.__module__.partition('.')[0]} {kind.__name__}>"


def environment() -> Mapping[str, str]:
    """The process's environment: read here, and nowhere else in the package."""
    return os.environ
