"""Schemas: the versions of events, and whether a change would break somebody."""

from __future__ import annotations

from cyclopts import App

HELP = """Versions of events, and whether a change would break somebody.

    lock      write versions, lenses and readers into oncebox.lock
    check     whether a change would break somebody, and whom
    explain   the steps from one version to another, as plain Python
    export    versions as .avsc, .proto and .json files
    compat    whether schema files are compatible, whoever made them
    push      register versions in a registry
    serve     a registry of schemas that speaks Confluent's protocol
    user      who may use it
"""

app = App(name="schema", help=HELP)

app.command(f"{__package__}.schema_lock:lock", name="lock")
app.command(f"{__package__}.schema_lock:check", name="check")
app.command(f"{__package__}.schema_explain:explain", name="explain")
app.command(f"{__package__}.schema_export:export", name="export")
app.command(f"{__package__}.schema_compat:compat", name="compat")
app.command(f"{__package__}.schema_push:push", name="push")
app.command(f"{__package__}.schema_serve:serve", name="serve")
app.command(f"{__package__}.schema_serve:user", name="user")
