"""Schemas: the versions of events, and whether a change would break somebody."""

from __future__ import annotations

from cyclopts import App

app = App(
    name="schema", help="Versions of events: lock, check, export, explain, compat, serve, user."
)

app.command(f"{__package__}.schema_lock:lock", name="lock")
app.command(f"{__package__}.schema_lock:check", name="check")
app.command(f"{__package__}.schema_explain:explain", name="explain")
app.command(f"{__package__}.schema_export:export", name="export")
app.command(f"{__package__}.schema_compat:compat", name="compat")
app.command(f"{__package__}.schema_serve:serve", name="serve")
app.command(f"{__package__}.schema_serve:user", name="user")
