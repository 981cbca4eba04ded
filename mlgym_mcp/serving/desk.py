"""The desk: where an agent chooses a task itself and holds several sessions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
import anyio.lowlevel
import anyio.to_thread
from pydantic import Field

from mlgym_mcp.api import DeskPreset, DeskSession, DeskSessions, DeskStarted, DeskTask, DeskTasks
from mlgym_mcp.catalog import Catalog, Task, TaskError
from mlgym_mcp.catalog.measured import baseline
from mlgym_mcp.catalog.prepared import state as data_state
from mlgym_mcp.serving.creation import CREATION_ERRORS
from mlgym_mcp.serving.long_calls import LOST_S
from mlgym_mcp.serving.tasks_extension import HandedOut
from mlgym_mcp.session.calls import CallSpec
from mlgym_mcp.session.errors import MisuseError
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.reply import Reply
from mlgym_mcp.tools.toolbox import ToolSpec
from mlgym_mcp.tools.views import budget_view, detail_of, state_of

if TYPE_CHECKING:
    from mlgym_mcp.serving.endpoint import Endpoint
    from mlgym_mcp.serving.host import Host

OWNER = "desk"
"""The entry of a session's metadata that names the desk which started it."""
_NAME = 8
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class _Lost:
    """A session whose start was asked for by a request that broke before it was answered."""

    wanted: tuple[Any, ...]
    session: Session
    since: float


class Desk:
    """The sessions that one owner started, or all of the host's.

    Args:
        host: makes the sessions.
        owner: whose sessions these are; recorded with each, so that a later server knows.
        everything: the owner may reach the sessions of others, too.
    """

    def __init__(self, host: Host, owner: str, *, everything: bool = False) -> None:
        self.owner = owner
        self.options: Mapping[str, Any] = {}
        """What sessions are made with besides what the agent chooses: sandbox, engine."""
        self._host = host
        self._everything = everything
        self._newest: str | None = None
        self._lost: _Lost | None = None

    @property
    def catalog(self) -> Catalog:
        """The tasks."""
        return self._host.registry.catalog

    def sessions(self) -> list[Session]:
        """Return the sessions that can be reached from here, oldest first."""
        return [s for s in self._host.registry.sessions() if self._everything or self._owns(s)]

    def default(self) -> Session | None:
        """Return the session that is meant where none is named: the newest that was started here."""
        if self._newest is not None:
            return self._host.registry.get(self._newest)
        return next((s for s in reversed(self.sessions()) if self._owns(s)), None)

    def find(self, session_id: str) -> Session:
        """Return a session by its id, or the beginning of it as ``name`` has it; the default one for ``""``.

        Raises:
            MisuseError: there is none, or none of this desk.
        """
        wanted = session_id.strip()
        if not wanted:
            session = self.default()
            if session is None and self._newest is not None:
                raise MisuseError("The newest session ended long ago and is closed. Call start_task for another.")
            if session is None:
                more = " Or pass the session_id of one that list_sessions shows." if self.sessions() else ""
                raise MisuseError(f"No session was started here yet. Call list_tasks, then start_task.{more}")
            return session
        reachable = self.sessions()
        found = [s for s in reachable if s.id == wanted]
        if not found and len(wanted) >= _NAME:
            found = [s for s in reachable if s.id.startswith(wanted)]
        if len(found) != 1:
            known = ", ".join(self.name(s) for s in reachable[-_SHOWN:]) or "none yet"
            raise MisuseError(
                f"There is no session {wanted[:40]!r} here. Sessions: {known}. Leave session_id out for the newest; "
                "start_task begins another."
            )
        return found[0]

    def endpoint(self, session_id: str) -> Endpoint:
        """Return the endpoint of a session.

        Raises:
            MisuseError: as ``find``.
        """
        session = self.find(session_id)
        endpoint = self._host.endpoint(session.id)
        if endpoint is None:
            raise MisuseError(f"The session {self.name(session)} is closed. start_task begins another.")
        return endpoint

    def name(self, session: Session) -> str:
        """Return how a session is called here: short enough for a model to copy, and no key to its endpoint."""
        return session.id[:_NAME]

    def handed_out(self, task_id: str) -> HandedOut | None:
        """Return the call of one of the sessions that was handed out as a task under this id."""
        for session in self.sessions():
            endpoint = self._host.endpoint(session.id)
            if endpoint is not None and (found := endpoint.calls.task(task_id)) is not None:
                return HandedOut(found, session, self.name(session))
        return None

    async def start(
        self, task: str, preset: str, seed: int, budget: Mapping[str, float], key: str | None = None
    ) -> Session:
        """Begin a session. A request that was sent again gets the session that the first one made.

        Args:
            task: which.
            preset: its size.
            seed: handed to the agent's programs.
            budget: limits in place of the preset's own.
            key: the request's own name for the call, if it has one.

        Raises:
            MisuseError: it could not be made; the message says why.
        """
        wanted = (task, preset, seed, tuple(sorted(budget.items())))
        lost, self._lost = self._lost, None
        if key is None and lost is not None and lost.wanted == wanted and time.monotonic() - lost.since < LOST_S:
            return lost.session
        registered = None if key is None else f"desk:{self.owner}:{key}:{wanted}"
        try:
            with anyio.CancelScope(shield=True):  # whoever asked may be gone: the session is there for the next request
                session = await self._host.create(
                    task,
                    preset=preset,
                    seed=seed,
                    budget=budget,
                    metadata={OWNER: self.owner},
                    key=registered,
                    **self.options,
                )
        except CREATION_ERRORS as exc:
            raise MisuseError(_sentence(str(exc))) from exc
        self._newest = session.id
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            self._lost = _Lost(wanted, session, time.monotonic())
            raise
        return session

    def _owns(self, session: Session) -> bool:
        return session.config.metadata.get(OWNER) == self.owner


@dataclass(frozen=True, slots=True)
class DeskCall:
    """One call of a desk's own tool; ``key`` is the request's own name for it, if it has one."""

    desk: Desk
    key: str | None = None


async def list_tasks(call: DeskCall) -> Reply:
    """List the tasks that can be attempted: metric, baseline, sizes (presets), whether the data is there."""
    view = await anyio.to_thread.run_sync(_tasks_view, call.desk.catalog)
    lines = []
    for task in view.tasks:
        better = "higher is better" if task.direction == "max" else "lower is better"
        lines.append(f"{task.task}: {task.title}. {task.summary} Metric: {task.metric} ({better}).".replace("  ", " "))
        for preset in task.presets:
            gpus = f", {preset.gpus} GPUs" if preset.gpus else ""
            reached = "not measured" if preset.baseline is None else f"{preset.baseline:g}"
            limits = f"{preset.calls} tool calls, {preset.minutes:g} minutes{gpus}"
            lines.append(f"  preset {preset.name}: baseline {reached}, {limits}, data {preset.data}")
    lines.append("Begin one with start_task(task, preset).")
    return Reply("\n".join(lines), data=view.model_dump(mode="json"))


async def start_task(
    call: DeskCall,
    task: Annotated[str, Field(description="The task's id, as list_tasks shows it.")],
    preset: Annotated[str, Field(description="Its size, as list_tasks shows it: mini or full.")] = "mini",
    seed: Annotated[int, Field(ge=0, lt=2**63, description="Given to your programs as MLGYM_SEED.")] = 0,
    budget: Annotated[
        dict[str, float],
        Field(
            max_length=16,
            description="Only if you want other limits than the preset's: "
            '{"calls": 20, "wall_s": 1800, "validations": 3, "cpu_s": 600}, any of them.',
        ),
    ] = {},  # noqa: B006 - never changed; a default that JSON can show
) -> Reply:
    """Begin an attempt at a task, in a fresh sandbox of its own. Then call get_task, which tells what to do.

    The new session becomes the one that all tools work on when you pass no session_id.
    """
    desk = call.desk
    session = await desk.start(task, preset, seed, budget, call.key)
    name = desk.name(session)
    follow = (
        f'Call get_task now. Tools work on this session when you pass session_id="{name}", or no session_id while it '
        "is the newest."
    )
    view = DeskStarted(session_id=name, task=session.task.id, preset=session.config.preset, next=follow)
    text = f"Session {name} of {session.task.id} ({session.config.preset}) has begun. {follow}"
    return Reply(text, data=view.model_dump(mode="json"))


async def list_sessions(call: DeskCall) -> Reply:
    """List the sessions that were started here, newest first: their session_id, task, state and best score."""
    desk = call.desk
    default = desk.default()
    rows = [_row(desk, session, default) for session in reversed(desk.sessions())]
    lines = []
    for row in rows:
        best = "" if row.best_validation is None else f", best validation {row.best_validation:g}"
        mark = " (default: used when you pass no session_id)" if row.default else ""
        lines.append(f"{row.session_id}{mark}: {row.task} ({row.preset}), {row.calls} calls{best}. {row.detail}")
    text = "\n".join(lines) or "No session was started here yet. Call list_tasks, then start_task."
    return Reply(text, data=DeskSessions(sessions=rows).model_dump(mode="json"))


def _tasks_view(catalog: Catalog) -> DeskTasks:
    return DeskTasks(tasks=[_task_view(task) for task in catalog.tasks()], broken=sorted(catalog.broken()))


def _task_view(task: Task) -> DeskTask:
    facts, metric = task.spec.task, task.spec.primary_metric
    presets = [
        DeskPreset(
            name=name,
            baseline=baseline(task, name).value(metric.name),
            calls=preset.steps,
            minutes=round(preset.session_s / 60, 1),
            gpus=preset.gpus,
            data=_data_of(task, name),
        )
        for name, preset in task.spec.presets.items()
    ]
    return DeskTask(
        task=task.id,
        title=facts.title,
        summary=facts.summary,
        metric=metric.name,
        direction=metric.direction,
        presets=presets,
    )


def _data_of(task: Task, preset: str) -> Literal["ready", "missing", "broken"]:
    if task.spec.presets[preset].data.kind == "none":
        return "ready"
    try:
        return data_state(task, preset)
    except (TaskError, OSError):
        return "broken"


def _row(desk: Desk, session: Session, default: Session | None) -> DeskSession:
    best, over = session.scoring.best_validation, session.over
    return DeskSession(
        session_id=desk.name(session),
        task=session.task.id,
        preset=session.config.preset,
        state=state_of(session),
        detail=detail_of(session),
        calls=session.calls.made,
        wall_left_s=budget_view(session).wall_left_s,
        best_validation=None if best is None else best.value,
        score=None if over is None or over.score is None else over.score.value,
        default=session is default,
    )


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."


_FREE = CallSpec("shared", counted=False)

DESK_TOOLS: tuple[ToolSpec, ...] = (
    ToolSpec(list_tasks, "List the tasks", _FREE, True, False, True, DeskTasks),
    ToolSpec(start_task, "Start a task", _FREE, False, False, False, DeskStarted),
    ToolSpec(list_sessions, "List your sessions", _FREE, True, False, True, DeskSessions),
)
"""What the desk adds to the tools of a session."""
