"""One live attempt at one task: a sandbox, a budget, a journal and an end."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc

from mlgym_mcp.catalog import Prepared, Task, TaskError
from mlgym_mcp.catalog.measured import baseline
from mlgym_mcp.session.budget import Budget, Meter
from mlgym_mcp.session.calls import Calls
from mlgym_mcp.session.episode import Episode
from mlgym_mcp.session.errors import EpisodeOverError, InfrastructureError, RefusedError
from mlgym_mcp.session.journal import JournalError
from mlgym_mcp.session.notes import Notes
from mlgym_mcp.session.scoring import Score, Scoring
from mlgym_mcp.session.setup import Setup, set_up
from mlgym_sandbox import Sandbox
from mlgym_sandbox.backends.base import Backend
from mlgym_sandbox.errors import SandboxError, SandboxLostError

Outcome = Literal["scored", "invalid_submission", "budget_exhausted", "abandoned", "infrastructure_error"]

logger = logging.getLogger(__name__)

_WATCH_S = 2.0
_CLOSE_S = 60.0


@dataclass(frozen=True, slots=True)
class End:
    """How an episode ended: exactly one outcome, and the sentence that says why."""

    outcome: Outcome
    reason: str
    score: Score | None = None


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What a session is made of.

    Attributes:
        task: the task to attempt.
        preset: its size.
        seed: handed to the agent's commands as ``MLGYM_SEED`` and recorded.
        budget: what it may spend.
        wait_s: how long one tool call may wait before it answers with a job to come back for.
        metadata: the caller's own words, recorded as they are.
    """

    task: Task
    preset: str
    seed: int
    budget: Budget
    wait_s: float = 45.0
    metadata: dict[str, Any] = field(default_factory=dict)


class Session:
    """Owns the sandbox, budget, journal and scores of one episode.

    ``run()`` owns every task of the session; all other methods may be called while it runs. After ``end``
    was called once, every tool call answers that the episode is over and why.
    """

    def __init__(self, session_id: str, token: str, config: SessionConfig, backend: Backend, episode: Episode) -> None:
        self.id = session_id
        self.token = token
        self.config = config
        self.task = config.task
        self.spec = config.task.spec.of(config.preset)
        self.baseline = baseline(config.task, config.preset)
        self.backend = backend
        self.episode = episode
        self.meter = Meter(config.budget)
        self.calls = Calls(self)
        self.notes = Notes(episode)
        self.scoring = Scoring(self)
        self.over: End | None = None
        self.closed = False
        self.phase = "starting"
        self.created = time.time()
        self.last_used = time.monotonic()
        self._sandbox: Sandbox | None = None
        self._prepared: Prepared | None = None
        self.grader_python: Path | None = None
        self._ready = anyio.Event()
        self._ending = anyio.Event()
        self._ended = anyio.Event()
        self._reattach = anyio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None

    # ------------------------------------------------------------------ for tools

    @property
    def preset(self) -> Any:
        """The task's preset that is being played."""
        return self.task.spec.presets[self.config.preset]

    @property
    def ready(self) -> bool:
        """Whether data and sandbox are there."""
        return self._ready.is_set() and self._sandbox is not None

    @property
    def prepared(self) -> Prepared:
        """The prepared data.

        Raises:
            RefusedError: it is not ready yet.
        """
        if self._prepared is None:
            raise RefusedError(f"The session is still {self.phase}. Call again in a few seconds.")
        return self._prepared

    def touch(self) -> None:
        """Note that somebody used the session just now."""
        self.last_used = time.monotonic()

    def over_text(self) -> str:
        """Say that and why the episode is over, with the score if there is one."""
        if self.over is None:
            return "The episode is not over."
        score = f" Final score: {self.over.score.line()}." if self.over.score and self.over.score.valid else ""
        return f"The episode is over ({self.over.outcome}): {self.over.reason}.{score} No tool can be used any more."

    async def sandbox(self) -> Sandbox:
        """Return the sandbox, waiting for it to start for at most the wait window.

        Raises:
            RefusedError: it is still being prepared.
            EpisodeOverError: it could not be started.
        """
        with anyio.move_on_after(self.config.wait_s):
            await self._ready.wait()
        if self._sandbox is None:
            if self.over is not None:
                raise EpisodeOverError(self.over_text())
            raise RefusedError(f"The session is still {self.phase}. Nothing is lost: call again in a few seconds.")
        return self._sandbox

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Sandbox]:
        """Lend the sandbox to one piece of work; a lost connection is restored, a lost sandbox ends the episode.

        Raises:
            RefusedError: the connection was lost and restored: what was asked may or may not have been done.
            EpisodeOverError: the sandbox is gone.
        """
        sandbox = await self.sandbox()
        try:
            yield sandbox
        except SandboxLostError as exc:
            await self._recover(sandbox, exc)
            raise RefusedError(
                "The connection to the sandbox was lost and has been restored. The call may or may not have "
                "been carried out: look (job_list, list_files) and call again."
            ) from exc

    async def _recover(self, lost: Sandbox, cause: SandboxLostError) -> None:
        async with self._reattach:
            if self.over is None and self._sandbox is not lost:
                return  # another call restored it already
            if self.over is None:
                try:
                    with anyio.fail_after(10):
                        self._sandbox = await self.backend.attach(lost.name)
                    self.episode.journal.append("sandbox", state="reattached", cause=str(cause))
                    return
                except (SandboxError, TimeoutError):
                    await self.end("infrastructure_error", f"the sandbox was lost ({cause})")
        raise EpisodeOverError(self.over_text())

    def start_soon(self, function: Any, *args: Any) -> None:
        """Run an async function in the session's own task group, so that it outlives the call that asked for it.

        Raises:
            EpisodeOverError: the session is not running.
        """
        if self._tasks is None or self._ended.is_set():
            raise EpisodeOverError(self.over_text())
        self._tasks.start_soon(function, *args)

    # ------------------------------------------------------------------ life

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Live the session from preparation to its end; owns all its tasks. Returns when all is cleaned up."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                task_status.started()
                tasks.start_soon(self._prepare)
                tasks.start_soon(self._watch)
                await self._ending.wait()
                await self._finish()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._close()

    async def end(self, outcome: Outcome, reason: str, score: Score | None = None) -> None:
        """Begin the end of the episode; the first call wins. In-flight tool calls answer that it is over."""
        if self.over is None:
            self.over = End(outcome, reason, score)
            self.meter.stop()
            self._ending.set()
            self.calls.interrupt()

    async def wait_ended(self) -> End:
        """Wait until the episode has ended and everything is cleaned up."""
        await self._ended.wait()
        assert self.over is not None
        return self.over

    async def _prepare(self) -> None:
        def say(phase: str) -> None:
            self.phase = phase

        try:
            made: Setup = await set_up(self, say)
        except (SandboxError, InfrastructureError, TaskError, OSError) as exc:
            await self.end("infrastructure_error", f"it could not be prepared: {exc}")
        except Exception:
            logger.exception("session %s could not be prepared", self.episode.id)
            await self.end("infrastructure_error", "it could not be prepared: an error in the server, see its log")
        else:
            self._sandbox, self._prepared = made.sandbox, made.prepared
            self.grader_python = made.grader_python
            self.phase = "ready"
            self.meter.start()
        finally:
            self._ready.set()

    async def _watch(self) -> None:
        """Look after the limits that end a session: wall time and CPU seconds; and keep the sandbox's TTL fresh."""
        await self._ready.wait()
        while self.over is None:
            with anyio.move_on_after(min(_WATCH_S, self.meter.wall_left_s)):
                await self._ending.wait()
            await self.measure()
            if self.over is None and (spent := self.meter.exhausted()) is not None:
                await self.end("budget_exhausted" if self.calls.made else "abandoned", spent)

    async def measure(self) -> None:
        """Bring the meter's CPU seconds up to date."""
        sandbox = self._sandbox
        if sandbox is None:
            return
        try:
            with anyio.fail_after(5):
                usage = await sandbox.usage()
            self.meter.cpu_s = max(self.meter.cpu_s, usage.cpu_s)
        except SandboxLostError as exc:
            try:
                await self._recover(sandbox, exc)
            except EpisodeOverError:
                return
        except (SandboxError, TimeoutError):
            return  # a busy machine: the next round measures again

    async def _finish(self) -> None:
        """After the end was decided: grade what is there if the agent never submitted and the task allows it."""
        over = self.over
        assert over is not None
        if over.outcome in ("budget_exhausted", "abandoned") and self._sandbox is not None and self.calls.made:
            with anyio.move_on_after(self.scoring.timeout_s + _CLOSE_S):
                score = await self.scoring.autosubmit()
                if score is not None and score.valid:
                    self.over = End("scored", f"{over.reason}; the workspace was submitted as it stood", score)
                elif score is not None and score.code != "missing":
                    self.over = End("invalid_submission", f"{over.reason}; what was left is not valid: {score.reason}")

    async def _close(self) -> None:
        if self.over is None:
            self.over = End("infrastructure_error", "the server stopped")
        with anyio.move_on_after(_CLOSE_S):
            await self.measure()
        over = self.over
        try:
            await self.episode.journal.append_durable(
                "end",
                outcome=over.outcome,
                reason=over.reason,
                score=None if over.score is None else over.score.record(),
                spent=asdict(self.meter.spent),
            )
        except JournalError:
            self.phase = "ended, but the journal could not be written"
        self.closed = True
        if self._sandbox is not None:
            with anyio.move_on_after(_CLOSE_S):
                try:
                    await self._sandbox.close()
                except (SandboxError, OSError):
                    await self.backend.remove(self._sandbox.name)
        self._sandbox = None
        self.phase = "ended"
        self.episode.close()
        self._ended.set()
