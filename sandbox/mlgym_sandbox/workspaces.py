"""A sandbox's workspace as a whole: what in it differs from what is known, and making it what it was."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import anyio.to_thread

from mlgym_sandbox.channel import CHUNK, REPLY_TIMEOUT_S
from mlgym_sandbox.files import TAR_TIMEOUT_S
from mlgym_sandbox.frames import PAYLOAD_LIMIT
from mlgym_sandbox.sandbox import Sandbox
from mlgym_sandbox.trees import Survey, trusted


async def survey(
    sandbox: Sandbox,
    known: bytes,
    found: Survey,
    *,
    max_bytes: int,
    max_files: int,
    contents: bool = True,
    timeout_s: float = TAR_TIMEOUT_S,
) -> None:
    """Find out what in the workspace differs from what is known; the agent's processes are stopped meanwhile.

    Args:
        sandbox: whose workspace.
        known: as ``trees.known_states`` returns it.
        found: is fed with what is found, in a worker thread.
        max_bytes: of contents.
        max_files: entries of the workspace; with contents only.
        contents: whether to copy contents out. Else it is a survey before a ``rebuild``: folders that are
            closed to their owner are opened, and what is not among the known paths is left out with all below.
        timeout_s: for all of it.

    Raises:
        TarLimitError: there is more than that.
        OSError: the contents could not be stored.
    """

    async def take(data: bytes) -> None:
        await anyio.to_thread.run_sync(found.feed, data)

    args = {"contents": contents, "force": not contents, "max_bytes": max_bytes, "max_files": max_files}
    pieces = (known[at : at + CHUNK] for at in range(0, len(known), CHUNK))
    frame, _ = await sandbox.channel.transfer(
        "survey",
        {**args, "timeout_s": timeout_s},
        feed=pieces,
        take=take,
        timeout_s=timeout_s + REPLY_TIMEOUT_S,
    )
    found.end(frame.header)


async def rebuild(sandbox: Sandbox, steps: Iterator[bytes], *, timeout_s: float = TAR_TIMEOUT_S) -> dict[str, str]:
    """Carry out the steps of a ``trees.Plan``, which are read in a worker thread; nothing of the agent may run.

    Returns:
        the states of the files that were written, by path.

    Raises:
        SandboxFileError: no space left, or something that cannot be removed or written.
    """

    async def pieces() -> AsyncIterator[bytes]:
        while piece := await anyio.to_thread.run_sync(next, steps, b""):
            for at in range(0, len(piece), PAYLOAD_LIMIT):
                yield piece[at : at + PAYLOAD_LIMIT]

    frame, body = await sandbox.channel.transfer(
        "rebuild", {"timeout_s": timeout_s}, feed=pieces(), timeout_s=timeout_s + REPLY_TIMEOUT_S
    )
    return trusted((json.loads(line) for line in body.splitlines()), int(frame.header["fresh_from"]))


async def shell_state(sandbox: Sandbox) -> bytes:
    """Return where the shell of ``keep_state`` was left: text that only a shell understands."""
    return (await sandbox.channel.request("shell_state")).payload


async def set_shell_state(sandbox: Sandbox, state: bytes) -> None:
    """Put the shell of ``keep_state`` where another was left."""
    await sandbox.channel.request("shell_state", {"set": True}, state)
