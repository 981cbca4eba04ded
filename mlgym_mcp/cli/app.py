"""The whole command line: one typer application."""

from __future__ import annotations

from mlgym_mcp.cli.commands import make_app

app = make_app()
