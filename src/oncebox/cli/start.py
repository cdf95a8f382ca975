"""Commands to begin with: demo, init, version, config."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from ..consumer.reading import Settings
from ..errors import ConfigurationError
from ..service.config import (
    SERVICE_FIELDS,
    SOURCES,
    Value,
    configure,
    find_services,
    setting_names,
    shown,
)
from .options import said
from .output import ASKED, listing, say, tell

PACKAGES = (
    "msgspec", "cyclopts", "rich", "psycopg", "asyncpg", "aiosqlite", "confluent-kafka",
    "SQLAlchemy", "Django",
)  # fmt: skip

STARTER = Path(__file__).with_name("starter")


Events = Annotated[int, said("How many events.")]
Keys = Annotated[int, said("How many orders they belong to.")]
Seed = Annotated[int, said("Another number, other faults.")]
Folder = Annotated[Path, said("Where; it is made if it is not there.")]


def demo(*, events: Events = 20_000, keys: Keys = 2_000, seed: Seed = 1) -> int:
    """The mistakes of event-driven systems and their cures, side by side.

    A small shop with several processes on this machine; the same work under the
    same faults, once with handlers as most teams write them, once with oncebox.
    Needs no server, takes a minute. On servers, which only flags name, it works in
    databases and topics of its own, oncebox_demo_…, and removes them at its end;
    what a demo left that was killed, the next one removes after a day.

    For example:

        oncebox demo
        oncebox demo --store postgresql://localhost/demo --log kafka://localhost
    """
    from ..demo import main

    given = SOURCES.get().given  # what is configured for the application is not for a demo
    servers = {n: given[n].value for n in ("store", "log")
               if n in given and given[n].origin.startswith("--")}  # fmt: skip
    return main(**servers, events=events, keys=keys, seed=seed, json=ASKED.json)


def init(folder: Folder = Path(), /) -> None:
    """Make a small service to begin with: a configuration, and two services.

    Files that exist are never changed.

    For example:

        oncebox init shop && cd shop
        oncebox run --migrate
    """
    made = {folder / file.name: file for file in sorted(STARTER.iterdir()) if file.is_file()}
    present = [path.name for path in made if path.exists()]
    if present:
        raise ConfigurationError(
            f"{', '.join(present)} exists in {folder}", hint="choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, file in made.items():
        path.write_bytes(file.read_bytes())
        tell({"made": str(path)}, f"made {path}")
    say("next: oncebox run --migrate; then, beside it: python services.py o-1 1250")


def version() -> None:
    """Versions of oncebox, Python, SQLite, and the libraries that are installed.

    For example:

        oncebox version --json
    """
    import sqlite3

    found = {
        "oncebox": _version("oncebox"),
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        **{name.lower(): _version(name) for name in PACKAGES},
    }
    found = {name: known for name, known in found.items() if known is not None}
    tell(found, "\n".join(f"{name} {known}" for name, known in found.items()))


def _version(package: str) -> str | None:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return None


# ---- config

UNSET = Value(None, "default")

config_app = App(name="config", help="Settings in force, and where each came from.")


@config_app.command
def show(*, settings: Annotated[Settings | None, Parameter(show=False)] = None) -> None:
    """Each setting in force, and where it came from. Passwords are not shown.

    For example:

        oncebox config show
        oncebox config show --app myapp.services --json
    """
    sources, known = SOURCES.get(), settings or Settings()
    rows = {field: sources.value(field, None, None) for field in ("store", "log")}
    rows["schema"] = sources.value("schema", None, None, "oncebox")
    for field in ("app", "state", "config", "http", "log_format"):
        rows[field] = sources.given.get(field, UNSET)
    for field in setting_names():
        origin = sources.given.get(f"settings.{field}", UNSET).origin
        rows[f"settings.{field}"] = Value(getattr(known, field), origin)
    found = find_services(sources.modules())
    for name, service in found.items():
        own = sorted(configure(service, sources).items())
        rows |= {f"services.{name}.{field}": value for field, value in own}
    for name in set(sources.services()) - found.keys():
        own = [(field, sources.value(field, name, None)) for field in SERVICE_FIELDS]
        rows |= {f"services.{name}.{field}": value for field, value in own}
    listing([{"name": n, "value": shown(v.value), "origin": v.origin} for n, v in rows.items()])
