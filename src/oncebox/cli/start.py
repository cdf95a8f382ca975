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
from .options import SOURCES
from .output import ASKED, say, table, tell

PACKAGES = (
    "msgspec", "cyclopts", "rich", "psycopg", "asyncpg", "aiosqlite", "confluent-kafka",
    "SQLAlchemy", "Django",
)  # fmt: skip

STARTER = Path(__file__).with_name("starter")


def demo(*, events: int = 20_000, keys: int = 2_000, seed: int = 1) -> int:
    """The mistakes of event-driven systems and their cures, side by side.

    A small shop with several processes on this machine; the same work under the
    same faults, once with handlers as most teams write them, once with oncebox.
    Needs no server, takes a minute. On servers, which only flags name, it works in
    databases and topics of its own, oncebox_demo_…, and removes them at its end.

    For example:

        oncebox demo
        oncebox demo --store postgresql://localhost/demo --log kafka://localhost

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

    given = SOURCES.get().given  # what is configured for the application is not for a demo
    servers = {n: given[n].value for n in ("store", "log")
               if n in given and given[n].origin.startswith("--")}  # fmt: skip
    return main(**servers, events=events, keys=keys, seed=seed, json=ASKED.json)


def init(folder: Path = Path(), /) -> int:
    """Make a small service to begin with: a configuration, and two services.

    Files that exist are never changed.

    For example:

        oncebox init shop && cd shop
        oncebox run --migrate

    Parameters
    ----------
    folder:
        Where; it is made if it is not there.
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
    return 0


def version() -> int:
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
    return 0


def _version(package: str) -> str | None:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return None


# ---- config

config_app = App(name="config", help="Settings in force, and where each came from.")


@config_app.command
def show(*, settings: Annotated[Settings | None, Parameter(show=False)] = None) -> int:
    """Each setting in force, and where it came from. Passwords are not shown.

    For example:

        oncebox config show
        oncebox config show --app myapp.services --json
    """
    sources, known = SOURCES.get(), settings or Settings()
    rows: list[tuple[str, Value]] = []
    for field in SERVICE_FIELDS:
        default = "oncebox" if field == "schema" else None
        rows.append((field, sources.value(field, None, None, default)))
    for field in ("app", "state", "config"):
        rows.append((field, sources.given.get(field, Value(None, "default"))))
    for setting in dataclasses.fields(Settings):
        name = f"settings.{setting.name}"
        origin = sources.given.get(name, Value(None, "default")).origin
        rows.append((name, Value(getattr(known, setting.name), origin)))
    rows += _service_rows()
    for name, value in rows:
        tell({"name": name, "value": shown(value.value), "origin": value.origin})
    table(("setting", "value", "from"), [(n, shown(v.value), v.origin) for n, v in rows])
    return 0


def _service_rows() -> list[tuple[str, Value]]:
    """What counts for each service that the code or the file knows."""
    sources = SOURCES.get()
    rows: list[tuple[str, Value]] = []
    found: dict[str, Any] = find_services(sources.modules())
    for name, service in found.items():
        values = configure(service, sources)
        rows += [(f"services.{name}.{field}", value) for field, value in sorted(values.items())]
    for name in set(sources.services()) - found.keys():
        for field in SERVICE_FIELDS:
            rows.append((f"services.{name}.{field}", sources.value(field, name, None)))
    return rows
