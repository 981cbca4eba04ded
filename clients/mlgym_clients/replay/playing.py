"""Playing a recording in a fresh session of a server."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.episode_player import play_session
from mlgym_clients.replay.comparing import Comparison
from mlgym_clients.replay.recording import NOT_READY, Recording, Scored, Step, read_recording
from mlgym_clients.replay.replayer import Compared, Replayer
from mlgym_clients.replay.verdict import Verdict, compare_finals, compare_outcomes
from mlgym_clients.sweep.control import Control, ControlError
from mlgym_mcp.api import SessionRequest, SessionView
from mlgym_mcp.records.arguments import RecordError

PURPOSE = "replay"
"""What a replay's session says it is for: nobody's attempt."""
_PATIENCE = 3.0
"""So much more wall and CPU time has a replay: the recording's end is what it is played to, whatever the machine."""
_LEAST_S = 600.0
_MOST_S = 30 * 86_400.0
_LAST_WORD_S = 10.0


async def replay(
    recording: Recording,
    control: Control,
    *,
    sandbox: str | None = None,
    episodes: Path | None = None,
    on_begin: Callable[[Step], None] | None = None,
    on_end: Callable[[Compared], None] | None = None,
) -> Verdict:
    """Play a recording and say how it came out. Cancelled, it ends the session first.

    Args:
        recording: what to play.
        control: of the server that has the session.
        sandbox: which backend; default: the server's.
        episodes: where that server keeps its episodes, if that is on this machine.
        on_begin: told of each call as it begins.
        on_end: told of each call as it ends.

    Raises:
        ServerLostError: the server does not answer, or the session was lost.
        ControlError: the server refuses the session.
    """
    begun = time.monotonic()
    view = await control.create(request_for(recording, sandbox))
    player = Replayer(recording, on_begin=on_begin, on_end=on_end)
    try:
        await play_session(player, view.mcp_url, token=view.token)
        over = await control.end(view.id)
    except BaseException:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_LAST_WORD_S):
            with contextlib.suppress(ServerLostError, ControlError):
                await control.end(view.id)
        raise
    if over is None:
        raise ServerLostError("the server does not know the replay's session any more")
    if over.outcome == "infrastructure_error":
        raise ServerLostError(f"the replay was lost: {over.detail}")
    steps = recording.steps.values()
    missing = Comparison("different", "not made: the replay ended before it")
    return Verdict(
        recording=recording,
        episode=over.episode,
        compared=tuple(player.compared.get(step.seq, Compared(step, missing)) for step in steps),
        outcome=compare_outcomes(recording.outcome, over.outcome),
        score=_final(recording, over),
        seconds=time.monotonic() - begun,
        notes=tuple(await _notes(recording, control, over, episodes)),
    )


def request_for(recording: Recording, sandbox: str | None) -> SessionRequest:
    """Return the session in which a recording can be played: with its calls, and more time than it had."""
    budget = dict(recording.budget)
    budget.pop("idle_s", None)
    for name in ("wall_s", "cpu_s"):
        if name in budget:
            budget[name] = min(max(_PATIENCE * budget[name], _LEAST_S), _MOST_S)
    if "calls" in budget:
        uncalled = sum(step.counted for step in recording.steps.values() if step.skipped == NOT_READY)
        budget["calls"] = max(1, int(budget["calls"]) - uncalled)
    return SessionRequest(
        task=recording.task,
        preset=recording.preset,
        seed=recording.seed,
        budget=budget,
        sandbox=sandbox,
        metadata={"purpose": PURPOSE, "agent": PURPOSE, "replays": recording.folder.name},
        idempotency_key=f"replay-{secrets.token_hex(8)}",
    )


def _final(recording: Recording, over: SessionView) -> Comparison:
    if recording.outcome in (None, "infrastructure_error") and recording.score is None:
        return Comparison("skipped", "the recorded episode has none")
    score = over.score
    if score is None:
        return compare_finals(recording.score, None)
    now = Scored(score.kind, score.valid, score.score, score.standard_error, score.code)
    return compare_finals(recording.score, now)


async def _notes(recording: Recording, control: Control, over: SessionView, episodes: Path | None) -> list[str]:
    """Return what may explain differences: another version of the task, another sandbox, other data."""
    notes = []
    versions = {task.id: task.version for task in await control.tasks()}
    version = versions.get(recording.task, "")
    if recording.task_version and version and version != recording.task_version:
        notes.append(f"the task was version {recording.task_version}, and is version {version} now")
    if episodes is None:
        return notes
    try:
        again = read_recording(episodes / over.episode)
    except RecordError:
        return notes
    if recording.sandbox and again.sandbox != recording.sandbox:
        notes.append(
            f"the sandbox was {recording.sandbox}, and is {again.sandbox} now: commands see other disks and processes"
        )
    if recording.data and again.data and again.data != recording.data:
        notes.append("the data is not the same: it was made by another machine, or anew, and has other secrets")
    return notes
