"""How large and how deep a schema's text may be, before any library sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import DecodeError, json

from ...errors import MissingDependency, SchemaError

SIZE_MAX = 2 * 1024 * 1024
"""Bytes of a text in UTF-8, and of all that it refers to."""
FIELDS_MAX = 5_000
"""Fields, symbols and branches of a schema."""
DEPTH_MAX = 100
"""Levels of types in types."""
REFERENCES_MAX = 200
"""Texts that a schema may refer to."""


def sized(text: str, which: str) -> str:
    """The text, if it is not too large. `which`: what errors call it. Raises SchemaError."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > SIZE_MAX:
        raise SchemaError(
            f"{which}: {size:,} bytes",
            expected=f"at most {SIZE_MAX:,}",
            hint="Split it: an event that large has more than one idea.",
        )
    return text


def read_json(text: str, which: str) -> Any:
    """What a JSON text says. Raises SchemaError if it is none, too large or too deep."""
    try:
        return json.decode(sized(text, which))
    except RecursionError:
        raise too_deep(which, "$") from None
    except (DecodeError, UnicodeError) as error:
        raise SchemaError(f"{which}: {error}", expected="a schema as JSON") from None


def pairs(references: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Texts that a schema refers to, by name, as a key that is equal for equal ones."""
    return tuple(sorted((references or {}).items()))


def too_deep(which: str, path: str) -> SchemaError:
    """The error for types nested without reason."""
    return SchemaError(
        f"{which}, {path}: nested too deeply",
        expected=f"at most {DEPTH_MAX} levels of types",
        hint="Give inner types names and refer to them.",
    )


def too_many(which: str) -> SchemaError:
    """The error for a schema with too many parts."""
    return SchemaError(
        f"{which}: too many fields", expected=f"at most {FIELDS_MAX:,} fields, symbols and branches"
    )


def missing(library: str, extra: str) -> MissingDependency:
    """The error for a format whose library is not installed."""
    return MissingDependency(f"{library} is not installed", hint=f"pip install 'oncebox[{extra}]'")
