"""The house: imports point one way, the core does no I/O, files and words stay within bounds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oncebox.statements import statements

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "oncebox"

LAYERS = (
    ("errors",),
    ("event", "order", "ports", "program", "transaction", "session", "statements", "turns"),
    (
        "envelope",
        "codecs",
        "schema",
        "lens",
        "lease",
        "context",
        "telemetry",
    ),
    ("outbox", "stores", "logs", "sql", "tables"),
    (
        "emit",
        "inbox",
        "relay",
        "consumer",
        "explorer",
    ),
    ("operate",),
    ("audit", "registry"),
    ("service",),
    ("testing", "health", "metrics"),
    ("endpoints",),
    ("cli", "demo"),
    ("__main__", "__init__"),
)
"""From the bottom up: packages, and the modules between them. Each imports its own layer and those
below it; so a package's word in its `__init__.py` on what it may import is held here."""

PURE = (
    "errors", "event", "order", "ports", "program", "envelope",
    "consumer/others", "consumer/reading", "consumer/batch", "consumer/calling", "consumer/keys",
    "audit/facts", "audit/keys", "audit/unkeyed", "audit/examine",
    "audit/report",
)  # fmt: skip
IMPURE = {"asyncio", "threading", "socket", "sqlite3", "os", "subprocess", "psycopg", "selectors"}
CLIENTS = {
    "stores/sqlite.py": {"sqlite3"},
    "stores/postgres.py": {"psycopg"},
    "stores/arrays.py": {"psycopg"},
    "stores/gathering.py": {"psycopg"},
    "logs/embedded.py": {"sqlite3"},
    "logs/kafka.py": {"confluent_kafka"},
}
LINES_MAX = 600
BANNED = re.compile(r"\b(message bus|exactly[- ]once delivery|utils?\.py|manager)\b", re.IGNORECASE)


def files() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py"))


def layer_of(path: Path) -> int:
    top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for level, names in enumerate(LAYERS):
        if top in names:
            return level
    raise AssertionError(f"{path.relative_to(PACKAGE)} has no layer: give it one in LAYERS")


def imports(path: Path, *, top_level: bool = False) -> Iterator[tuple[str, int]]:
    """Modules that a file imports: (dotted name, relative level)."""
    tree = ast.parse(path.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    nodes = tree.body if top_level else list(ast.walk(tree))
    for node in nodes:
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level
            if node.module in {None, "oncebox"}:  # modules, perhaps, and not their names
                for alias in node.names:
                    yield f"{node.module or ''}.{alias.name}".lstrip("."), node.level


def inside(path: Path, module: str, level: int) -> Path | None:
    """The file of ours that an import names, if it is ours."""
    if level == 0:
        if module.partition(".")[0] != "oncebox":
            return None
        parts = module.split(".")[1:]
        base = PACKAGE
    else:
        base = path.parent
        for _ in range(level - 1):
            base = base.parent
        parts = module.split(".") if module else []
    target = base.joinpath(*parts)
    return target if target.is_dir() else target.with_suffix(".py")


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    if path.name == "__init__.py" and path.parent == PACKAGE:
        return
    mine = layer_of(path)
    for module, level in imports(path):
        target = inside(path, module, level)
        if target is not None and target != PACKAGE and target.exists():
            assert layer_of(target) <= mine, f"{path.name} imports {module}, from above it"


@pytest.mark.parametrize("folder", ["stores", "logs"])
def test_engines_do_not_import_each_other(folder: str) -> None:
    shared = {
        "base",
        "placeholders",
        "pooled",
        "arrays",
        "gathering",
        "adapt",
        "sqlite",
        "kafka_settings",
        "murmur2",
        "kafka_reader",
        "kafka_probes",
    }
    for path in (PACKAGE / folder).glob("*.py"):
        for module, level in imports(path, top_level=True):
            target = inside(path, module, level)
            if level == 1 and target is not None and path.stem not in shared:
                assert target.stem in shared | {"postgres", "asyncpg", "aiosqlite"}, (path, module)


@pytest.mark.parametrize("name", PURE)
def test_the_core_does_no_io(name: str) -> None:
    for module, level in imports(PACKAGE / f"{name}.py"):
        assert level > 0 or module.partition(".")[0] not in IMPURE, f"{name} imports {module}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small_and_words_plain(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LINES_MAX
    assert not BANNED.search(text), BANNED.search(text)


def test_both_dialects_have_the_same_statements() -> None:
    at_once = {"enter", "open_key", "shut_key"}  # several of those that SQLite has, too
    assert statements("sqlite").keys() | at_once == statements("postgres").keys()
