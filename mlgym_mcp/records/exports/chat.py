"""Chat JSONL with tools, as fine-tuning takes it: one conversation a line, ``{"messages": [...], "tools": [...]}``.

What each line is stands in a second file, line by line: services refuse keys that they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlgym_mcp.records.exports.files import written
from mlgym_mcp.records.exports.trajectory import Said, Trajectory, Turn


def conversation(trajectory: Trajectory) -> dict[str, Any]:
    """Return one episode as a conversation: every call is answered, arguments are JSON texts."""
    messages: list[dict[str, Any]] = []
    for step in trajectory.steps:
        if isinstance(step, Said):
            messages.append({"role": step.role, "content": step.text})
        elif step.text or step.calls:
            messages += _turn(step)
    tools = [{"type": "function", "function": dict(tool)} for tool in trajectory.tools]
    return {"messages": messages} | ({"tools": tools} if tools else {})


def _turn(turn: Turn) -> list[dict[str, Any]]:
    message: dict[str, Any] = {"role": "assistant", "content": turn.text or None}
    if turn.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.tool, "arguments": call.arguments_json}}
            for call in turn.calls
        ]
    answers = [{"role": "tool", "tool_call_id": call.id, "content": call.text} for call in turn.calls]
    return [message, *answers]


def write_chat(trajectories: Iterable[Trajectory], out: Path) -> list[Path]:
    """Write conversations to a file, and beside it what each line is; episodes in which nothing was done are none.

    Raises:
        OSError: they cannot be written.
    """
    about = out.with_name(f"{out.stem}.about.jsonl")
    with written(out) as file, written(about) as beside:
        for trajectory in trajectories:
            if any(turn.text or turn.calls for turn in trajectory.turns):
                file.write(json.dumps(conversation(trajectory), ensure_ascii=False) + "\n")
                beside.write(json.dumps(trajectory.about(), ensure_ascii=False) + "\n")
    return [out, about]
