"""Flat tables: ``episodes.csv``, ``calls.csv``, ``scores.csv`` and ``said.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from mlgym_mcp.records.exports.files import written
from mlgym_mcp.records.exports.trajectory import Trajectory, Turn, iso

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_EPISODE = (
    *("episode", "task", "task_version", "preset", "seed", "agent", "model", "sweep", "attempt", "server"),
    *("started", "seconds", "outcome", "reason", "score", "metric", "baseline", "higher_is_better", "calls"),
    *("tokens_in", "tokens_out", "tokens_cached", "messages", "redacted", "cut", "damage"),
)
_COLUMNS = {
    "episodes": _EPISODE,
    "calls": ("episode", "call", "turn", "started", "seconds", "tool", "arguments", "outcome", "text"),
    "scores": ("episode", "at", "kind", "valid", "metric", "value", "baseline", "higher_is_better", "code", "reason"),
    "said": ("episode", "turn", "at", "role", "text", "thinking", "tokens_in", "tokens_out", "tokens_cached"),
}


def write_tables(trajectories: Iterable[Trajectory], out: Path) -> list[Path]:
    """Write the tables into a folder, which is made if missing.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.

    Raises:
        OSError: they cannot be written.
    """
    paths = {name: out / f"{name}.csv" for name in _COLUMNS}
    with ExitStack() as stack:
        writers = {}
        for name, path in paths.items():
            writers[name] = csv.writer(stack.enter_context(written(path)), lineterminator="\n")
            writers[name].writerow(_COLUMNS[name])
        for trajectory in trajectories:
            for name, row in _rows(trajectory):
                writers[name].writerow([_cell(value) for value in row])
    return list(paths.values())


def _rows(trajectory: Trajectory) -> Iterable[tuple[str, tuple[object, ...]]]:
    episode = trajectory.episode
    used = [turn.tokens for turn in trajectory.turns if turn.tokens is not None]
    facts = trajectory.about() | {
        "started": iso(trajectory.started),
        "reason": trajectory.reason,
        "tokens_in": sum(t.read for t in used) if used else None,
        "tokens_out": sum(t.written for t in used) if used else None,
        "tokens_cached": sum(t.cached for t in used) if used else None,
        "cut": trajectory.cut,
        "damage": trajectory.damage,
    }
    yield "episodes", tuple(facts[name] for name in _EPISODE)
    number = 0
    for turn, step in enumerate(trajectory.steps, 1):
        if isinstance(step, Turn):
            tokens = step.tokens
            counts = (None, None, None) if tokens is None else (tokens.read, tokens.written, tokens.cached)
            if step.text or step.thinking or tokens is not None:
                yield "said", (episode, turn, iso(step.t), "assistant", step.text, step.thinking, *counts)
            for call in step.calls:
                number += 1
                about = (call.tool, call.arguments_json, call.outcome, call.text)
                yield "calls", (episode, number, turn, iso(call.started), call.seconds, *about)
        else:
            yield "said", (episode, turn, iso(step.t), step.role, step.text, "", None, None, None)
    for m in trajectory.marks:
        about_mark = (m.kind, m.valid, m.metric, m.value, m.baseline, m.higher_is_better, m.code, m.reason)
        yield "scores", (episode, iso(m.t), *about_mark)


def _cell(value: object) -> object:
    if isinstance(value, str):
        text = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        return f"'{text}" if text.startswith(_FORMULA) else text
    return str(value).lower() if isinstance(value, bool) else value
