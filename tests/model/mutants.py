"""Broken copies of `oncebox.order`: one rule changed in each, by its text."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from oncebox import order


def mutant(name: str, *changes: tuple[str, str]) -> ModuleType:
    """A copy of `order` in which every `(old, new)` was replaced; each `old` is there once."""
    text = Path(str(order.__file__)).read_text()
    for old, new in changes:
        assert text.count(old) == 1, f"{name}: {text.count(old)} times in order.py: {old!r}"
        text = text.replace(old, new)
    module = ModuleType(f"order_{name}")
    sys.modules[module.__name__] = module  # where NamedTuple looks for names in annotations
    exec(compile(text, module.__name__, "exec"), module.__dict__)
    return module
