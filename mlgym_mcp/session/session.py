"""One live attempt at one task: a sandbox, a budget, a journal and an end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from mlgym_mcp import __version__
from mlgym_mcp.catalog import Prepared, Task, TaskError
from mlgym_mcp.catalog.measured import baseline
from mlgym_mcp.session.budget import Budget, Meter
from mlgym_mcp.session.calls import Calls
from mlgym_mcp.session.checkpoints import Checkpoints
from mlgym_mcp.session.ending import End, Outcome, with_what_was_left
from mlgym_mcp.session.episode import Episode
from mlgym_mcp.session.errors import EpisodeOverError, InfrastructureError, RefusedError
from mlgym_mcp.session.journal import JournalError
from mlgym_mcp.session.leases import GpuDesk
from mlgym_mcp.session.notes import Notes
from mlgym_mcp.session.recovery import Past
from mlgym_mcp.session.scoring import Score, Scoring
from mlgym_mcp.session.setup import Setup, reach, set_up, take_up
from mlgym_mcp.session.watch import Watch
from mlgym_sandbox import Sandbox
from mlgym_sandbox.backends.base import Backend
from mlgym_sandbox.errors import SandboxError, SandboxLostError

logger = logging.getLogger(__name__)

_CLOSE_S = 60.0
_LEAVE_S = 3.0


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

    Args:
        session_id: unguessable.
        token: the bearer token of its endpoint.
        config: what it is made of.
        backend: where its sandbox runs.
        episode: its folder, open.
        past: what the journal tells, if an earlier server has begun this session.
    """

    def __init__(
        self,
        session_id: str,
        token: str,
        config: SessionConfig,
        backend: Backend,
        episode: Episode,
        past: Past | None = None,
    ) -> None:
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
        self.checkpoints = Checkpoints(self)
        self.watch = Watch(self)
        self.over: End | None = None
        self.parent = None if past is None else past.parent
        """The episode and the snapshot that it was forked from, if it is a fork."""
        self.engine: Mapping[str, str] | None = None
        """Where its sandbox's engine is, if its maker said so."""
        self.closed = False
        self.leaving = False
        self.cleared = False
        """Whether nothing is left of its sandbox, for all that is known."""
        self.phase = "starting"
        self.created = time.time()
        self.last_used = time.monotonic()
        self._sandbox: Sandbox | None = None
        self._prepared: Prepared | None = None
        self.grader_python: Path | None = None
        self.gpus: tuple[str, ...] = ()
        """The GPUs that it has leased, once it has."""
        self.gpu_desk: GpuDesk | None = None
        self._ready, self._ending, self._ended = anyio.Event(), anyio.Event(), anyio.Event()
        self._reattach = anyio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._past = past
        if past is not None:
            self.created = past.began
            self.calls.made = past.made
            self.meter.calls = past.counted
            self.meter.validations = past.validations
            self.scoring.scores = past.scores

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
    def connected(self) -> Sandbox | None:
        """Its sandbox, while there is a connection to it as far as is known."""
        return self._sandbox

    @property
    def sandbox_name(self) -> str | None:
        """The name of its sandbox; ``None`` while there is none."""
        if self._sandbox is not None:
            return self._sandbox.name
        return None if self._past is None else self._past.sandbox

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
        return "The episode is not over." if self.over is None else self.over.text()

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
            await self.recover(sandbox, exc)
            raise RefusedError(
                "The connection to the sandbox was lost and has been restored. The call may or may not have "
                "been carried out: look (job_list, list_files) and call again."
            ) from exc

    async def recover(self, lost: Sandbox, cause: SandboxLostError) -> None:
        """Connect again to the sandbox, whose connection was lost; if it cannot be, the episode ends.

        Raises:
            EpisodeOverError: it has ended.
        """
        async with self._reattach:
            if self.over is None and self._sandbox is not lost:
                return  # another call restored it already
            if self.over is None:
                try:
                    self._sandbox = await reach(self, lost.name)
                    self.episode.journal.append("sandbox", state="reattached", cause=str(cause))
                    return
                except SandboxError as exc:
                    why = str(cause) if str(exc) in str(cause) else f"{cause}; then: {exc}"
                    await self.end("infrastructure_error", f"the sandbox was lost ({why})")
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
                tasks.start_soon(self.watch.run, self._ending)
                await self._ending.wait()
                await self._finish()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await (self._leave() if self.leaving else self._close())

    async def end(self, outcome: Outcome, reason: str, score: Score | None = None) -> None:
        """Begin the end of the episode; the first call wins. In-flight tool calls answer that it is over.

        That it ends is journalled before anybody is told: should the server die now, the next one goes on with the
        end. (With a score it is known from that.)
        """
        if self.over is None:
            self.over = End(outcome, reason, score)
            if score is None and (self._past is None or self._past.ending is None):
                with contextlib.suppress(JournalError):
                    self.episode.journal.append("ending", outcome=outcome, reason=reason)
            self.meter.stop()
            self._ending.set()
            self.calls.interrupt()

    async def wait_ended(self) -> End | None:
        """Wait until the episode has ended and everything is cleaned up; ``None`` if it goes on in the next server."""
        await self._ended.wait()
        return None if self.leaving else self.over

    async def wait_ready(self) -> None:
        """Wait until the sandbox is there, or cannot be had."""
        await self._ready.wait()

    async def detach(self) -> None:
        """Leave the session to the next server: the sandbox and its jobs live on, the journal is synced.

        Calls in flight get a moment to answer, then they are told to call again later. An end that was decided
        and a grading under way are taken up, or done again, by the next server.
        """
        if self._tasks is None or self._ended.is_set():
            return
        self.leaving = True
        await self.calls.leave(_LEAVE_S)
        self._tasks.cancel_scope.cancel()
        await self._ended.wait()

    async def _prepare(self) -> None:
        def say(phase: str) -> None:
            self.phase = phase

        past = self._past
        again = past is not None and past.sandbox is not None
        try:
            if past is not None and past.final is not None:
                self.meter.start(past.wall_s)  # the end may come before the sandbox is taken up
                await self.end("scored", past.final_reason, past.final)
            if past is not None and not again:
                self._note_adopted(past)
            made: Setup = await (set_up(self, say) if past is None else take_up(self, past, say))
        except (SandboxError, InfrastructureError, TaskError, JournalError, OSError) as exc:
            why = "the sandbox did not outlive the server" if again else "it could not be prepared"
            await self.end("infrastructure_error", f"{why}: {exc}")
        except Exception:
            logger.exception("session %s could not be prepared", self.episode.id)
            await self.end("infrastructure_error", "it could not be prepared: an error in the server, see its log")
        else:
            self._sandbox, self._prepared = made.sandbox, made.prepared
            self.grader_python = made.grader_python
            self.phase = "ready"
            self.meter.start(past.wall_s if past is not None else 0.0)
            if past is not None and again:
                await self._take_up(past)
        finally:
            self._ready.set()

    async def _take_up(self, past: Past) -> None:
        """Look after the session from now on, or go on with an end that was decided."""
        try:
            self._note_adopted(past)
        except JournalError as exc:
            await self.end("infrastructure_error", str(exc))
        if past.ending is not None:
            await self.end(*past.ending)

    def _note_adopted(self, past: Past) -> None:
        """Record that another server has the session now, and which calls the one before died over."""
        away_s = round(max(0.0, time.time() - past.left_t), 3)
        self.episode.journal.append("adopted", server=__version__, away_s=away_s, unanswered=past.unanswered)

    async def _finish(self) -> None:
        """After the end was decided: let what the agent left count, if it never submitted."""
        assert self.over is not None
        if self.over.outcome in ("budget_exhausted", "abandoned") and self._sandbox is not None and self.calls.made:
            self.over = await with_what_was_left(self, self.over)

    async def _close(self) -> None:
        if self.over is None:
            await self.end("infrastructure_error", "the server stopped")
        assert self.over is not None
        if self.over.outcome != "scored" and (final := self.scoring.final) is not None:
            self.over = End("scored", f"{self.over.reason}; the work had been graded", final)  # no score is lost
        with anyio.move_on_after(_CLOSE_S):
            await self.watch.measure()
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
        with anyio.move_on_after(_CLOSE_S), contextlib.suppress(SandboxError, OSError):
            await self._remove_sandbox()
            self.cleared = True
        self._sandbox = None
        self.phase = "ended"
        self.episode.close()
        self._ended.set()

    async def _remove_sandbox(self) -> None:
        name = self.sandbox_name
        if self._sandbox is not None:
            try:
                await self._sandbox.close()
            except (SandboxError, OSError):
                await self.backend.remove(self._sandbox.name)
        elif name is not None:  # an earlier server's, which this one could not reach
            await self.backend.remove(name)

    async def _leave(self) -> None:
        """Let go of everything without ending the episode."""
        self.closed = True
        with contextlib.suppress(JournalError):
            await self.episode.journal.append_durable("detached", spent=asdict(self.meter.spent))
        if self._sandbox is not None:
            with anyio.move_on_after(_CLOSE_S), contextlib.suppress(SandboxError, OSError):
                await self._sandbox.detach()
        self._sandbox = None
        self.phase = "left to the next server"
        self.episode.close()
        self._ended.set()
