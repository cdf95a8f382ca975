"""The command line. Commands are imported when they are run, engines when they are used.

Data goes to standard output, everything else to standard error. Exit codes: 0 fine, 1 failed,
2 wrong usage or configuration, 3 tables, settings or schemas that do not fit, or an audit that is
not clean, 4 unreachable, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from traceback import format_exception
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from ..errors import OnceboxError, redacted
from ..service.config import SOURCES, Sources, environment
from .options import NO_OPTIONS, Options, log_to_stderr, said
from .output import ASKED, complain, note, on_terminal

BEGIN, RUN = Group("Begin", sort_key=1), Group("Run", sort_key=2)
OPERATE, SET_UP = Group("Operate", sort_key=3), Group("Set up", sort_key=4)

COMMANDS = (
    ("demo", "start:demo", BEGIN, "The mistakes of event-driven systems, and their cures."),
    ("init", "start:init", BEGIN, "Make a small service to begin with."),
    ("run", "run:run", RUN, "Relay and consume, until it is stopped."),
    ("relay", "run:relay", RUN, "Relay only: publish what services emitted."),
    ("translate", "translate:translate", RUN, "Events to another topic, in other versions."),
    ("healthcheck", "health:healthcheck", RUN, "Whether a process that runs is ready."),
    ("status", "look:status", OPERATE, "Lag, parked keys, duplicates dropped, gaps open."),
    ("parked", "look:parked", OPERATE, "What waits, why, and what would release it."),
    ("journal", "look:journal", OPERATE, "What operators did, and what contradicted a chain."),
    ("redrive", "act:redrive", OPERATE, "Try failed events again."),
    ("skip", "act:skip", OPERATE, "Give up a failing event, or events that do not come."),
    ("accept", "act:accept", OPERATE, "Follow a source that forgot what it had published."),
    ("audit", "audit:audit", OPERATE, "Whether outbox, log and inbox agree."),
    ("republish", "again:republish", OPERATE, "Publish a source's events again."),
    ("replay", "again:replay", OPERATE, "Read the log again; changes no state."),
    ("rebuild", "again:rebuild", OPERATE, "Make a consumer's state anew from the log."),
    ("quarantine", "records:app", OPERATE, "Records that cannot be read."),
    ("doctor", "doctor:doctor", SET_UP, "What cannot work, before it does not."),
    ("db", "tables:app", SET_UP, "oncebox's own tables: migrate, status, check, sql, prune."),
    ("schema", "schema:app", SET_UP, "Versions of events; a registry of schemas."),
    ("topics", "topics:app", SET_UP, "Topics of the log: check, create."),
    ("config", "start:config_app", SET_UP, "Settings in force, and where each came from."),
    ("version", "start:version", SET_UP, "Versions of oncebox and of what it uses."),
)

COMPLETION = "--install-completion"

HELP = """Events that take effect once, in order, from any version.

Begin with: oncebox demo, then: oncebox init. Examples: oncebox COMMAND --help.
"""

Tokens = Annotated[str, said("", show=False, allow_leading_hyphen=True)]


def make_app(arguments: Sequence[str], sources: Sources) -> App:
    """The command line: an App whose meta App takes the options that every command understands.
    The command that is called brings its own, longer help text.
    """
    app = App(
        name="oncebox",
        help=HELP,
        help_format="plaintext",
        help_formatter="default" if on_terminal() else "plain",
        version_flags=(),
        config=(sources,),
        default_parameter=Parameter(negative="", show_default=_worth_showing),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    app["--help"].group = SET_UP
    called = set(arguments) & {name for name, *_ in COMMANDS}
    if COMPLETION in arguments:
        app.register_install_completion_command(name=COMPLETION, group=SET_UP)
    else:  # for the overview only: what installs it is slow to import
        app.command(App(name=COMPLETION, group=SET_UP, help="Install shell completion."))
    for place, (name, target, group, summary) in enumerate(COMMANDS):
        text = None if name in called else summary
        path = f"{__package__}.{target}"
        app.command(path, name=name, group=group, sort_key=place, help=text)

    def launch(*tokens: Tokens, options: Options = NO_OPTIONS) -> Any:
        log_to_stderr(verbose=options.verbose, format=options.log_format)
        return app(tokens)

    app.meta.suppress_keyboard_interrupt = False
    app.meta.default(launch)
    return app


def _worth_showing(default: Any) -> str | None:
    return None if default in (False, None, "") else str(default)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sources = Sources(environment())
    ASKED.json, verbose = "--json" in given, "--verbose" in given or "-v" in given
    token = SOURCES.set(sources)
    try:
        return int(make_app(given, sources).meta(given) or 0)
    except CycloptsError as error:
        command = " ".join(("oncebox", *(error.command_chain or ())))
        complain(OnceboxError(str(error), hint=f"{command} --help"))
        return 2
    except OnceboxError as error:
        if verbose and error.__cause__ is not None:
            lines = "".join(format_exception(error.__cause__)).splitlines()
            note("\n".join(map(redacted, lines)))
        complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has left; there is nobody to tell
        sys.stderr.close()
        return 1
    except Exception as error:
        if verbose:
            raise
        what, hint = f"{type(error).__name__}: {error}", "add --verbose for the traceback"
        complain(OnceboxError(what, hint=hint))
        return 1
    finally:
        SOURCES.reset(token)
