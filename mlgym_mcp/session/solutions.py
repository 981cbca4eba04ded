"""Playing a task's own solutions exactly the agent's way: files, a command, the snapshot, the referee."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import anyio

from mlgym_mcp.catalog import Task
from mlgym_mcp.catalog.measured import WorldBaseline, keep_measured
from mlgym_mcp.session.errors import InfrastructureError, RefusedError
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.scoring import Score
from mlgym_mcp.session.session import Session
from mlgym_mcp.session.setup import pack

SolutionKind = Literal["baseline", "reference"]
_READY_S = 1800.0
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Played:
    """One solution that was played.

    Attributes:
        score: on the test split.
        seconds: wall time of the solution's run.
        cpu_s: CPU time of it.
        memory_mb: the most memory that was seen in use while it ran, looked at every second.
    """

    score: Score
    seconds: float
    cpu_s: float
    memory_mb: float


@asynccontextmanager
async def trial_session(registry: SessionRegistry, task: Task, preset: str, purpose: str) -> AsyncIterator[Session]:
    """A session without a budget, ready to work; ended when the block is left.

    Raises:
        InfrastructureError: it could not be prepared.
    """
    budget = {"validations": 1_000_000, "wall_s": 86_400.0, "calls": 1_000_000, "cpu_s": 86_400.0}
    session = await registry.create(task.id, preset=preset, budget=budget, metadata={"purpose": purpose})
    try:
        with anyio.fail_after(_READY_S):
            while not session.ready and session.over is None:
                await anyio.sleep(0.05)
        if session.over is not None:
            raise InfrastructureError(session.over_text())
        yield session
    finally:
        await session.end("abandoned", f"{purpose} is done with it")
        with anyio.CancelScope(shield=True):
            await session.wait_ended()


async def play_solution(
    registry: SessionRegistry, task: Task, preset: str, kind: SolutionKind, purpose: str = "tasks check"
) -> Played:
    """Play a solution and submit it.

    Raises:
        InfrastructureError: the session could not be prepared, or the solution's program failed.
    """
    solution = task.solution(kind)
    limit_s = task.preset(preset).run_s
    async with trial_session(registry, task, preset, purpose) as session:
        sandbox = await session.sandbox()
        await sandbox.untar(pack({name: path.read_bytes() for name, path in solution.files.items()}))
        begin, memory = anyio.current_time(), 0
        if solution.command is not None:
            status, _ = await sandbox.run(solution.command, wait_s=_LOOK_S, timeout_s=limit_s)
            while status.state == "running":
                memory = max(memory, (await sandbox.usage()).memory_bytes)
                status = await sandbox.wait(status.id, _LOOK_S)
            if status.exit_code != 0:
                tail = (await sandbox.output(status.id, -500, 500)).data.decode("utf-8", "replace")
                late = f" (it may run {limit_s:g} s)" if status.exit_code is None or status.exit_code < 0 else ""
                raise InfrastructureError(f"the {kind} ended with exit code {status.exit_code}{late}: {tail}")
        seconds, used = anyio.current_time() - begin, await sandbox.usage()
        return Played(await scored(session, "submit"), seconds, used.cpu_s, memory / 1e6)


async def scored(session: Session, kind: Literal["validate", "submit"]) -> Score:
    """Validate or submit, waiting as long as the grading takes.

    Raises:
        InfrastructureError: the grader failed, or the session is over.
    """
    while True:
        try:
            return await session.scoring.score(kind)
        except RefusedError as exc:
            if session.over is not None:
                raise InfrastructureError(str(exc)) from exc


async def measure_baseline(registry: SessionRegistry, task: Task, preset: str) -> WorldBaseline:
    """Play the baseline in this installation's world and keep what it reached: from now on it counts here.

    Raises:
        InfrastructureError: it could not be played, or was refused.
    """
    return keep_played(task, preset, await play_solution(registry, task, preset, "baseline", "measuring the baseline"))


def keep_played(task: Task, preset: str, played: Played) -> WorldBaseline:
    """Keep a played baseline as this world's.

    Raises:
        InfrastructureError: it was refused.
    """
    score = played.score
    if not score.valid:
        raise InfrastructureError(f"the baseline of {task.id} was refused, {score.code}: {score.reason}")
    today = datetime.now(UTC).date().isoformat()
    return keep_measured(task, preset, score.metrics, score.se, seconds=played.cpu_s, measured=today)
