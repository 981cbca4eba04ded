"""A running sandbox: its commands, over one connection to the runner inside it, and its end."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
from anyio.abc import ByteStream

from mlgym_sandbox.channel import REPLY_TIMEOUT_S, Channel
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.files import SandboxFiles
from mlgym_sandbox.frames import PAYLOAD_LIMIT, Frame
from mlgym_sandbox.spec import JobStatus, Output, Usage
from mlgym_sandbox.streams import JobStream

START_PAYLOAD_BYTES = 512 * 1024

Cleanup = Callable[[], Awaitable[None]]


class Sandbox(SandboxFiles):
    """One living sandbox, connected. Made by a backend with ``Sandbox.connect``.

    All methods are safe to call concurrently. Every one raises ``SandboxLostError`` once the connection is
    lost; ``Backend.attach`` may connect again, and the jobs are still there.

    Args:
        name: unique on this machine.
        channel: a connection whose handshake is done.
        remove: kills the sandbox and removes all that it left; called once by ``close``.
    """

    def __init__(self, name: str, channel: Channel, *, remove: Cleanup) -> None:
        super().__init__(channel)
        self.name = name
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
