"""The commands: a module for each noun, loaded when its command is wanted."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer

from mlgym_mcp import __version__

_COMMANDS = {
    "serve": "serve:serve",
    "eval": "eval:evaluate",
    "replay": "replay:replay",
    "export": "export:export",
    "report": "report:report",
    "view": "view:view",
    "bridge": "bridge:bridge",
    "config": "config:config",
    "doctor": "doctor:doctor",
}
"""Where each is: the module, and the function in it."""
_GROUPS = {
    "tasks": "tasks:app",
    "episodes": "episodes:app",
    "images": "images:app",
    "environments": "images:environments",
    "host": "host:app",
}
"""Where each noun with commands of its own is: the module, and the application in it."""


def make_app(wanted: str | None = None) -> typer.Typer:
    """Return the command line.

    Args:
        wanted: the one command or noun that is needed of it: the libraries of the others are not loaded. All are
            there if it is anything else.
    """
    app = typer.Typer(
        name="mlgym-mcp",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    everything = [*_COMMANDS, *_GROUPS]
    for name in [wanted] if wanted in everything else everything:
        place, _, member = {**_COMMANDS, **_GROUPS}[name].partition(":")
        module = import_module(f"mlgym_mcp.cli.{place}")
        if name in _GROUPS:
            app.add_typer(getattr(module, member), name=name)
        else:
            app.command(name=name, epilog=module.EXAMPLES)(getattr(module, member))
    return app


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Machine-learning research tasks as MCP servers for any agent."""
