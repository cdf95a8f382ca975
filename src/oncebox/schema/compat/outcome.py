"""What became of a document, in words."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

SHOWN_MAX = 200
"""Characters of what a library says, or of a value that was read."""


def refused(error: Exception) -> str:
    """What a library said when it refused."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return "refused: " + (text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…")


def shown(value: Any) -> str:
    """A value that was read."""
    text = str(value) if isinstance(value, Decimal) or hasattr(value, "isoformat") else repr(value)
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"
