"""Bad records, from the issue's list: each is told by name, kept, and stops nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bad_input.site import Site
from oncebox.codecs.payload import DEPTH_MAX
from oncebox.envelope import HEADER_BYTES_MAX, HEADERS_MAX, VALUE_BYTES_MAX
from oncebox.ports import Outgoing, Record

Change = Callable[[Outgoing], Outgoing]

BIG = 2**63


def header(name: str, value: str | bytes | None) -> Change:
    """Another value of a header."""

    def change(record: Outgoing) -> Outgoing:
        headers = [(n, value if n == name else v) for n, v in record.headers]
        return record._replace(headers=headers)

    return change


def more(*headers: tuple[str, str | bytes | None]) -> Change:
    return lambda record: record._replace(headers=[*record.headers, *headers])


def without(name: str) -> Change:
    return lambda record: record._replace(headers=[h for h in record.headers if h[0] != name])


def cut(name: str) -> Change:
    """Half of a header."""

    def change(record: Outgoing) -> Outgoing:
        value = str(dict(record.headers)[name])
        return header(name, value[: len(value) // 2])(record)

    return change


def twice(name: str) -> Change:
    return lambda record: more((name, dict(record.headers)[name]))(record)


def same(record: Outgoing) -> Outgoing:
    return record


def lost(record: Outgoing) -> None:
    """Nothing arrives."""


def value(payload: bytes | None) -> Change:
    return lambda record: record._replace(value=payload)


def key(raw: bytes | None) -> Change:
    return lambda record: record._replace(key=raw)


UNREADABLE: dict[str, tuple[Change, str]] = {
    # what: how, and what the error says
    "an oversized payload": (
        value(b" " * (VALUE_BYTES_MAX + 1)),
        f"a value of {VALUE_BYTES_MAX + 1} bytes",
    ),
    "oversized headers": (
        more(("x", b"x" * HEADER_BYTES_MAX)),
        f"expected at most {HEADER_BYTES_MAX}",
    ),
    "too many headers": (
        more(*((f"x-{n}", b"") for n in range(HEADERS_MAX))),
        f"expected at most {HEADERS_MAX}",
    ),
    "an oversized id": (header("ce_id", "i" * 1000), "1 to 200 printable characters"),
    "an oversized type": (header("ce_type", "t" * 10_000), "an attribute that is too long"),
    "an oversized source": (
        header("ce_source", f"/{'s' * 1500}/orders"),
        "a source that is too long",
    ),
    "an oversized source to wait for": (
        more(("ce_after", f"1:/{'s' * 1500}/orders:a".encode())),
        "stamp:source:key",
    ),
    "a truncated chain": (cut("ce_chain"), "sequence:stamp:previous"),
    "a truncated version": (
        header("ce_dataschema", "oncebox:order.pa"),
        "oncebox:order.paid/VERSION",
    ),
    "an empty id": (header("ce_id", ""), "1 to 200 printable characters"),
    **{
        f"a missing {name}": (without(name), name)
        for name in ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_chain")
    },
    **{
        f"a repeated {name}": (twice(name), f"header '{name}' twice")
        for name in ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_chain", "content-type")
    },
    "a header without value": (header("ce_id", None), "no header ce_id"),
    "a non-ASCII id": (header("ce_id", "größe"), "readable text"),
    "a source that is not UTF-8": (header("ce_source", b"\xff\xfe"), "readable text"),
    "digits of another script": (header("ce_chain", "٣:٤:٢"), "sequence:stamp:previous"),
    "a specversion of tomorrow": (header("ce_specversion", "2.0"), "a CloudEvents record"),
    "a malformed chain": (header("ce_chain", "1:2"), "sequence:stamp:previous"),
    "a chain of words": (header("ce_chain", "one:two:"), "sequence:stamp:previous"),
    "a chain that falls": (header("ce_chain", "2:5:7"), "rising"),
    "a negative sequence": (header("ce_chain", "-1:5:"), "sequence:stamp:previous"),
    "a negative stamp": (header("ce_chain", "2:-5:-7"), "sequence:stamp:previous"),
    "a huge sequence": (header("ce_chain", f"{BIG}:{BIG - 1}:1"), "sequence:stamp:previous"),
    "a huge stamp": (header("ce_chain", f"2:{BIG}:1"), "sequence:stamp:previous"),
    "a chain of 10,000 digits": (
        header("ce_chain", "9" * 10_000 + ":1:"),
        "sequence:stamp:previous",
    ),
    "a key of 0 bytes": (key(b""), "1 to 1024 bytes"),
    "a key of 10,000 bytes": (key(b"k" * 10_000), "a key of 10000 bytes"),
    "no key": (key(None), "a chain without a key"),
    "a key that is not UTF-8": (key(b"\xff\xfe"), "UTF-8"),
    "a key with NUL": (key(b"o\0o"), "with NUL"),
    "a stream name with NUL": (header("ce_source", b"/shop/or\0ders"), "printable text"),
}


def test_what_cannot_be_read_is_quarantined_as_it_came(site: Site) -> None:
    """Oversized, truncated, missing, repeated, non-ASCII headers; a chain that is malformed,
    negative, huge; keys of 0 and 10,000 bytes: all in one stream, good events all around them.
    """
    hurt = mixed(site, UNREADABLE)
    found = site.quarantined()
    by_bytes = {raw(record): (reason, record) for reason, record in found}
    for record, (what, (_, says)) in zip(hurt, UNREADABLE.items(), strict=True):
        assert raw(record) in by_bytes, f"{what}: not every byte as it came"
        reason, came = by_bytes[raw(record)]
        check_fields(what, reason, says, came)
        assert "oncebox quarantine" in reason, what
        assert site.of(what) == [], what
        assert len(site.kept(what)) == 1, f"{what}: its second event waits for the first"
    assert len(found) == len(UNREADABLE) == site.count("quarantined")
    assert site.parked() == {}
    assert site.accounted() == site.delivered()

    for what in UNREADABLE:
        site.republish(what)
    site.consume()
    for what in UNREADABLE:
        assert site.of(what) == [1, 2], f"{what}: the event itself was never lost"


UNFIT: dict[str, tuple[Change, str]] = {
    "a deep payload": (value(b"[" * 1_000_000), f"expected at most {DEPTH_MAX} levels"),
    "a deep payload that fits": (
        value(b'{"order":' + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b',"cents":1}'), f"{DEPTH_MAX} levels"),
    "a truncated payload": (lambda r: r._replace(value=(r.value or b"")[:-1]), "truncated"),
    "an empty payload": (value(b""), "truncated"),
    "no payload": (value(None), "truncated"),
    "a payload that is not UTF-8": (value(b'{"order":"\xff","cents":1}'), "not UTF-8"),
    "a payload of another shape": (value(b"[]"), "expected `object`"),
    "a number that is none": (value(b'{"order":"o","cents":NaN}'), "malformed"),
}  # fmt: skip


def test_what_does_not_fit_parks_its_key(site: Site) -> None:
    """Deep and truncated payloads: only that key waits, with every byte as it came."""
    hurt = mixed(site, UNFIT)
    for record, (what, (_, says)) in zip(hurt, UNFIT.items(), strict=True):
        park, reason = site.parked()[what]
        assert park == "poison", what
        first, second = site.kept(what)
        assert raw(first) == raw(record), f"{what}: kept as it came"
        check_fields(what, reason, says, first)
        assert f"event {id_of(record)}" in reason, what
        assert f"source {site.source}, key {what}" in reason, what
        assert "oncebox redrive" in reason, what
        assert site.waiting()[what].release(), what
    assert len(site.parked()) == len(UNFIT)
    assert site.accounted() == site.delivered()

    for what in UNFIT:
        site.republish(what)  # two events with one id and other bytes: that is a fork
    site.consume()
    assert {park for park, _ in site.parked().values()} == {"fork"}
    for what in UNFIT:
        site.accept(what)
    site.later(1.0)
    for what in UNFIT:
        assert site.of(what) == [1, 2], f"{what}: the event itself was never lost"


def test_an_unknown_version_waits_for_whoever_deploys(site: Site) -> None:
    """An unknown version of a handled type: its key waits, until a handler for it is there."""
    newer = header("ce_dataschema", "oncebox:order.paid/7")
    site.hurt("newer", newer, newer)
    site.paid("good", 1)
    site.paid("newer", 1, 2)
    site.paid("good", 2)
    site.flow()
    assert site.of("good") == [1, 2]
    park, reason = site.parked()["newer"]
    assert park == "poison"
    first, _ = site.kept("newer")
    check_fields("newer", reason, "order.paid came in version 7", first)
    assert "expected version 1" in reason
    assert "deploy me" in reason

    site.leave()
    old = site.handlers["order.paid"]
    site.handlers = {"order.paid": old._replace(type=old.type._replace(version=7))}
    site.later(1.0)
    assert site.of("newer") == [1, 2]


def test_one_id_with_other_bytes_is_a_fork(site: Site) -> None:
    """Two events with one id and other bytes: after the first took effect, before either did,
    and without a key.
    """
    other = value(b'{"order":"o","cents":100}')
    sent: list[Outgoing] = []
    site.hurt("done", other)
    site.hurt("kept", lost, other)
    site.hurt("", noted(same, sent))
    site.emit(site.Paid("good", 1), site.Opened(7))
    site.paid("done", 1)
    site.paid("kept", 1, 2, 3)
    site.flow()
    site.republish("done")
    site.republish("kept", 2, 2)
    site.log.publish([sent[0]._replace(value=b'{"cents":8}')], 10.0)
    site.paid("good", 2)
    site.paid("done", 2)
    site.flow()
    assert site.of("good") == [1, 2]
    assert site.of("done") == [100], "what took effect is neither undone nor done again"
    assert site.of("kept") == [], "neither runs before somebody chose"
    assert site.of("shop") == [7]

    id = id_of(sent[0])
    waiting = site.waiting()
    assert waiting.keys() == {"done", "kept", id}
    for key_, copies in (("done", 2), ("kept", 3), (id, 1)):
        assert waiting[key_].kind == "fork"
        assert len(site.kept(key_)) == copies
        reason = waiting[key_].reason or ""
        for part in (
            "event ",
            "source ",
            f"key {key_}",
            "position ",
            "expected ",
            "oncebox accept",
        ):
            assert part in reason, f"{part}: {reason}"
    assert site.accounted() == site.delivered()

    site.republish("kept", 1, 1)
    site.consume()
    site.accept("kept")
    site.accept("done")
    site.later(1.0)
    assert site.of("kept") == [1, 2, 3], "what the source has, and in order"
    assert site.of("done") == [100, 2]
    assert site.waiting().keys() == {id}


def test_any_bit_may_flip(site: Site) -> None:
    """Bit-flipped payloads and headers: every bit once, each in a key of its own."""
    flips = [(name, at) for name, size in SIZES.items() for at in range(size * 8)]
    keys = {f"b-{number:05}": flip(name, at) for number, (name, at) in enumerate(flips)}
    site.paid("good", 1)
    for key_, change in keys.items():
        site.hurt(key_, change)
    site.emit(*(site.Paid(key_, cents) for key_ in keys for cents in (1, 2)))
    site.paid("good", 2)
    site.flow()
    assert site.of("good") == [1, 2]
    assert site.accounted() == site.delivered() == 2 * len(keys) + 2
    check_any_state(site, keys)
    for key_ in keys:
        site.republish(key_)
    site.consume()
    assert site.of("good") == [1, 2]
    assert site.accounted() == site.delivered()
    check_any_state(site, keys, again=True)


SIZES = {
    None: len('{"order":"b-00000","cents":1}'),
    "ce_id": 36,
    "ce_type": len("order.paid"),
    "ce_chain": len("1::") + 19,
    "ce_dataschema": len("oncebox:order.paid/1"),
    "ce_specversion": len("1.0"),
    "content-type": len("application/json"),
}
"""Bytes of the payload (None) and of each header."""


# ---- what the tests are written with


def mixed(site: Site, cases: Mapping[str, tuple[Change, str]]) -> list[Outgoing]:
    """For each case a key with a hurt event and a sound one behind it, good events in between:
    those have taken effect. The hurt records.
    """
    hurt: list[Outgoing] = []
    site.paid("good", 0)
    for number, (what, (change, _)) in enumerate(cases.items(), 1):
        site.hurt(what, noted(change, hurt))
        site.paid(what, 1, 2)
        site.paid("good", number)
    site.flow()
    assert site.of("good") == list(range(len(cases) + 1))
    assert len(hurt) == len(cases)
    return hurt


def check_fields(what: str, reason: str, says: str, came: Record) -> None:
    """It says what was found, where, and what was expected."""
    assert says in reason, what
    assert "; expected " in reason, what
    assert f"position {came.topic}/{came.partition}@{came.offset}" in reason, what


def check_any_state(site: Site, keys: Mapping[str, Change], *, again: bool = False) -> None:
    """Effects in order and once; what is not done waits, or is in quarantine."""
    waiting = site.waiting()
    for key_ in keys:
        done = site.of(key_)
        assert len(done) <= 2, key_
        assert done[1:] in ([], [2]), key_
        if len(done) < 2:
            assert key_ in waiting, f"{key_}: {done}, and nobody knows of it"
        if again and key_ in waiting:
            assert waiting[key_].kind in ("fork", "poison"), key_
            assert waiting[key_].release(), key_


def noted(change: Change, into: list[Outgoing]) -> Change:
    def changed(record: Outgoing) -> Outgoing:
        into.append(change(record))
        return into[-1]

    return changed


def flip(name: str | None, at: int) -> Change:
    """One bit of a header, or of the payload."""

    def flipped(data: bytes) -> bytes:
        assert at < len(data) * 8
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)

    def change(record: Outgoing) -> Outgoing:
        if name is None:
            return record._replace(value=flipped(record.value or b""))
        text = dict(record.headers)[name]
        assert isinstance(text, str)
        return header(name, flipped(text.encode()))(record)

    return change


def id_of(record: Outgoing) -> str:
    return str(dict(record.headers)["ce_id"])


Raw = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


def raw(record: Outgoing | Record) -> Raw:
    headers = ((n, v.encode() if isinstance(v, str) else v) for n, v in record.headers)
    return record.key, record.value, tuple(headers)
