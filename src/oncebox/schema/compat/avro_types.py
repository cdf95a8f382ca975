"""Avro schemas as trees: names resolved, bounds kept, and the smallest document of each type.

After the specification of Avro 1.12, "Schema Declaration" and "Names". Raises SchemaError for what
it does not allow, with the path in the schema. Defaults are kept as they stand, valid or not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import floor, inf, isfinite, log10
from typing import Any

from ...errors import SchemaError
from .bounds import DEPTH_MAX, FIELDS_MAX, REFERENCES_MAX, read_json, too_deep, too_many

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
NAMED = frozenset({"record", "enum", "fixed"})
LOGICAL = ("logicalType", "precision", "scale")
PARSED_MAX = 128
"""Schemas kept parsed; the oldest are forgotten."""
DOCUMENT_MAX = 100_000
"""Values in a schema's smallest document; one that must be larger cannot be anybody's event."""
FIXED_MAX = 1024 * 1024
"""Bytes of a fixed type, since a document has to hold it."""

NOTHING: Any = object()
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(slots=True, eq=False)
class Field:
    """A field of a record."""

    name: str
    type: Type
    default: Any = NOTHING
    aliases: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Type:
    """A type; which attributes mean something depends on its kind."""

    kind: str
    name: str = ""
    aliases: frozenset[str] = frozenset()
    fields: list[Field] = field(default_factory=list)
    symbols: tuple[str, ...] = ()
    default: Any = NOTHING
    size: int = 0
    of: Type | None = None
    branches: list[Type] = field(default_factory=list)
    logical: dict[str, Any] = field(default_factory=dict)
    least: float = inf
    """Values in its smallest document."""
    document: Any = None
    """That document, once it was asked for."""

    @property
    def short(self) -> str:
        """Its name without the namespace."""
        return self.name.rpartition(".")[2]

    @property
    def tag(self) -> str:
        """What a branch of a union is called."""
        return self.name or self.kind

    @property
    def inner(self) -> Type:
        """What an array or map holds."""
        assert self.of is not None
        return self.of

    def shown(self) -> Any:
        """As people write it, in short."""
        if self.kind == "union":
            return [branch.shown() for branch in self.branches]
        if self.of is not None:
            return {"type": self.kind, "of": self.of.shown()}
        if self.kind == "fixed":
            return {"type": f"fixed {self.name}", "size": self.size, **self.logical}
        text = f"{self.kind} {self.name}".rstrip()
        return {"type": text, **self.logical} if self.logical else text


@lru_cache(PARSED_MAX)
def parsed(text: str, references: tuple[tuple[str, str], ...], which: str) -> Type:
    """The tree of a schema's text; `references`: (name, text) of schemas that define names.

    Trees are shared: do not change them.
    """
    if len(references) > REFERENCES_MAX:
        raise SchemaError(f"{which}: {len(references)} references", expected=f"{REFERENCES_MAX}")
    texts = dict(references)
    reader = _Reader(which, {name: read_json(t, f"{which}, {name}") for name, t in texts.items()})
    root = reader.type(read_json(text, which), "", "$", 0)
    _measure(reader.records)
    for one in reader.records:
        if not isfinite(one.least):
            raise SchemaError(
                f"{which}: {one.shown()} always holds itself, so no document can end",
                expected="a way out of the cycle: null, an array or a map",
            )
    least = _least(root)
    if least > DOCUMENT_MAX:
        raise SchemaError(
            f"{which}: its smallest document is too large", expected=f"{DOCUMENT_MAX}"
        )
    return root


class _Reader:
    """Reads one schema and what it refers to."""

    def __init__(self, which: str, references: Mapping[str, Any]) -> None:
        self.which = which
        self.names: dict[str, Type] = {}
        self.records: list[Type] = []
        self.count = 0
        self.references = dict(references)

    def wrong(self, path: str, what: str, expected: str, hint: str | None = None) -> SchemaError:
        return SchemaError(f"{self.which}, {path}: {what}", expected=expected, hint=hint)

    def counted(self, more: int) -> None:
        self.count += more
        if self.count > FIELDS_MAX:
            raise too_many(self.which)

    def type(self, schema: Any, space: str, path: str, depth: int) -> Type:
        if depth > DEPTH_MAX:
            raise too_deep(self.which, path)
        if isinstance(schema, str):
            return self._named(schema, space, path)
        if isinstance(schema, list):
            return self._union(schema, space, path, depth)
        if isinstance(schema, dict) and "type" in schema:
            return self._object(schema, space, path, depth)
        raise self.wrong(path, f"{_cut(schema)} is no type", "a type's name, a list or an object")

    def _object(self, schema: dict[str, Any], space: str, path: str, depth: int) -> Type:
        kind = schema["type"]
        if not isinstance(kind, str):
            return self.type(kind, space, f"{path}.type", depth + 1)
        if kind in NAMED or kind == "error":
            record = "record" if kind == "error" else kind
            return self._definition(record, schema, space, path, depth)
        if kind in ("array", "map"):
            part = "items" if kind == "array" else "values"
            if part not in schema:
                raise self.wrong(path, f"{kind} without {part}", f"{part}: a type")
            inner = self.type(schema[part], space, f"{path}.{part}", depth + 1)
            return Type(kind, of=inner, logical=_logical(schema), least=1)
        if kind in PRIMITIVES:
            return Type(kind, logical=_logical(schema), least=1)
        return self._named(kind, space, path)

    def _named(self, name: str, space: str, path: str) -> Type:
        if name in PRIMITIVES:
            return Type(name, least=1)
        full = name if "." in name or not space else f"{space}.{name}"
        for candidate in (full, name):
            if candidate in self.names:
                return self.names[candidate]
        for candidate in (full, name):  # a reference's text defines the name that it goes by
            if candidate in self.references:
                self.type(self.references.pop(candidate), "", f"{candidate}:$", 1)
                if candidate in self.names:
                    return self.names[candidate]
        for other in list(self.references):  # or goes by another name
            schema = self.references.pop(other, None)
            if schema is not None:
                self.type(schema, "", f"{other}:$", 1)
            if full in self.names:
                return self.names[full]
        raise self.wrong(
            path,
            f"the type {_cut(name)} is not known",
            "a type of Avro, or a name defined before",
            "Give the schema that defines it as a reference.",
        )

    def _union(self, schema: list[Any], space: str, path: str, depth: int) -> Type:
        self.counted(len(schema))
        if not schema:
            raise self.wrong(path, "a union of nothing", "one branch at least")
        branches = [
            self.type(one, space, f"{path}[{n}]", depth + 1) for n, one in enumerate(schema)
        ]
        tags = [branch.tag for branch in branches]
        if "union" in tags or len(set(tags)) < len(tags):
            raise self.wrong(path, f"the union {_cut(tags)}", "different types, and no union in it")
        return Type("union", branches=branches)

    def _definition(
        self, kind: str, schema: dict[str, Any], space: str, path: str, depth: int
    ) -> Type:
        name, space = self._full(schema.get("name"), schema.get("namespace", space), path)
        if name in self.names:
            raise self.wrong(path, f"{name} is defined twice", "each name once")
        aliases = frozenset(
            alias if "." in alias or not space else f"{space}.{alias}"
            for alias in self._strings(schema, "aliases", path)
        )
        made = Type(kind, name, aliases)
        self.names[name] = made
        if kind == "enum":
            made.symbols = self._strings(schema, "symbols", path)
            made.least = 1
            if not made.symbols:
                raise self.wrong(path, "an enum without symbols", "one symbol at least")
            made.default = schema.get("default", NOTHING)
            self.counted(len(made.symbols))
            for symbol in made.symbols:
                self._simple(symbol, f"{path}.symbols")
            if len(set(made.symbols)) < len(made.symbols):
                raise self.wrong(f"{path}.symbols", "a symbol twice", "each symbol once")
        elif kind == "fixed":
            made.size, made.least = schema.get("size", NOTHING), 1
            if type(made.size) is not int or not 0 <= made.size <= FIXED_MAX:
                raise self.wrong(path, "a fixed's size", f"a number up to {FIXED_MAX:,}")
            made.logical = _logical(schema)
        else:
            self._fields(made, schema, space, path, depth)
        return made

    def _fields(
        self, record: Type, schema: dict[str, Any], space: str, path: str, depth: int
    ) -> None:
        fields = schema.get("fields")
        if not isinstance(fields, list):
            raise self.wrong(path, "a record without fields", "fields: a list, maybe empty")
        self.counted(len(fields))
        names = set()
        for n, one in enumerate(fields):
            if not isinstance(one, dict) or "type" not in one:
                raise self.wrong(f"{path}.fields[{n}]", f"{_cut(one)}", "a name and a type")
            name = self._simple(one.get("name"), f"{path}.fields[{n}]")
            if name in names:
                raise self.wrong(f"{path}.{name}", "the field is there twice", "each name once")
            names.add(name)
            made = self.type(one["type"], space, f"{path}.{name}", depth + 1)
            aliases = self._strings(one, "aliases", f"{path}.{name}")
            record.fields.append(Field(name, made, one.get("default", NOTHING), aliases))
        self.records.append(record)

    def _full(self, name: Any, space: Any, path: str) -> tuple[str, str]:
        if not isinstance(name, str) or not (space is None or isinstance(space, str)):
            raise self.wrong(path, f"{_cut(name)} is no name", "letters, digits and underscores")
        full = name if "." in name or not space else f"{space}.{name}"
        for part in full.split("."):
            self._simple(part, path)
        if full in PRIMITIVES:
            raise self.wrong(path, f"{full} is a type of Avro", "another name")
        return full, full.rpartition(".")[0]

    def _simple(self, name: Any, path: str) -> str:
        if isinstance(name, str) and _NAME.match(name):
            return name
        raise self.wrong(
            path, f"the name {_cut(name)}", "letters, digits and underscores, no digit first"
        )

    def _strings(self, schema: dict[str, Any], part: str, path: str) -> tuple[str, ...]:
        given = schema.get(part, [])
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise self.wrong(path, f"{part}: {_cut(given)}", "a list of names")
        return tuple(given)


def _logical(schema: dict[str, Any]) -> dict[str, Any]:
    """The logical type; one that is invalid is to be ignored, as the specification has it."""
    found = {part: schema[part] for part in LOGICAL if part in schema}
    kind = found.get("logicalType")
    return found if isinstance(kind, str) and (kind != "decimal" or _decimal(schema)) else {}


def _decimal(schema: dict[str, Any]) -> bool:
    precision, scale = schema.get("precision"), schema.get("scale", 0)
    if type(precision) is not int or type(scale) is not int or not 0 <= scale <= precision > 0:
        return False
    if schema["type"] == "fixed":
        bits: int = 8 * schema["size"] - 1
        return precision <= floor(bits * log10(2))
    return bool(schema["type"] == "bytes")


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


# ---- the smallest documents


def _least(kind: Type) -> float:
    if kind.kind == "union":
        return min((_least(branch) for branch in kind.branches), default=inf)
    return kind.least


def _measure(records: list[Type]) -> None:
    """Find each record's smallest document: least fixed point over records, inner ones first."""
    changed = True
    while changed:
        changed = False
        for record in records:
            least = 1 + sum(_least(one.type) for one in record.fields)
            if least < record.least:
                record.least, changed = least, True


def writable(kind: Type) -> bool:
    """Whether a document of it can end, and is not monstrous."""
    return _least(kind) <= DOCUMENT_MAX


_SMALLEST: dict[str, Any] = {
    "null": None, "boolean": False, "int": 0, "long": 0, "float": 0.0, "double": 0.0,
    "bytes": b"", "string": "", "array": [], "map": {},
}  # fmt: skip


def smallest(kind: Type) -> Any:
    """A writable type's smallest document, shared: copy it to change it. A union's value stands
    with the name of its branch, as fastavro takes it.
    """
    match kind.kind:
        case "record":
            if kind.document is None:
                kind.document = {one.name: smallest(one.type) for one in kind.fields}
            return kind.document
        case "enum":
            return kind.symbols[0]
        case "fixed":
            return bytes(kind.size)
        case "union":
            branch = min(kind.branches, key=_least)
            return (branch.tag, smallest(branch))
    return _SMALLEST[kind.kind]


# ---- as fastavro takes it


def bare(root: Type, *, defaults: bool) -> Any:
    """A schema as JSON with full names, without logical types, with valid defaults if asked."""
    return _bare(root, set(), defaults=defaults)


def _bare(kind: Type, seen: set[str], *, defaults: bool) -> Any:
    if kind.kind == "union":
        return [_bare(branch, seen, defaults=defaults) for branch in kind.branches]
    if kind.of is not None:
        part = "items" if kind.kind == "array" else "values"
        return {"type": kind.kind, part: _bare(kind.of, seen, defaults=defaults)}
    if not kind.name:
        return kind.kind
    if kind.name in seen:
        return kind.name
    seen.add(kind.name)
    made: dict[str, Any] = {"type": kind.kind, "name": kind.name, "aliases": sorted(kind.aliases)}
    if kind.kind == "fixed":
        made["size"] = kind.size
    elif kind.kind == "enum":
        made["symbols"] = list(kind.symbols)
        if kind.default in kind.symbols:
            made["default"] = kind.default
    else:
        made["fields"] = [
            {"name": one.name, "type": _bare(one.type, seen, defaults=defaults)}
            | ({"aliases": list(one.aliases)} if one.aliases else {})
            | ({"default": one.default} if defaults and _default(one) else {})
            for one in kind.fields
        ]
    return made


def _default(one: Field) -> bool:
    return one.default is not NOTHING and fits(one.default, one.type)


def _text(value: Any) -> bool:
    return isinstance(value, str) and all(ord(c) < 256 for c in value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all(parts: Iterable[Any], kind: Type) -> bool:
    return all(fits(part, kind.inner) for part in parts)


_FITS: dict[str, Callable[[Any, Type], bool]] = {
    "null": lambda value, _: value is None,
    "boolean": lambda value, _: isinstance(value, bool),
    "int": lambda value, _: type(value) is int and -(2**31) <= value < 2**31,
    "long": lambda value, _: type(value) is int and -(2**63) <= value < 2**63,
    "float": lambda value, _: _number(value),
    "double": lambda value, _: _number(value),
    "string": lambda value, _: isinstance(value, str),
    "bytes": lambda value, _: _text(value),
    "fixed": lambda value, kind: _text(value) and len(value) == kind.size,
    "enum": lambda value, kind: value in kind.symbols,
    "array": lambda value, kind: isinstance(value, list) and _all(value, kind),
    "map": lambda value, kind: isinstance(value, dict) and _all(value.values(), kind),
    "record": lambda value, kind: (
        isinstance(value, dict)
        and all(
            fits(value[one.name], one.type) if one.name in value else one.default is not NOTHING
            for one in kind.fields
        )
    ),
    "union": lambda value, kind: any(fits(value, branch) for branch in kind.branches),
}


def fits(default: Any, kind: Type) -> bool:
    """Whether a default is a value of its type, as the specification writes defaults in JSON. For
    a union: a value of any branch (until Avro 1.11, of the first).
    """
    return _FITS[kind.kind](default, kind)


def every_field(root: Type) -> Iterator[tuple[Type, Field]]:
    """Each field of each record, once: (record, field)."""
    for kind, first in _every_type(root):
        if first:
            yield from ((kind, one) for one in kind.fields)


def shared(root: Type) -> set[int]:
    """Identities of the named types that stand at more than one place."""
    return {id(kind) for kind, first in _every_type(root) if kind.name and not first}


def _every_type(root: Type) -> Iterator[tuple[Type, bool]]:
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        kind = waiting.pop()
        first = id(kind) not in seen
        yield kind, first
        if first:
            seen.add(id(kind))
            waiting += kind.branches
            waiting += [one.type for one in kind.fields]
            if kind.of is not None:
                waiting.append(kind.of)
