"""Commands to begin with: demo, init, version, config."""

from __future__ import annotations

import dataclasses
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from ..config import SERVICE_FIELDS, Value, configure, find_services, shown
from ..errors import ConfigurationError
from ..reading import Settings
from .common import NO_OPTIONS, SOURCES, Options, log_to_stderr
from .output import line, say, table

PACKAGES = (
    "msgspec", "cyclopts", "rich", "psycopg", "asyncpg", "aiosqlite", "confluent-kafka",
    "SQLAlchemy", "Django",
)  # fmt: skip


def demo(
    *,
    events: int = 20_000,
    keys: int = 2_000,
    seed: int = 1,
    options: Options = NO_OPTIONS,
) -> int:
    """Four mistakes of event-driven systems, then the cures, side by side.

    A small shop with several processes on this machine; the same work under the same faults, once
    with handlers as most teams write them, once with oncebox. Needs no server, takes a minute.
    On servers, which only flags name, it works in databases and topics of its own, oncebox_demo_…,
    and removes them at its end.

    For example:

        oncebox demo
        oncebox demo --store postgresql://localhost/demo --log kafka://localhost:9092

    Parameters
    ----------
    events:
        How many events.
    keys:
        How many orders they belong to.
    seed:
        Another number, other faults.
    """
    from ..demo import main

    log_to_stderr(options)
    return main(**_by_flag("store", "log"), events=events, keys=keys, seed=seed, json=options.json)


def _by_flag(*names: str) -> dict[str, str]:
    """What was said by flags: what is configured for the application is not for a demo."""
    given = SOURCES.get().given
    return {n: given[n].value for n in names if n in given and given[n].origin.startswith("--")}


# ---- init

CONFIGURATION = """\
# What `oncebox` commands use here. Flags and environment variables (ONCEBOX_STORE, …) come first.
app = "services"

# In production, URLs of PostgreSQL and Kafka. Secrets: ONCEBOX_STORE_FILE names a file.
# store = "postgresql://…"
# log = "kafka://…"

# [services.billing]
# store = "postgresql://…"

# [settings]
# batch_max = 500
"""

SERVICES = '''\
"""A shop that emits events, and a billing that handles them."""

from dataclasses import dataclass
from typing import Any

from oncebox import Service, event


@event("order.placed", stream="orders", key="order_id", version=1)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    cents: int


shop = Service("shop", store="sqlite:///shop.db", log="sqlite:///events.db")
billing = Service("billing", store="sqlite:///billing.db", log="sqlite:///events.db")


@billing.on(OrderPlaced)
def owe(tx: Any, placed: OrderPlaced) -> None:
    tx.execute("CREATE TABLE IF NOT EXISTS owed (order_id TEXT, cents INTEGER)")
    tx.execute("INSERT INTO owed VALUES (?, ?)", (placed.order_id, placed.cents))
'''

ORDER = '''\
"""Place an order: python place_order.py o-1 1250"""

import sqlite3
import sys

from services import OrderPlaced, shop

connection = sqlite3.connect("shop.db")
connection.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, cents INTEGER)")
with connection:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO orders VALUES (?, ?)", (sys.argv[1], int(sys.argv[2])))
    shop.emit(connection, OrderPlaced(sys.argv[1], int(sys.argv[2])))
'''

STARTERS = {"oncebox.toml": CONFIGURATION, "services.py": SERVICES, "place_order.py": ORDER}


def init(folder: Path = Path(), *, options: Options = NO_OPTIONS) -> int:
    """Make a small service to begin with: a configuration, two services, a script.

    Files that exist are never changed.

    For example:

        oncebox init shop && cd shop
        oncebox run --migrate

    Parameters
    ----------
    folder:
        Where; it is made if it is not there.
    """
    present = [name for name in STARTERS if (folder / name).exists()]
    if present:
        raise ConfigurationError(
            f"{', '.join(present)} exists in {folder}", hint="choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in STARTERS.items():
        (folder / name).write_text(text)
        if options.json:
            line({"made": str(folder / name)})
        else:
            say(f"made {folder / name}")
    if not options.json:
        say("next: oncebox run --migrate; then, beside it: python place_order.py o-1 1250")
    return 0


# ---- version


def version(*, options: Options = NO_OPTIONS) -> int:
    """Versions of oncebox, Python, SQLite, and the libraries that are installed."""
    import sqlite3

    found = {"oncebox": _version("oncebox"), "python": sys.version.split()[0],
             "sqlite": sqlite3.sqlite_version}  # fmt: skip
    for name in PACKAGES:
        known = _version(name)
        if known is not None:
            found[name.lower()] = known
    if options.json:
        line(found)
    else:
        for name, known in found.items():
            say(f"{name} {known}")
    return 0


def _version(package: str) -> str | None:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return None


# ---- config

config_app = App(
    name="config", help="Settings in force, and where each came from.", version_flags=()
)


@config_app.command
def show(
    *,
    settings: Annotated[Settings | None, Parameter(show=False)] = None,
    options: Options = NO_OPTIONS,
) -> int:
    """Each setting in force, and where it came from. Passwords are not shown.

    For example:

        oncebox config show
        oncebox config show --app myapp.services --json
    """
    log_to_stderr(options)
    rows: list[tuple[str, Any, str]] = []
    sources = SOURCES.get()
    for field in SERVICE_FIELDS:
        default = "oncebox" if field == "schema" else None
        rows.append((field, *_pair(sources.value(field, None, None, default))))
    for field in ("app", "state", "config"):
        rows.append((field, *_pair(sources.given.get(field, Value(None, "default")))))
    rows += _setting_rows(settings or Settings())
    names = set(sources.services())
    for service in find_services(options.app or ()).values():
        names.discard(service.name)
        values = configure(service, sources)
        rows += [(f"services.{service.name}.{n}", *_pair(v)) for n, v in sorted(values.items())]
    for name in sorted(names):
        for field in SERVICE_FIELDS[:2]:
            rows.append((f"services.{name}.{field}", *_pair(sources.value(field, name, None))))
    if options.json:
        for name, value, origin in rows:
            line({"name": name, "value": value, "origin": origin})
    else:
        table(("setting", "value", "from"), rows)
    return 0


def _setting_rows(settings: Settings) -> list[tuple[str, Any, str]]:
    given = SOURCES.get().settings()
    rows = []
    for field in dataclasses.fields(Settings):
        origin = given[field.name].origin if field.name in given else "default"
        rows.append((f"settings.{field.name}", shown(getattr(settings, field.name)), origin))
    return rows


def _pair(value: Value) -> tuple[Any, str]:
    return shown(value.value), value.origin
