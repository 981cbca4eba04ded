"""The wire: what the server's structured results and its control API look like. Clients may import this module only."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """Base of all: unknown keys are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MetricView(Model):
    """The metric that counts."""

    name: str
    direction: Literal["max", "min"] = Field(description="Whether more or less is better.")
    unit: str = ""
    baseline: float | None = Field(default=None, description="What the given baseline solution reaches.")
    optimal: float | None = Field(default=None, description="The best value that is possible, or a bound of it.")


class BudgetView(Model):
    """What may be spent and what is left; a missing limit is null."""

    wall_s: float | None
    wall_left_s: float | None
    calls: int | None
    calls_left: int | None
    validations: int | None
    validations_left: int | None
    cpu_s: float | None
    cpu_left_s: float | None


class TaskView(Model):
    """The answer of ``get_task``: everything an agent needs to begin."""

    id: str
    title: str
    preset: str
    instruction: str
    metric: MetricView
    budget: BudgetView
    files: list[str] = Field(description="Files in the workspace at the start.")
    data: list[str] = Field(description="Files under /data, read-only.")
    how_to_submit: str
    seed: int


class ScoreView(Model):
    """A score, or why there is none."""

    kind: Literal["validate", "submit", "autosubmit"]
    valid: bool
    metric: str
    score: float | None = None
    standard_error: float | None = None
    baseline: float | None = None
    against_baseline: str = "not compared"
    code: str | None = Field(default=None, description="Kind of failure, when not valid.")
    reason: str | None = Field(default=None, description="What was wrong, when not valid.")
    details: dict[str, Any] = Field(default_factory=dict)
    validations_left: int | None = None
    message: str = Field(default="", description="The same in one sentence.")


class JobView(Model):
    """A running command."""

    id: str
    command: str
    seconds: float


class StatusView(Model):
    """The answer of ``status``."""

    state: Literal["preparing", "ready", "over"]
    detail: str
    budget: BudgetView
    warning: str | None
    running_jobs: list[JobView]
    best_validation: ScoreView | None
    scores: int


class SessionRequest(Model):
    """Body of ``POST /api/sessions``."""

    task: str
    preset: str = "mini"
    seed: int = 0
    budget: dict[str, float] = Field(default_factory=dict)
    sandbox: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    idempotency_key: str | None = None


class SessionView(Model):
    """A session as the control API shows it."""

    id: str
    task: str
    preset: str
    seed: int
    state: Literal["preparing", "ready", "over"]
    detail: str
    episode: str
    mcp_url: str
    token: str | None = None
    created: float
    expires: float | None
    calls: int
    outcome: str | None = None
    score: ScoreView | None = None


class Problem(Model):
    """Any error of the control API."""

    error: str
