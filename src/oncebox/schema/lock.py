"""oncebox.lock: every version of every event, what leads from one to the next, and who reads which.

Text for people and for git: TOML of which each line stands for itself, with its whole path, sorted
by name. So a diff says without its surroundings what changed, and the lines of two branches may be
put together in any order (`oncebox.lock merge=union` in .gitattributes). Pure.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import msgspec
from msgspec import UNSET, Struct, json
from msgspec.structs import asdict

from ..errors import SchemaError
from ..lens.chain import Edge
from ..lens.steps import AnyStep, Step, without_functions
from .model import Definition, Enum, Field, Member, Record, Schema, Symbol, Union
from .numbers import held, numbered_parts
from .text import read_type, type_text
from .valid import wrong_defaults

NAME = "oncebox.lock"
FORMAT = 1
BYTES_MAX = 64 * 1024 * 1024

HEADER = f"""\
# Every version of every event: made by `oncebox schema lock`, read by `oncebox schema check`.
# Commit it. Lines stand for themselves; git merges them with this in .gitattributes:
# {NAME} merge=union
lock = {FORMAT}
"""

Place = tuple[str, int]
"""An event's type and version."""


class Lock(Struct):
    """What a repository has agreed on."""

    schemas: dict[Place, Schema] = msgspec.field(default_factory=dict)
    edges: dict[Place, Edge] = msgspec.field(default_factory=dict)
    """What leads from one version to the next, by the newer one."""
    consumers: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    """By a consumer's name, the version of each type that it reads."""

    def versions(self, type: str) -> list[int]:
        """The versions of a type, in order."""
        return sorted(version for name, version in self.schemas if name == type)


# ---- written


def lock_text(lock: Lock) -> str:
    """The lock as text, the same for the same lock."""
    blocks = [HEADER]
    if lock.consumers:
        blocks.append("".join(sorted(_consumer_lines(lock.consumers))))
    for place in sorted({*lock.schemas, *lock.edges}):
        blocks.append("".join(version_lines(place, lock)))
    return "\n".join(block for block in blocks if block)


def _consumer_lines(consumers: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for consumer, reads in consumers.items():
        for type, version in reads.items():
            yield f"consumer.{_quoted(consumer)}.{_quoted(type)} = {version}\n"


def version_lines(place: Place, lock: Lock) -> Iterator[str]:
    """The lines of one version, in order."""
    start = f"{_quoted(place[0])}.{place[1]}"
    schema, edge = lock.schemas.get(place), lock.edges.get(place)
    if schema is not None:
        yield f"{start}.stream = {_quoted(schema.stream)}\n"
        yield f"{start}.key = [{', '.join(map(_quoted, schema.key))}]\n"
        yield f"{start}.root = {_quoted(schema.root)}\n"
        for name, definition in sorted(schema.definitions.items()):
            yield from _definition_lines(start, name, definition)
    if edge is not None:
        yield f"{start}.from = {edge.older}\n"
        for number, step in enumerate(edge.steps, 1):
            yield f"{start}.step.{number} = {_literal(step_text(step))}\n"


def step_text(step: Step) -> str:
    """A lens's step as JSON. Functions cannot travel: of them only the place is told."""
    return json.encode(without_functions(step)).decode()


class _About(Struct, forbid_unknown_fields=True):
    """What a line says of a definition; a default is its JSON."""

    kind: str
    tag_field: str = ""
    omits: bool = False
    retired: tuple[int, ...] = ()
    retired_names: tuple[str, ...] = ()
    doc: str = ""
    default: str = ""


class _Part(Struct, forbid_unknown_fields=True):
    """What a line says of a field, symbol or member."""

    number: int
    type: str = ""
    default: str = ""
    absent: bool = False
    pii: bool = False
    deprecated: str = ""
    doc: str = ""


def _definition_lines(start: str, name: str, definition: Definition) -> Iterator[str]:
    about = _About(
        definition.__class__.__name__.lower(),
        getattr(definition, "tag_field", ""),
        getattr(definition, "omits", False),
        definition.retired_numbers,
        definition.retired_names,
        definition.doc,
        _default(getattr(definition, "default", UNSET)),
    )
    yield f"{start}.define.{_bare(name)} = {_table(about)}\n"
    for part, values in sorted(_parts(definition), key=itemgetter(0)):
        yield f"{start}.in.{_bare(name)}.{_bare(part)} = {_table(values)}\n"


def _parts(definition: Definition) -> Iterator[tuple[str, _Part]]:
    match definition:
        case Record(fields):
            for f in fields:
                more = (_default(f.default), f.absent, f.pii, f.deprecated, f.doc)
                yield f.name, _Part(f.number, type_text(f.type), *more)
        case Enum(symbols):
            yield from ((symbol.value, _Part(symbol.number)) for symbol in symbols)
        case Union(_, members):
            yield from ((member.tag, _Part(member.number, member.name)) for member in members)


def _default(value: Any) -> str:
    return "" if value is UNSET else json.encode(value).decode()


_UNSAID = ("", False, ())


def _table(values: Struct) -> str:
    said = ((name, value) for name, value in asdict(values).items() if value not in _UNSAID)
    return "{ " + ", ".join(f"{name} = {_value(value)}" for name, value in said) + " }"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return str(value) if isinstance(value, int) else _literal(value)


def _literal(text: str) -> str:
    """A TOML string: as it is, where it can stand in single quotes and holds double ones."""
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return _quoted(text)


def _quoted(text: str) -> str:
    return json.encode(text).decode().replace("\x7f", "\\u007f")


_BARE = re.compile(r"[A-Za-z0-9_-]+")


def _bare(name: str) -> str:
    return name if _BARE.fullmatch(name) else _quoted(name)


# ---- read


_Group = dict[str, int]
"""The lines of one version, or of the consumers, with their numbers in the file. A line that stands
there twice, as git's merge may leave it, says nothing more.
"""


_LINE = re.compile(r'(consumer|"[A-Za-z0-9._-]+"\.[1-9][0-9]{0,3})\.')
_AGAIN = "a line above says something else of this"

Known = dict[str, tuple[Schema | None, Edge | None]]
"""What the lines of a version mean, by their text: another revision's lock has most of them."""


def read_lock(text: str, name: str = NAME, *, known: Known | None = None) -> Lock:
    """The lock that a text holds; `name` stands in errors. Raises SchemaError with the line.

    `known` is filled and used: pass the same to read another revision of the same lock.
    """
    lock, known = Lock(), {} if known is None else known
    for start, group in _groups(text, name).items():
        if start == "consumer":
            lock.consumers = _consumers(_tables(group, name), name)
            continue
        whole = "".join(sorted(group))
        if whole not in known:
            known[whole] = _version(_tables(group, name), name)
        schema, edge = known[whole]
        quoted, _, version = start.rpartition(".")
        place = (quoted[1:-1], int(version))
        if schema is not None:
            lock.schemas[place] = schema
        if edge is not None:
            lock.edges[place] = edge
    return lock


def _groups(text: str, name: str) -> dict[str, _Group]:
    if len(text) > BYTES_MAX:
        raise SchemaError(f"{name} is {len(text):,} characters", expected=f"at most {BYTES_MAX:,}")
    groups: dict[str, _Group] = {}
    format = None
    for number, line in enumerate(text.split("\n"), 1):  # splitlines knows more ends than TOML
        start = _LINE.match(line)
        if start is not None:
            groups.setdefault(start[1], {}).setdefault(line + "\n", number)
        elif line.startswith("lock = "):
            format = line.removeprefix("lock = ").strip()
        elif line.strip() and not line.startswith("#"):
            raise _unreadable(name, number, f"{line.strip()[:60]!r}")
    if format != str(FORMAT):
        raise SchemaError(
            f"{name} is of format {format}", expected=f"lock = {FORMAT}",
            hint="made by a newer oncebox?" if format else "made by `oncebox schema lock`?",
        )  # fmt: skip
    return groups


def _unreadable(name: str, number: int, what: str) -> SchemaError:
    return SchemaError(
        f"{name}, line {number}: {what}",
        expected='lines such as: "order.placed".1.in.OrderPlaced.cents = { number = 1, … }',
        hint="after a merge: keep one of the two lines, then `oncebox schema lock`",
    )


_PAIR = r"""([a-z_]+) = (?:"([^"\\\n]*)"|'([^'\n]*)'|(0|[1-9]\d{0,8})|(true))"""
_PAIRS = re.compile(_PAIR, re.ASCII)
_PLAIN = re.compile(
    r'"([A-Za-z0-9._-]+)"\.(\d+)\.(?:(in|define)\.([A-Za-z_]\w*)(?:\.([\w-]+))? = '
    r"\{ (" + re.sub(r"\((?!\?)", "(?:", rf"{_PAIR}(?:, {_PAIR})*") + r") \}"
    r'|(stream|root) = "([^"\\\n]*)")\n',
    re.ASCII,
)
"""Most lines, as `lock_text` writes them; Python's reader of TOML, which reads the others, takes
many times as long."""


def _tables(group: _Group, name: str) -> dict[str, Any]:
    plain = {line: _PLAIN.fullmatch(line) for line in group}
    rest = [line for line, found in plain.items() if found is None]
    try:
        tables = tomllib.loads("".join(rest))
    except tomllib.TOMLDecodeError as error:
        what, at, place = str(error).partition(" (at line ")
        number = int(place.partition(",")[0]) if at else len(rest)
        what = _AGAIN if "overwrite" in what else what
        raise _unreadable(name, group[rest[min(number, len(rest)) - 1]], what) from error
    for line, one in zip(group.values(), plain.values(), strict=True):
        if one is None:
            continue
        type, version, kind, record, part, pairs, word, text = one.groups()
        path = (word,) if word else (kind, record, part) if part else (kind, record)
        said: Any = tables
        for step in (type, version, *path[:-1]):
            said = said.setdefault(step, {}) if isinstance(said, dict) else said
        if not isinstance(said, dict) or path[-1] in said:
            raise _unreadable(name, line, _AGAIN)
        said[path[-1]] = text if word else _pairs(pairs, name, line)
    return tables


def _pairs(text: str, name: str, line: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, quoted, literal, number, true in _PAIRS.findall(text):
        if key in values:
            raise _unreadable(name, line, f"{key} twice")
        values[key] = int(number) if number else True if true else quoted or literal
    return values


_read_step = json.Decoder(AnyStep).decode


def _consumers(tables: dict[str, Any], name: str) -> dict[str, dict[str, int]]:
    try:
        return msgspec.convert(tables["consumer"], dict[str, dict[str, int]])
    except msgspec.ValidationError as error:
        raise SchemaError(f"{name}: consumer: {error}") from error


def _version(tables: dict[str, Any], name: str) -> tuple[Schema | None, Edge | None]:
    ((type, versions),) = tables.items()
    ((text, said),) = versions.items()
    where = f"{name}: {type} {text}"
    try:
        edge = None
        if "from" in said:
            numbers = sorted(said.get("step", {}), key=int)
            steps = tuple(_read_step(said["step"][number]) for number in numbers)
            edge = Edge(msgspec.convert(said["from"], int), int(text), steps)
        if "root" not in said:
            return None, edge
        schema = _schema(type, int(text), said)
    except (msgspec.MsgspecError, SchemaError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise SchemaError(f"{where}: {error.what}", expected=error.expected) from error
        raise SchemaError(f"{where}: {error.__class__.__name__}: {error}") from error
    _check(schema, where)
    return schema, edge


def _schema(type: str, version: int, said: dict[str, Any]) -> Schema:
    parts = msgspec.convert(said.get("in", {}), dict[str, dict[str, _Part]])
    definitions: dict[str, Definition] = {}
    for name, table in said.get("define", {}).items():
        definitions[name] = _definition(msgspec.convert(table, _About), parts.pop(name, {}))
    if parts:
        raise SchemaError(f"{', '.join(parts)} is not defined")
    key = msgspec.convert(said["key"], tuple[str, ...])
    stream, root = (msgspec.convert(said[name], str) for name in ("stream", "root"))
    return Schema(type, version, root, definitions, stream, key)


def _definition(about: _About, parts: dict[str, _Part]) -> Definition:
    retired = {
        "retired_numbers": about.retired, "retired_names": about.retired_names, "doc": about.doc,
    }  # fmt: skip
    in_order = sorted(parts.items(), key=lambda part: part[1].number)
    match about.kind:
        case "record":
            fields = tuple(_field(name, part) for name, part in in_order)
            return Record(fields, omits=about.omits, **retired)  # type: ignore[arg-type]
        case "enum":
            symbols = tuple(Symbol(name, part.number) for name, part in in_order)
            default = json.decode(about.default) if about.default else UNSET
            return Enum(symbols, default, **retired)  # type: ignore[arg-type]
        case "union":
            members = tuple(Member(name, part.type, part.number) for name, part in in_order)
            return Union(about.tag_field, members, **retired)  # type: ignore[arg-type]
    raise SchemaError(f"kind = {about.kind!r}", expected="record, enum or union")


def _field(name: str, part: _Part) -> Field:
    default = json.decode(part.default) if part.default else UNSET
    return Field(
        name, part.number, read_type(part.type), default, part.absent, part.pii, part.deprecated,
        part.doc,
    )  # fmt: skip


# ---- what cannot be a schema


def _check(schema: Schema, where: str) -> None:
    if not isinstance(schema.definitions.get(schema.root), Record):
        raise SchemaError(f"{where}: root {schema.root!r} is no record of it")
    for name, definition in schema.definitions.items():
        parts = list(numbered_parts(definition))
        _check_numbers(parts, definition.retired_numbers, f"{where}: {name}")
        for lacking in sorted(held(definition) - schema.definitions.keys()):
            raise SchemaError(f"{where}: {name} refers to {lacking}, which is not defined")
    for field, problem in wrong_defaults(schema):
        raise SchemaError(f"{where}: the default of {field}", expected=problem)


def _check_numbers(parts: Iterable[tuple[str, int]], retired: tuple[int, ...], where: str) -> None:
    taken: dict[int, str] = dict.fromkeys(retired, "retired")
    free = max((0, *taken, *(number for _, number in parts))) + 1
    for name, number in parts:
        if number in taken or number < 1:
            raise SchemaError(
                f"{where} gives number {number} to {name}, which is {taken.get(number, 'below 1')}",
                expected=f"a number of its own, such as {free}",
                hint="two branches gave it: change the one that is not released yet",
            )
        taken[number] = f"that of {name}"
