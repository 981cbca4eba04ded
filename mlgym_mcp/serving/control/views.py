"""Sessions, episodes and events as the control API shows them: never hidden data, never a secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlgym_mcp.api import EpisodeView, SessionView
from mlgym_mcp.records.episodes import EpisodeSummary
from mlgym_mcp.session.ending import End
from mlgym_mcp.session.journal import Event
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.views import detail_of, score_view, state_of

_SHOWN: Mapping[str, tuple[str, ...]] = {
    "session": ("task", "task_version", "preset", "seed", "budget", "sandbox", "server", "metadata", "parent"),
    "sandbox": ("state",),
    "call": ("tool", "arguments", "counted"),
    "result": ("call", "seconds", "text", "is_error", "refused", "cancelled"),
    "score": ("kind", "valid", "primary", "higher_is_better", "baseline", "shown", "code", "reason", "seconds"),
    "grader_error": ("kind",),
    "snapshot": ("snapshot", "files", "bytes", "new_files", "new_bytes", "left_out"),
    "restored": ("snapshot", "written", "removed", "seconds"),
    "forked": ("snapshot", "episode"),
    "end": ("outcome", "reason", "spent"),
}
"""Of each kind of event what may be seen; of any other kind, only that it happened."""


def session_view(session: Session, url: str, *, with_token: bool = False) -> SessionView:
    """Return a session as the control API shows it.

    Args:
        session: which.
        url: of its MCP endpoint.
        with_token: whether to show its bearer: only to whoever asked for the session.
    """
    over = session.over
    wall = session.meter.budget.wall_s
    return SessionView(
        id=session.id,
        task=session.task.id,
        preset=session.config.preset,
        seed=session.config.seed,
        state=state_of(session),
        detail=detail_of(session),
        episode=session.episode.id,
        mcp_url=url,
        token=session.token if with_token else None,
        created=session.created,
        expires=None if wall is None else session.created + wall,
        calls=session.calls.made,
        outcome=None if over is None else over.outcome,
        score=None if over is None or over.score is None else score_view(over.score),
        metadata=session.config.metadata,
    )


def ended_view(session_id: str, summary: EpisodeSummary, end: End, url: str) -> SessionView:
    """Return a session that is over, and of which only the episode is left, as the control API shows it."""
    wall = summary.budget.get("wall_s")
    return SessionView(
        id=session_id,
        task=summary.task,
        preset=summary.preset,
        seed=summary.seed,
        state="over",
        detail=end.text(),
        episode=summary.id,
        mcp_url=url,
        created=summary.started,
        expires=None if wall is None else summary.started + wall,
        calls=summary.calls,
        outcome=end.outcome,
        score=None if end.score is None else score_view(end.score),
        metadata=summary.metadata,
    )


def episode_view(summary: EpisodeSummary) -> EpisodeView:
    """Return an episode as the control API shows it."""
    return EpisodeView(
        id=summary.id,
        task=summary.task,
        preset=summary.preset,
        seed=summary.seed,
        sandbox=summary.sandbox,
        started=summary.started,
        seconds=summary.seconds,
        calls=summary.calls,
        validations=len(summary.validations),
        outcome=summary.outcome,
        reason=summary.reason,
        score=summary.value,
        baseline=summary.baseline,
        damage=None if summary.damage is None else "the journal is damaged: 'mlgym-mcp episodes' says where",
        metadata=summary.metadata,
    )


def event_view(event: Event) -> dict[str, Any]:
    """Return what of an event may be seen by those who follow a session."""
    shown = {name: event[name] for name in _SHOWN.get(event.type, ()) if name in event.fields}
    if event.type == "result" and event.get("error") is not None:
        shown["error"] = "it failed in the server, see its log"
    if event.type == "end" and isinstance(score := event.get("score"), Mapping):
        shown["score"] = {name: score[name] for name in _SHOWN["score"] if name in score}
    return {"seq": event.seq, "t": event.t, "type": event.type, **shown}


def event_text(event: Event) -> str:
    """Return an event in the framing of server-sent events."""
    data = json.dumps(event_view(event), separators=(",", ":"), default=str)
    return f"id: {event.seq}\nevent: {event.type}\ndata: {data}\n\n"
