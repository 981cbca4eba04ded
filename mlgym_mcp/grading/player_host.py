"""The server's side of players: throw-away sandboxes, and bytes carried between them and the referee.

The server does not look into these bytes: the referee judges them. Each direction holds one piece at a time, so
a player that floods, or does not read, only ever blocks itself.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import anyio
from anyio.abc import TaskGroup

from mlgym_mcp.grading.errors import GraderError
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.inside import player_command
from mlgym_sandbox.sockets import ConnectedSocket
from mlgym_sandbox.spec import Limits, SandboxSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlgym_sandbox.spec import JobStatus

_log = logging.getLogger(__name__)

STDERR_BYTES: Final = 8 * 1024
"""How much of the end of a player's stderr is kept."""
_RELAY_BYTES: Final = 256 * 1024
_START_S: Final = 120.0
_STEP_S: Final = 10.0
"""Longest wait for each step of giving a player back."""


class PlayerStream(Protocol):
    """The part of ``mlgym_sandbox``'s ``JobStream`` that a player needs."""

    async def send(self, data: bytes) -> None:
        """Write to the program's stdin; waits while it does not read."""

    async def receive(self) -> bytes:
        """Some bytes of its stdout; ``anyio.EndOfStream`` at its end."""

    async def close_stdin(self) -> None:
        """End its stdin."""

    async def wait(self, timeout_s: float) -> JobStatus:
        """How the job stands when it has ended, or after the time."""

    async def stderr(self, limit: int = ...) -> bytes:
        """The end of what it printed to stderr."""

    async def aclose(self) -> None:
        """Kill it."""


class PlayerSandbox(Protocol):
    """The part of ``mlgym_sandbox``'s ``Sandbox`` that a player needs."""

    async def untar(self, data: bytes, path: str = ...) -> None:
        """Unpack into the workspace."""

    async def open_stream(
        self,
        command: str | Sequence[str],
        *,
        cwd: str | None = ...,
        env: Mapping[str, str] | None = ...,
        timeout_s: float | None = ...,
    ) -> PlayerStream:
        """Run a program with its stdin and stdout attached."""

    async def close(self) -> None:
        """Kill and remove everything."""


PlayerFactory = Callable[[], Awaitable[PlayerSandbox]]
"""Makes a fresh sandbox for one player: no network, nothing mounted, limits of the task's ``[grader] player``."""


@dataclass(frozen=True, slots=True)
class PlayerLimits:
    """Time limits of a task's players, in seconds; ``max_players`` bounds how many one grading may start."""

    call_timeout_s: float = 5.0
    total_timeout_s: float = 240.0
    load_timeout_s: float = 60.0
    max_players: int = 16


def player_sandbox_spec(
    name: str,
    *,
    environment: str,
    image: str,
    cpus: float = 1.0,
    memory_mb: int = 2048,
    pids: int = 64,
    storage_mb: int = 512,
    gpus: tuple[str, ...] = (),
    labels: Mapping[str, str] | None = None,
    ttl_s: float = 900.0,
) -> SandboxSpec:
    """The spec of a player's sandbox: no network, no data, small; gone by itself when the server dies."""
    limits = Limits(
        cpus=cpus, memory_mb=memory_mb, pids=pids, storage_mb=storage_mb, tmp_mb=min(256, memory_mb), output_mb=1
    )
    return SandboxSpec(
        name=name,
        environment=environment,
        image=image,
        limits=limits,
        gpus=gpus,
        labels=labels or {},
        ttl_s=ttl_s,
    )


@dataclass(eq=False)
class _Player:
    sandbox: PlayerSandbox
    stream: PlayerStream
    connection: ConnectedSocket
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    lost: str | None = None


class PlayerHost:
    """The players of one grading; an async context manager that leaves nothing behind."""

    def __init__(self, factory: PlayerFactory | None, limits: PlayerLimits | None, tar: bytes) -> None:
        self._factory = factory
        self._limits = limits or PlayerLimits()
        self._tar = tar
        self._players: dict[int, _Player] = {}
        self._opened = 0
        self._tasks: TaskGroup = anyio.create_task_group()
        self._stderr: dict[int, str] = {}

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in list(self._players):
            self.dismiss(number)
        await self._tasks.__aexit__(None, None, None)  # the block's own error goes on, in no group

    @property
    def stderr(self) -> list[str]:
        """The end of what each player printed, in the order of their making; complete after the block."""
        return [self._stderr[number] for number in sorted(self._stderr)]

    async def open(self) -> tuple[int, socket.socket]:
        """Start a player on the submission.

        Returns:
            Its number and the referee's end of its byte stream, to be closed here once it was handed over.

        Raises:
            GraderError: ``infrastructure``: no sandbox could be had; ``grader``: more players than allowed.
        """
        if self._factory is None:
            raise GraderError("this grading was started without a way to make players")
        self._opened += 1
        if self._opened > self._limits.max_players:
            raise GraderError(f"the grader asked for more than {self._limits.max_players} players")
        try:
            with anyio.fail_after(_START_S):
                sandbox = await self._factory()
        except (SandboxError, TimeoutError, OSError) as error:
            raise GraderError(f"no sandbox for a player: {error}", kind="infrastructure") from error
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with anyio.fail_after(_START_S):
                await sandbox.untar(self._tar)
                total_s = self._limits.load_timeout_s + self._limits.total_timeout_s
                stream = await sandbox.open_stream(player_command(), timeout_s=total_s)
            connection = ConnectedSocket(ours)
        except BaseException as error:
            ours.close()
            theirs.close()
            await self._remove(sandbox)
            if isinstance(error, SandboxError | TimeoutError | OSError):
                raise GraderError(f"no player could be started: {error}", kind="infrastructure") from error
            raise
        player = _Player(sandbox=sandbox, stream=stream, connection=connection)
        self._players[self._opened] = player
        self._tasks.start_soon(self._relay, player)
        return self._opened, theirs

    async def ending(self, number: int) -> dict[str, Any]:
        """How a player's program stands: ``exit_code`` (``None`` while it runs), ``reason``, ``oom``.

        Raises:
            GraderError: ``infrastructure``: its sandbox was lost.
        """
        player = self._players[number]
        try:
            if player.lost is None:
                with anyio.fail_after(_STEP_S):
                    status = await player.stream.wait(1.0)
                return {"exit_code": status.exit_code, "reason": status.reason, "oom": status.oom}
        except (SandboxError, TimeoutError, OSError) as error:
            player.lost = str(error)
        raise GraderError(f"the player's sandbox was lost: {player.lost}", kind="infrastructure")

    def dismiss(self, number: int) -> None:
        """Begin to end a player and to remove its sandbox; the block waits for it. No error if it is gone."""
        player = self._players.pop(number, None)
        if player is not None:
            player.scope.cancel()
            self._tasks.start_soon(self._close, number, player)

    async def _close(self, number: int, player: _Player) -> None:
        with anyio.CancelScope(shield=True):
            try:
                await player.connection.aclose()
                with anyio.move_on_after(_STEP_S):
                    await player.stream.close_stdin()
                    await player.stream.wait(0.5)
                with anyio.move_on_after(_STEP_S):
                    tail = (await player.stream.stderr(STDERR_BYTES))[-STDERR_BYTES:]
                    self._stderr[number] = tail.decode("utf-8", "replace")
                with anyio.move_on_after(_STEP_S):
                    await player.stream.aclose()
            except (SandboxError, OSError) as error:
                _log.info("player %d went away by itself: %s", number, error)
            finally:
                await self._remove(player.sandbox)

    async def _remove(self, sandbox: PlayerSandbox) -> None:
        with anyio.move_on_after(3 * _STEP_S, shield=True) as patience:
            try:
                await sandbox.close()
            except (SandboxError, OSError) as error:
                _log.warning("a player's sandbox could not be removed, the reaper will: %s", error)
        if patience.cancelled_caught:
            _log.warning("removing a player's sandbox takes too long, it is left to the reaper")

    async def _relay(self, player: _Player) -> None:
        with player.scope:
            async with anyio.create_task_group() as both:
                both.start_soon(self._questions, player)
                both.start_soon(self._answers, player)

    async def _questions(self, player: _Player) -> None:
        try:
            while True:
                await player.stream.send(await player.connection.receive(_RELAY_BYTES))
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the referee has closed, or the program no longer reads: its answers will tell
        except SandboxError as error:
            _log.info("a player takes no more questions: %s", error)

    async def _answers(self, player: _Player) -> None:
        try:
            while True:
                await player.connection.send(await player.stream.receive())
        except anyio.EndOfStream:
            pass
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # the referee has closed
        except SandboxError as error:
            player.lost = str(error)
        try:
            await player.connection.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass


def referee_package() -> Path:
    """The folder of the package that a referee imports from."""
    import mlgym_mcp

    return Path(str(mlgym_mcp.__file__)).parent
