"""Starting a server for a sweep that is given none: see :mod:`mlgym_clients.sweep.keeper`."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE

import anyio
import anyio.abc

_START_S = 180.0
_END_S = 90.0
_TAIL = 2000


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A server that runs for this sweep only.

    Attributes:
        url: its address.
        token: its admin token.
        log: what it says.
    """

    url: str
    token: str
    log: Path
    _keeper: anyio.abc.Process

    @property
    def kept(self) -> bool:
        """Whether it runs, or will be started again."""
        return self._keeper.returncode is None

    def last_words(self) -> str:
        """Return the end of what it said."""
        return _tail(self.log)


class ServerStartError(Exception):
    """A server could not be started; the message has the end of what it said."""


def keeper_command(lock: str | Path, arguments: Sequence[str]) -> list[str]:
    """Return the command of a keeper.

    Args:
        lock: the file that it locks and writes the server's pid to.
        arguments: of ``mlgym-mcp serve``.
    """
    return [sys.executable, "-m", "mlgym_clients.sweep.keeper", str(lock), "--", *arguments]


@asynccontextmanager
async def own_server(place: Path, arguments: Sequence[str] = ()) -> AsyncIterator[OwnServer]:
    """Run a server on a loopback port; its sessions end with it.

    Args:
        place: folder for its log and its lock file.
        arguments: of ``mlgym-mcp serve``.

    Raises:
        ServerStartError: it did not come up.
    """
    token = secrets.token_urlsafe(24)
    log = place / "server.log"
    command = keeper_command(place / "server.lock", arguments)
    environment = {**os.environ, "MLGYM_ADMIN_TOKEN": token}
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab") as output:
        process = await anyio.open_process(
            command, stdin=PIPE, stdout=PIPE, stderr=output, env=environment, start_new_session=True
        )
    try:
        port = await _port(process, log)
        yield OwnServer(f"http://127.0.0.1:{port}", token, log, process)
    finally:
        with anyio.CancelScope(shield=True):
            await _ended(process)


async def _port(process: anyio.abc.Process, log: Path) -> int:
    """Wait for the port that the keeper prints."""
    assert process.stdout is not None
    said = b""
    with anyio.move_on_after(_START_S):
        try:
            while not said.endswith(b"\n"):
                said += await process.stdout.receive()
            return int(said)
        except (anyio.EndOfStream, ValueError):
            pass
    raise ServerStartError(f"the server could not be started: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-_TAIL:].strip() or "it said nothing"


async def _ended(process: anyio.abc.Process) -> None:
    """Close the pipe that the keeper watches, and wait until it has ended the server; stdout says nothing more."""
    assert process.stdin is not None
    with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        await process.stdin.aclose()
    with anyio.move_on_after(_END_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.aclose()
