"""The files of a running sandbox: read, written, looked through, copied out and in by the runner inside it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

import anyio

from mlgym_sandbox.channel import CHUNK, REPLY_TIMEOUT_S, Channel
from mlgym_sandbox.errors import SandboxError, SandboxFileError
from mlgym_sandbox.frames import PAYLOAD_LIMIT
from mlgym_sandbox.spec import WORKSPACE, FileChunk, FileEntry, Listing, Match, Matches

TAR_TIMEOUT_S = 300.0
LIST_TIMEOUT_S = 30.0


class SandboxFiles:
    """What a connected sandbox does with files, all with the agent's rights.

    Args:
        channel: a connection to its runner, whose handshake is done.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def read_file(self, path: str, offset: int = 0, limit: int = 1 << 20) -> FileChunk:
        """Return up to ``limit`` bytes of a regular file from ``offset``, read with the agent's rights.

        Raises:
            SandboxFileError: missing, not a regular file, not permitted.
        """
        if offset < 0 or limit < 0:
            raise SandboxFileError(f"offset and limit must not be negative, got {offset} and {limit}")
        parts: list[bytes] = []
        done = 0
        while True:
            args = {"path": path, "offset": offset + done, "limit": min(limit - done, PAYLOAD_LIMIT)}
            frame = await self.channel.request("read", args)
            parts.append(frame.payload)
            done += len(frame.payload)
            if not frame.payload or done >= limit or offset + done >= frame.header["total"]:
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                return FileChunk(data, offset, frame.header["total"])

    async def write_file(self, path: str, data: bytes, *, append: bool = False) -> None:
        """Write a file with the agent's rights, making its folders; all or nothing unless ``append``.

        Raises:
            SandboxFileError: read-only, not permitted, not a regular file, no space left.
        """
        args: dict[str, Any] = {"path": path, "append": append}
        if len(data) <= PAYLOAD_LIMIT:
            await self.channel.request("write", args, data)
            return
        args["part"] = secrets.token_hex(8)
        view = memoryview(data)
        try:
            for at in range(0, len(view), PAYLOAD_LIMIT):
                args["last"] = at + PAYLOAD_LIMIT >= len(view)
                await self.channel.request("write", args, bytes(view[at : at + PAYLOAD_LIMIT]))
        except BaseException:
            with anyio.move_on_after(1, shield=True):
                try:
                    await self.channel.notify("abandon", {"part": args["part"]})
                except SandboxError:
                    pass
            raise

    async def stat(self, path: str) -> FileEntry:
        """Return what a path is, links followed.

        Raises:
            SandboxFileError: missing or not permitted.
        """
        return _entry((await self.channel.request("stat", {"path": path})).header["entry"])

    async def list_files(self, path: str, *, depth: int = 1, limit: int = 1000, hidden: bool = True) -> Listing:
        """Return the entries below a folder, ``depth`` levels deep, at most ``limit``; links not followed.

        Raises:
            SandboxFileError: missing or not permitted.
        """
        args = {"path": path, "depth": depth, "limit": limit, "hidden": hidden, "timeout_s": LIST_TIMEOUT_S}
        frame, body = await self.channel.transfer("list", args, timeout_s=LIST_TIMEOUT_S + REPLY_TIMEOUT_S)
        entries = tuple(_entry(json.loads(line)) for line in body.splitlines())
        return Listing(entries, bool(frame.header.get("truncated")))

    async def search(
        self,
        pattern: str,
        path: str = WORKSPACE,
        *,
        glob: str | None = None,
        ignore_case: bool = False,
        limit: int = 200,
        timeout_s: float = 10.0,
    ) -> Matches:
        """Look for a Python regular expression in text files; stops at ``limit`` lines or ``timeout_s``.

        Raises:
            SandboxFileError: the path is missing or not permitted.
            SandboxError: the pattern is no regular expression.
        """
        args: dict[str, Any] = {"pattern": pattern, "path": path, "glob": glob, "ignore_case": ignore_case}
        args |= {"limit": limit, "timeout_s": timeout_s}
        frame, body = await self.channel.transfer("search", args, timeout_s=timeout_s + REPLY_TIMEOUT_S)
        matches = tuple(Match(*json.loads(line)) for line in body.splitlines())
        return Matches(matches, bool(frame.header.get("truncated")), int(frame.header.get("files", 0)))

    async def tar(
        self,
        patterns: Sequence[str],
        *,
        max_bytes: int,
        max_files: int,
        freeze: bool = True,
        timeout_s: float = TAR_TIMEOUT_S,
    ) -> bytes:
        """Copy out what matches the globs (relative to the workspace; ``**`` crosses folders; a folder comes whole).

        ``freeze`` stops the agent's processes meanwhile. Sparse files count by their size.

        Raises:
            TarLimitError: too large, too many, or something that is no regular file or folder, by name.
        """
        args = {"patterns": list(patterns), "max_bytes": max_bytes, "max_files": max_files}
        args |= {"freeze": freeze, "timeout_s": timeout_s}
        _, body = await self.channel.transfer("tar", args, timeout_s=timeout_s + REPLY_TIMEOUT_S)
        return body

    async def untar(self, data: bytes, path: str = WORKSPACE, *, timeout_s: float = TAR_TIMEOUT_S) -> None:
        """Unpack a tar below ``path`` as the agent; regular files and folders only.

        Raises:
            TarLimitError: a link, a device, an absolute name or one with ``..``.
            SandboxFileError: not permitted, read-only, no space left.
        """
        view = memoryview(data)
        pieces = (bytes(view[at : at + CHUNK]) for at in range(0, len(view), CHUNK))
        args = {"path": path, "timeout_s": timeout_s}
        await self.channel.transfer("untar", args, feed=pieces, timeout_s=timeout_s + REPLY_TIMEOUT_S)


def _entry(entry: Sequence[Any]) -> FileEntry:
    path, kind, size, mtime = entry
    return FileEntry(path, kind, size, mtime)
