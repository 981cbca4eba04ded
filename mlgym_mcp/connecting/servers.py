"""What a client is to be connected with: a command that it starts, or an address that it calls."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

CARRIED = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
"""Variables that desktop clients do not hand on, and that decide which engine is meant."""
PLACES = ("MLGYM_HOME", "MLGYM_TASKS", "XDG_DATA_HOME")
"""And those that decide where the data and the tasks are."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN = re.compile(r"[!-~]{1,8192}")


@dataclass(frozen=True, slots=True)
class Program:
    """A server that the client starts, on stdio."""

    command: str
    args: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Address:
    """A server that runs already, over HTTP.

    Attributes:
        url: where its MCP endpoint is.
        variable: the environment variable that holds its token, or "": it wants none.
        token: the token itself, only if it is to be written into the client's file.
        token_file: where the token is kept.
    """

    url: str
    variable: str = ""
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None


Server = Program | Address


def this_program(arguments: tuple[str, ...], environ: Mapping[str, str]) -> Program:
    """Return this installation as a command, with absolute paths: clients start it with hardly any environment."""
    command = Path(sys.executable).parent / "mlgym-mcp"
    first: tuple[str, ...] = ()
    if not os.access(command, os.X_OK):
        found = shutil.which("mlgym-mcp")
        command, first = (
            (Path(found).absolute(), ()) if found else (Path(sys.executable), ("-m", "mlgym_mcp.cli.entry"))
        )
    carried = {name: environ[name] for name in CARRIED if environ.get(name)}
    for name in PLACES:
        if given := environ.get(name):
            paths = (str(Path(part).expanduser().absolute()) for part in given.split(os.pathsep) if part)
            carried[name] = os.pathsep.join(paths)
    return Program(str(command), (*first, *arguments), carried)


def bridged(address: Address) -> Program:
    """Return a command that connects its stdin and stdout with the address, and reads the token itself."""
    secret = () if address.token_file is None else ("--token-file", str(address.token_file.absolute()))
    return this_program(("bridge", address.url, *secret), {})


def checked_address(url: str) -> str:
    """Return the URL of an endpoint that a client can call.

    Raises:
        ValueError: it cannot be one.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"{url!r} is no URL: {exc}") from None
    if parts.scheme not in ("http", "https") or not host or any(not "!" <= char <= "~" for char in url):
        raise ValueError(f"{url!r} is no URL of an MCP server: http://HOST:PORT/... or https://... is wanted")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a user or a password in the URL would be shown everywhere: use --token-file")
    if parts.path in ("", "/"):
        raise ValueError(f"{url!r} names no endpoint: a session's URL ends in /sessions/ID/mcp, the desk's in /mcp")
    return url


def checked_variable(name: str) -> str:
    """Return the name of an environment variable.

    Raises:
        ValueError: it cannot be one.
    """
    if not _VARIABLE.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an environment variable")
    return name


def read_token(path: Path) -> str:
    """Return the token in a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds none.
    """
    try:
        token = path.read_text().strip()
    except UnicodeDecodeError:
        token = ""
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{path} holds no token: one line of plain characters is wanted")
    return token


def is_here(url: str) -> bool:
    """Say whether a URL is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_open(url: str) -> bool:
    """Say whether a token would travel to another machine unencrypted."""
    return urlsplit(url).scheme == "http" and not is_here(url)
