"""``mlgym-mcp config``: the server in the configuration of a client, printed or written."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.cli.output import JsonOption, console, errors, plain_errors, print_json
from mlgym_mcp.connecting.clients import CLIENTS, Client, Machine, Scope, this_machine
from mlgym_mcp.connecting.files import Change, UnchangeableFileError, change, read_text
from mlgym_mcp.connecting.merging import check_name, entry_in, merged, shown
from mlgym_mcp.connecting.servers import (
    Address,
    Server,
    checked_address,
    checked_variable,
    is_open,
    read_token,
    this_program,
)

EXAMPLES = """Examples:

  mlgym-mcp config claude-desktop --write

  mlgym-mcp config claude-code --task fashion_mnist --scope project --write

  mlgym-mcp config codex --http http://127.0.0.1:8000/mcp --token-file admin.token

  mlgym-mcp config --list
"""


def config(
    client: Annotated[
        str | None,
        typer.Argument(metavar="CLIENT", help=f"One of {', '.join(CLIENTS)}.", show_default=False),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Serve this task. Default: the desk.")] = None,
    desk: Annotated[bool, typer.Option("--desk", help="Serve the desk: the agent chooses its tasks.")] = False,
    preset: Annotated[str, typer.Option(help="The task's size: mini or full.")] = "mini",
    session: Annotated[str | None, typer.Option(help="Share the session of this name, also after a restart.")] = None,
    http: Annotated[
        str | None, typer.Option(metavar="URL", help="Connect to a server that runs, at its MCP endpoint.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTTP: the server wants the token in this file.")
    ] = None,
    token_variable: Annotated[
        str, typer.Option(metavar="NAME", help="HTTP: the client finds the token in this environment variable.")
    ] = "MLGYM_TOKEN",  # noqa: S107 - a name
    plain_token: Annotated[
        bool, typer.Option("--plain-token", help="HTTP: write the token itself, readable, into the client's file.")
    ] = False,
    name: Annotated[str, typer.Option(help="What the client calls the server.")] = "mlgym",
    write: Annotated[bool, typer.Option("--write", help="Put it into the client's file, and keep a copy.")] = False,
    scope: Annotated[
        Scope, typer.Option(help="user: wherever the client is used; project: in this folder only.")
    ] = Scope.USER,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Another file than the client's usual one.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the clients, their files, and where we are in.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the server's configuration for a client, or write it into the client's own file.

    With --write all else in the file stays as it is, comments too; what it was is kept beside it.
    """
    with plain_errors():
        machine = this_machine()
        if list_:
            _list(machine, name, as_json=as_json)
            return
        if client is None or client not in CLIENTS:
            what = "name a client" if client is None else f"there is no client {client!r}"
            raise LookupError(f"{what}; there are: {', '.join(CLIENTS)}")
        chosen = CLIENTS[client]
        check_name(name)
        server = _server(task, desk, preset, session, http, token_file, token_variable, plain_token)
        if plain_token and not write:
            raise ValueError("--plain-token goes with --write: tokens are not printed")
        path = _path(chosen, scope, file, machine)
        if write and path is None:
            raise ValueError("which file this client reads is not known: name it with --file")
        text = shown(chosen, server, name)
        result = _Result(chosen, server, name, path, text)
        if write and path is not None:
            mode = 0o644 if scope is Scope.PROJECT and not plain_token else 0o600

            def edit(old: str) -> str:
                new = merged(old, chosen, server, name, path)
                result.replaced = new != old and entry_in(old, chosen, name) is not None
                return new

            result.change = change(path, edit, mode=mode)
        result.notes = _notes(result, token_file, scope)
        _tell(result, as_json=as_json)


@dataclass(slots=True)
class _Result:
    client: Client
    server: Server
    name: str
    path: Path | None
    text: str
    change: Change | None = None
    replaced: bool = False
    notes: Sequence[str] = ()


def _server(
    task: str | None,
    desk: bool,
    preset: str,
    session: str | None,
    http: str | None,
    token_file: Path | None,
    variable: str,
    plain: bool,
) -> Server:
    """Return what the options ask for.

    Raises:
        ValueError: they do not go together.
        TaskError: there is no such task.
    """
    if task is not None and desk:
        raise ValueError("--task or --desk, not both")
    if http is not None:
        if task is not None or session is not None or preset != "mini":
            raise ValueError("the server at the URL decides about task, preset and session: leave them out with --http")
        if plain and token_file is None:
            raise ValueError("--plain-token wants the token: --token-file FILE")
        token = None if token_file is None else read_token(token_file)
        checked_variable(variable)
        return Address(
            checked_address(http),
            variable if token_file is not None else "",
            token if plain else None,
            None if token_file is None else token_file.absolute(),
        )
    if token_file is not None or plain:
        raise ValueError("a token is for a server that runs: name it with --http URL")
    if session is not None and (not session.strip() or session.startswith("-")):
        raise ValueError(f"{session!r} cannot name a session")
    words = ["serve"]
    if task is not None:
        Catalog.default().get(task).preset(preset)
        words += [task] if preset == "mini" else [task, "--preset", preset]
    elif preset != "mini":
        raise ValueError("--preset belongs to one task: name it with --task")
    return this_program((*words, *(() if session is None else ("--session", session))), os.environ)


def _path(client: Client, scope: Scope, file: Path | None, machine: Machine) -> Path | None:
    if file is not None:
        return file.expanduser().absolute()
    if not client.files:
        return None
    if scope not in client.files:
        raise ValueError(f"{client.title} has no file for a {scope}: leave --scope out")
    return client.files[scope](machine)


def _notes(result: _Result, token_file: Path | None, scope: Scope) -> list[str]:
    """Return what the user has to know and do."""
    notes = []
    server = result.server
    if isinstance(server, Address):
        if server.token is not None:
            notes.append("The token stands readable in the file: do not share it, nor its copies.")
        elif token_file is not None and not isinstance(result.client.reached(server), Address):
            notes.append(f"The token is not in it: the command reads it from {server.token_file}.")
        elif result.client.inputs(server) is not None:
            notes.append(f"{result.client.title} asks for the token when it starts the server: it is in {token_file}.")
        elif server.variable and token_file is not None:
            told = f'export {server.variable}="$(cat {shlex.quote(str(token_file))})"'
            notes.append(
                f"The token is not in it: {result.client.title} reads ${server.variable} when it starts: {told}"
            )
        if server.variable and is_open(server.url):
            notes.append("http:// shows the token to everybody on the way: use https:// beyond this machine.")
        if "/sessions/" in server.url:
            notes.append("The URL names one session, and may open it without a token: share it with nobody.")
    elif scope is Scope.PROJECT:
        notes.append("The command's path is this machine's: others who use this folder need their own.")
    if result.replaced:
        notes.append(f"There was a server called {result.name} already: the copy still has it.")
    if result.change is not None and result.client.afterwards:
        notes.append(result.client.afterwards)
    return notes


def _tell(result: _Result, *, as_json: bool) -> None:
    change = result.change
    if as_json:
        secret = isinstance(result.server, Address) and result.server.token is not None
        facts = {
            "client": result.client.name,
            "name": result.name,
            "file": None if result.path is None else str(result.path),
            "format": result.client.format,
            "text": None if secret else result.text,
            "written": change is not None and change.changed,
            "backup": None if change is None or change.backup is None else str(change.backup),
            "notes": list(result.notes),
        }
        print_json(facts)
        return
    if change is None:
        typer.echo(result.text)
        if result.path is not None:
            errors.print(f"This belongs into {escape(str(result.path))}; --write puts it there.", highlight=False)
    elif change.changed:
        console.print(f"Wrote {escape(result.name)} into {escape(str(change.path))}", highlight=False)
        if change.backup is not None:
            console.print(f"What it was is kept as {escape(str(change.backup))}", highlight=False)
    else:
        console.print(f"{escape(str(change.path))} has it already.", highlight=False)
    for note in result.notes:
        errors.print(escape(note), highlight=False)


def _list(machine: Machine, name: str, *, as_json: bool) -> None:
    rows = [
        {"client": client.name, "scope": scope, "file": str(path), **_found(client, path, name)}
        for client in CLIENTS.values()
        for scope, find in client.files.items()
        for path in [find(machine)]
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("client", "scope", "file", "configured", box=None)
    for row in rows:
        state = str(row["problem"] or ("yes" if row["configured"] else "no" if row["exists"] else "-"))
        table.add_row(*(escape(str(row[key])) for key in ("client", "scope", "file")), escape(state))
    console.print(table)


def _found(client: Client, path: Path, name: str) -> dict[str, Any]:
    """Say whether there is a file, and whether the server is in it."""
    try:
        text = read_text(path)
        entry = None if text is None else entry_in(text, client, name)
    except UnchangeableFileError as exc:
        return {"exists": True, "configured": False, "problem": str(exc)}
    except ValueError as exc:
        return {"exists": True, "configured": False, "problem": f"it is not {client.format.upper()}: {exc}"}
    return {"exists": text is not None, "configured": entry is not None, "problem": None}
