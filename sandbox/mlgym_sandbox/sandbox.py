"""A running sandbox: commands, files and snapshots, over one connection to the runner inside it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
from anyio.abc import ByteStream

from mlgym_sandbox.channel import CHUNK, REPLY_TIMEOUT_S, Channel
from mlgym_sandbox.errors import SandboxError, SandboxFileError
from mlgym_sandbox.frames import PAYLOAD_LIMIT, Frame
from mlgym_sandbox.spec import (
    WORKSPACE,
    FileChunk,
    FileEntry,
    JobStatus,
    Listing,
    Match,
    Matches,
    Output,
    Usage,
)
from mlgym_sandbox.streams import JobStream

START_PAYLOAD_BYTES = 512 * 1024
TAR_TIMEOUT_S = 300.0
LIST_TIMEOUT_S = 30.0

Cleanup = Callable[[], Awaitable[None]]


class Sandbox:
    """One living sandbox, connected. Made by a backend with ``Sandbox.connect``.

    All methods are safe to call concurrently. Every one raises ``SandboxLostError`` once the connection is
    lost; ``Backend.attach`` may connect again, and the jobs are still there.

    Args:
        name: unique on this machine.
        channel: a connection whose handshake is done.
        remove: kills the sandbox and removes all that it left; called once by ``close``.
    """

    def __init__(self, name: str, channel: Channel, *, remove: Cleanup) -> None:
        self.name = name
        self.channel = channel
        self._remove = remove
        self._closed = False

    @classmethod
    async def connect(
        cls,
        name: str,
        stream: ByteStream,
        magic: bytes,
        *,
        remove: Cleanup,
        timeout_s: float = 20.0,
    ) -> Sandbox:
        """Shake hands with the runner at the other end of ``stream``.

        Closes the stream on failure, and only that: what else was made is the backend's to remove.

        Raises:
            SandboxLostError: the runner did not answer within ``timeout_s`` seconds.
        """
        channel = Channel(stream, magic)
        try:
            await channel.handshake(timeout_s)
        except BaseException:
            await channel.aclose()
            raise
        return cls(name, channel, remove=remove)

    @property
    def magic(self) -> bytes:
        """The secret of 32 bytes with which a later server connects again."""
        return self.channel.magic

    @property
    def lost(self) -> str | None:
        """Why the sandbox cannot be reached any more; ``None`` while it can, as far as is known."""
        return self.channel.lost

    # --- jobs

    async def start(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        keep_state: bool = False,
        stream: bool = False,
        grace_s: float = 5.0,
    ) -> JobStatus:
        """Start a command as a job and return at once.

        Args:
            command: text for ``bash -c``, or a program and its arguments.
            cwd: working directory; ``/workspace`` by default.
            env: more environment variables.
            timeout_s: seconds until the job and all it started are killed; ``None``: never.
            keep_state: begin with the directory and exported variables that the last such job ended with
                (text only).
            stream: keep stdin open and deliver stdout as events; see ``open_stream``.
            grace_s: seconds between SIGTERM and SIGKILL when the time is over.

        Raises:
            SandboxFileError: the working directory does not exist or may not be entered.
            SandboxError: the program does not exist, or no process can be started now.
        """
        frame = await self._start(command, cwd, env, timeout_s, keep_state, stream, grace_s, 0.0, 0)
        return _status(frame.header)

    async def run(
        self,
        command: str | Sequence[str],
        *,
        wait_s: float,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        keep_state: bool = False,
        grace_s: float = 5.0,
        output_limit: int = 65536,
    ) -> tuple[JobStatus, Output]:
        """Start a command and wait up to ``wait_s`` seconds for its end: one round trip.

        Returns the status and the first ``output_limit`` bytes printed so far. The job goes on when it has
        not ended; everything else as ``start``.
        """
        limit = min(output_limit, PAYLOAD_LIMIT)
        frame = await self._start(command, cwd, env, timeout_s, keep_state, False, grace_s, wait_s, limit)
        return _status(frame.header), _output(frame)

    async def wait(self, job_id: str, timeout_s: float) -> JobStatus:
        """Return a job's status when it has ended, or after ``timeout_s`` seconds.

        Raises:
            JobNotFoundError: there is no such job.
        """
        args = {"job": job_id, "timeout_s": timeout_s}
        frame = await self.channel.request("wait", args, timeout_s=timeout_s + REPLY_TIMEOUT_S)
        return _status(frame.header)

    async def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        """Return a piece of what a job printed; a negative ``offset`` counts from the end. At most 1 MiB.

        Raises:
            JobNotFoundError: there is no such job.
        """
        args = {"job": job_id, "offset": offset, "limit": min(limit, PAYLOAD_LIMIT)}
        return _output(await self.channel.request("output", args))

    async def stop(self, job_id: str, grace_s: float = 5.0) -> JobStatus:
        """Stop a job and all it started: SIGTERM, after ``grace_s`` seconds SIGKILL. Returns when it is over.

        Raises:
            JobNotFoundError: there is no such job.
        """
        args = {"job": job_id, "grace_s": grace_s}
        frame = await self.channel.request("stop", args, timeout_s=grace_s + REPLY_TIMEOUT_S)
        return _status(frame.header)

    async def jobs(self) -> tuple[JobStatus, ...]:
        """Return all jobs that are remembered (running ones and the latest ended), oldest first."""
        frame = await self.channel.request("jobs")
        return tuple(_status(entry) for entry in json.loads(frame.payload))

    async def kill_all(self) -> None:
        """Kill everything the agent runs, at once; returns when it is dead."""
        await self.channel.request("kill_all")

    async def open_stream(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> JobStream:
        """Start a command and hold its stdin and stdout. It dies with this connection.

        Raises:
            SandboxError: as ``start``.
        """
        # The name is chosen here so that the very first bytes printed find somebody who collects them.
        job_id = f"s{secrets.token_hex(8)}"
        inbox = self.channel.open_stream(job_id)
        try:
            frame = await self._start(command, cwd, env, timeout_s, False, True, 0.0, 0.0, 0, job_id)
        except BaseException:
            self.channel.close_stream(job_id)
            with anyio.move_on_after(2, shield=True):
                try:
                    await self.stop(job_id, grace_s=0.0)  # cancelled after it was asked for
                except SandboxError:
                    pass
            raise
        return JobStream(self, _status(frame.header), inbox)

    # --- files

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

    # --- the sandbox as a whole

    async def usage(self) -> Usage:
        """Return what the sandbox has used so far; disk bytes may be a second old while something runs."""
        frame, _ = await self.channel.transfer("usage", {"timeout_s": 20.0}, timeout_s=REPLY_TIMEOUT_S)
        header = frame.header
        return Usage(
            float(header["cpu_s"]),
            int(header["memory_bytes"]),
            int(header["processes"]),
            int(header["disk_bytes"]),
            int(header["oom_kills"]),
        )

    async def ping(self, timeout_s: float = REPLY_TIMEOUT_S) -> float:
        """Return the seconds of a round trip; also resets the sandbox's time to live."""
        begun = anyio.current_time()
        await self.channel.request("ping", timeout_s=timeout_s)
        return anyio.current_time() - begun

    async def set_environment(self, env: Mapping[str, str]) -> None:
        """Give every command that is started from now on more environment variables, also after a reconnection.

        Raises:
            SandboxError: a name or value that cannot be in an environment.
        """
        await self.channel.request("environment", {}, json.dumps(dict(env)).encode())

    async def detach(self) -> None:
        """Drop the connection; the sandbox and its jobs live on."""
        self._closed = True
        await self.channel.aclose()

    async def close(self) -> None:
        """Kill and remove everything. No error if it is gone already; after a failure it can be tried again."""
        if self._closed:
            return
        await self.channel.aclose()
        await self._remove()
        self._closed = True

    async def __aenter__(self) -> Sandbox:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()

    async def _start(
        self,
        command: str | Sequence[str],
        cwd: str | None,
        env: Mapping[str, str] | None,
        timeout_s: float | None,
        keep_state: bool,
        stream: bool,
        grace_s: float,
        wait_s: float,
        output_limit: int,
        job_id: str | None = None,
    ) -> Frame:
        if keep_state and not isinstance(command, str):
            raise SandboxError("keep_state needs the command as text for the shell, not as a list")
        what = {"command": command if isinstance(command, str) else list(command), "env": dict(env or {})}
        payload = json.dumps(what).encode()
        if len(payload) > START_PAYLOAD_BYTES:
            raise SandboxError(
                f"the command has {len(payload)} bytes, more than {START_PAYLOAD_BYTES}; "
                "write it to a file and run that"
            )
        args: dict[str, Any] = {"cwd": cwd, "timeout_s": timeout_s, "keep_state": keep_state}
        args |= {"stream": stream, "grace_s": grace_s, "wait_s": wait_s, "limit": output_limit}
        if job_id is not None:
            args["job"] = job_id
        return await self.channel.request("start", args, payload, timeout_s=wait_s + REPLY_TIMEOUT_S)


def _status(header: Mapping[str, Any]) -> JobStatus:
    return JobStatus(
        id=header["job"],
        command=header["command"],
        state=header["state"],
        exit_code=header["exit_code"],
        reason=header["reason"],
        started=header["started"],
        seconds=header["seconds"],
        output_bytes=header["output_bytes"],
        oom=header["oom"],
    )


def _output(frame: Frame) -> Output:
    return Output(frame.payload, frame.header["offset"], frame.header["total"])


def _entry(entry: Sequence[Any]) -> FileEntry:
    path, kind, size, mtime = entry
    return FileEntry(path, kind, size, mtime)
