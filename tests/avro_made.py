"""Avro schemas made at random, changed at random, and documents of them.

A schema is a dictionary of definitions by name, the event's own under "Event"; types refer to them
by name, and `written` puts each definition where it is met first, as Avro wants it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
WIDER = {
    "int": ["long", "float", "double"], "long": ["float", "double"], "float": ["double"],
    "string": ["bytes"], "bytes": ["string"],
}  # fmt: skip

Made = dict[str, Any]
"""Definitions by name; those of records have fields as [name, type, default or None, aliases]."""


def made(rng: Random) -> Made:
    schema: Made = {"Event": {"type": "record", "fields": [], "aliases": []}}
    for n in range(rng.randint(1, 5)):
        schema["Event"]["fields"].append(_field(rng, schema, f"f{n}"))
    return schema


def _field(rng: Random, schema: Made, name: str) -> list[Any]:
    kind = _type(rng, schema, 0)
    default = [_default(rng, kind, schema)] if rng.random() < 0.4 else None
    return [name, kind, default, []]


def _type(rng: Random, schema: Made, depth: int, *, union: bool = True) -> Any:
    choice = rng.random()
    if depth > 2 or choice < 0.45:
        return rng.choice(PRIMITIVES)
    if choice < 0.6:
        return {"type": rng.choice(("array", "map")), "of": _type(rng, schema, depth + 1)}
    if choice < 0.75 and union:
        found: dict[str, Any] = {}
        for _ in range(rng.randint(1, 3)):
            one = _type(rng, schema, depth + 1, union=False)
            found[_tag(one)] = one
        return {"type": "union", "of": list(found.values())}
    known = [name for name, of in schema.items() if name != "Event" and of["type"] != "open"]
    if known and rng.random() < 0.3:
        return {"name": rng.choice(known)}
    if rng.random() < 0.05:
        return {"type": "array", "of": {"name": "Event"}}
    return {"name": _define(rng, schema, depth)}


def _define(rng: Random, schema: Made, depth: int) -> str:
    kind = rng.choice(("enum", "fixed", "record"))
    name = f"{kind[0].upper()}{len(schema)}"
    schema[name] = {"type": "open"}
    if kind == "enum":
        symbols = ["a", "b", "c"][: rng.randint(1, 3)]
        schema[name] = {"type": "enum", "symbols": symbols, "default": None, "aliases": []}
    elif kind == "fixed":
        schema[name] = {"type": "fixed", "size": rng.randint(0, 4), "aliases": []}
    else:
        fields = [
            [f"g{n}", _type(rng, schema, depth + 1), None, []] for n in range(rng.randint(0, 3))
        ]
        schema[name] = {"type": "record", "fields": fields, "aliases": []}
    return name


def _tag(kind: Any) -> str:
    return kind if isinstance(kind, str) else kind.get("name") or kind["type"]


def _default(rng: Random, kind: Any, schema: Made) -> Any:
    """A default in JSON; NaN of a kind for what has none that is simple."""
    if isinstance(kind, str):
        return {"null": None, "boolean": True, "int": 7, "long": 2**40, "float": 1.5,
                "double": 0.1, "bytes": "\u00ff", "string": "é"}[kind]  # fmt: skip
    if kind.get("type") in ("array", "map"):
        return [] if kind["type"] == "array" else {}
    if kind.get("type") == "union":
        return _default(rng, kind["of"][0], schema)
    of = schema[kind["name"]]
    if of["type"] == "enum":
        return of["symbols"][0]
    if of["type"] == "fixed":
        return "x" * of["size"]
    return {one[0]: _default(rng, one[1], schema) for one in of["fields"]}


def written(schema: Made) -> Any:
    """As JSON for Avro."""
    return _written({"name": "Event"}, schema, set())


def _written(kind: Any, schema: Made, seen: set[str]) -> Any:
    if isinstance(kind, str):
        return kind
    if "name" not in kind:
        if kind["type"] == "union":
            return [_written(one, schema, seen) for one in kind["of"]]
        part = "items" if kind["type"] == "array" else "values"
        return {"type": kind["type"], part: _written(kind["of"], schema, seen)}
    name = kind["name"]
    if name in seen:
        return name
    seen.add(name)
    of = schema[name]
    out = {"type": of["type"], "name": name, "aliases": of["aliases"]}
    if of["type"] == "record":
        out["fields"] = [
            {"name": one[0], "type": _written(one[1], schema, seen), "aliases": one[3]}
            | ({"default": one[2][0]} if one[2] is not None else {})
            for one in of["fields"]
        ]
    elif of["type"] == "enum":
        out["symbols"] = of["symbols"]
        if of["default"] is not None:
            out["default"] = of["default"]
    else:
        out["size"] = of["size"]
    return out


# ---- changes


def changed(rng: Random, schema: Made) -> Made:
    """The same with one to three changes."""
    new = deepcopy(schema)
    for _ in range(rng.randint(1, 3)):
        rng.choice(CHANGES)(rng, new)
    return new


def _of(schema: Made, kind: str) -> list[Any]:
    return [one for one in schema.values() if one["type"] == kind]


def _some_field(rng: Random, schema: Made) -> list[Any] | None:
    fields = [one for record in _of(schema, "record") for one in record["fields"]]
    return rng.choice(fields) if fields else None


def _remove(rng: Random, schema: Made) -> None:
    record = rng.choice(_of(schema, "record"))
    if record["fields"]:
        record["fields"].pop(rng.randrange(len(record["fields"])))


def _add(rng: Random, schema: Made) -> None:
    record = rng.choice(_of(schema, "record"))
    record["fields"].insert(0, _field(rng, schema, f"n{rng.getrandbits(64)}"))


def _rename(rng: Random, schema: Made) -> None:
    one = _some_field(rng, schema)
    if one is not None:
        one[3] = [one[0]] if rng.random() < 0.7 else []
        one[0] = f"r{rng.getrandbits(64)}"


def _retype(rng: Random, schema: Made) -> None:
    one = _some_field(rng, schema)
    if one is not None:
        one[1], one[2] = _type(rng, schema, 1), None


def _widen(rng: Random, schema: Made) -> None:
    one = _some_field(rng, schema)
    if one is not None and isinstance(one[1], str) and one[1] in WIDER:
        one[1], one[2] = rng.choice(WIDER[one[1]]), None


def _unite(rng: Random, schema: Made) -> None:
    one = _some_field(rng, schema)
    if one is None:
        return
    one[2] = None
    if isinstance(one[1], dict) and one[1].get("type") == "union":
        branches = one[1]["of"]
        if rng.random() < 0.3 and len(branches) > 1:
            branches.pop()
        elif rng.random() < 0.5:
            rng.shuffle(branches)
        else:
            more = _type(rng, schema, 1, union=False)
            if _tag(more) not in {_tag(branch) for branch in branches}:
                branches.insert(rng.randint(0, len(branches)), more)
    elif one[1] != "null":
        one[1] = {"type": "union", "of": ["null", one[1]]}


def _symbols(rng: Random, schema: Made) -> None:
    enums = _of(schema, "enum")
    if enums:
        one = rng.choice(enums)
        if rng.random() < 0.5 and len(one["symbols"]) > 1:
            one["symbols"].pop(0)
        else:
            one["symbols"].insert(0, f"s{rng.getrandbits(64)}")
        one["default"] = rng.choice([None, one["symbols"][-1]])
        for record in _of(schema, "record"):
            for field in record["fields"]:
                field[2] = None


def _resize(rng: Random, schema: Made) -> None:
    for one in _of(schema, "fixed")[:1]:
        one["size"] += 1
        for record in _of(schema, "record"):
            for field in record["fields"]:
                field[2] = None


def _reorder(rng: Random, schema: Made) -> None:
    rng.shuffle(rng.choice(_of(schema, "record"))["fields"])


CHANGES: list[Callable[[Random, Made], None]] = [
    _remove, _add, _rename, _retype, _widen, _unite, _symbols, _resize, _reorder,
]  # fmt: skip


# ---- documents


VALUES: dict[str, list[Any]] = {
    "null": [None],
    "boolean": [True, False],
    "bytes": [b"", b"\xff"],
    "string": ["", "é"],
    "int": [0, 1, -1, 2**31 - 1, -(2**31), 2**24 + 1],
    "long": [0, -1, 2**63 - 1, -(2**63), 2**53 + 1],
    "float": [0.0, 1.5, -(2.0**100)],
    "double": [0.1, 1e300, -0.0],
}


def document(rng: Random, kind: Any, schema: Made, depth: int = 0) -> Any:
    """A value, branches with their names. Lists end where it gets deep."""
    if isinstance(kind, str):
        return rng.choice(VALUES[kind])
    if kind.get("type") in ("array", "map"):
        count = rng.randint(0, 2) if depth < 5 else 0
        values = [document(rng, kind["of"], schema, depth + 1) for _ in range(count)]
        return values if kind["type"] == "array" else dict(zip("kl", values, strict=False))
    if kind.get("type") == "union":
        simple = min(kind["of"], key=lambda one: isinstance(one, dict))
        branch = rng.choice(kind["of"]) if depth < 5 else simple
        return (_tag(branch), document(rng, branch, schema, depth + 1))
    of = schema[kind["name"]]
    if of["type"] == "enum":
        return rng.choice(of["symbols"])
    if of["type"] == "fixed":
        return rng.randbytes(of["size"])
    return {one[0]: document(rng, one[1], schema, depth + 1) for one in of["fields"]}


def kept(  # noqa: PLR0911
    document: Any, read: Any, w: Any, r: Any, old: Made, new: Made
) -> bool:
    """Whether what was read has each value that its schema has a place for."""
    if isinstance(w, dict) and w.get("type") == "union":
        branch = next(one for one in w["of"] if _tag(one) == document[0])
        return kept(document[1], read, branch, r, old, new)
    if isinstance(r, dict) and r.get("type") == "union":
        return any(kept(document, read, w, one, old, new) for one in r["of"])
    if isinstance(w, str) or isinstance(r, str):
        return isinstance(w, str) and isinstance(r, str) and _equal(document, read, r)
    if "of" in w:
        if w["type"] != r.get("type") or len(document) != len(read):
            return False
        pairs = [
            (document[k], read[k]) for k in (document if w["type"] == "map" else range(len(read)))
        ]
        return all(kept(a, b, w["of"], r["of"], old, new) for a, b in pairs)
    if "name" not in r:
        return False
    mine, theirs = old[w["name"]], new[r["name"]]
    if mine["type"] != theirs["type"] or w["name"] != r["name"]:
        return False
    if mine["type"] == "enum":
        return bool(read == (document if document in theirs["symbols"] else theirs["default"]))
    if mine["type"] == "fixed":
        return bool(document == read)
    if not isinstance(read, dict):
        return False
    by_name = {one[0]: one for one in mine["fields"]}
    for name, kind, default, aliases in theirs["fields"]:
        known = next((by_name[one] for one in (name, *aliases) if one in by_name), None)
        if known is None:
            if name not in read or default is None:
                return False
        elif not kept(document[known[0]], read[name], known[1], kind, old, new):
            return False
    return True


def _equal(a: Any, b: Any, kind: str) -> bool:
    if isinstance(a, str) and kind == "bytes":
        return bool(a.encode() == b)
    if isinstance(a, bytes) and kind == "string":
        return isinstance(b, str) and bool(a == b.encode())
    if kind == "null":
        return a is None and b is None
    alike = kind not in ("string", "bytes", "boolean") or type(a) is type(b)
    return bool(alike and a == b)
