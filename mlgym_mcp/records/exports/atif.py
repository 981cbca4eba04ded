"""Harbor's trajectory format, ATIF v1.8: one JSON file an episode.

Steps are numbered from 1. What a call was answered with is an observation of the step that made it, and only the
agent's steps have calls and metrics.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlgym_mcp.records.exports.files import Names, written
from mlgym_mcp.records.exports.trajectory import Call, Said, Trajectory, Turn, iso

VERSION = "ATIF-v1.8"


def as_atif(trajectory: Trajectory) -> dict[str, Any]:
    """Return one episode as a trajectory of that format."""
    steps = [
        {"step_id": number, "timestamp": iso(step.t), **(_said(step) if isinstance(step, Said) else _turn(step))}
        for number, step in enumerate(trajectory.steps, 1)
    ]
    agent: dict[str, Any] = {"name": trajectory.agent, "version": "unknown"}
    if trajectory.model:
        agent["model_name"] = trajectory.model
    if trajectory.tools:
        agent["tool_definitions"] = [{"type": "function", "function": dict(tool)} for tool in trajectory.tools]
    about = trajectory.about()
    scores = [
        {"kind": m.kind, "valid": m.valid, "metric": m.metric, "value": m.value, "code": m.code, "timestamp": iso(m.t)}
        for m in trajectory.marks
    ]
    return {
        "schema_version": VERSION,
        "session_id": trajectory.episode,
        "trajectory_id": trajectory.episode,
        "agent": agent,
        "steps": steps,
        "final_metrics": _metrics(trajectory)
        | {"total_steps": len(steps), "extra": {"outcome": about["outcome"], "score": about["score"]}},
        "extra": {**about, "reason": trajectory.reason, "scores": scores},
    }


def _said(said: Said) -> dict[str, Any]:
    return {"source": said.role, "message": said.text}


def _turn(turn: Turn) -> dict[str, Any]:
    step: dict[str, Any] = {"source": "agent", "message": turn.text}
    if turn.thinking:
        step["reasoning_content"] = turn.thinking
    if turn.calls:
        step["tool_calls"] = [
            {"tool_call_id": call.id, "function_name": call.tool, "arguments": dict(call.arguments)}
            for call in turn.calls
        ]
        step["observation"] = {"results": [_result(call) for call in turn.calls]}
    if turn.tokens is not None:
        used = turn.tokens
        step["metrics"] = {"prompt_tokens": used.read, "completion_tokens": used.written, "cached_tokens": used.cached}
        step["llm_call_count"] = 1
    return step


def _result(call: Call) -> dict[str, Any]:
    extra = {"outcome": call.outcome} | ({} if call.seconds is None else {"seconds": call.seconds})
    return {"source_call_id": call.id, "content": call.text, "extra": extra}


def _metrics(trajectory: Trajectory) -> dict[str, Any]:
    used = [turn.tokens for turn in trajectory.turns if turn.tokens is not None]
    if not used:
        return {}
    return {
        "total_prompt_tokens": sum(tokens.read for tokens in used),
        "total_completion_tokens": sum(tokens.written for tokens in used),
        "total_cached_tokens": sum(tokens.cached for tokens in used),
    }


def write_atif(trajectories: Iterable[Trajectory], out: Path) -> list[Path]:
    """Write one file for each episode into a folder, which is made if missing.

    Raises:
        OSError: it cannot be written.
    """
    names, files = Names(), []
    for trajectory in trajectories:
        path = out / f"{names.take(trajectory.episode)}.json"
        with written(path) as file:
            json.dump(as_atif(trajectory), file, ensure_ascii=False, indent=1)
        files.append(path)
    return files
