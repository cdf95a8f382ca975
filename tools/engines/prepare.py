"""Prepare the engines that the suite runs on; called by `make engines`.

- PostgreSQL of the system's packages, with its client programs; and PgBouncer;
- PostgreSQL 14 to 18 and Kafka 4, as Java artifacts (versions in pom.xml beside this file),
  under `.engines` in the project;
- a Java runtime for Kafka, and Maven to fetch the artifacts;
- Kafka Connect with Debezium, as Java artifacts too (versions in connect.xml);
- Redis of the system's packages, as a broker for the Celery example.

What is there already is left alone, so a second run does nothing. Packages are installed with
apt-get on Debian and Ubuntu; elsewhere the missing ones are named. Standard library only.
"""

import functools
import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
sys.path.insert(0, str(PROJECT / "tests"))
from engines import lookup  # noqa: E402  (the suite looks where this file puts)

POM = HERE / "pom.xml"
CONNECT_POM = HERE / "connect.xml"
MAVEN_CACHE = lookup.ENGINES / "maven"
STAMP = lookup.ENGINES / "prepared"
CONNECT_STAMP = lookup.ENGINES / "prepared-connect"
# Oldest first: any is new enough for Kafka, and distributions carry different ones.
JAVA_PACKAGES = tuple(f"openjdk-{version}-jre-headless" for version in (17, 21, 25))
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64v8", "arm64": "arm64v8"}
# Debian makes and starts a cluster with the package; the suite makes its own, so it need not.
NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/oncebox.conf")
NO_SERVICES = Path("/usr/sbin/policy-rc.d")


class CannotPrepare(Exception):
    """A step that needs the reader's hand; the text says what to do."""


def main() -> int:
    """Prepare everything, saying one line per step."""
    try:
        ensure("PostgreSQL", lookup.postgres_programs, install_postgres)
        ensure("PgBouncer", lookup.pgbouncer, lambda: install_stopped("pgbouncer"))
        ensure("Java", lookup.java, install_java)
        ensure("Redis", lookup.redis, lambda: install_stopped("redis-server"))
        if prepared():
            say(f"Kafka and PostgreSQL {versions()}: present in {shown(lookup.ENGINES)}")
        else:
            ensure("Maven", maven, lambda: install("maven"))
            STAMP.unlink(missing_ok=True)
            fetch_kafka()
            fetch_postgres()
            STAMP.write_text(fingerprint(POM))
        if connect_prepared():
            say(f"Kafka Connect: present in {shown(lookup.ENGINES / 'connect')}")
        else:
            ensure("Maven", maven, lambda: install("maven"))
            CONNECT_STAMP.unlink(missing_ok=True)
            fetch_connect()
            CONNECT_STAMP.write_text(fingerprint(CONNECT_POM))
    except CannotPrepare as problem:
        print(f"engines: {problem}", file=sys.stderr)
        return 1
    return 0


def say(line: str) -> None:
    """Print one step."""
    print(f"engines: {line}", flush=True)


def shown(path: Path) -> str:
    """Return the path as a reader in the project's folder would write it."""
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


def versions() -> str:
    """Return the PostgreSQL versions in words."""
    return f"{lookup.POSTGRES_VERSIONS[0]} to {lookup.POSTGRES_VERSIONS[-1]}"


def ensure(what: str, find: Callable[[], Path], install_it: Callable[[], None]) -> None:
    """Look for a program of the system, install its package if it is absent, look again."""
    try:
        say(f"{what}: present, {find()}")
    except lookup.EngineMissing:
        say(f"{what}: absent, installing")
        install_it()
        try:
            say(f"{what}: installed, {find()}")
        except lookup.EngineMissing as missing:
            raise CannotPrepare(f"{what} is still absent after its installation") from missing


def maven() -> Path:
    """Return `mvn`."""
    program = shutil.which("mvn")
    if program is None:
        raise lookup.EngineMissing("Maven", "PATH")
    return Path(program)


def install_postgres() -> None:
    """Install PostgreSQL without the cluster that its package would make and start."""
    install("postgresql-common")
    root("mkdir", "-p", str(NO_CLUSTER.parent))
    root("sh", "-c", f"echo 'create_main_cluster = false' > {NO_CLUSTER}")
    try:
        install("postgresql")
    finally:
        root("rm", "-f", str(NO_CLUSTER))


def install_stopped(package: str) -> None:
    """Install a package without the service that it would start: the suite starts its own.

    policy-rc.d is how Debian's packages ask whether they may.
    """
    if NO_SERVICES.exists():
        install(package)
        return
    root("sh", "-c", f"printf '#!/bin/sh\\nexit 101\\n' > {NO_SERVICES}; chmod +x {NO_SERVICES}")
    try:
        install(package)
    finally:
        root("rm", "-f", str(NO_SERVICES))


def install_java() -> None:
    """Install the first Java runtime that this distribution carries."""
    refresh_packages()
    for package in JAVA_PACKAGES:
        policy = subprocess.run(
            ["apt-cache", "policy", package], capture_output=True, text=True, check=False
        )
        if "Candidate:" in policy.stdout and "Candidate: (none)" not in policy.stdout:
            install(package)
            return
    raise CannotPrepare(f"none of these packages is known here: {' '.join(JAVA_PACKAGES)}")


def install(*packages: str) -> None:
    """Install packages with apt-get."""
    refresh_packages()
    root(
        *("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q"),
        "--no-install-recommends",
        *packages,
    )


@functools.cache
def refresh_packages() -> None:
    """Fetch apt's lists, once in a run."""
    if shutil.which("apt-get") is None:
        raise CannotPrepare(
            "no apt-get here; install PostgreSQL, PgBouncer, Java 17 or newer and Maven by hand"
            " (macOS: brew install postgresql pgbouncer openjdk maven), then run: make engines"
        )
    if os.geteuid() != 0 and not may_sudo():
        raise CannotPrepare(
            "needs root for apt-get; run: sudo apt-get install -y postgresql pgbouncer"
            " default-jre-headless maven; then: make engines"
        )
    root("apt-get", "update", "-q")


def root(*command: str) -> None:
    """Run a command as root; `refresh_packages` has found that this can be done."""
    run(command if os.geteuid() == 0 else ("sudo", "-n", *command))


def may_sudo() -> bool:
    """Whether sudo is here and asks for no password."""
    try:
        subprocess.run(["sudo", "-n", "true"], capture_output=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def run(command: tuple[str, ...]) -> None:
    """Run a command; what it prints is shown only if it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise CannotPrepare(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")


def fetch_kafka() -> None:
    """Copy Kafka's jars and all that they depend on into `.engines/kafka`."""
    say(f"Kafka: fetching into {shown(lookup.ENGINES / 'kafka')}")
    shutil.rmtree(lookup.ENGINES / "kafka", ignore_errors=True)
    run_maven("copy-dependencies@kafka")


def fetch_connect() -> None:
    """Copy Kafka Connect's and Debezium's jars, and all that they depend on, into a folder."""
    say(f"Kafka Connect: fetching into {shown(lookup.ENGINES / 'connect')}")
    shutil.rmtree(lookup.ENGINES / "connect", ignore_errors=True)
    run_maven("copy-dependencies@connect", CONNECT_POM)


def fetch_postgres() -> None:
    """Unpack each PostgreSQL version into `.engines/postgres/VERSION`."""
    if sys.platform != "linux":
        say(f"PostgreSQL {versions()}: only for Linux; tests of these versions will fail here")
        return
    folder = lookup.ENGINES / "postgres"
    say(f"PostgreSQL {versions()}: fetching into {shown(folder)}")
    shutil.rmtree(folder, ignore_errors=True)
    run_maven("copy@postgres")
    for version in lookup.POSTGRES_VERSIONS:
        jar = folder / f"{version}.jar"
        unpack(jar, folder / str(version))
        jar.unlink()


def run_maven(goal: str, pom: Path = POM) -> None:
    """Run one execution of a pom, with a local repository inside `.engines`."""
    run(
        (
            *("mvn", "-B", "-q", "-f", str(pom)),
            "--strict-checksums",
            f"-Dmaven.repo.local={MAVEN_CACHE}",
            f"-Dengines={lookup.ENGINES}",
            f"-Dplatform={artifact_platform()}",
            f"dependency:{goal}",
        )
    )


def artifact_platform() -> str:
    """Return the machine as PostgreSQL's artifacts name it."""
    machine = platform.machine().lower()
    if machine not in MACHINES:
        raise CannotPrepare(f"no PostgreSQL artifacts for a machine of type {machine}")
    return f"linux-{MACHINES[machine]}"


def unpack(jar: Path, folder: Path) -> None:
    """Unpack the archive inside the jar: `bin`, `lib` and `share` of one PostgreSQL version."""
    with zipfile.ZipFile(jar) as outer:
        (name,) = (name for name in outer.namelist() if name.endswith(".txz"))
        archive = io.BytesIO(outer.read(name))
    with tarfile.open(fileobj=archive, mode="r:xz") as inner:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and newer
            inner.extractall(folder, filter="data")
        else:
            inner.extractall(folder)


def prepared() -> bool:
    """Whether the last run fetched what pom.xml names now, and it is still there."""
    try:
        lookup.kafka_jars()
        if sys.platform == "linux":
            for version in lookup.POSTGRES_VERSIONS:
                lookup.postgres_programs(version)
        return STAMP.read_text() == fingerprint(POM)
    except (lookup.EngineMissing, OSError):
        return False


def connect_prepared() -> bool:
    """The same for connect.xml."""
    try:
        lookup.connect_jars()
        return CONNECT_STAMP.read_text() == fingerprint(CONNECT_POM)
    except (lookup.EngineMissing, OSError):
        return False


def fingerprint(pom: Path) -> str:
    """Return a name for what a pom would fetch on this machine."""
    return f"{platform.machine()} {hashlib.sha256(pom.read_bytes()).hexdigest()}\n"


if __name__ == "__main__":
    sys.exit(main())
