"""``mlgym-mcp host``: the background process that owns the sessions of stdio clients."""

from __future__ import annotations

import typer

from mlgym_mcp.cli.output import JsonOption, console, plain_errors, print_json
from mlgym_mcp.serving.relay import ask_host

app = typer.Typer(help="Look at or stop the background host that stdio clients share.", no_args_is_help=True)


@app.command(epilog="Example: mlgym-mcp host status --json")
def status(as_json: JsonOption = False) -> None:
    """Show the running host and its sessions."""
    with plain_errors():
        answer = ask_host("status")
    if as_json:
        print_json(answer)
        return
    console.print(f"host {answer['version']}, pid {answer['pid']}, {answer['connections']} connections")
    for session in answer["sessions"]:
        console.print(f"  {session['episode']}  {session['phase']}, {session['calls']} calls")


@app.command(epilog="Example: mlgym-mcp host stop")
def stop() -> None:
    """Stop the running host: its sessions end, their episodes stay."""
    with plain_errors():
        ask_host("stop")
    console.print("The host was told to stop.")
