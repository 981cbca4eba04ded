"""Commands in a sandbox as Inspect wants them: input given whole, the ends of stdout and stderr apart."""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio

from mlgym_sandbox import JobStatus, JobStream, Sandbox, SandboxError
from mlgym_sandbox.sandbox import START_PAYLOAD_BYTES

_LONGEST_BYTES = START_PAYLOAD_BYTES // 2
"""A command of more bytes goes into a file first."""
_LONGEST_ARGUMENT_BYTES = 100_000
_FROM_FILE = 'mapfile -d "" -t words < "$0" && /bin/rm -f -- "$0" && exec -- "${words[@]}"'
_LOOK_S = 60.0
_LAST_WORDS_S = 0.25
"""A command has ended, and something that it started holds its stdout: so long may nothing come before it is left."""
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended.

    Attributes:
        exit_code: as a shell tells it.
        reason: why it was killed, if we killed it: ``timeout``, ``oom``, ...
        stdout: the last bytes of it.
        stderr: the last bytes of it.
    """

    exit_code: int
    reason: str | None
    stdout: bytes
    stderr: bytes


async def run_to_end(
    box: Sandbox,
    command: Sequence[str],
    *,
    given: bytes = b"",
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    limit: int,
) -> Ended:
    """Run a program until it ends. What it started and left in the background goes on; cancelled, all of it is killed.

    Args:
        box: where.
        command: the program and its arguments.
        given: its standard input.
        cwd: where it begins; default: the workspace.
        env: more environment variables.
        timeout_s: it and all it started are killed after so many seconds.
        limit: at most so many bytes of stdout, and of stderr, are kept: the last ones.

    Raises:
        SandboxFileError: the folder cannot be entered.
        SandboxError: the program cannot be started; or, ``SandboxLostError``, the sandbox is gone.
    """
    argv = await _short(box, command)
    stream = await box.open_stream(argv, cwd=cwd, env=env, timeout_s=timeout_s)
    kept, ended = _Tail(limit), False
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_feed, stream, given)
            tasks.start_soon(_collect, stream, kept)
            status = await stream.wait(_LOOK_S)
            while status.state == "running":
                status = await stream.wait(_LOOK_S)
            await kept.all_here()
            tasks.cancel_scope.cancel()
        stderr = await _stderr(box, status, limit)
        ended = True
    except BaseExceptionGroup as group:
        raise _only(group) from None
    finally:
        if not ended:
            await stream.aclose()
        box.channel.close_stream(stream.id)
    code = -1 if status.exit_code is None else status.exit_code
    return Ended(code, status.reason, bytes(kept), stderr)


async def _short(box: Sandbox, command: Sequence[str]) -> list[str]:
    """Return the command, or, where it is too long for a request, one that reads it from a file."""
    words = [word.encode(errors="surrogateescape") for word in command]
    if len(json.dumps(list(command))) <= _LONGEST_BYTES and max(map(len, words), default=0) <= _LONGEST_ARGUMENT_BYTES:
        return list(command)
    if any(b"\0" in word for word in words):
        raise SandboxError("the command must be text without NUL characters")
    path = f"/tmp/.mlgym-command-{secrets.token_hex(8)}"  # noqa: S108 - inside the sandbox
    await box.write_file(path, b"".join(word + b"\0" for word in words))
    return ["/bin/bash", "-c", _FROM_FILE, path]


async def _feed(stream: JobStream, data: bytes) -> None:
    try:
        await stream.send(data)
        await stream.close_stdin()
    except (anyio.BrokenResourceError, SandboxError):
        pass  # it has closed its stdin, or ended: the one who waits for its end says how


class _Tail:
    """The last bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._news = anyio.Event()
        self._complete = False

    def add(self, data: bytes) -> None:
        """Take more."""
        self._parts.append(data)
        self._size += len(data)
        while self._size - len(self._parts[0]) >= self._limit:
            self._size -= len(self._parts.popleft())
        self._wake()

    def end(self) -> None:
        """Take no more."""
        self._complete = True
        self._wake()

    async def all_here(self) -> None:
        """Wait for the end, or until nothing comes any more."""
        while not self._complete:
            news = self._news
            with anyio.move_on_after(_LAST_WORDS_S) as patience:
                await news.wait()
            if patience.cancelled_caught:
                return

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)[-self._limit :]

    def _wake(self) -> None:
        self._news.set()
        self._news = anyio.Event()


async def _collect(stream: JobStream, kept: _Tail) -> None:
    try:
        while True:
            kept.add(await stream.receive())
    except (anyio.EndOfStream, SandboxError):
        kept.end()


async def _stderr(box: Sandbox, status: JobStatus, limit: int) -> bytes:
    parts: list[bytes] = []
    at, end = max(0, status.output_bytes - limit), status.output_bytes
    while at < end:
        piece = await box.output(status.id, at, min(_PIECE, end - at))
        if not piece.data:
            break
        parts.append(piece.data)
        at = piece.offset + len(piece.data)
    return b"".join(parts)[-limit:]


def _only(error: BaseException) -> BaseException:
    """Return what a group of one error holds: whoever asked knows of no group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    return error
