"""Where replays have their sessions: on a server that runs, or on one in this process."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlgym_mcp.catalog import Catalog
from mlgym_sandbox.home import home

if TYPE_CHECKING:
    from mlgym_clients.sweep.control import Control

ServerOption = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="A server that runs. Default: one in this process.")
]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", help="Holds that server's admin token. Default: $MLGYM_ADMIN_TOKEN, or this home's."),
]
SandboxOption = Annotated[str | None, typer.Option("--sandbox", help="auto, docker, bubblewrap or process.")]
UnsafeOption = Annotated[bool, typer.Option("--unsafe", help="Own server: allow --sandbox process.")]


@dataclass(frozen=True, slots=True)
class ReplayServer:
    """Which server the options name; ``use`` lends its control API."""

    url: str | None
    token_file: Path | None
    sandbox: str | None
    unsafe: bool

    @property
    def episodes(self) -> Path | None:
        """Where it keeps its episodes, if that is known."""
        return None if self.url is not None else home("episodes")

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Control]:
        """Lend the control API, starting the server if there is none; its sessions end with the block.

        Raises:
            LookupError: there is no admin token for the server.
            TaskError: there are no tasks.
            OSError: no server can be started here.
        """
        from mlgym_clients.sweep.control import Control

        if self.url is not None:
            async with Control(self.url, self._token()) as control:
                yield control
            return
        from mlgym_mcp.serving.auth import AdminToken
        from mlgym_mcp.serving.host import Host
        from mlgym_mcp.serving.http_server import serve_http
        from mlgym_mcp.serving.process import allow_many_files
        from mlgym_mcp.session.registry import SessionRegistry

        allow_many_files()
        admin = AdminToken(secrets.token_urlsafe(24))
        registry = SessionRegistry(Catalog.default(), sandbox=self.sandbox or "auto", unsafe=self.unsafe)
        host = Host(registry, require_token=True)
        async with host.run(), serve_http(host, "127.0.0.1", 0, admin=admin) as url:
            async with Control(url, admin.value) as control:
                yield control

    def _token(self) -> str:
        own = home() / "admin.token"
        if self.token_file is None and (given := os.environ.get("MLGYM_ADMIN_TOKEN")):
            return given.strip()
        if self.token_file is None and not own.exists():
            raise LookupError("--server wants its admin token: --token-file FILE, or $MLGYM_ADMIN_TOKEN")
        return (self.token_file or own).read_text("utf-8").strip()
