"""Avro's schema resolution (Avro 1.12, "Schema Resolution"), compiled: for a writer's schema and a
reader's shape, one plain Python function per record, from bytes to what the reader wants.

Bounded by construction: nothing is read behind the end, nesting and the number of values are
counted, a length that is negative is refused. Where the writer's logical type and the reader's
differ (milliseconds and microseconds, two scales) the value is kept, not its raw number. A default
is made anew for each event. A reader's union takes the writer's exact type first, then the first
that it can be promoted to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any

from ..envelope import VALUE_BYTES_MAX
from ..errors import DecodeFailed
from . import avro_leaves
from .avro_shapes import (
    LEFT_OUT,
    Array,
    Choice,
    Fields,
    Leaf,
    Mapping,
    Part,
    Symbols,
    leaf_of,
    resolved,
)
from .bounds import DEPTH_MAX, ELEMENTS_MAX

Decoder = Callable[[bytes], Any]
INDENT_MAX = 12
"""Deeper code goes into a function of its own: Python nests 20 loops at most."""

_BAD = object()
_SKIP = None
"""In place of a shape: the reader has no use for the value."""

_PROMOTED = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}


def compile_reader(
    writer: Any, named: dict[str, Any], shape: Any, *, values: bool = False, label: str = "Avro"
) -> Decoder:
    """What decodes bytes of the `writer`'s schema (parsed, with its `named` types) into the shape.

    `values`: leaves are the Python values that fastavro gives, else those of a document. The
    decoder raises DecodeFailed with the path of what it could not read.
    """
    source = Source(writer, named, values=values)
    run = source.compile(writer, shape)

    @cache
    def tracing() -> Callable[..., Any]:
        return Source(writer, named, values=values, trace=True).compile(writer, shape)

    def traced(raw: bytes, error: Exception) -> DecodeFailed:
        left: list[Any] = [ELEMENTS_MAX]  # and behind it the steps to where it is
        try:
            tracing()(raw, 0, 1, left)
        except FAILURES:
            pass
        what = "ends early" if isinstance(error, IndexError | struct.error) else str(error)
        return DecodeFailed(
            f"{label} at ${''.join(left[1:])}: {what}", expected="what its schema says"
        )

    def decode(raw: bytes) -> Any:
        size = len(raw)
        if size > VALUE_BYTES_MAX:
            raise DecodeFailed(f"{label}: {size} bytes", expected=f"at most {VALUE_BYTES_MAX}")
        try:
            value, end = run(raw, 0, 1, [ELEMENTS_MAX])
        except FAILURES as error:
            raise traced(raw, error) from None
        if end != size:
            what = "ends early" if end > size else f"{size - end} bytes behind its end"
            raise DecodeFailed(f"{label}: {what}", expected="just what its schema says")
        return value

    return decode


FAILURES = (ValueError, IndexError, OverflowError, struct.error)


class Source:
    """The source of a reader, as it is written; `text` can be shown."""

    def __init__(
        self, writer: Any, named: dict[str, Any], *, values: bool, trace: bool = False
    ) -> None:
        self.named = named
        self.values = values
        self.trace = trace
        self.lines: list[str] = []
        self.functions: dict[Any, str] = {}
        self.pending: list[tuple[str, Any, Any]] = []
        self.count = 0
        self.levels = 0
        self.weights: dict[str, int] = {}
        # Of others a list counts what its items are; what is left may hold no more than so much.
        self.counted = is_recursive(writer, named) or self.weight(writer) > ELEMENTS_MAX
        self.environment: dict[str, Any] = {
            "more": more, "more_int": more_int, "fail": fail, "too_many": too_many,
            "too_deep": too_deep, "f32": struct.Struct("<f").unpack_from,
            "f64": struct.Struct("<d").unpack_from, "LEFT_OUT": LEFT_OUT, "BAD": _BAD,
        }  # fmt: skip

    def compile(self, writer: Any, shape: Any) -> Callable[..., Any]:
        """The function of the root: (bytes, position, depth, [values left]) -> (value, end)."""
        root = self.function(writer, shape)
        while self.pending:
            self.write_function(*self.pending.pop())
        self.text = "\n".join(self.lines)
        exec(compile(self.text, "<avro reader>", "exec"), self.environment)  # noqa: S102
        found: Callable[..., Any] = self.environment[root]
        return found

    # ---- small pieces

    def line(self, indent: int, text: str) -> None:
        self.lines.append(" " * indent + text)

    def new(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def constant(self, value: Any) -> str:
        if value is LEFT_OUT:
            return "LEFT_OUT"
        name = self.new("K")
        self.environment[name] = value
        return name

    def literal(self, value: Any) -> str:
        """Source that makes a value anew."""
        if isinstance(value, list):
            return f"[{', '.join(map(self.literal, value))}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{k!r}: {self.literal(v)}' for k, v in value.items())}}}"
        if value is None or isinstance(value, str | bool | int):
            return repr(value)
        return self.constant(value)

    def number(self, indent: int, more: str = "more") -> None:
        """An unsigned variable-length number into n."""
        self.line(indent, "n = buf[pos]; pos += 1")
        self.line(indent, f"if n > 127: n, pos = {more}(buf, pos, n)")

    def length(self, indent: int) -> None:
        """A length into n, and the position behind so many bytes into end."""
        self.number(indent)
        self.line(indent, "if n & 1: fail('a negative length')")
        self.line(indent, "end = pos + (n >> 1)")

    def mismatch(self, indent: int, writer: Any, shape: Any) -> None:
        what = f"{said(writer)} cannot be read as {said(shape)}"
        self.line(indent, f"fail({what!r})")

    # ---- functions

    def function(self, writer: Any, shape: Any) -> str:
        """The name of the function that reads a writer's type as a shape."""
        key = (writer["name"] if is_record(writer) else id(writer), id(shape))
        if key not in self.functions or not is_record(writer):
            self.functions[key] = self.new("read")
            self.pending.append((self.functions[key], writer, shape))
        return self.functions[key]

    def write_function(self, name: str, writer: Any, shape: Any) -> None:
        self.levels = 0
        self.line(0, f"def {name}(buf, pos, depth, left):")
        if is_record(writer) and (shape is _SKIP or isinstance(shape, Fields)):
            self.write_record(writer, shape)
        else:
            if shape is _SKIP:  # of which no value is made
                self.line(1, "v = None")
            self.read(writer, shape, "v", 1)
        self.line(1, "return v, pos")

    def write_record(self, writer: dict[str, Any], shape: Fields | None) -> None:
        parts = [] if shape is None else shape.parts
        if self.counted:
            self.line(1, f"if depth > {DEPTH_MAX}: too_deep()")
            self.line(1, f"left[0] -= {1 + len(writer['fields']) + len(parts)}")
            self.line(1, "if left[0] < 0: too_many()")
        by_name = {field["name"]: field for field in writer["fields"]}
        taken: dict[str, Part] = {}
        for part in parts:
            name = next((name for name in part.names if name in by_name), None)
            if name is not None:
                taken.setdefault(name, part)
        variables: dict[str, str] = {}
        for field in writer["fields"]:
            found = taken.get(field["name"])
            variable = self.new("v")
            self.step(1, "." + field["name"])
            self.read(field["type"], _SKIP if found is None else found.shape, variable, 1)
            self.step(1, None)
            if found is not None:
                variables[found.key] = variable
        if shape is None:
            self.line(1, "v = None")
        elif shape.left_out:
            self.line(1, "v = LEFT_OUT")
        else:
            self.build(shape, variables)

    def build(self, shape: Fields, variables: dict[str, str]) -> None:
        """The reader's record of what was read, and of defaults."""
        pairs, loose = [], []
        if shape.tag is not None:
            pairs.append(f"{shape.tag[0]!r}: {shape.tag[1]!r}")
        for part in shape.parts:
            variable = variables.get(part.key)
            if variable is not None:
                if may_be_left_out(part.shape):
                    loose.append((part.key, variable))
                else:
                    pairs.append(f"{part.key!r}: {variable}")
                continue
            if part.otherwise is None:
                self.line(1, f"fail({f'the writer has no {part.key}, and it has no default'!r})")
                continue
            value = part.otherwise()
            if value is not LEFT_OUT:
                pairs.append(f"{part.key!r}: {self.literal(value)}")
        self.line(1, f"v = {{{', '.join(pairs)}}}")
        for key, variable in loose:
            self.line(1, f"if {variable} is not LEFT_OUT: v[{key!r}] = {variable}")

    def step(self, indent: int, step: str | None) -> None:
        if self.trace:
            self.line(indent, "left.pop()" if step is None else f"left.append({step!r})")

    # ---- types

    def read(self, writer: Any, shape: Any, to: str, indent: int) -> None:
        """Code that reads a writer's type at pos into the variable `to`."""
        if indent > INDENT_MAX:
            name = self.function(writer, shape)
            self.line(indent, f"{to}, pos = {name}(buf, pos, depth + {self.levels}, left)")
            return
        if isinstance(writer, list):
            self.read_union(writer, shape, to, indent)
            return
        writer = resolved(writer, self.named)
        if isinstance(shape, Choice):
            chosen = branch_for(writer, shape)
            if chosen is None:
                self.mismatch(indent, writer, shape)
                return
            shape = chosen
        kind = writer["type"]
        if shape is not _SKIP and not matches(writer, shape):
            self.mismatch(indent, writer, shape)
        elif is_record(writer):
            name = self.function(writer, shape)
            self.line(indent, f"{to}, pos = {name}(buf, pos, depth + {self.levels + 1}, left)")
        elif kind == "array":
            self.read_array(writer, shape, to, indent)
        elif kind == "map":
            self.read_map(writer, shape, to, indent)
        elif kind == "enum":
            self.read_enum(writer, shape, to, indent)
        else:
            self.read_leaf(writer, shape, to, indent)

    def read_union(self, writer: list[Any], shape: Any, to: str, indent: int) -> None:
        if not writer:  # nothing can have been written
            self.line(indent, f"{to} = fail('a union of nothing')")
            return
        self.number(indent)
        word = "if"
        for index, branch in enumerate(writer):
            self.line(indent, f"{word} n == {2 * index}:")
            self.read(branch, shape, to, indent + 1)
            word = "elif"
        self.line(indent, "else: fail('no such branch of the union')")

    def read_blocks(self, weight: int, indent: int, start: str) -> int:
        """The loops over a list's blocks and items; how far the code of an item is indented."""
        self.line(indent, start)
        self.line(indent, "while True:")
        self.number(indent + 1)
        self.line(indent + 1, "if not n: break")
        self.line(indent + 1, "count = n >> 1")
        self.line(indent + 1, "if n & 1:")
        self.line(indent + 2, "count += 1")
        self.number(indent + 2)
        self.line(indent + 1, f"left[0] -= count * {weight}")
        self.line(indent + 1, "if left[0] < 0: too_many()")
        self.line(indent + 1, "for _ in range(count):")
        return indent + 2

    def read_array(self, writer: dict[str, Any], shape: Any, to: str, indent: int) -> None:
        items, inner = writer["items"], _SKIP if shape is _SKIP else shape.items
        found, item = self.new("a"), self.new("v")
        inside = self.read_blocks(self.weight(items), indent, f"{to} = {found} = []")
        self.step(inside, "[]")
        self.levels += 1
        self.read(items, inner, item, inside)
        self.levels -= 1
        self.step(inside, None)
        if shape is not _SKIP:
            self.line(inside, f"{found}.append({item})")

    def read_map(self, writer: dict[str, Any], shape: Any, to: str, indent: int) -> None:
        values, inner = writer["values"], _SKIP if shape is _SKIP else shape.values
        found, key, value = self.new("a"), self.new("k"), self.new("v")
        inside = self.read_blocks(1 + self.weight(values), indent, f"{to} = {found} = {{}}")
        self.step(inside, "{}")
        self.length(inside)
        self.line(inside, f"{key} = buf[pos:end].decode(); pos = end")
        self.levels += 1
        self.read(values, inner, value, inside)
        self.levels -= 1
        self.step(inside, None)
        if shape is not _SKIP:
            self.line(inside, f"{found}[{key}] = {value}")

    def read_enum(self, writer: dict[str, Any], shape: Any, to: str, indent: int) -> None:
        symbols = writer["symbols"]
        if isinstance(shape, Symbols):
            default = _BAD if shape.default is None else shape.default
            symbols = [shape.symbols.get(symbol, default) for symbol in symbols]
        self.number(indent)
        self.line(indent, f"if n & 1 or n >= {2 * len(symbols)}: fail('no such symbol')")
        self.line(indent, f"{to} = {self.constant(tuple(symbols))}[n >> 1]")
        if _BAD in symbols:
            names = self.constant(tuple(writer["symbols"]))
            what = f"f'a symbol that the reader does not have: {{{names}[n >> 1]}}'"
            self.line(indent, f"if {to} is BAD: fail({what})")

    def read_leaf(self, writer: dict[str, Any], shape: Any, to: str, indent: int) -> None:
        kind, leaf = writer["type"], leaf_of(writer)  # which refuses a size that is no number
        if kind == "null":
            left_out = isinstance(shape, Leaf) and shape.left_out
            self.line(indent, f"{to} = {'LEFT_OUT' if left_out else None}")
            return
        if kind == "boolean":
            self.line(indent, f"{to} = buf[pos]; pos += 1")
            self.line(indent, f"if {to} > 1: fail('neither true nor false')")
            self.line(indent, f"{to} = {to} == 1")
            return
        if kind in ("int", "long"):
            self.number(indent, "more_int" if kind == "int" else "more")
            self.line(indent, f"{to} = (n >> 1) ^ -(n & 1)")
        elif kind in ("float", "double"):
            unpack, size = ("f32", 4) if kind == "float" else ("f64", 8)
            self.line(indent, f"{to} = {unpack}(buf, pos)[0]; pos += {size}")
        else:
            if kind == "fixed":
                self.line(indent, f"end = pos + {leaf.size}")
            else:
                self.length(indent)
            if shape is not _SKIP:
                decoded = ".decode()" if kind == "string" else ""
                self.line(indent, f"{to} = buf[pos:end]{decoded}")
            self.line(indent, "pos = end")
        if shape is not _SKIP:
            convert = avro_leaves.conversion(leaf, shape, values=self.values)
            if convert is not None:
                self.line(indent, f"{to} = {self.constant(convert)}({to})")

    def weight(self, writer: Any) -> int:
        """How many values an item is, at least: what it holds apart from lists."""
        if isinstance(writer, list):
            return max(map(self.weight, writer), default=1)
        writer = resolved(writer, self.named)
        if not is_record(writer):
            return 1
        name = writer["name"]
        if name not in self.weights:
            self.weights[name] = 1  # of itself inside itself: counted as it is read
            self.weights[name] += sum(self.weight(field["type"]) for field in writer["fields"])
        return self.weights[name]


# ---- what matches what


def is_record(writer: Any) -> bool:
    """Whether a parsed Avro type is a record."""
    return isinstance(writer, dict) and writer["type"] in ("record", "error")


def branch_for(writer: dict[str, Any], choice: Choice) -> Any | None:
    """The reader's branch for a writer's type: the same type, else the first promotable one."""
    for exact in (True, False):
        for branch in choice.branches:
            if matches(writer, branch, exact=exact):
                return branch
    return None


def matches(writer: dict[str, Any], shape: Any, *, exact: bool = False) -> bool:  # noqa: PLR0911
    """Whether a writer's type can be read as a shape, as far as the two themselves tell."""
    kind: str = writer["type"]
    match shape:
        case Array():
            return kind == "array"
        case Mapping():
            return kind == "map"
        case Symbols():
            return kind == "enum" and same_name(writer, shape.names)
        case Fields():
            return is_record(writer) and same_name(writer, shape.names)
        case Choice():
            return branch_for(writer, shape) is not None
    assert isinstance(shape, Leaf)
    if kind == "fixed" == shape.avro:
        return bool(writer["size"] == shape.size) and same_name(writer, shape.names)
    return bool(kind == shape.avro) or (not exact and shape.avro in _PROMOTED.get(kind, ()))


def same_name(writer: dict[str, Any], reader: tuple[str, ...]) -> bool:
    """Whether names match: unqualified, or one of the reader's aliases."""
    full = writer["name"]
    short = full.rpartition(".")[2]
    return short == reader[0].rpartition(".")[2] or full in reader or short in reader[1:]


def may_be_left_out(shape: Any) -> bool:
    """Whether a value may stand for a field that was left out."""
    return isinstance(shape, Choice) and any(
        getattr(branch, "left_out", False) for branch in shape.branches
    )


def is_recursive(writer: Any, named: dict[str, Any]) -> bool:
    """Whether a record may hold itself."""
    open_names: set[str] = set()
    closed: set[str] = set()

    def visit(schema: Any) -> bool:
        if isinstance(schema, list):
            return any(map(visit, schema))
        schema = resolved(schema, named)
        if is_record(schema):
            name = schema["name"]
            if name in open_names:
                return True
            if name in closed:
                return False
            open_names.add(name)
            found = any(visit(field["type"]) for field in schema["fields"])
            open_names.discard(name)
            closed.add(name)
            return found
        return any(visit(schema[part]) for part in ("items", "values") if part in schema)

    return visit(writer)


def said(what: Any) -> str:
    """A type or shape in a sentence."""
    if isinstance(what, list):
        return "a union"
    if isinstance(what, dict):
        kind: str = what["type"]
        return f"{kind} {what['name']}" if "name" in what else kind
    if isinstance(what, Leaf):
        return what.avro
    if isinstance(what, Fields | Symbols):
        return str(what.names[0])
    return str(what.__class__.__name__).lower()


# ---- what generated code calls


def more(buf: bytes, pos: int, n: int) -> tuple[int, int]:
    """The rest of a variable-length number of 64 bits; ValueError beyond."""
    n &= 127
    shift = 7
    while True:
        byte = buf[pos]
        pos += 1
        n |= (byte & 127) << shift
        if byte < 128:
            if n > 0xFFFF_FFFF_FFFF_FFFF:
                break
            return n, pos
        shift += 7
        if shift > 63:
            break
    raise ValueError("a number of more than 64 bits")


def more_int(buf: bytes, pos: int, n: int) -> tuple[int, int]:
    """The same for 32 bits."""
    n, pos = more(buf, pos, n)
    if n > 0xFFFF_FFFF:
        raise ValueError("a number of more than 32 bits")
    return n, pos


def fail(what: str) -> None:
    """Raise ValueError."""
    raise ValueError(what)


def too_many() -> None:
    """Raise ValueError."""
    raise ValueError(f"more than {ELEMENTS_MAX} values")


def too_deep() -> None:
    """Raise ValueError."""
    raise ValueError(f"more than {DEPTH_MAX} levels")
