"""Where the engines are: programs from the system's packages, the rest under `.engines`.

Standard library only: `tools/engines/prepare.py` uses it before anything is installed.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "ONCEBOX_ENGINES"  # another folder for them, so that several checkouts share one
ENGINES = Path(os.environ.get(VARIABLE) or Path(__file__).resolve().parents[2] / ".engines")
POSTGRES_VERSIONS = (14, 15, 16, 17, 18)
JAVA_AT_LEAST = 17  # Kafka 4 runs on nothing older
HINT = "run: make engines"


class EngineMissing(Exception):
    """An engine is not on this machine; the text ends with the command that brings it."""

    def __init__(self, what: str, looked_in: str) -> None:
        self.what = what
        self.looked_in = looked_in
        super().__init__(f"{what} not found in {looked_in}; {HINT}")


def postgres_programs(version: int | None = None, engines: Path = ENGINES) -> Path:
    """Return the folder of `initdb` and `postgres`.

    Without a version: the newest of the system's packages, which has the client programs
    (`pg_dump`, `psql`) too. With one: the build of that major version under `engines`.
    """
    if version is not None:
        folder = engines / "postgres" / str(version) / "bin"
        if not (folder / "postgres").exists():
            raise EngineMissing(f"PostgreSQL {version}", str(folder))
        return folder
    found = max(_packaged_postgres(), key=_major, default=None)
    if found is None:
        raise EngineMissing("PostgreSQL", "the system's packages")
    return found


def _packaged_postgres() -> Iterator[Path]:
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *_homebrew_postgres()]
    on_path = shutil.which("postgres")
    if on_path:
        places.append(Path(on_path).resolve().parent)
    return (place for place in places if (place / "postgres").exists())


def _homebrew_postgres() -> Iterator[Path]:
    for prefix in ("/opt/homebrew", "/usr/local"):
        yield from Path(prefix, "opt").glob("postgresql@*/bin")


def _major(programs: Path) -> int:
    answer = subprocess.run(
        [programs / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    version = re.search(r"\) (\d+)", answer.stdout)
    return int(version[1]) if version else 0


def kafka_jars(engines: Path = ENGINES) -> Path:
    """Return the folder with Kafka's jars, all of which belong on the class path."""
    folder = engines / "kafka"
    if not any(folder.glob("kafka_*.jar")):
        raise EngineMissing("Kafka", str(folder))
    return folder


def connect_jars(engines: Path = ENGINES) -> Path:
    """Return the folder with the jars of Kafka Connect and Debezium."""
    folder = engines / "connect"
    if not any(folder.glob("debezium-connector-postgres-*.jar")):
        raise EngineMissing("Kafka Connect with Debezium", str(folder))
    return folder


def pgbouncer() -> Path:
    """Return `pgbouncer`, which Debian installs where only root's PATH looks."""
    places = os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin"
    found = shutil.which("pgbouncer", path=places)
    if found is None:
        raise EngineMissing("PgBouncer", "PATH and /usr/sbin")
    return Path(found)


def redis() -> Path:
    """Return `redis-server`, of the system's packages."""
    program = shutil.which("redis-server")
    if program is None:
        raise EngineMissing("Redis", "PATH")
    return Path(program)


def java() -> Path:
    """Return a `java` that is new enough: from JAVA_HOME, PATH or the system's packages."""
    for place in _java_places():
        if java_version(place) >= JAVA_AT_LEAST:
            return place
    raise EngineMissing(f"Java {JAVA_AT_LEAST} or newer", "JAVA_HOME, PATH and /usr/lib/jvm")


def _java_places() -> Iterator[Path]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield Path(home, "bin", "java")
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path)
    yield from sorted(Path("/usr/lib/jvm").glob("*/bin/java"))


def java_version(program: Path) -> int:
    """Return the major version of a `java`, or 0 if it does not run (macOS has a stub)."""
    try:
        answer = subprocess.run(
            [program, "-version"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    version = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    return int(version[1]) if version else 0
