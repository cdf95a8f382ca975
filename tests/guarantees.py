"""`pytest --guarantees=docs/guarantees.md`: promise by engine, from the tests that ran just then.

A cell says how many tests that speak of a promise spoke of that engine and passed; other tests run,
too. The page is not written when a promise has no test at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest


class Promise(NamedTuple):
    """A promise in words, and the names (`file::test`, without parameters) of its tests."""

    words: str
    tests: str


PROMISES: dict[str, list[Promise]] = {
    "G1. Effect once": [
        Promise(
            "Whatever is delivered again, an effect happens once",
            r"test_consumer.*::.*(once_and_in_order|second_full|effects_once|a_failure_holds)",
        ),
        Promise(
            "Events without a key take effect once, by their id", r"test_consumer.*without_key"
        ),
        Promise(
            "A claim is given once, and only in its caller's transaction",
            r"test_(claim::|emit_kinds::.*claim)",
        ),
        Promise(
            "Neither a zombie nor a handler that ends the transaction commits part of a batch",
            r"test_consumer.*::.*(zombie|that_breaks_|ends_the_|fails_at_commit)",
        ),
        Promise(
            "The event that kills its process is found and waits", r"test_consumer.*that_kills"
        ),
        Promise("An outage is nobody's failure", r"test_consumer.*an_outage"),
        Promise(
            "`once`: outside the database, the same key on every try, and a result that is known",
            r"test_consumer.*::test_once",
        ),
        Promise(
            "A replay changes nothing; a rebuild emits nothing and calls nobody again",
            r"test_(rewind|consumer.*rebuild)",
        ),
        Promise(
            "Producer, relay and consumer killed with SIGKILL, again and again",
            r"test_end_to_end::",
        ),
        Promise("A request of a web application has its effect once", r"test_applications::"),
        Promise(
            "Sixty faults of every kind beside work: each effect once and in order, nothing left",
            r"test_torture::test_everything",
        ),
        Promise(
            "Of another's events each id once and in order: a topic, webhooks, tasks",
            r"test_(foreign|examples)::",
        ),
        Promise(
            "Events side by side, and in lists: still once each and in order per key",
            r"test_(abreast|lists)",
        ),
    ],
    "G2. In order per key": [
        Promise(
            "Effects apply in the order of the key; what is missing or fails holds its key alone",
            r"test_consumer.*::.*(a_gap_|parks_its_key|and_the_rest_flows|expired_unread)",
        ),
        Promise(
            "Every order of the events of a key ends applied or in a state that has a way out",
            r"model/.*every_order",
        ),
        Promise(
            "Every interleaving of two owners, a crash before every step",
            r"explorer/test_(core|postgres)::.*(every|crash)",
        ),
        Promise("A rule or guard that is broken on purpose is found", r"mutants::|::.*planted_bug"),
        Promise("Across keys where the producer says `after=`", r"::.*(test_after_|wake_up)"),
        Promise("Missing events come from the outbox", r"test_gaps::"),
        Promise(
            "Redrive and skip race with consumers at work", r"test_operate::.*race_with_running"
        ),
        Promise(
            "The log keeps the order of a key, and what it acknowledged", r"test_log_contract::"
        ),
    ],
    "G3. Event if and only if commit": [
        Promise(
            "Committed with the caller's rows, on every kind of connection",
            r"test_emit_kinds::test_(committed|many_in|after)",
        ),
        Promise(
            "Rolled back, also to a savepoint, or failed at commit: neither event nor number",
            r"test_emit_kinds::.*neither|test_outbox_numbers::.*(rollback|savepoint)",
        ),
        Promise(
            "Outside a transaction it refuses, and says how to open one",
            r"test_emit_kinds::.*outside",
        ),
        Promise(
            "The numbers of a key have no holes and follow its commits",
            r"test_outbox_numbers::.*(numbers|many_sessions|two_sessions|prepared|isolation)",
        ),
        Promise(
            "A database that forgot a commit shows as a fork, which somebody decides",
            r"test_(consumer|gaps|accept)::.*(fork|history|accept)",
        ),
        Promise(
            "Databases that are restored, promoted or made anew: applied, or waiting with a command",
            r"test_restores::test_(the_(producer|consumer)|a|two)_",
        ),
    ],
    "G4. Any version": [
        Promise(
            "A handler gets each event in the version that it names, older or newer",
            r"test_consumer.*version_two|test_lens_(consumer|lock)::.*(is_read|into|comes_down)",
        ),
        Promise(
            "What a handler cannot read waits with the reason, and goes on in order",
            r"(test_consumer|bad_input/).*(unknown_version|does_not_fit)"
            r"|test_lens_.*(releases|waits)",
        ),
        Promise(
            "Three versions of producers for three of consumers, in one log, in every order",
            r"explorer/test_versions::",
        ),
        Promise("The laws of lenses, for each step and for chains", r"test_lens_laws::.*laws"),
        Promise(
            "A legacy topic has the same events and chains in an older version",
            r"test_lens_copies::|test_translate::",
        ),
        Promise(
            "A change that breaks a reader fails, with a document that proves it",
            r"test_schema_check::|test_compat(_avro|_protobuf|_jsonschema)?::",
        ),
        Promise(
            "What is called compatible is read by the formats' own libraries",
            r"test_compat_(attack|jsonschema_attack)::",
        ),
        Promise(
            "The same event in JSON, Avro and Protobuf says the same",
            r"test_codecs(_events|_framed|_avro)?::",
        ),
        Promise(
            "Hostile bytes are refused within bounds", r"test_codecs_bounds::|test_codec_fuzz::"
        ),
        Promise("A registry that is away, wrong or lies", r"test_registry(_client|_protocol)?::"),
    ],
    "G5. Nothing silent": [
        Promise("What waits is listed with its reason and what releases it", r"test_waiting::"),
        Promise(
            "A record that cannot be read is kept as it came", r"test_quarantine::|quarantine$"
        ),
        Promise(
            "Bad records, names, times and logs are named, lose nothing and stop nothing else",
            r"bad_input/",
        ),
        Promise("Batches, handlers and what waits have bounds", r"test_bounds::|_hangs_"),
        Promise(
            "Hostile records are kept and counted, and stop nothing else", r"test_fuzz::.*hostile"
        ),
        Promise(
            "Giving something up is refused without an answer, and noted", r"test_operate::.*skip"
        ),
        Promise(
            "An audit of running services: what agrees is clean, what does not is named",
            r"test_audit",
        ),
    ],
    "The outbox": [
        Promise("1. Concurrent writers: nothing is lost", r"test_property_01"),
        Promise("2. Order of a key is the order of commits", r"test_property_02"),
        Promise("3. An open transaction elsewhere delays nothing", r"test_property_03"),
        Promise(
            "4. Only what is durable is published; restore and failover are survived",
            r"test_property_04",
        ),
        Promise("5. The cursor moves over what the log acknowledged", r"test_property_05"),
        Promise("6. One relay is active, another takes over", r"test_property_06"),
        Promise("7. Published events stay readable; the size stays flat", r"test_property_07"),
        Promise("8. No NOTIFY in transactions of users", r"test_property_08"),
        Promise("9. One round trip in the caller's transaction", r"test_property_09"),
        Promise(
            "10. No deadlock in opposite orders; work after emit holds no key", r"test_property_10"
        ),
    ],
}

ENGINES = {
    "SQLite": r"sqlite|explorer/test_(core|planted|versions)|test_lens_(consumer|lock|copies)",
    "PostgreSQL": r"postgres|psycopg|asyncpg|property_04_a_|test_(restores|torture)",
    "embedded log": r"embedded|test_lens_copies",
    "Kafka": r"kafka|test_(restores|torture)",
}
"""What says in a test's name, parameters and fixtures that it runs on an engine."""

OTHERS = "no engine"

HEAD = """\
# Guarantees

What was seen, promise by promise: how many tests spoke of an engine and passed in the run that
wrote this page (`make guarantees`). "No engine": tests of the rules alone. A dash: no test speaks
of that engine, since the promise is not its part.
"""

FOOT = """\
Not promised: that a handler's code runs only once; that an effect outside the database happens
once where the other system does not look at the idempotency key; when an event is published;
anything about a database that loses commits silently (SQLite with `synchronous=OFF`, PostgreSQL
with `fsync=off`).
"""


ENGINES_OF = "engines"
"""The property of a test's reports that says of which engines it speaks."""


class Seen(NamedTuple):
    """A test that ran: its name without parameters, the engines that it spoke of."""

    name: str
    engines: tuple[str, ...]
    passed: bool


def name_of(nodeid: str) -> str:
    """`file::test`, without folder, ending and parameters."""
    return nodeid.partition("[")[0].removeprefix("tests/").replace(".py", "")


def engines_of(nodeid: str, fixtures: Iterable[str]) -> tuple[str, ...]:
    """The engines that a test names; where its name has none, those of its fixtures."""
    for text in (nodeid, " ".join(fixtures)):
        found = tuple(engine for engine, mark in ENGINES.items() if re.search(mark, text))
        if found:
            return found
    return (OTHERS,)


def promises() -> list[Promise]:
    return [promise for group in PROMISES.values() for promise in group]


def cell(tests: list[Seen]) -> str:
    passed = sum(test.passed for test in tests)
    if not tests:
        return "-"
    return str(passed) if passed == len(tests) else f"{passed} of {len(tests)}"


def page(seen: list[Seen]) -> str:
    """The document."""
    columns = [*ENGINES, OTHERS]
    lines = [HEAD]
    for title, group in PROMISES.items():
        lines += [f"## {title}", "", f"| Promise | {' | '.join(columns)} |"]
        lines.append("|---|" + "---|" * len(columns))
        for promise in group:
            tests = [test for test in seen if re.search(promise.tests, test.name)]
            cells = [cell([t for t in tests if engine in t.engines]) for engine in columns]
            lines.append(f"| {promise.words} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, FOOT])


class Guarantees:
    """Notes the tests of promises, and writes the page when all have run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: dict[str, Seen] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        patterns = [promise.tests for promise in promises()]
        for item in items:
            if any(re.search(pattern, name_of(item.nodeid)) for pattern in patterns):
                fixtures = getattr(item, "fixturenames", ())
                # In its reports, since tests may run in other processes than this one.
                item.user_properties.append((ENGINES_OF, engines_of(item.nodeid, fixtures)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            before = self.seen.get(report.nodeid)
            passed = report.passed and (before is None or before.passed)
            engines = dict(report.user_properties).get(ENGINES_OF)
            if not isinstance(engines, list | tuple):
                return  # it speaks of no promise
            self.seen[report.nodeid] = Seen(name_of(report.nodeid), tuple(engines), passed)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        ran = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if not ran or session.config.option.collectonly or hasattr(session.config, "workerinput"):
            return
        seen = list(self.seen.values())
        missing = [p.words for p in promises() if not any(re.search(p.tests, t.name) for t in seen)]
        if missing:
            raise pytest.UsageError(f"no test ran for: {'; '.join(missing)}")
        self.path.write_text(page(seen))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--guarantees", metavar="FILE", help="write promise by engine to FILE")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--guarantees")
    if path:
        config.pluginmanager.register(Guarantees(Path(path)))
