"""Whether schema files are compatible, whoever made them: schema compat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from msgspec import json, to_builtins

from ..errors import ConfigurationError
from ..schema.compat.compat import Against, check, guess, read
from ..schema.compat.finding import Format, Mode, Witness
from .options import said
from .output import counted, remark, say, tell

Files = Annotated[Path, said("Schema files, oldest first; the last is the new one.")]
Asked = Annotated[str, said("none, backward, forward, full, and each with -transitive.")]
Which = Annotated[Format | None, said("Instead of what the files' ends or contents say.")]
Referred = Annotated[
    list[str] | None, said("NAME=FILE: what schemas refer to by this name. Repeatable.")
]

WITNESS_SHOWN_MAX = 2000
"""Characters of a witness for people; --json has all of it."""


def compat(
    *files: Files,
    mode: Asked = "full-transitive",
    format: Which = None,
    reference: Referred = None,
) -> int:
    """Whether the last schema is compatible with those before it.

    Avro (.avsc), Protobuf (.proto) and JSON Schema (.json), whoever made them. An error comes with
    a document that its reader refuses or reads differently; what cannot be proved is a warning.
    Exit code 3 if somebody breaks, 2 if a schema cannot be read. Nothing is fetched.

    For example:

        oncebox schema compat old.avsc new.avsc
        oncebox schema compat v1.proto v2.proto v3.proto --mode backward --json
        oncebox schema compat old.avsc new.avsc --reference shop.Address=address.avsc
    """
    if len(files) < 2:
        raise ConfigurationError("two schema files at least", hint="oncebox schema compat OLD NEW")
    chosen = _mode(mode)
    texts = [_text(path) for path in files]
    known: Format = format or guess(str(files[-1]), texts[-1])
    references = dict(_reference(one) for one in reference or ())
    for path, text in zip(files, texts, strict=True):
        read(known, text, references, str(path))
    report = check(known, texts[:-1], texts[-1], chosen, references)
    for one in report.found:
        _told(one, files)
    errors, warnings = len(report.errors), len(report.warnings)
    if not report.found:
        say("compatible")
    else:
        remark(f"{counted(errors, 'break')} proved, {counted(warnings, 'warning')}")
    return 3 if errors else 0


def _mode(text: str) -> Mode:
    name = text.upper().replace("-", "_")
    if name not in Mode.__members__:
        names = ", ".join(one.lower().replace("_", "-") for one in Mode)
        raise ConfigurationError(f"the mode {text!r}", expected=names)
    return Mode[name]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}", expected="a schema as UTF-8") from error


def _reference(text: str) -> tuple[str, str]:
    name, sign, path = text.partition("=")
    if not sign:
        raise ConfigurationError(f"--reference {text}", expected="NAME=FILE")
    return name, _text(Path(path))


def _told(one: Against, files: Sequence[Path]) -> None:
    finding, old = one.finding, files[one.version - 1]
    document = {
        "against": str(old),
        "error": finding.error,
        **to_builtins(finding, enc_hook=str),
    }
    kind = "error" if finding.error else "warning"
    lines = [
        f"{kind}: {finding.path}: {finding.rule} ({finding.breaks} break; against {old})",
        f"  old: {_shown(finding.old)}",
        f"  new: {_shown(finding.new)}",
        *(_proof(finding.witness) if finding.witness else ()),
        f"  instead: {finding.instead}",
    ]
    tell(document, "\n".join(lines))


def _proof(witness: Witness) -> list[str]:
    text = _shown(witness.document)
    if len(text) > WITNESS_SHOWN_MAX:
        text = text[:WITNESS_SHOWN_MAX] + " …"
    return [f"  witness: {text}", f"  {witness.outcome}"]


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.encode(value, enc_hook=str).decode()
