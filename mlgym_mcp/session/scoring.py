"""Turning the workspace into scores: snapshot, referee, journal."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import anyio

from mlgym_mcp.catalog import Task
from mlgym_mcp.grading.errors import GraderError, InvalidSubmission
from mlgym_mcp.grading.grader_process import GradeResult, GradeSpec, grade
from mlgym_mcp.grading.player_host import PlayerLimits
from mlgym_mcp.grading.snapshot import Snapshot, store_snapshot
from mlgym_mcp.session.errors import EpisodeOverError, InfrastructureError, RefusedError
from mlgym_mcp.session.journal import JournalError
from mlgym_mcp.session.setup import player_spec
from mlgym_mcp.session.tracing import span
from mlgym_sandbox import Sandbox
from mlgym_sandbox.errors import SandboxError, SandboxFileError, SandboxLostError, TarLimitError

if TYPE_CHECKING:
    from mlgym_mcp.session.session import Session

Kind = Literal["validate", "submit", "autosubmit"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Score:
    """One graded snapshot.

    Attributes:
        kind: what asked for it.
        valid: whether there is a score at all; if not, ``code`` and ``reason`` say why.
        primary: name of the metric that counts.
        metrics: all metrics, full precision.
        se: their standard errors.
        digits: how many digits of a validation score the agent is shown.
        baseline: the baseline's value of the primary metric.
        higher_is_better: the direction.
        snapshot: digest of what was graded.
        seconds: how long grading took.
        public: what the grader says to the agent.
        private: what it says to the record only.
    """

    kind: Kind
    valid: bool
    primary: str
    higher_is_better: bool
    digits: int
    baseline: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    se: dict[str, float] = field(default_factory=dict)
    code: str | None = None
    reason: str | None = None
    snapshot: str | None = None
    seconds: float = 0.0
    public: dict[str, Any] = field(default_factory=dict)
    private: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], digits: int) -> Score:
        """Return the score that ``record()`` told; ``digits`` for a record that does not tell them.

        Raises:
            TypeError: it is none.
        """
        return cls(**{"digits": digits} | {each.name: record[each.name] for each in fields(cls) if each.name in record})

    @property
    def value(self) -> float | None:
        """The primary metric, as the agent may see it (rounded when it is a validation)."""
        if not self.valid:
            return None
        value = self.metrics[self.primary]
        return round(value, self.digits) if self.kind == "validate" else value

    @property
    def standard_error(self) -> float | None:
        """The primary metric's standard error, two significant digits."""
        error = self.se.get(self.primary)
        if not self.valid or error is None or error == 0 or not math.isfinite(error):
            return error if self.valid else None
        return round(error, 1 - math.floor(math.log10(abs(error))))

    def line(self) -> str:
        """Return the score as a person writes it: ``accuracy 0.884 ± 0.0032 (baseline 0.783, better)``."""
        if not self.valid or self.value is None:
            return f"no score ({self.code}): {self.reason}"
        shown = f"{self.value:.{self.digits if self.kind == 'validate' else 6}g}"
        if self.kind == "validate":
            shown = f"{self.value:.{self.digits}f}"
        text = f"{self.primary} {shown}"
        if (error := self.standard_error) is not None:
            text += f" ± {error:g}"
        if self.baseline is not None:
            text += f" (baseline {self.baseline:g}, {self.against_baseline()})"
        return text

    def against_baseline(self) -> str:
        """Say how the score compares: within two standard errors is no difference."""
        if not self.valid or self.baseline is None:
            return "not compared"
        gain = self.metrics[self.primary] - self.baseline
        if not self.higher_is_better:
            gain = -gain
        if abs(gain) <= 2 * (self.se.get(self.primary) or 0.0):
            return "no clear difference"
        return "better" if gain > 0 else "worse"

    def record(self) -> dict[str, Any]:
        """Return what the journal keeps: everything, at full precision."""
        return {
            "kind": self.kind,
            "valid": self.valid,
            "primary": self.primary,
            "higher_is_better": self.higher_is_better,
            "metrics": self.metrics,
            "se": self.se,
            "baseline": self.baseline,
            "shown": self.value,
            "code": self.code,
            "reason": self.reason,
            "snapshot": self.snapshot,
            "seconds": round(self.seconds, 3),
            "public": self.public,
            "private": self.private,
        }


class _Grading:
    """A grading under way: it outlives the tool call that asked for it."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        self.score: Score | None = None
        self.failure: Exception | None = None

    def result(self) -> Score:
        if self.failure is not None:
            raise self.failure
        assert self.score is not None
        return self.score


class Scoring:
    """Grades a session's workspace, one grading at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._running: _Grading | None = None
        self.scores: list[Score] = []

    @property
    def timeout_s(self) -> float:
        """The longest a grading may take, seconds."""
        return float(self._session.spec.grader.timeout_s)

    @property
    def grading(self) -> bool:
        """Whether something is being graded now."""
        return self._running is not None and not self._running.done.is_set()

    def has(self, kind: str) -> bool:
        """Whether there is a grading of a kind, under way or graded, whose score was not fetched."""
        return self._running is not None and self._running.kind == kind

    async def settled(self) -> None:
        """Wait until nothing is being graded."""
        if self._running is not None:
            await self._running.done.wait()

    @property
    def final(self) -> Score | None:
        """The score that ends the episode, once there is one."""
        return next((score for score in self.scores if score.valid and score.kind != "validate"), None)

    @property
    def best_validation(self) -> Score | None:
        """The best valid validation score so far."""
        valid = [s for s in self.scores if s.valid and s.kind == "validate"]
        if not valid:
            return None
        return max(valid, key=lambda s: s.metrics[s.primary] * (1 if s.higher_is_better else -1))

    async def score(self, kind: Literal["validate", "submit"]) -> Score:
        """Grade the workspace as it stands now, or join the grading of the same kind that is under way.

        A valid ``submit`` ends the episode as soon as it is graded, whether or not somebody still waits for it.
        An invalid submission leaves it open and costs no validation.

        Raises:
            RefusedError: no validation is left, or grading takes longer than one call may wait: the result
                is kept for the next call, also for one that comes after the end.
            EpisodeOverError: the episode is over.
            InfrastructureError: the grader failed; nothing is charged.
        """
        session = self._session
        running = self._running
        if session.over is not None and (running is None or running.kind != kind or not running.done.is_set()):
            raise EpisodeOverError(session.over_text())
        if running is not None and running.kind != kind:
            with anyio.move_on_after(session.config.wait_s):
                await running.done.wait()
            if not running.done.is_set():
                raise RefusedError(f"A {running.kind} is still being graded. Call {kind} again in a few seconds.")
            running = self._running = None
        if running is None:
            if kind == "validate" and session.meter.validations_exhausted():
                raise RefusedError(
                    f"All {session.meter.budget.validations} validations are used. Call submit when you are done."
                )
            sandbox = await session.sandbox()
            if session.over is not None:  # it ended while this call waited
                raise EpisodeOverError(session.over_text())
            running = _Grading(kind)
            session.start_soon(self._grade, running, sandbox)
            self._running = running
        with anyio.move_on_after(session.config.wait_s):
            await running.done.wait()
        if not running.done.is_set():
            raise RefusedError(f"Grading goes on. Call {kind} again to get its result; nothing more is charged.")
        if self._running is running:
            self._running = None
        return running.result()

    async def autosubmit(self) -> Score | None:
        """Score the work of an agent that is gone; ``None`` if the task does not want that.

        A ``submit`` that is still being graded is that score. Otherwise the workspace is graded, once, as it
        stands; a validation under way is dropped.

        Raises:
            InfrastructureError: it could not be graded, which is nobody's score.
        """
        session = self._session
        if (running := self._running) is not None and not running.done.is_set():
            if running.kind == "submit":
                await running.done.wait()
                if running.score is not None:
                    return running.score
            else:
                running.scope.cancel()
                await running.done.wait()
        if self.final is not None:
            return self.final
        if not session.spec.submission.autosubmit:
            return None
        last = _Grading("autosubmit")
        try:
            await self._grade(last, await session.sandbox())
            return last.result()
        except RefusedError as exc:
            raise InfrastructureError(str(exc)) from exc

    async def _grade(self, running: _Grading, sandbox: Sandbox) -> None:
        """Run one grading to its end and record it; the waiting calls are told through ``running``."""
        session = self._session
        try:
            with running.scope, anyio.fail_after(self.timeout_s + 60):
                score = await self._graded(running.kind, sandbox)
                await self._keep(score)
                running.score = score
            if running.scope.cancelled_caught:
                running.failure = EpisodeOverError(session.over_text())
        except SandboxLostError as exc:
            running.failure = InfrastructureError(f"The sandbox was lost while it was copied: {exc}")
        except (GraderError, SandboxError, OSError, JournalError, TimeoutError) as exc:
            reason = str(exc) or "it took too long"
            with contextlib.suppress(JournalError):  # it may be the very reason
                session.episode.journal.append("grader_error", kind=running.kind, error=reason)
            running.failure = InfrastructureError(
                f"The grader failed, which is not your fault and costs nothing: {reason}. Call {running.kind} again."
            )
        except EpisodeOverError as exc:
            running.failure = exc
        except Exception:
            logger.exception("session %s: grading failed", session.episode.id)
            running.failure = InfrastructureError("The grader failed, which is not your fault and costs nothing.")
        finally:
            if running.score is None and running.failure is None:  # cancelled with the session
                running.failure = EpisodeOverError(session.over_text())
            running.done.set()

    async def _keep(self, score: Score) -> None:
        """Record a score, and what follows from it; it counts from the moment the journal has it."""
        session = self._session
        with anyio.CancelScope(shield=True):
            await session.episode.journal.append_durable("score", **score.record())
        self.scores.append(score)
        if score.valid and score.kind == "validate":
            session.meter.validations += 1
        if score.valid and score.kind == "submit":
            await session.end("scored", "the work was submitted", score)

    async def _graded(self, kind: Kind, sandbox: Sandbox) -> Score:
        session = self._session
        spec = session.spec
        metric = spec.primary_metric
        blank = Score(
            kind=kind,
            valid=False,
            primary=metric.name,
            higher_is_better=metric.direction == "max",
            digits=metric.digits_validate,
            baseline=session.baseline.value(metric.name),
        )
        try:
            snapshot = await self._snapshot(sandbox)
        except (TarLimitError, SandboxFileError) as exc:  # the latter: a file the agent itself may not read
            return replace(blank, code="forbidden", reason=str(exc))
        except InvalidSubmission as exc:
            return replace(blank, code=exc.code, reason=exc.sentence)
        prepared = session.prepared
        with span("grade", session, kind=kind) as made:
            result: GradeResult = await grade(
                session.task.folder,
                grade_spec(session.task, session.config.preset),
                "val" if kind == "validate" else "test",
                snapshot,
                prepared.public,
                prepared.private,
                prepared.world(),
                python=session.grader_python or sys.executable,
                player_factory=lambda: session.backend.create(player_spec(session)),
            )
            made.set_attribute("mlgym.outcome", "valid" if result.valid else result.reason_code or "invalid")
        return replace(
            blank,
            valid=result.valid,
            metrics=dict(result.metrics),
            se=dict(result.se),
            code=result.reason_code,
            reason=result.reason,
            snapshot=snapshot.digest,
            seconds=result.seconds,
            public=dict(result.public),
            private={**result.private, "log": result.log[-4000:]} if result.log else dict(result.private),
        )

    async def _snapshot(self, sandbox: Sandbox) -> Snapshot:
        rules = self._session.spec.submission
        with span("snapshot", self._session) as made:
            data = await sandbox.tar(rules.include, max_bytes=rules.max_bytes, max_files=rules.max_files)
            made.set_attribute("mlgym.bytes", len(data))
            folder = self._session.episode.folder
            return await store_snapshot(data, folder, max_bytes=rules.max_bytes, max_files=rules.max_files)


def grade_spec(task: Task, preset: str) -> GradeSpec:
    """Return what the grading of a task's preset needs to know of its ``task.toml``."""
    spec = task.spec.of(preset)
    player = spec.grader.player
    limits = None
    if player is not None:
        limits = PlayerLimits(player.call_timeout_s, player.total_timeout_s, player.load_timeout_s, player.max_players)
    return GradeSpec(
        task=task.id,
        preset=preset,
        bounds={metric.name: metric.bounds for metric in spec.metrics},
        params=dict(task.preset(preset).params),
        entrypoint=spec.grader.entrypoint,
        timeout_s=float(spec.grader.timeout_s),
        player=limits,
    )
