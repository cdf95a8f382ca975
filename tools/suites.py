"""Cases that others published, run against oncebox: `tools/suites DIR`.

Every file below DIR whose format is known is run: pairs of schemas with an expected verdict
(Apicurio Registry's JSON files, for JSON Schema and Avro), Avro's canonical forms with their
fingerprints (`schema-tests.txt`), Avro's container files beside their JSON, and the binary and
structured scenarios of CloudEvents' bindings. Prints tables for docs/schemas.md, then each case on
which the two disagree, with our proof. Exits with 1 if a case fails that no proof excuses.

A suite is evidence, not truth: where oncebox is stricter there is a document that shows why, and
where it is looser the suite names none.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form
from msgspec import json

from oncebox.envelope import read_envelope
from oncebox.errors import OnceboxError, SchemaError
from oncebox.ports import Record
from oncebox.schema.compat import avro
from oncebox.schema.compat.finding import Finding


class Verdict(NamedTuple):
    """What became of a claim: "agreed", "stricter", "looser", "not there" or "failed"."""

    kind: str
    case: str
    why: str = ""


# ---- pairs of schemas


CLAIMS = {"backward": {"new readers": True}, "both": {"new readers": True, "old readers": True},
          "none": {"new readers": False}, "forward": {"old readers": True}}  # fmt: skip
"""Who can read whom, as a pair's word says; what it does not say is not judged."""


def pairs(tests: Sequence[Any]) -> Iterator[Verdict]:
    """Apicurio's format: {"tests": [{id, compatibility, original, updated, enabled}]}."""
    for test in tests:
        if not test.get("enabled", True):
            continue
        old, new = (json.encode(test[side]).decode() for side in ("original", "updated"))
        try:
            findings = compared(test["original"], old, new)
        except OnceboxError as error:
            other = "draft-04" in str(error)
            yield Verdict("not there" if other else "failed", test["id"], str(error))
            continue
        for who, fine in CLAIMS[test["compatibility"]].items():
            yield judged(test["id"], who, [one for one in findings if one.breaks == who], fine=fine)


def compared(original: Any, old: str, new: str) -> list[Finding]:
    """By the checker of the format; for JSON Schema as a registry asks, any document is written."""
    if isinstance(original, dict) and original.get("type") in ("record", "enum", "fixed"):
        return avro.compare(old, new)
    checker = import_module("oncebox.schema.compat.jsonschema")
    found: list[Finding] = checker.compare(old, new, producers_closed=False)
    return found


def judged(case: str, who: str, findings: Sequence[Finding], *, fine: bool) -> Verdict:
    """Their word against ours."""
    proved = next((one for one in findings if one.witness is not None), None)
    name = f"{case} ({who})"
    if proved is not None and proved.witness is not None:
        document = json.encode(proved.witness.document, enc_hook=str).decode()
        why = f"{proved.rule}: {document} is {proved.witness.outcome}"
        return Verdict("stricter" if fine else "agreed", name, why)
    warned = f"; a warning: {findings[0].rule}" if findings else ""
    return Verdict("agreed" if fine else "looser", name, f"no document breaks{warned}")


# ---- Avro's own


_FORM = re.compile(
    r"^<<INPUT(?: (?P<line>.*)|\n(?P<lines>(?:.*\n)*?)INPUT)\n"
    r"(?:<<canonical (?P<form>.*?)\n)?(?:<<fingerprint (?P<print>-?\d+))?",
    re.MULTILINE,
)


def forms(text: str) -> Iterator[Verdict]:
    """Canonical forms and CRC-64 fingerprints: fastavro's, of schemas that we read, too."""
    for n, found in enumerate(_FORM.finditer(text)):
        source = found["line"] or found["lines"]
        form = to_parsing_canonical_form(fastavro.parse_schema(json.decode(source)))
        mark = bytes.fromhex(fingerprint(form, "CRC-64-AVRO"))
        number = str(int.from_bytes(mark, "little", signed=True))
        fine = form == (found["form"] or form) and number == (found["print"] or number)
        try:
            avro.read(source, which=f"form {n}")
        except SchemaError as error:
            yield Verdict("stricter", f"form {n}", str(error))
        else:
            yield Verdict("agreed" if fine else "failed", f"form {n}", source)


def container(path: Path) -> Iterator[Verdict]:
    """A container file beside a JSON file with the same records, a line each."""
    beside = path.with_name(path.stem.partition("-")[0] + ".json")
    with path.open("rb") as data:
        records = list(fastavro.reader(data))
    expected = [json.decode(line) for line in beside.read_text().splitlines() if line.strip()]
    yield Verdict("agreed" if records == expected else "failed", path.name)


def single(path: Path) -> Iterator[Verdict]:
    """A single-object message: two bytes, the fingerprint of its schema, the object."""
    schema = fastavro.parse_schema(json.decode(path.with_name("test_schema.avsc").read_bytes()))
    data = path.read_bytes()
    mark = bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
    body = io.BytesIO(data[10:])
    fastavro.schemaless_reader(body, schema, None)
    fine = data[:10] == b"\xc3\x01" + mark and not body.read()
    yield Verdict("agreed" if fine else "failed", path.name)


# ---- CloudEvents


_SCENARIO = re.compile(r"^ *Scenario(?: Outline)?: (.*)$", re.MULTILINE)
_TEXT = re.compile(r'"""\n(.*?)"""', re.DOTALL)
_ROW = re.compile(r"^ *\| *(.*?) *\| *(.*?) *\|", re.MULTILINE)


def binding(text: str) -> Iterator[Verdict]:
    """The scenarios of a binding: Kafka's binary mode is read by our envelope."""
    parts = _SCENARIO.split(text)
    http = "HTTP" in parts[0]
    for name, steps in zip(parts[1::2], parts[2::2], strict=True):
        if http:
            yield Verdict("not there", name, "oncebox has no HTTP binding")
        elif not name.startswith("Binary"):
            yield Verdict("not there", name, "oncebox reads and writes binary mode only")
        else:
            yield Verdict("agreed" if binary(steps) else "failed", name)


def binary(steps: str) -> bool:
    """Whether a record of Kafka's has the attributes and data that the scenario asks for."""
    value, data = (json.decode(found) for found in _TEXT.findall(steps))
    given, asked = steps.split("When parsed", 1)
    headers = tuple((k, v.encode()) for k, v in _ROW.findall(given)[1:])
    record = Record("topic", 0, 0, None, json.encode(value), headers, 0)
    read = read_envelope(record)
    found = {
        "id": read.id,
        "specversion": "1.0",
        "type": read.type,
        "source": read.source,
        "time": read.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "datacontenttype": read.content_type,
    }
    return found == dict(_ROW.findall(asked)[1:]) and json.decode(record.value or b"") == data


# ---- the table


def pairs_of(path: Path) -> Iterator[Verdict] | None:
    """The pairs of a JSON file, if it has some."""
    try:
        found = json.decode(path.read_bytes())
    except ValueError:
        return None
    tests = found.get("tests") if isinstance(found, dict) else None
    return pairs(tests) if isinstance(tests, list) else None


FORMATS: dict[str, Callable[[Path], Iterator[Verdict] | None]] = {
    "*.feature": lambda path: binding(path.read_text()),
    "schema-tests.txt": lambda path: forms(path.read_text()),
    "*.avro": container,
    "test_message.bin": single,
    "*.json": pairs_of,
}


def suite(path: Path) -> Iterator[Verdict] | None:
    """What a file's cases came to; None if it is of no format that is known."""
    for name, run in FORMATS.items():
        if path.match(name):
            return run(path)
    return None


KINDS = ("agreed", "stricter", "looser", "not there", "failed")


def main() -> int:
    """Run all, print the tables."""
    parser = argparse.ArgumentParser(prog="tools/suites", description=__doc__)
    parser.add_argument("folder", type=Path, help="with the files of suites, however deep")
    folder: Path = parser.parse_args().folder
    rows, told, failed = [], [], 0
    for path in sorted(folder.rglob("*")):
        cases = suite(path) if path.is_file() else None
        if cases is None:
            continue
        print(f"{path.relative_to(folder)} …", file=sys.stderr)
        verdicts = list(cases)
        counts = [sum(one.kind == kind for one in verdicts) for kind in KINDS]
        failed += counts[-1]
        rows.append(
            f"| {path.relative_to(folder)} | {len(verdicts)} | "
            + " | ".join(map(str, counts))
            + " |"
        )
        told += [(path, one) for one in verdicts if one.kind != "agreed"]
    print("| File | Claims | " + " | ".join(kind.capitalize() for kind in KINDS) + " |")
    print("|---" * (len(KINDS) + 2) + "|")
    print("\n".join(rows))
    for path, one in told:
        print(f"\n- {one.kind}: {path.stem}: {one.case}: {one.why[:400]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
