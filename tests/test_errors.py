"""The page of all errors says what the errors say of themselves."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from oncebox import errors
from oncebox.errors import OnceboxError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errors.md"


def test_every_error_has_its_row() -> None:
    known = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, OnceboxError) and kind is not OnceboxError
    ]
    rows = {}
    for line in PAGE.read_text().splitlines():
        if found := re.match(r"\| `(\w+)` \| (.+) \| (.+) \| (yes|no) \| (\d) \|$", line):
            name, when, to_do, again, code = found.groups()
            assert name not in rows, f"{name} twice"
            assert to_do.strip(), name
            rows[name] = (when, again == "yes", int(code))
    said = {
        kind.__name__: (
            inspect.cleandoc(kind.__doc__ or "").replace("\n", " "), kind.retryable, kind.exit_code
        )
        for kind in known
    }  # fmt: skip
    assert rows == said
