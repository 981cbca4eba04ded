"""The task itself: what it is, how it stands, what the work is worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import anyio

from mlgym_mcp.api import JobView, StatusView, TaskView
from mlgym_mcp.session.errors import RefusedError
from mlgym_mcp.session.scoring import Score
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.reply import Call, Reply
from mlgym_mcp.tools.views import budget_view, detail_of, metric_view, score_view, state_of

_PROGRESS_S = 5.0


async def get_task(call: Call) -> Reply:
    """Read the task: what to do, the files, the metric, the baseline, the budget and how to submit. Call it first."""
    session = call.session
    view = TaskView(
        id=session.task.id,
        title=session.task.spec.task.title,
        preset=session.config.preset,
        instruction=session.task.instruction(session.config.preset, session.baseline),
        metric=metric_view(session),
        budget=budget_view(session),
        files=sorted(session.task.starter()),
        data=session.prepared.public_files() if session.ready else [],
        how_to_submit=session.task.how_to_submit(),
        seed=session.config.seed,
    )
    metric = view.metric
    better = "higher is better" if metric.direction == "max" else "lower is better"
    budget = view.budget
    limits = [
        f"{budget.calls_left} tool calls" if budget.calls_left is not None else "",
        f"{budget.wall_left_s:.0f} s of wall time" if budget.wall_left_s is not None else "",
        f"{budget.validations_left} validations" if budget.validations_left is not None else "",
        f"{budget.cpu_left_s:.0f} s of CPU time" if budget.cpu_left_s is not None else "",
        f"{budget.disk_left_mb:.0f} MiB of disk" if budget.disk_left_mb is not None else "",
    ]
    idle = "" if budget.idle_s is None else f" Unused for {budget.idle_s:g} s, the session ends."
    text = "\n".join(
        [
            view.instruction.rstrip(),
            "",
            f"Metric: {metric.name} ({better}); the baseline reaches {metric.baseline}.",
            f"Budget left: {', '.join(filter(None, limits)) or 'no limits'}.{idle}",
            f"Files in /workspace: {', '.join(view.files)}.",
            f"Files in /data (read-only): {', '.join(view.data) if view.data else 'still being prepared'}.",
            f"How to submit: {view.how_to_submit}",
        ]
    )
    return Reply(text, data=view.model_dump(mode="json"))


async def status(call: Call) -> Reply:
    """See how the session stands: budget left, running jobs, best validation score so far."""
    session = call.session
    await session.watch.measure()
    running: list[JobView] = []
    if session.ready and session.over is None:
        async with session.working() as sandbox:
            running = [
                JobView(id=job.id, command=job.command[:200], seconds=round(job.seconds, 1))
                for job in await sandbox.jobs()
                if job.state == "running"
            ]
    best = session.scoring.best_validation
    view = StatusView(
        state=state_of(session),
        detail=detail_of(session),
        budget=budget_view(session),
        warning=session.meter.warning(),
        running_jobs=running,
        best_validation=None if best is None else score_view(best).model_copy(update={"details": {}}),
        scores=len(session.scoring.scores),
    )
    budget = view.budget
    calls = "no limit" if budget.calls is None else budget.calls_left
    validations = "no limit" if budget.validations is None else budget.validations_left
    wall = "no limit" if budget.wall_left_s is None else f"{budget.wall_left_s:.0f} s"
    disk = "no limit" if budget.disk_left_mb is None else f"{budget.disk_left_mb:.0f} of {budget.disk_mb} MiB"
    lines = [
        f"State: {view.detail}.",
        f"Tool calls left: {calls}; validations left: {validations}; wall time left: {wall}; disk left: {disk}.",
        f"Running jobs: {', '.join(f'{j.id} ({j.seconds:.0f} s)' for j in running) or 'none'}.",
        f"Best validation: {best.line() if best else 'none yet'}.",
    ]
    if view.warning:
        lines.append(view.warning)
    return Reply("\n".join(lines), data=view.model_dump(mode="json"))


async def validate(call: Call) -> Reply:
    """Score the work as it stands on a hidden validation set. Limited in number, rounded; the episode goes on."""
    return await _scored(call, "validate")


async def submit(call: Call) -> Reply:
    """Score the work on the hidden test set and end the episode. Only when you are done: nothing works after it.

    If the submission is not valid, you are told why, the episode goes on and you can correct it.
    """
    return await _scored(call, "submit")


async def _scored(call: Call, kind: Literal["validate", "submit"]) -> Reply:
    scores: list[Score] = []
    with call.patience.wait():
        scores.append(await _with_progress(call, kind, lambda: call.session.scoring.score(kind)))
    if not scores:
        raise RefusedError(f"Grading goes on. Call {kind} again to get its result; nothing more is charged.")
    return score_reply(call.session, scores[0])


def score_reply(session: Session, score: Score) -> Reply:
    """Return what ``validate`` or ``submit`` answers when its score is there."""
    view = score_view(score, session)
    if not score.valid:
        text = f"The submission is not valid ({score.code}): {score.reason}"
        if score.kind == "submit":
            text += " The episode goes on: correct it and submit again."
    elif score.kind == "validate":
        left = "" if view.validations_left is None else f" Validations left: {view.validations_left}."
        text = f"Validation score: {score.line()}.{left}"
    else:
        text = f"Submitted. Test score: {score.line()}. The episode is over."
    logs = [log for log in score.public.get("player_stderr", ()) if log.strip()]
    if score.kind == "validate" and logs:
        text += "\nWhat your code wrote to stderr:\n" + "\n".join(logs)
    return Reply(text, data=view.model_dump(mode="json"))


async def _with_progress(call: Call, kind: str, run: Callable[[], Coroutine[Any, Any, Score]]) -> Score:
    """Run a grading, telling the client every few seconds that it goes on."""
    started = time.monotonic()

    async def tell() -> None:
        while True:
            await anyio.sleep(_PROGRESS_S)
            seconds = time.monotonic() - started
            await call.progress(seconds, None, f"{kind}: grading for {seconds:.0f} s")

    result: list[Score] = []
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell)
        try:
            result.append(await run())
        except Exception as exc:  # noqa: BLE001 - leaves the task group as itself, not in an ExceptionGroup
            failure = exc
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result[0]
