"""Episodes read as attempts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlgym_mcp.records.attempts import UNKNOWN, Attempt, Point, best_of, finite, plain_name, plain_reason, whole
from mlgym_mcp.records.salvage import Damage, Line, salvage

_WANTED = frozenset({"session", "score", "end"})
_KINDS = ("validate", "submit", "autosubmit")


def read_attempt(folder: Path) -> Attempt:
    """Read an episode's journal; what is damaged is told in ``damage``, the rest is used.

    Raises:
        OSError: the journal cannot be read at all.
    """
    damage = Damage()
    facts: dict[str, Any] = {}
    points: list[Point] = []
    first = last = None
    calls = 0
    final: Mapping[str, Any] | None = None
    invalid = ""
    strange = 0
    for line in salvage(folder, _WANTED, damage):
        first = line.t if first is None else first
        last = line.t
        if line.type == "call":
            calls += 1
        elif line.type == "session":
            facts |= _session(line)
        elif line.type == "score":
            score = line.fields
            point = _point(score, line.t - first)
            if point is not None:
                points.append(point)
                if point.kind != "validate" and final is None:
                    final = score
            elif score.get("valid") is True:
                strange += 1
            elif score.get("kind") != "validate":
                invalid = plain_name(score.get("code"), 40)
            facts |= _graded(score)
        elif line.type == "end":
            facts |= _end(line)
            if isinstance(end := line.fields.get("score"), dict) and _point(end, 0.0) is not None:
                final = end
    told = [str(damage)] if str(damage) else []
    if strange:
        told.append(f"{strange} score{'s'[: strange > 1]} without a value left out")
    if "task" not in facts:
        told.append("its first line, which says what it is, is lost")
    higher = facts.get("higher_is_better", True)
    closing = None if final is None else _point(final, 0.0)
    if closing is not None and not any(p.kind != "validate" for p in points):  # the line of the score itself is lost
        points.append(Point((last or 0.0) - (first or 0.0), closing.kind, closing.value, closing.se))
        facts = {**_graded(final or {}), **facts}
    return Attempt(
        **facts,
        id=folder.name,
        folder=str(folder),
        points=tuple(points),
        best=best_of((p.value for p in points), higher),
        submitted=None if closing is None else closing.value,
        se=None if closing is None else closing.se,
        code="" if closing is not None else invalid,
        started=first or 0.0,
        seconds=(last or 0.0) - (first or 0.0),
        calls=calls,
        damage="; ".join(told),
    )


def _session(line: Line) -> dict[str, Any]:
    fields = line.fields
    metadata = fields.get("metadata")
    if not isinstance(metadata, dict):
        metadata = {}
    return {
        "task": plain_name(fields.get("task")),
        "preset": plain_name(fields.get("preset")),
        "seed": whole(fields.get("seed")) or 0,
        "method": plain_name(metadata.get("agent")) or UNKNOWN,
        "sweep": plain_name(metadata.get("sweep")),
        "number": plain_name(metadata.get("attempt")),
        "purpose": plain_name(metadata.get("purpose")),
    }


def _graded(score: Mapping[str, Any]) -> dict[str, Any]:
    """What every score's record says of the task."""
    facts: dict[str, Any] = {}
    if metric := plain_name(score.get("primary")):
        facts["metric"] = metric
    if isinstance(score.get("higher_is_better"), bool):
        facts["higher_is_better"] = score["higher_is_better"]
    if (baseline := finite(score.get("baseline"))) is not None:
        facts["baseline"] = baseline
    return facts


def _point(score: Mapping[str, Any], seconds: float) -> Point | None:
    """The score as a point, if it is valid and has a finite value."""
    kind, primary, metrics, errors = (score.get(name) for name in ("kind", "primary", "metrics", "se"))
    if score.get("valid") is not True or kind not in _KINDS or not isinstance(metrics, dict):
        return None
    value = finite(metrics.get(primary)) if isinstance(primary, str) else None
    if value is None:
        return None
    se = finite(errors.get(primary)) if isinstance(errors, dict) else None
    return Point(max(seconds, 0.0), kind, value, se)


def _end(line: Line) -> dict[str, Any]:
    spent = line.fields.get("spent")
    return {
        "outcome": plain_name(line.fields.get("outcome"), 40) or "ended",
        "reason": plain_reason(line.fields.get("reason")),
        "cpu_s": finite(spent.get("cpu_s")) if isinstance(spent, dict) else None,
    }
