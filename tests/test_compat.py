"""Checkers behind one face: modes, formats, and the command that prints each finding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import json

from avro_cases import field, record
from oncebox.cli import main
from oncebox.errors import SchemaError
from oncebox.schema.compat.compat import check, compare, guess
from oncebox.schema.compat.finding import Mode

X, Y = field("x", "int"), field("y", "int")
ONE, TWO, THREE = (
    json.encode(record("Event", *fields)).decode()
    for fields in ([X], [X, field("y", "int", default=0)], [X, Y])
)
BROKEN = {
    Mode.NONE: set(),
    Mode.BACKWARD: set(),
    Mode.BACKWARD_TRANSITIVE: {(1, "new readers")},
    Mode.FORWARD: set(),
    Mode.FORWARD_TRANSITIVE: set(),
    Mode.FULL: set(),
    Mode.FULL_TRANSITIVE: {(1, "new readers")},
}


@pytest.mark.parametrize("mode", Mode)
def test_modes(mode: Mode) -> None:
    report = check("avro", [ONE, TWO], THREE, mode)
    assert {(one.version, one.finding.breaks) for one in report.errors} == BROKEN[mode]
    assert report.compatible == (not BROKEN[mode])


@pytest.mark.parametrize("mode", [Mode.BACKWARD, Mode.FORWARD, Mode.FULL])
def test_who_is_asked(mode: Mode) -> None:
    added = check("avro", [ONE], THREE, mode)
    removed = check("avro", [THREE], ONE, mode)
    assert added.compatible == (mode is Mode.FORWARD)
    assert removed.compatible == (mode is Mode.BACKWARD)


def test_a_version_that_came_again_counts_once() -> None:
    report = check("avro", [ONE, TWO, ONE], THREE, Mode.BACKWARD_TRANSITIVE)
    assert [one.version for one in report.errors] == [3]


def test_references_of_earlier_versions() -> None:
    inner = [json.encode(record("In", *fields)).decode() for fields in ([X], [X, Y])]
    outer = json.encode(record("Event", field("in", "In"))).decode()
    earlier = [{"In": one} for one in inner]
    report = check("avro", [outer] * 2, outer, Mode.BACKWARD_TRANSITIVE, earlier[1], earlier)
    assert [one.version for one in report.errors] == [1]


def test_a_new_schema_has_to_be_one_even_if_nothing_is_asked() -> None:
    with pytest.raises(SchemaError, match="the new schema"):
        check("avro", [ONE], "{", Mode.NONE)
    with pytest.raises(SchemaError, match="xml"):
        compare("xml", ONE, ONE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.avsc", "", "avro"),
        ("a.proto", "", "protobuf"),
        ("a.json", '{"type": "object"}', "json"),
        ("a.json", '{"type": "record"}', "avro"),
        ("a.json", "true", "json"),
        ("a.json", "{", "json"),
        ("a", "message A {}", "protobuf"),
        ("a", '["null", "int"]', "avro"),
    ],
)
def test_the_format_is_seen(name: str, content: str, format: str) -> None:
    assert guess(name, content) == format


# ---- the command


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in {"1": ONE, "2": TWO, "3": THREE}.items():
        (tmp_path / f"{name}.avsc").write_text(content)
    return tmp_path


def test_the_command_prints_findings_with_their_witness(files: Path, capsys: Any) -> None:
    assert main(["schema", "compat", "1.avsc", "2.avsc", "3.avsc"]) == 3
    out, err = capsys.readouterr()
    assert "error: Event.y: field-without-default (new readers break; against 1.avsc)" in out
    assert 'witness: {"x":0}' in out
    assert "refused: SchemaResolutionError: No default value for field y" in out
    assert "1 break proved" in err


def test_the_command_tells_programs_the_same(files: Path, capsys: Any) -> None:
    assert main(["schema", "compat", "1.avsc", "3.avsc", "--mode", "backward", "--json"]) == 3
    found = json.decode(capsys.readouterr().out)
    assert found["rule"] == "field-without-default"
    assert found["witness"]["document"] == {"x": 0}
    assert found["error"] is True


def test_a_compatible_pair(files: Path, capsys: Any) -> None:
    assert main(["schema", "compat", "2.avsc", "3.avsc", "--mode", "full"]) == 0
    assert capsys.readouterr().out == "compatible\n"


def test_what_the_command_cannot_read(files: Path, capsys: Any) -> None:
    (files / "bad.avsc").write_text('{"type": "recrd"}')
    (files / "latin.avsc").write_bytes(b"\xff")
    for arguments, said in (
        (["bad.avsc", "1.avsc"], "bad.avsc, $: the type 'recrd' is not known"),
        (["1.avsc", "nowhere.avsc"], "nowhere.avsc"),
        (["1.avsc", "latin.avsc"], "UTF-8"),
        (["1.avsc"], "two schema files"),
        (["1.avsc", "2.avsc", "--mode", "sideways"], "full-transitive"),
        (["1.avsc", "2.avsc", "--reference", "In"], "NAME=FILE"),
    ):
        assert main(["schema", "compat", *arguments]) == 2
        assert said in capsys.readouterr().err


def test_references_of_the_command(files: Path) -> None:
    (files / "in.avsc").write_text(ONE.replace("Event", "In"))
    outer = json.encode(record("Outer", field("in", "In")))
    (files / "outer.avsc").write_bytes(outer)
    assert main(["schema", "compat", "outer.avsc", "outer.avsc", "--reference", "In=in.avsc"]) == 0
    assert main(["schema", "compat", "outer.avsc", "outer.avsc"]) == 2


def test_the_command_reads_protobuf(files: Path, capsys: Any) -> None:
    text = 'syntax = "proto3"; message A {{ {} x = 1; }}'
    for name, kind in (("old", "int64"), ("new", "int32")):
        (files / f"{name}.proto").write_text(text.format(kind))
    assert main(["schema", "compat", "old.proto", "new.proto"]) == 3
    out = capsys.readouterr().out
    assert 'witness: {"x":"1099511627783"}' in out
    assert "read as 7 instead of 1099511627783" in out
    (files / "new.proto").write_text("message A {")
    assert main(["schema", "compat", "old.proto", "new.proto"]) == 2
    assert "new.proto: 1:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("library", "extra"),
    [("fastavro", "avro"), ("google.protobuf", "protobuf"), ("grpc_tools", "protobuf")],
)
def test_a_library_that_is_not_installed_is_named(
    files: Path, capsys: Any, library: str, extra: str
) -> None:
    """In a process of its own, as modules that are imported stay."""
    (files / "a.proto").write_text("message A {}")
    names = ["1.avsc", "2.avsc"] if extra == "avro" else ["a.proto", "a.proto"]
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        f"from oncebox.cli import main; sys.exit(main(['schema', 'compat', *{names!r}]))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"pip install 'oncebox[{extra}]'" in done.stderr
