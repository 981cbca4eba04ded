"""A command whose stdin and stdout are a byte stream held by the server."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio

from mlgym_sandbox.channel import CHUNK, Inbox
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.spec import JobStatus

if TYPE_CHECKING:
    from mlgym_sandbox.sandbox import Sandbox

_CREDIT_STEP = 256 * 1024


class JobStream:
    """One running command: bytes in, bytes out. Made by ``Sandbox.open_stream``.

    ``stdout`` is flow-controlled (at most 1 MiB is under way unread); ``stderr`` is kept like any output.
    Not to be received from by two tasks at once.
    """

    def __init__(self, sandbox: Sandbox, status: JobStatus, inbox: Inbox) -> None:
        self.id = status.id
        self._sandbox = sandbox
        self._inbox = inbox
        self._chunks: deque[bytes] = deque()
        self._consumed = 0
        self._eof = False
        self._closed = False

    async def send(self, data: bytes) -> None:
        """Write to the command's stdin; returns when the pipe has taken all of it.

        Raises:
            anyio.BrokenResourceError: the command has closed its stdin or ended.
            SandboxLostError: the sandbox is gone.
        """
        view = memoryview(data)
        for at in range(0, len(view), CHUNK):
            piece = bytes(view[at : at + CHUNK])
            # No limit of its own: how long a command may take to read is for the caller to say.
            reply = await self._sandbox.channel.request("stdin", {"job": self.id}, piece, timeout_s=float("inf"))
            if not reply.header.get("taken", True):
                raise anyio.BrokenResourceError

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes of stdout, at most ``max_bytes``.

        Raises:
            anyio.EndOfStream: all of stdout was read and nobody holds it open any more.
            SandboxLostError: the sandbox is gone.
        """
        if self._closed:
            raise anyio.ClosedResourceError
        while not self._chunks:
            if self._eof:
                raise anyio.EndOfStream
            frame = await self._sandbox.channel.next_event(self._inbox)
            if frame.header["event"] == "eof":
                self._eof = True
            elif frame.payload:
                self._chunks.append(frame.payload)
        chunk = self._chunks.popleft()
        if len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
        self._consumed += len(chunk)
        if self._consumed >= _CREDIT_STEP and not self._eof:
            amount, self._consumed = self._consumed, 0
            await self._sandbox.channel.notify("credit", {"job": self.id, "bytes": amount})
        return chunk

    async def close_stdin(self) -> None:
        """Let the command see the end of its input, after all that was sent."""
        await self._sandbox.channel.request("close_stdin", {"job": self.id})

    async def wait(self, timeout_s: float) -> JobStatus:
        """Return the status when the command has ended, or after ``timeout_s`` seconds."""
        return await self._sandbox.wait(self.id, timeout_s)

    async def stderr(self, limit: int = 65536) -> bytes:
        """Return the last ``limit`` bytes of what the command printed to stderr."""
        return (await self._sandbox.output(self.id, offset=-limit, limit=limit)).data

    async def aclose(self) -> None:
        """Kill the command and all it started, and forget the stream. Never raises."""
        if self._closed:
            return
        self._closed = True
        with anyio.move_on_after(10, shield=True):
            try:
                await self._sandbox.stop(self.id, grace_s=0.0)
            except SandboxError:
                pass  # gone with its sandbox: just as dead
        self._sandbox.channel.close_stream(self.id)

    async def __aenter__(self) -> JobStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
