"""The wire: what the server's structured results and its control API look like. Clients may import this module only."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_LARGEST_METADATA = 65_536


def _kept_as_it_is(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what strict JSON in UTF-8 cannot hold: it goes to the journal and comes back from it."""
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, TypeError, RecursionError) as exc:
        raise ValueError("it holds what strict JSON in UTF-8 cannot") from exc
    if size > _LARGEST_METADATA:
        raise ValueError(f"it is larger than {_LARGEST_METADATA} bytes")
    return value


Metadata = Annotated[dict[str, Any], Field(max_length=64), AfterValidator(_kept_as_it_is)]
"""A caller's own words."""


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
    idle_s: float | None = Field(default=None, description="Unused for so long, the session ends.")
    disk_mb: int | None = Field(default=None, description="MiB that the workspace may take.")
    disk_left_mb: float | None = None


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

    task: str = Field(min_length=1, max_length=100, description="Which task: one of /api/tasks.")
    preset: str = Field(default="mini", min_length=1, max_length=100, description="Its size.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Handed to the agent's programs as MLGYM_SEED.")
    budget: dict[str, int | float] = Field(
        default_factory=dict,
        max_length=16,
        description="Limits in place of the preset's own: wall_s, calls, validations, cpu_s and what else it has.",
    )
    sandbox: str | None = Field(
        default=None, max_length=100, description="docker or bubblewrap; default: as the server was started."
    )
    metadata: Metadata = Field(
        default_factory=dict,
        description="Your own words, kept with the episode. 'owner' is whose access tokens open the session (OAuth).",
    )
    idempotency_key: str | None = Field(
        default=None, min_length=1, max_length=200, description="A second request with the same key makes no session."
    )


class SessionView(Model):
    """A session as the control API shows it."""

    id: str
    task: str
    preset: str
    seed: int
    state: Literal["preparing", "ready", "over"]
    detail: str = Field(description="One sentence on the state.")
    episode: str = Field(description="Name of its record: see /api/episodes.")
    mcp_url: str = Field(description="Where MCP clients reach it.")
    token: str | None = Field(default=None, description="Its bearer token; shown to whoever made it, then never again.")
    created: float = Field(description="Unix time, seconds.")
    expires: float | None = Field(description="Unix time at which its wall time is spent, if it began when created.")
    calls: int
    outcome: str | None = None
    score: ScoreView | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)


class SessionPage(Model):
    """Some of the sessions, oldest first."""

    sessions: list[SessionView]
    next: str | None = Field(default=None, description="Ask for ?after=NEXT for more; null at the end.")


class PresetView(Model):
    """A size of a task."""

    environment: str
    gpus: int
    steps: int
    session_s: float
    data: str
    baseline: float | None
    solution: float | None


class TaskSummary(Model):
    """A task as a list shows it."""

    id: str
    title: str
    version: str
    family: str
    summary: str
    tags: list[str]
    metric: str
    direction: Literal["max", "min"]
    submission: str
    presets: dict[str, PresetView]


class EpisodeView(Model):
    """The record of a session, in short."""

    id: str
    task: str
    preset: str
    seed: int
    sandbox: str
    started: float = Field(description="Unix time, seconds.")
    seconds: float
    calls: int
    validations: int
    outcome: str = Field(description="'live' while it has none.")
    reason: str
    score: float | None
    baseline: float | None
    damage: str | None = Field(default=None, description="What is wrong with the record, if anything.")
    metadata: dict[str, Any] = Field(default_factory=dict)


class EpisodePage(Model):
    """Some of the episodes, newest first."""

    episodes: list[EpisodeView]
    next: str | None = Field(default=None, description="Ask for ?after=NEXT for more; null at the end.")


class HealthProblem(Model):
    """Something that keeps the server from working as it should."""

    what: Literal["engine", "disk", "journal", "tasks"]
    detail: str


class Health(Model):
    """How the server is."""

    status: Literal["ok", "degraded"]
    version: str
    live_sessions: int
    max_sessions: int
    sandbox: str
    disk_free_mb: int | None
    problems: list[HealthProblem]


class DeskPreset(Model):
    """A size of a task, as the desk shows it."""

    name: str
    baseline: float | None = Field(description="What the given baseline solution reaches here.")
    calls: int
    minutes: float = Field(description="Wall time of a session.")
    gpus: int
    data: Literal["ready", "missing", "broken"] = Field(description="Data not ready is made when a session starts.")


class DeskTask(Model):
    """A task that can be attempted."""

    task: str = Field(description="Its id, for start_task.")
    title: str
    summary: str
    metric: str
    direction: Literal["max", "min"]
    presets: list[DeskPreset]


class DeskTasks(Model):
    """The answer of ``list_tasks``."""

    tasks: list[DeskTask]
    broken: list[str] = Field(description="Tasks that cannot be read.")


class DeskSession(Model):
    """A session that was started at the desk."""

    session_id: str = Field(description="For the session_id of every tool.")
    task: str
    preset: str
    state: Literal["preparing", "ready", "over"]
    detail: str
    calls: int
    wall_left_s: float | None
    best_validation: float | None
    score: float | None
    default: bool = Field(description="Whether tools without a session_id work on this one.")


class DeskSessions(Model):
    """The answer of ``list_sessions``: newest first."""

    sessions: list[DeskSession]


class DeskStarted(Model):
    """The answer of ``start_task``."""

    session_id: str
    task: str
    preset: str
    next: str = Field(description="What to do now.")


class SnapshotView(Model):
    """A snapshot of a session's workspace."""

    id: str = Field(description="For restore and fork.")
    created: float = Field(description="Unix time, seconds.")
    files: int = Field(description="Files, folders and links in it.")
    bytes: int = Field(description="The size of its files.")
    new_files: int = Field(description="What was not as in the snapshot before it, or in the one last restored.")
    new_bytes: int = Field(description="Bytes that no earlier snapshot of the session holds.")
    calls: int = Field(description="Tool calls made until then.")
    notes: int = Field(description="Notes written until then.")
    left_out: dict[str, str] = Field(description="What could not be kept, and why; at most 100.")
    left_out_files: int = Field(description="How much that was in all.")


class Snapshots(Model):
    """All snapshots of a session, oldest first."""

    snapshots: list[SnapshotView]


class RestoreRequest(Model):
    """Body of ``POST /api/sessions/{id}/restore``."""

    snapshot: str = Field(min_length=1, max_length=40, description="Which: one of the session's snapshots.")


class RestoredView(Model):
    """What a restore did."""

    snapshot: str
    written: int = Field(description="Files, folders and links made or made over.")
    removed: int = Field(description="Those removed, each with all below it.")
    seconds: float


class ForkRequest(Model):
    """Body of ``POST /api/sessions/{id}/fork``."""

    snapshot: str | None = Field(
        default=None, min_length=1, max_length=40, description="Which of the session's snapshots; default: one of now."
    )
    budget: Literal["remaining", "fresh"] | dict[str, int | float] = Field(
        default="remaining",
        description="What its parent has left; what its parent had at first; or limits in place of the preset's own.",
    )
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="Default: its parent's.")
    metadata: Metadata | None = Field(default=None, description="Default: its parent's.")
    idempotency_key: str | None = Field(
        default=None, min_length=1, max_length=200, description="A second request with the same key makes no session."
    )


class Problem(Model):
    """Any error of the control API."""

    error: str
