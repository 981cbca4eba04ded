"""A session's facts as the wire shows them."""

from __future__ import annotations

import math
from typing import Literal

from mlgym_mcp.api import BudgetView, MetricView, ScoreView
from mlgym_mcp.session.scoring import Score
from mlgym_mcp.session.session import Session


def budget_view(session: Session) -> BudgetView:
    """Return the budget with what is left of it."""
    budget, meter = session.meter.budget, session.meter
    left = meter.wall_left_s
    return BudgetView(
        wall_s=budget.wall_s,
        wall_left_s=None if math.isinf(left) else round(left, 1),
        calls=budget.calls,
        calls_left=None if budget.calls is None else max(0, budget.calls - meter.calls),
        validations=budget.validations,
        validations_left=None if budget.validations is None else max(0, budget.validations - meter.validations),
        cpu_s=budget.cpu_s,
        cpu_left_s=None if budget.cpu_s is None else round(max(0.0, budget.cpu_s - meter.cpu_s), 1),
        idle_s=budget.idle_s,
        disk_mb=budget.disk_mb,
        disk_left_mb=None if budget.disk_mb is None else round(max(0.0, budget.disk_mb - meter.disk_mb), 1),
    )


def metric_view(session: Session) -> MetricView:
    """Return the metric that counts, with the baseline of the preset."""
    metric = session.spec.primary_metric
    return MetricView(
        name=metric.name,
        direction=metric.direction,
        unit=metric.unit,
        baseline=session.baseline.value(metric.name),
        optimal=metric.optimal,
    )


def score_view(score: Score, session: Session | None = None) -> ScoreView:
    """Return a score as an agent may see it: a validation is rounded, private diagnostics stay away."""
    left = None
    if session is not None and session.meter.budget.validations is not None:
        left = max(0, session.meter.budget.validations - session.meter.validations)
    return ScoreView(
        kind=score.kind,
        valid=score.valid,
        metric=score.primary,
        score=score.value,
        standard_error=score.standard_error,
        baseline=score.baseline,
        against_baseline=score.against_baseline(),
        code=score.code,
        reason=score.reason,
        details=score.public if score.kind == "validate" or not score.valid else {},
        validations_left=left,
        message=score.line(),
    )


def state_of(session: Session) -> Literal["preparing", "ready", "over"]:
    """Return where in its life a session is."""
    if session.over is not None:
        return "over"
    return "ready" if session.ready else "preparing"


def detail_of(session: Session) -> str:
    """Return one sentence on where in its life a session is."""
    return session.over_text() if session.over is not None else session.phase
