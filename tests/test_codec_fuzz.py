"""Hostile bytes for the decoders: see `codec_fuzz.py`."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from codec_fuzz import MEMORY_MB_MAX, MUTATIONS, fuzz, memory_mb

SHORT, LONG = 5_000, 1_000_000


def test_hostile_bytes_are_refused_or_read_whole(rng: Random) -> None:
    check_fired(fuzz(SHORT, rng))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_million_hostile_bytes(rng: Random) -> None:
    before = memory_mb()
    check_fired(fuzz(LONG, rng))
    assert memory_mb() - before < MEMORY_MB_MAX


def check_fired(found: Counter[str]) -> None:
    """What never happened shows nothing."""
    for mutation in MUTATIONS:
        assert found[mutation.__name__], found
    for format in ("json", "avro", "protobuf"):
        assert found[f"{format}: read"], found
        assert found[f"{format}: refused"], found
    for outcome in ("framing read", "framing refused", "no framing"):
        assert found[outcome], found
