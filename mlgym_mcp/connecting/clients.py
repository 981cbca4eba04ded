"""The clients: where each keeps its servers, and how it wants one written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from mlgym_mcp.connecting.servers import Program, Server, bridged

LONGEST_S = 3600
"""How long a client is to wait for one call, where it can be told: gradings take minutes, jobs are handed over
after 45 seconds."""
STARTING_S = 60
"""How long a client is to wait for the server to be there: it starts within a second, on a busy machine in some."""


class Scope(StrEnum):
    """Whose configuration: all of a user's, or a project's."""

    USER = "user"
    PROJECT = "project"


class Format(StrEnum):
    """The language of a file."""

    JSON = "json"
    TOML = "toml"


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides where files are."""

    home: Path
    folder: Path
    environ: Mapping[str, str]
    platform: str = sys.platform

    def settings(self, name: str, mac: str, windows: str) -> Path:
        """Return an application's folder: below ~/.config, Application Support, or APPDATA."""
        if self.platform == "darwin":
            return self.home / "Library" / "Application Support" / mac
        if self.platform == "win32":
            return self._variable("APPDATA", self.home / "AppData" / "Roaming") / windows
        return self._variable("XDG_CONFIG_HOME", self.home / ".config") / name

    def chosen(self, variable: str, default: str) -> Path:
        """Return the folder that a variable names, or one in the home folder."""
        return self._variable(variable, self.home / default)

    def _variable(self, name: str, default: Path) -> Path:
        value = self.environ.get(name)
        return Path(value) if value and Path(value).is_absolute() else default


def this_machine() -> Machine:
    """Return the machine, the user and the folder of this process."""
    return Machine(Path.home(), Path.cwd(), os.environ)


class UnwritableServerError(ValueError):
    """The client's file has no way to say this; the message says what to do instead."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client and its configuration.

    Attributes:
        key: where in its file the servers are.
        files: for each scope it has, how to find the file.
        write: makes a server's entry.
        reference: how its file names an environment variable, with NAME for its name; "" if it cannot.
        asks: what a reference names is something that it asks its user for, and keeps.
        calls: it calls servers over HTTP; otherwise it only starts commands.
        afterwards: what the user has to do next.
    """

    name: str
    title: str
    key: str
    files: Mapping[Scope, Callable[[Machine], Path]]
    write: Callable[[Server, str], dict[str, Any]]
    reference: str = ""
    asks: bool = False
    calls: bool = True
    afterwards: str = ""
    format: Format = Format.JSON

    def entry(self, server: Server) -> dict[str, Any]:
        """Return the server's entry.

        Raises:
            UnwritableServerError: the client cannot be told so.
        """
        server = self.reached(server)
        return self.write(server, self._authorization(server))

    def reached(self, server: Server) -> Server:
        """Return how the client gets to the server: over the bridge, if it cannot call it or not keep its token.

        Raises:
            UnwritableServerError: the token is to be where the client does not look.
        """
        if isinstance(server, Program):
            return server
        if not self.calls and server.token is not None:
            raise UnwritableServerError(
                f"{self.title} gets to the server over a command that reads the token's file: leave --plain-token out"
            )
        keeps = self.reference or server.token is not None or not server.variable
        return server if self.calls and keeps else bridged(server)

    def _authorization(self, server: Server) -> str:
        """Return the Authorization header as the file holds it, or "" for none."""
        if isinstance(server, Program) or not (server.variable or server.token):
            return ""
        if server.token is not None:
            return f"Bearer {server.token}"
        return "Bearer " + self.reference.replace("NAME", server.variable)

    def inputs(self, server: Server) -> dict[str, Any] | None:
        """Return what the client is to ask its user for, if anything."""
        if not self.asks or isinstance(server, Program) or server.token is not None or not server.variable:
            return None
        words = "Bearer token of the mlgym-mcp server"
        return {"type": "promptString", "id": server.variable, "description": words, "password": True}


def _program(server: Program) -> dict[str, Any]:
    entry: dict[str, Any] = {"command": server.command, "args": list(server.args)}
    return {**entry, "env": dict(server.env)} if server.env else entry


def _headers(authorization: str) -> dict[str, Any]:
    return {"headers": {"Authorization": authorization}} if authorization else {}


def _plain(url: str, *, typed: bool = False, more: Mapping[str, Any] | None = None) -> Callable[..., dict[str, Any]]:
    """Return a writer of entries that differ in the URL's key, in a type, and in time-outs."""

    def write(server: Server, authorization: str) -> dict[str, Any]:
        kind = "stdio" if isinstance(server, Program) else "http"
        body = _program(server) if isinstance(server, Program) else {url: server.url, **_headers(authorization)}
        return {**({"type": kind} if typed else {}), **body, **(more or {})}

    return write


def _codex(server: Server, authorization: str) -> dict[str, Any]:
    times = {"startup_timeout_sec": STARTING_S, "tool_timeout_sec": LONGEST_S, "required": True}
    if isinstance(server, Program):
        return {**_program(server), **times}
    entry: dict[str, Any] = {"url": server.url}
    if server.token is not None:
        entry["http_headers"] = {"Authorization": authorization}
    elif server.variable:
        entry["bearer_token_env_var"] = server.variable
    return {**entry, **times}


def _opencode(server: Server, authorization: str) -> dict[str, Any]:
    times = {"enabled": True, "timeout": LONGEST_S * 1000}
    if isinstance(server, Program):
        environment = {"environment": dict(server.env)} if server.env else {}
        return {"type": "local", "command": [server.command, *server.args], **environment, **times}
    return {"type": "remote", "url": server.url, **_headers(authorization), "oauth": False, **times}


def _here(*parts: str) -> Callable[[Machine], Path]:
    return lambda machine: machine.folder.joinpath(*parts)


def _home(*parts: str) -> Callable[[Machine], Path]:
    return lambda machine: machine.home.joinpath(*parts)


def _claude_code_file(machine: Machine) -> Path:
    return machine.chosen("CLAUDE_CONFIG_DIR", "") / ".claude.json"


def _zed_file(machine: Machine) -> Path:
    if machine.platform == "darwin":
        return machine.home / ".config" / "zed" / "settings.json"
    return machine.settings("zed", "zed", "Zed") / "settings.json"


def _opencode_file(folder: Path) -> Path:
    """Return the file that there is: of both names, opencode reads the files of both."""
    plain, commented = folder / "opencode.json", folder / "opencode.jsonc"
    return commented if commented.exists() and not plain.exists() else plain


_CLIENTS = [
    Client(
        "claude-desktop",
        "Claude Desktop",
        "mcpServers",
        {Scope.USER: lambda m: m.settings("Claude", "Claude", "Claude") / "claude_desktop_config.json"},
        _plain("url"),
        calls=False,
        afterwards="Quit and start Claude Desktop: it reads the file when it starts.",
    ),
    Client(
        "claude-code",
        "Claude Code",
        "mcpServers",
        {Scope.USER: _claude_code_file, Scope.PROJECT: _here(".mcp.json")},
        _plain("url", typed=True),
        reference="${NAME}",
        afterwards="Start a new session; /mcp shows the server.",
    ),
    Client(
        "cursor",
        "Cursor",
        "mcpServers",
        {Scope.USER: _home(".cursor", "mcp.json"), Scope.PROJECT: _here(".cursor", "mcp.json")},
        _plain("url"),
        reference="${env:NAME}",
        afterwards="Switch the server on in Cursor's settings under MCP.",
    ),
    Client(
        "vscode",
        "VS Code",
        "servers",
        {
            Scope.USER: lambda m: m.settings("Code", "Code", "Code") / "User" / "mcp.json",
            Scope.PROJECT: _here(".vscode", "mcp.json"),
        },
        _plain("url", typed=True),
        reference="${input:NAME}",
        asks=True,
        afterwards="'MCP: List Servers' in the command palette starts the server.",
    ),
    Client(
        "windsurf",
        "Windsurf",
        "mcpServers",
        {Scope.USER: _home(".codeium", "windsurf", "mcp_config.json")},
        _plain("serverUrl"),
        reference="${env:NAME}",
        afterwards="Refresh the list of servers in Cascade.",
    ),
    Client(
        "zed",
        "Zed",
        "context_servers",
        {Scope.USER: _zed_file, Scope.PROJECT: _here(".zed", "settings.json")},
        _plain("url", more={"timeout": LONGEST_S}),
        afterwards="The agent panel's settings show the server.",
    ),
    Client(
        "codex",
        "Codex",
        "mcp_servers",
        {
            Scope.USER: lambda m: m.chosen("CODEX_HOME", ".codex") / "config.toml",
            Scope.PROJECT: _here(".codex", "config.toml"),
        },
        _codex,
        reference="NAME",
        afterwards="Start a new session; /mcp shows the server.",
        format=Format.TOML,
    ),
    Client(
        "gemini-cli",
        "Gemini CLI",
        "mcpServers",
        {Scope.USER: _home(".gemini", "settings.json"), Scope.PROJECT: _here(".gemini", "settings.json")},
        _plain("httpUrl", more={"timeout": LONGEST_S * 1000}),
        reference="${NAME}",
        afterwards="Start Gemini CLI again; /mcp shows the server. Set model.disableLoopDetection in the same file, "
        "or it ends an agent that waits for one job again and again.",
    ),
    Client(
        "opencode",
        "opencode",
        "mcp",
        {
            Scope.USER: lambda m: _opencode_file(m.chosen("XDG_CONFIG_HOME", ".config") / "opencode"),
            Scope.PROJECT: lambda m: _opencode_file(m.folder),
        },
        _opencode,
        reference="{env:NAME}",
        afterwards="Start opencode again: 'opencode mcp list' shows the server.",
    ),
    Client(
        "copilot-cli",
        "GitHub Copilot CLI",
        "mcpServers",
        {
            Scope.USER: lambda m: m.chosen("COPILOT_HOME", ".copilot") / "mcp-config.json",
            Scope.PROJECT: _here(".github", "mcp.json"),
        },
        _plain("url", typed=True, more={"tools": ["*"], "deferTools": "never", "timeout": LONGEST_S * 1000}),
        reference="${NAME}",
        afterwards="Start a new session; /mcp show names the server. A project's file is read in a trusted folder.",
    ),
    Client("generic", "Any other client", "mcpServers", {}, _plain("url", typed=True), reference="${NAME}"),
]
CLIENTS = {client.name: client for client in _CLIENTS}
"""The clients by their names on the command line."""
