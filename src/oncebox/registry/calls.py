"""The calls of the protocol, one function each, over the tables; `server.py` speaks HTTP.

Each takes what was asked and gives what is answered as JSON (or `Raw`). Raises Declined, and
SchemaError for a schema that cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from msgspec import UNSET, DecodeError, json

from ..errors import SchemaError
from ..schema.compat.compat import check, read
from ..schema.compat.finding import Finding, Mode
from .forms import Candidate, described, formed
from .protocol import (
    FORMATS,
    INCOMPATIBLE,
    INVALID_LEVEL,
    INVALID_MODE,
    INVALID_SCHEMA,
    INVALID_SUBJECT,
    INVALID_VERSION,
    LEVEL_NOT_CONFIGURED,
    MODE_NOT_CONFIGURED,
    MODES,
    NOT_PERMITTED,
    NUMBER_MAX,
    REFERENCES_MAX,
    SCHEMA_BYTES_MAX,
    SCHEMA_NOT_FOUND,
    SCHEMA_TOO_LARGE,
    SUBJECT_CHARS_MAX,
    Body,
    Declined,
    Reference,
    Registered,
    texts_of,
)
from .store import (
    DEFAULTS,
    Facts,
    RegistryStore,
    Stored,
    permitted,
    reference_not_found,
    subject_not_found,
    version_not_found,
)

T = TypeVar("T")

CONTEXT = "."
"""The only one that is served: the default one."""

FINDINGS_MAX = 50
"""Told of one comparison."""


PROOF_CHARS_MAX = 500


class Raw(NamedTuple):
    """A schema's text, to be answered as it is."""

    text: str


class Asked(NamedTuple):
    """A request: the names in its path, its query, its body."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes

    @property
    def subject(self) -> str:
        """The subject in the path. Raises Declined for a name that cannot be one."""
        name = self.path["subject"].removeprefix(f":{CONTEXT}:")
        if not 0 < len(name) <= SUBJECT_CHARS_MAX or re.search(r"[\x00-\x1f\x7f\ufffd]", name):
            raise Declined(
                INVALID_SUBJECT,
                f"The specified subject '{name[:80]}' is not a valid subject.",
                expected=f"1 to {SUBJECT_CHARS_MAX} characters, none of them for control",
            )
        if name.startswith(":"):
            raise Declined(INVALID_SUBJECT, f"The context of '{name[:80]}' is not served here.")
        return name

    @property
    def whose(self) -> str:
        """The subject whose settings they are; "": those of all."""
        return self.subject if "subject" in self.path else ""

    @property
    def prefix(self) -> str:
        """How the names of subjects begin that are asked for."""
        return self.query.get("subjectPrefix", "").removeprefix(f":{CONTEXT}:").removeprefix(":*:")

    @property
    def version(self) -> int | None:
        """The version in the path; None for the latest."""
        said = self.path["version"]
        if said in ("latest", "-1"):
            return None
        number = int(said) if re.fullmatch(r"[0-9]{1,10}", said) else 0
        if not 0 < number <= NUMBER_MAX:
            raise Declined(
                INVALID_VERSION,
                f"The specified version '{said[:80]}' is not a valid version id. Allowed values"
                ' are between [1, 2^31-1] and the string "latest"',
            )
        return number

    @property
    def id(self) -> int:
        """The id in the path. Raises Declined for what is none."""
        said = self.path["id"]
        if not re.fullmatch(r"[0-9]{1,10}", said) or int(said) > NUMBER_MAX:
            raise Declined(404, f"no id: {said[:80]}", expected="a number below 2^31")
        return int(said)

    def on(self, name: str) -> bool:
        """Whether a switch of the query is on."""
        return self.query.get(name, "").lower() == "true"

    def page(self, found: Iterable[T]) -> list[T]:
        """What `offset` and `limit` leave of a list."""
        rows = list(found)
        try:
            offset, limit = (int(self.query.get(n, d)) for n, d in (("offset", 0), ("limit", -1)))
        except ValueError as error:
            raise Declined(422, "offset and limit are numbers") from error
        end = len(rows) if limit < 0 else max(offset, 0) + limit
        return rows[max(offset, 0) : end]

    def wants(self, rows: Iterable[tuple[T, int]]) -> list[T]:
        """Of things and whether they are deleted, what `deleted` and `deletedOnly` want."""
        only = self.on("deletedOnly")
        return [thing for thing, gone in rows if (gone if only else not gone or self.on("deleted"))]

    def json(self, type: type[T]) -> T:
        """The body. Raises Declined."""
        try:
            return json.decode(self.body or b"{}", type=type)
        except (DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Declined(400, f"Unable to parse the request: {error}") from error


# ---- candidates


def candidate_of(asked: Asked, settings: Mapping[str, str]) -> Candidate:
    """The schema in a body, in the form in which it is kept. Raises Declined, SchemaError."""
    body = asked.json(Body)
    format = body.format or "AVRO"
    if format not in FORMATS:
        raise Declined(
            INVALID_SCHEMA, f"schemaType {format[:80]}", expected=f"one of {', '.join(FORMATS)}"
        )
    if not body.schema.strip() or "\0" in body.schema:
        raise Declined(INVALID_SCHEMA, "Empty schema")
    size = len(body.schema.encode("utf-8", "surrogatepass"))
    if size > SCHEMA_BYTES_MAX:
        what = f"a schema of {size:,} bytes"
        raise Declined(SCHEMA_TOO_LARGE, what, expected=f"at most {SCHEMA_BYTES_MAX:,}")
    if len(body.references or ()) > REFERENCES_MAX:
        what = f"{len(body.references or ())} references"
        raise Declined(INVALID_SCHEMA, what, expected=f"at most {REFERENCES_MAX}")
    normalize = asked.on("normalize") or settings["normalize"] == "true"
    references = tuple(body.references or ())
    if normalize:
        references = tuple(sorted(set(references), key=lambda r: (r.subject, r.version, r.name)))
    more = {"metadata": body.metadata, "ruleSet": body.rules}
    kept = {name: value for name, value in more.items() if value}
    text = formed(format, body.schema, normalize=normalize)
    return Candidate(
        format, text, references, json.encode(kept, order="sorted").decode() if kept else ""
    )


def _texts(store: RegistryStore, references: Sequence[Reference]) -> dict[str, str]:
    """What a schema refers to. Raises Declined for a schema that is not there."""

    def found_at(reference: Reference) -> tuple[str, Sequence[Reference]]:
        where = (reference.subject, reference.version)
        rows = store.read(lambda at: at.stored("body", *where))
        if not rows:
            raise reference_not_found(reference)
        return rows[0].text, rows[0].references

    return texts_of(references, found_at)


def readable(store: RegistryStore, candidate: Candidate) -> None:
    """Raises SchemaError unless it is a schema of its format, with all that it refers to."""
    read(FORMATS[candidate.format], candidate.text, _texts(store, candidate.references))


def differences(
    store: RegistryStore, candidate: Candidate, earlier: Sequence[Stored], level: Mode
) -> list[str]:
    """What breaks whom between earlier versions and a candidate; empty if nothing is proved to."""
    if not level.asks:
        return []
    alike = [one for one in earlier if one.format == candidate.format]
    told = [
        f"version {one.version} is {one.format}, this is {candidate.format}"
        for one in earlier
        if one not in alike
    ]
    mine = _texts(store, candidate.references)
    theirs = [_texts(store, one.references) for one in alike]
    texts = [one.text for one in alike]
    report = check(FORMATS[candidate.format], texts, candidate.text, level, mine, theirs)
    found = report.errors[:FINDINGS_MAX]
    return told + [_told(alike[one.version - 1].version, one.finding) for one in found]


def _told(version: int, finding: Finding) -> str:
    told = (
        f"{finding.rule} at {finding.path}: {finding.old!r} in version {version},"
        f" {finding.new!r} here; breaks {finding.breaks}. {finding.instead}"
    )
    if finding.witness is None:
        return told
    document = json.encode(finding.witness.document, enc_hook=str).decode()
    return f"{told} Proof: {document[:PROOF_CHARS_MAX]} is {finding.witness.outcome}"


# ---- subjects and versions


def _subjects(store: RegistryStore, asked: Asked) -> list[str]:
    rows = store.read(lambda at: at.rows("subjects", asked.prefix))
    return asked.page(asked.wants((name, gone) for name, gone in rows))


def _versions(store: RegistryStore, asked: Asked) -> list[int]:
    rows = store.read(lambda at: at.rows("versions", asked.subject))
    found = asked.wants((number, gone) for number, _, gone in rows)
    if not found:
        raise subject_not_found(asked.subject)
    return asked.page(found)


def _version(store: RegistryStore, asked: Asked) -> Registered:
    return _registered(store, _at_version(store, asked), asked)


def _version_text(store: RegistryStore, asked: Asked) -> Raw:
    return Raw(_text(store, _at_version(store, asked), asked))


def _at_version(store: RegistryStore, asked: Asked) -> Stored:
    subject, number = asked.subject, asked.version
    rows = store.read(lambda at: at.rows("versions", subject))
    known = [n for n, _, gone in rows if asked.on("deleted") or not gone]
    if not known:
        raise subject_not_found(subject)
    place = known[-1] if number is None else number
    if place not in known:
        raise version_not_found(place)
    found = store.read(lambda at: at.stored("body", subject, place))
    if not found:
        raise version_not_found(place)
    return found[0]


def _register(store: RegistryStore, asked: Asked) -> dict[str, Any]:
    subject, body = asked.subject, asked.json(Body)
    settings = store.read(lambda at: at.settings(subject))
    candidate = candidate_of(asked, settings)
    readable(store, candidate)
    importing = settings["mode"] == "IMPORT"
    given = body.id is not None and body.id > 0
    if given and not importing:
        raise Declined(NOT_PERMITTED, f"Subject {subject} is not in import mode")

    def judge(facts: Facts) -> None:
        permitted(subject, facts.settings)
        if importing:
            return
        level = Mode(facts.settings["compatibility"])
        earlier = facts.live if level.transitive else facts.live[-1:]
        if told := differences(store, candidate, earlier, level):
            raise Declined(
                INCOMPATIBLE,
                "Schema being registered is incompatible with an earlier schema for subject"
                f' "{subject}", details: [{"; ".join(told)}] (compatibility: {level})',
            )

    place = body.version if importing and body.version and body.version > 0 else None
    stored = store.register(subject, candidate, judge, body.id if given else None, place)
    return {"id": stored.id, "version": stored.version, "guid": stored.guid}


def _lookup(store: RegistryStore, asked: Asked) -> Registered:
    subject = asked.subject
    facts = store.read(lambda at: at.facts(subject))
    known = [one for one in facts.versions if asked.on("deleted") or not one.deleted]
    if not known:
        raise subject_not_found(subject)
    candidate = candidate_of(asked, facts.settings)
    for one in reversed(known):
        if one.holds(candidate):
            return _registered(store, one, asked)
    raise Declined(SCHEMA_NOT_FOUND, "Schema not found")


def _delete_subject(store: RegistryStore, asked: Asked) -> list[int]:
    return store.delete_subject(asked.subject, permanent=asked.on("permanent"))


def _delete_version(store: RegistryStore, asked: Asked) -> int:
    permanent = asked.on("permanent")
    return store.delete_version(asked.subject, asked.version, permanent=permanent)


def _referrers(store: RegistryStore, asked: Asked) -> list[int]:
    one = _at_version(store, asked)
    rows = store.read(lambda at: at.rows("referrers", one.subject, one.version, 0))
    return asked.page(id for (id,) in rows)


# ---- schemas by id and content


def _by_id(store: RegistryStore, asked: Asked) -> Registered:
    return _registered(store, _with_id(store, asked), asked)


def _id_text(store: RegistryStore, asked: Asked) -> Raw:
    return Raw(_text(store, _with_id(store, asked), asked))


def _by_guid(store: RegistryStore, asked: Asked) -> Registered:
    return _registered(store, _with_guid(store, asked)[0], asked)


def _ids_of_guid(store: RegistryStore, asked: Asked) -> list[dict[str, Any]]:
    return [{"context": CONTEXT, "id": one.id} for one in _with_guid(store, asked)]


def _id_subjects(store: RegistryStore, asked: Asked) -> list[str]:
    return asked.page(dict.fromkeys(subject for subject, _ in _uses(store, asked)))


def _id_versions(store: RegistryStore, asked: Asked) -> list[dict[str, Any]]:
    uses = _uses(store, asked)
    return asked.page({"subject": subject, "version": number} for subject, number in uses)


def _uses(store: RegistryStore, asked: Asked) -> list[tuple[str, int]]:
    one, wanted = _with_id(store, asked), asked.query.get("subject")
    rows = store.read(lambda at: at.rows("uses", one.id))
    found = asked.wants(((subject, number), gone) for subject, number, gone in rows)
    return [use for use in found if wanted in (None, use[0])]


def _with_id(store: RegistryStore, asked: Asked) -> Stored:
    id = asked.id
    found = store.read(lambda at: at.stored("by_id", id))
    if not found:
        raise Declined(SCHEMA_NOT_FOUND, f"Schema {id} not found")
    return found[0]


def _with_guid(store: RegistryStore, asked: Asked) -> tuple[Stored, ...]:
    guid = asked.path["guid"].lower()
    found = store.read(lambda at: at.stored("by_guid", guid))
    if not found:
        raise Declined(SCHEMA_NOT_FOUND, f"Schema {guid[:80]} not found")
    return found


def _schemas(store: RegistryStore, asked: Asked) -> list[Registered]:
    rows = store.read(lambda at: at.stored("everything", asked.prefix))
    found = asked.wants((one, one.deleted) for one in rows)
    if asked.on("latestOnly"):
        found = list({one.subject: one for one in found}.values())
    return [_registered(store, one, asked) for one in asked.page(found)]


def _text(store: RegistryStore, one: Stored, asked: Asked) -> str:
    """A schema's text; a Protobuf file as Base64 of its descriptor, if that is asked for."""
    if one.format == "PROTOBUF" and asked.query.get("format") == "serialized":
        return described(one.text, _texts(store, one.references))
    return one.text


def _registered(store: RegistryStore, one: Stored, asked: Asked) -> Registered:
    more = json.decode(one.more) if one.more else {}
    return Registered(
        schema=_text(store, one, asked),
        subject=one.subject or UNSET,
        version=one.version or UNSET,
        id=one.id,
        guid=one.guid,
        format=one.format,
        references=one.references,
        metadata=more.get("metadata", UNSET),
        rules=more.get("ruleSet", UNSET),
        deleted=bool(one.deleted),
    )


# ---- compatibility


def _compatible(store: RegistryStore, asked: Asked) -> dict[str, Any]:
    """With one version, or with those that the subject's level names."""
    subject = asked.subject
    facts = store.read(lambda at: at.facts(subject))
    level = Mode(facts.settings["compatibility"])
    earlier = facts.live if level.transitive else facts.live[-1:]
    if "version" in asked.path:
        number = asked.version
        earlier = facts.live[-1:]
        if number is not None:
            earlier = tuple(one for one in facts.live if one.version == number)
            if not earlier:
                raise version_not_found(number) if facts.live else subject_not_found(subject)
    try:
        candidate = candidate_of(asked, facts.settings)
        readable(store, candidate)
        told = differences(store, candidate, earlier, level)
    except SchemaError as error:
        if not asked.on("verbose"):
            raise
        told = [str(error)]
    return {"is_compatible": not told} | ({"messages": told} if asked.on("verbose") else {})


# ---- settings


def _config(store: RegistryStore, asked: Asked) -> dict[str, Any]:
    return _config_told(_settings(store, asked, "compatibility", LEVEL_NOT_CONFIGURED))


def _config_told(settings: Mapping[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if "compatibility" in settings:
        told["compatibilityLevel"] = settings["compatibility"]
    if settings.get("normalize") == "true":
        told["normalize"] = True
    return told


def _settings(store: RegistryStore, asked: Asked, name: str, code: int) -> dict[str, str]:
    """What is set here: for all, or for a subject, which falls back on all only if asked to."""
    if "subject" not in asked.path or asked.on("defaultToGlobal"):
        return store.read(lambda at: at.settings(asked.whose))
    own = dict(store.read(lambda at: at.rows("settings", asked.subject)))
    if name not in own:
        what = f"Subject '{asked.subject}' does not have subject-level {name} configured"
        raise Declined(code, what)
    return own


def _changeable(store: RegistryStore, asked: Asked) -> str:
    """Whose level is to be changed ("": that of all). Raises Declined where nothing may be."""
    subject = asked.whose
    permitted(subject, store.read(lambda at: at.settings(subject)))
    return subject


def _set_config(store: RegistryStore, asked: Asked) -> dict[str, Any]:
    subject = _changeable(store, asked)
    body = asked.json(dict[str, Any])
    given = {name: value for name, value in body.items() if value is not None}
    level = given.pop("compatibility", given.pop("compatibilityLevel", None))
    given.pop("compatibilityLevel", None)
    normalize = given.pop("normalize", None)
    if given:
        raise Declined(
            NOT_PERMITTED,
            f"not served here: {', '.join(sorted(given))}",
            expected="compatibility, normalize",
        )
    values: dict[str, str | None] = {}
    if level is not None or normalize is None:
        if not isinstance(level, str) or level.upper() not in Mode.__members__:
            what = f"Invalid compatibility level. Valid values are {', '.join(Mode)}"
            raise Declined(INVALID_LEVEL, what)
        values["compatibility"] = level.upper()
    if normalize is not None:
        values["normalize"] = "true" if normalize is True else "false"
    store.set(subject, values)
    return body


def _delete_config(store: RegistryStore, asked: Asked) -> dict[str, Any]:
    subject = _changeable(store, asked)
    before = store.set(subject, {"compatibility": None, "normalize": None})
    if subject and "compatibility" not in before and "normalize" not in before:
        raise subject_not_found(subject)
    return _config_told((DEFAULTS if not subject else {}) | before)


def _mode(store: RegistryStore, asked: Asked) -> dict[str, Any]:
    return {"mode": _settings(store, asked, "mode", MODE_NOT_CONFIGURED)["mode"]}


def _set_mode(store: RegistryStore, asked: Asked) -> dict[str, Any]:
    said = asked.json(dict[str, Any]).get("mode")
    if said not in MODES:
        raise Declined(INVALID_MODE, f"Invalid mode. Valid values are {', '.join(MODES)}")
    subject = asked.whose
    if said == "IMPORT" and not asked.on("force"):
        name = "versions" if subject else "subjects"
        rows = store.read(lambda at: at.rows(name, subject))
        if any(not row[-1] for row in rows):
            what = "Cannot import since found existing subjects"
            raise Declined(NOT_PERMITTED, what, hint="?force=true does it all the same")
    store.set(subject, {"mode": said})
    return {"mode": said}


def _delete_mode(store: RegistryStore, asked: Asked) -> dict[str, Any]:
    subject = asked.whose
    before = store.set(subject, {"mode": None})
    if subject and "mode" not in before:
        raise subject_not_found(subject)
    return {"mode": before.get("mode", DEFAULTS["mode"])}


CALLS: tuple[tuple[str, str, Callable[[RegistryStore, Asked], Any]], ...] = (
    ("GET", "/", lambda _store, _asked: {}),
    ("GET", "/subjects", _subjects),
    ("POST", "/subjects/{subject}", _lookup),
    ("DELETE", "/subjects/{subject}", _delete_subject),
    ("GET", "/subjects/{subject}/versions", _versions),
    ("POST", "/subjects/{subject}/versions", _register),
    ("GET", "/subjects/{subject}/versions/{version}", _version),
    ("DELETE", "/subjects/{subject}/versions/{version}", _delete_version),
    ("GET", "/subjects/{subject}/versions/{version}/schema", _version_text),
    ("GET", "/subjects/{subject}/versions/{version}/referencedby", _referrers),
    ("GET", "/schemas", _schemas),
    ("GET", "/schemas/types", lambda _store, _asked: list(FORMATS)),
    ("GET", "/schemas/ids/{id}", _by_id),
    ("GET", "/schemas/ids/{id}/schema", _id_text),
    ("GET", "/schemas/ids/{id}/subjects", _id_subjects),
    ("GET", "/schemas/ids/{id}/versions", _id_versions),
    ("GET", "/schemas/guids/{guid}", _by_guid),
    ("GET", "/schemas/guids/{guid}/ids", _ids_of_guid),
    ("GET", "/contexts", lambda _store, asked: asked.page([CONTEXT])),
    ("POST", "/compatibility/subjects/{subject}/versions", _compatible),
    ("POST", "/compatibility/subjects/{subject}/versions/{version}", _compatible),
    ("GET", "/config", _config),
    ("PUT", "/config", _set_config),
    ("DELETE", "/config", _delete_config),
    ("GET", "/config/{subject}", _config),
    ("PUT", "/config/{subject}", _set_config),
    ("DELETE", "/config/{subject}", _delete_config),
    ("GET", "/mode", _mode),
    ("PUT", "/mode", _set_mode),
    ("DELETE", "/mode", _delete_mode),
    ("GET", "/mode/{subject}", _mode),
    ("PUT", "/mode/{subject}", _set_mode),
    ("DELETE", "/mode/{subject}", _delete_mode),
)
"""Method, path, and what answers."""

UNCHANGING = {_by_id, _id_text, _by_guid}
"""What is answered once for all, until a schema is deleted for good."""
