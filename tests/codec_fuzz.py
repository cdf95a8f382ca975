"""Hostile bytes for the decoders: valid payloads of made schemas, cut, changed, blown up.

    python tests/codec_fuzz.py --count 1000000

Each input is read to a document, which is then written and read again and must be the same, or is
refused by DecodeFailed. Nothing else may be raised, the process must live, and its memory stays
within a bound.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from oncebox.codecs.avro import AvroCodec
from oncebox.codecs.codec import SchemaCodec
from oncebox.codecs.framing import prefixed, read_framing
from oncebox.codecs.json import JsonCodec
from oncebox.codecs.protobuf import ProtobufCodec
from oncebox.errors import DecodeFailed
from schemas_made import document_made, schema_made

INPUTS_OF_A_SCHEMA = 500
MEMORY_MB_MAX = 400
"""What the process may grow by."""

LONGEST = "longest input, ms"

HOSTILE = [
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x20", b"\xfe\xff\xff\xff\x0f", b"\0" * 9, b"\xff" * 12, b"\x01",
    b"\x80", b"[" * 200, b'{"f0":' * 120, b"1e999", b"\xed\xa0\x80", b"\x0b" * 50, b"\x0a\x02" * 60,
]  # fmt: skip


def flip(rng: Random, raw: bytes, other: bytes) -> bytes:
    if not raw:
        return other
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]


def cut(rng: Random, raw: bytes, other: bytes) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)]


def splice(rng: Random, raw: bytes, other: bytes) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)] + other[rng.randrange(len(other) + 1) :]


def blow(rng: Random, raw: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    return raw[:at] + rng.choice(HOSTILE) + raw[at + rng.randrange(3) :]


def repeat(rng: Random, raw: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(raw) + 1)
    part = raw[at : at + rng.randrange(1, 9)]
    return raw[:at] + part * rng.choice([2, 3, 300]) + raw[at:]


def noise(rng: Random, raw: bytes, other: bytes) -> bytes:
    return rng.randbytes(rng.randrange(40))


MUTATIONS: list[Callable[[Random, bytes, bytes], bytes]] = [flip, cut, splice, blow, repeat, noise]


def fuzz(count: int, rng: Random, progress: Callable[[int], None] = lambda _: None) -> Counter[str]:
    """So many inputs; how many of each mutation there were, and what became of them."""
    found: Counter[str] = Counter()
    done = 0
    while done < count:
        schema = schema_made(rng)
        codecs: list[tuple[str, SchemaCodec]] = [  # made anew: kept ones would fill the memory
            ("json", JsonCodec(schema)),
            ("avro", AvroCodec(schema)),
            ("protobuf", ProtobufCodec(schema)),
        ]
        documents = [document_made(rng, schema) for _ in range(3)]
        valid = {name: [codec.encode(d) for d in documents] for name, codec in codecs}
        for _ in range(INPUTS_OF_A_SCHEMA):
            name, codec = rng.choice(codecs)
            mutate = rng.choice(MUTATIONS)
            hostile = mutate(rng, rng.choice(valid[name]), rng.choice(valid[name]))
            found[mutate.__name__] += 1
            began = time.perf_counter()
            found[f"{name}: {outcome(codec, hostile)}"] += 1
            took_ms = int(1000 * (time.perf_counter() - began))
            found[LONGEST] = max(found[LONGEST], took_ms)
            found[framing(rng, hostile)] += 1
        done += INPUTS_OF_A_SCHEMA
        progress(done)
    return found


def outcome(codec: SchemaCodec, raw: bytes) -> str:
    """Whether it is read or refused; an AssertionError if neither is done right."""
    try:
        document = codec.decode(raw)
    except DecodeFailed:
        return "refused"
    again = codec.decode(codec.encode(document))
    assert said(again) == said(document), (raw, document, again)
    return "read"


def said(document: Any) -> str:
    """A document as text, in which -0.0, 0.0 and 0 differ, and the order of keys does not."""
    return json.dumps(document, sort_keys=True)


def framing(rng: Random, raw: bytes) -> str:
    """The same of prefixes and headers."""
    if rng.random() < 0.5:
        raw = prefixed(raw, rng.randrange(2**31))
    headers: Any = [("__value_schema_id", rng.choice([raw[:20], b"\1" + raw[:30], None]))]
    try:
        framed = read_framing(raw, headers if rng.random() < 0.3 else ())
        if framed is None:
            return "no framing"
        framed.protobuf()
    except DecodeFailed:
        return "framing refused"
    return "framing read"


def memory_mb() -> float:
    """The most that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Hostile bytes for the decoders.")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    given = parser.parse_args(arguments)
    print(f"seed {given.seed}", flush=True)
    began, before = time.monotonic(), memory_mb()

    def progress(done: int) -> None:
        if done % 50_000 == 0:
            rate = done / (time.monotonic() - began)
            print(f"{done} inputs, {rate:.0f}/s, {memory_mb():.0f} MB", flush=True)

    found = fuzz(given.count, Random(given.seed), progress)
    for name, times in sorted(found.items()):
        print(f"{name:<24}{times:>10}")
    grown = memory_mb() - before
    print(f"grown by {grown:.0f} MB")
    return int(grown > MEMORY_MB_MAX)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
