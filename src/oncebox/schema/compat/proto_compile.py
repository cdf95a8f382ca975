"""Texts of .proto files to descriptors, by protoc itself, in a process and folder of its own.

The process may use so much time and memory and no more; it sees the texts that it is given, the
well-known types, and nothing else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from ...errors import SchemaError
from .bounds import DEPTH_MAX, REFERENCES_MAX, missing, sized, too_deep

COMPILE_TIMEOUT_S = 20.0
"""For all texts of a call together."""
MEMORY_MAX = 2 * 1024**3
"""Bytes of address space of the process."""
WRITTEN_MAX = 64 * 1024**2
"""Bytes of a file that it writes."""
SAID_MAX = 300
"""Characters of what protoc says."""

MAIN = "schema.proto"

_LIMITS = {"CPU": int(COMPILE_TIMEOUT_S), "AS": MEMORY_MAX, "FSIZE": WRITTEN_MAX, "CORE": 0}
_CHILD = f"""
import os, resource, sys
for limit, value in {_LIMITS}.items():
    resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (value, value))
sys.path.append(sys.argv[1])
from grpc_tools import _protoc_compiler
for folder in sys.argv[3:]:
    said = os.open(folder + ".said", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 2)
    os.close(said)
    _protoc_compiler.run_main([os.fsencode(one) for one in (
        "protoc", "-I" + folder, "-I" + sys.argv[2], "--include_imports",
        "--descriptor_set_out=" + folder + ".set", folder + "/{MAIN}")])
"""

_IMPORTED = re.compile(
    r"(?!/)(?:(?!\.{1,2}/)[A-Za-z0-9_.+ -]+/)*[A-Za-z0-9_+ -][A-Za-z0-9_.+ -]*\Z"
)
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|//[^\n]*|/\*.*?\*/', re.DOTALL)
_LOGGED = re.compile(r"[IW]\d{4} |WARNING: ")
_BRACES = re.compile(r"[{}\[\]<>()]")


class Source(NamedTuple):
    """A text with the texts that it imports, by path, and what errors call it."""

    text: str
    references: tuple[tuple[str, str], ...]
    which: str


def compile_all(sources: Sequence[Source]) -> list[bytes]:
    """The FileDescriptorSet of each text, what it imports first. Raises SchemaError."""
    spec = find_spec("grpc_tools")
    if spec is None or spec.origin is None:
        raise missing("grpcio-tools", "protobuf")
    tools = Path(spec.origin).parent
    with TemporaryDirectory(prefix="oncebox-") as made:
        folders = [Path(made) / str(n) for n in range(len(sources))]
        for source, folder in zip(sources, folders, strict=True):
            _lay_out(source, folder)
        _run([str(tools.parent), str(tools / "_proto"), *map(str, folders)])
        return [_result(one, folder) for one, folder in zip(sources, folders, strict=True)]


def _lay_out(source: Source, folder: Path) -> None:
    folder.mkdir()
    if len(source.references) > REFERENCES_MAX:
        many = f"{len(source.references)} references"
        raise SchemaError(f"{source.which}: {many}", expected=f"at most {REFERENCES_MAX}")
    for name, text in (*source.references, (MAIN, source.text)):
        which = source.which if name == MAIN else f"{source.which}, {name}"
        if not _IMPORTED.match(name):
            raise SchemaError(f"{which}: a bad name", expected="a path as imports write it")
        _shallow(sized(text, which), which)
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode("utf-8"))
        except (OSError, UnicodeEncodeError) as error:
            raise SchemaError(f"{which}: {error}", expected="a text and its name") from error


def _shallow(text: str, which: str) -> None:
    """Refuse brackets in brackets before a parser descends into them."""
    depth = 0
    for one in _BRACES.finditer(_QUOTED.sub("", text)):
        depth += 1 if one[0] in "{[<(" else -1
        if depth > DEPTH_MAX:
            raise too_deep(which, "the text")


def _run(arguments: Sequence[str]) -> None:
    command = [sys.executable, "-I", "-S", "-c", _CHILD, *arguments]
    try:
        subprocess.run(  # noqa: S603 - our own interpreter, and paths that we made
            command,
            check=False,
            timeout=COMPILE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # nobody writes to it: its end is seen at once, without polling
            stderr=subprocess.DEVNULL,
            env={},
        )
    except subprocess.TimeoutExpired:
        pass  # what was not written says so


def _result(source: Source, folder: Path) -> bytes:
    made, said = folder.with_name(folder.name + ".set"), folder.with_name(folder.name + ".said")
    if made.exists():
        return made.read_bytes()
    lines = said.read_text(errors="replace").splitlines() if said.exists() else []
    lines = [line.removeprefix(f"{folder}/").removeprefix(f"{MAIN}:") for line in lines]
    wrong = [line for line in lines if "warning" not in line and not _LOGGED.match(line)]
    text = " / ".join(line.strip() for line in wrong)[:SAID_MAX]
    found = [name for line in lines if (name := line.partition(": File not found.")[0]) != line]
    if found:
        raise SchemaError(
            f"{source.which}: the import {found[0]} is not known",
            expected="an import among the references, or a well-known type",
            hint="Give its text as a reference under the name that the import uses.",
        )
    raise SchemaError(
        f"{source.which}: {text or 'protoc gave up'}", expected="a .proto that protoc reads"
    )
