"""The command line: one typer application, a module for each noun."""

from __future__ import annotations

from typing import Annotated

import typer

from mlgym_mcp import __version__
from mlgym_mcp.cli import bridge, config, doctor, episodes, export, host, images, replay, report, serve, tasks, view
from mlgym_mcp.cli import eval as evaluation

app = typer.Typer(
    name="mlgym-mcp",
    help="Machine-learning research tasks as MCP servers for any agent.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(tasks.app, name="tasks")
app.add_typer(episodes.app, name="episodes")
app.add_typer(images.app, name="images")
app.add_typer(images.environments, name="environments")
app.add_typer(host.app, name="host")
app.command(name="serve", epilog=serve.EXAMPLES)(serve.serve)
app.command(name="eval", epilog=evaluation.EXAMPLES)(evaluation.evaluate)
app.command(name="replay", epilog=replay.EXAMPLES)(replay.replay)
app.command(name="export", epilog=export.EXAMPLES)(export.export)
app.command(name="report", epilog=report.EXAMPLES)(report.report)
app.command(name="view", epilog=view.EXAMPLES)(view.view)
app.command(name="bridge", epilog=bridge.EXAMPLES)(bridge.bridge)
app.command(name="config", epilog=config.EXAMPLES)(config.config)
app.command(name="doctor", epilog=doctor.EXAMPLES)(doctor.doctor)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Machine-learning research tasks as MCP servers for any agent."""
