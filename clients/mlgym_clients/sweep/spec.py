"""What a sweep is: tasks, agents and seeds, read from a TOML file, checked before anything is started."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mlgym_clients.agents.agent import Agent
from mlgym_clients.agents.registry import AgentOptionError, make_agent
from mlgym_clients.sweep.attempt import Attempt
from mlgym_mcp.api import TaskSummary

ALL = "all"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
"""Of a sweep or an agent: it stands in file names, idempotency keys and tables."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
_MOST_ATTEMPTS = 100_000


class SweepError(ValueError):
    """A sweep cannot be run; the message says what is wrong and what fits."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(_Strict):
    """The budget of every session, in place of the preset's own; what is not said stays the preset's."""

    wall_s: float | None = Field(default=None, gt=0)
    calls: int | None = Field(default=None, gt=0)
    validations: int | None = Field(default=None, ge=0)
    cpu_s: float | None = Field(default=None, gt=0)
    idle_s: float | None = Field(default=None, gt=0)
    disk_mb: int | None = Field(default=None, gt=0)

    def given(self) -> dict[str, int | float]:
        """Return the limits that are said."""
        return self.model_dump(exclude_none=True)


class AgentSpec(BaseModel):
    """An agent of a sweep: which one, and its options as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    agent: str = Field(min_length=1, max_length=40)

    def make(self) -> Agent:
        """Return the agent.

        Raises:
            AgentOptionError: there is none of that name, or an option does not fit.
        """
        options = self.model_extra or {}
        if "name" in options:
            raise AgentOptionError(
                f"{self.agent}: unknown option 'name': an agent is named by its table, [agents.NAME]"
            )
        return make_agent(self.agent, **options)


class SweepSpec(_Strict):
    """A sweep: every task, in every preset, by every agent, with every seed.

    Attributes:
        schema_version: of this form.
        name: of the sweep.
        tasks: their ids, or ``all``.
        presets: sizes; a task that has none of a size is an error.
        agents: by the names that tables show.
        seeds: of the sessions; a number N stands for 0 to N-1.
        budget: of each session.
        sandbox: which, if not what the server takes by itself.
        max_sessions: attempts at a time; default: what the engine has room for.
        infrastructure_retries: how often an attempt is tried again that a server, a node or an endpoint lost.
    """

    schema_version: Literal[1] = 1
    name: Name = "sweep"
    tasks: list[str] | Literal["all"]
    presets: list[str] = Field(default=["mini"], min_length=1)
    agents: dict[Name, AgentSpec] = Field(min_length=1)
    seeds: list[Seed] = Field(default=[0], min_length=1)
    budget: Limits = Limits()
    sandbox: str | None = None
    max_sessions: int | None = Field(default=None, ge=1, le=4096)
    infrastructure_retries: int = Field(default=3, ge=0, le=100)

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= _MOST_ATTEMPTS:
                raise ValueError(f"a number of seeds is between 1 and {_MOST_ATTEMPTS}")
            return list(range(value))
        return value

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what in ("tasks", "presets", "seeds"):
            given = getattr(self, what)
            if given == ALL:
                continue
            if not given:
                raise ValueError(f"{what}: there must be at least one")
            if len(set(given)) < len(given):
                raise ValueError(f"{what}: one stands there twice")
        size = 1 if self.tasks == ALL else len(self.tasks)
        if size * len(self.presets) * len(self.agents) * len(self.seeds) > _MOST_ATTEMPTS:
            raise ValueError(f"these are more than {_MOST_ATTEMPTS} attempts")
        return self

    def make_agents(self) -> dict[str, Agent]:
        """Return all agents by name.

        Raises:
            SweepError: one cannot be made.
        """
        made = {}
        for name, wanted in self.agents.items():
            try:
                made[name] = wanted.make()
            except AgentOptionError as exc:
                raise SweepError(f"agents.{name}: {exc}") from exc
        return made

    def attempts(self, there: Iterable[TaskSummary]) -> Iterator[Attempt]:
        """Yield the attempts, seed by seed, so that an interrupted sweep has something of everything.

        Args:
            there: the tasks that can be attempted.

        Raises:
            SweepError: a task or preset is not among them.
        """
        known = {task.id: task for task in there}
        if isinstance(self.tasks, str):
            tasks = sorted(name for name, task in known.items() if set(self.presets) <= set(task.presets))
            if not tasks:
                raise SweepError(f"tasks: no task has the presets {', '.join(self.presets)}")
        else:
            tasks = self.tasks
        for task in tasks:
            if task not in known:
                raise SweepError(f"tasks: there is no task {task!r}{meant(task, known)}; there are: {', '.join(known)}")
            for preset in self.presets:
                if preset not in (has := known[task].presets):
                    raise SweepError(f"presets: the task {task} has no preset {preset!r}; it has: {', '.join(has)}")
        for seed in self.seeds:
            for task in tasks:
                for preset in self.presets:
                    for agent in self.agents:
                        yield Attempt(task, preset, agent, seed)


def read_sweep(path: Path) -> SweepSpec:
    """Read a sweep file. Paths in it (of scripts and episodes) are seen from its own folder.

    Raises:
        SweepError: it is not a sweep's; the message has every problem with its place.
        OSError: it cannot be read.
    """
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except ValueError as exc:
        raise SweepError(f"{path}: {exc}") from exc
    given.setdefault("name", path.stem)
    return make_sweep(_seen_from(path.parent, given), str(path))


def make_sweep(given: Mapping[str, Any], where: str = "sweep") -> SweepSpec:
    """Return a sweep of plain values.

    Raises:
        SweepError: they do not make one.
    """
    try:
        return SweepSpec.model_validate(given)
    except ValidationError as exc:
        raise SweepError("\n".join(f"{where}: {problem}" for problem in _problems(exc))) from None


def _problems(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        place = [str(part) for part in item["loc"] if not str(part).startswith(("list[", "literal["))]
        name = ".".join(place)
        if item["type"] == "extra_forbidden":
            known = Limits.model_fields if place[0] == "budget" else SweepSpec.model_fields
            yield f"unknown key {name!r}{meant(place[-1], known)}; there are: {', '.join(known)}"
        elif item["type"] == "missing":
            yield f"the key {name!r} is missing"
        else:
            yield f"{name}: {item['msg']}".lstrip(": ")


def meant(given: str, known: Iterable[str]) -> str:
    """Return a suggestion, if one of the known names is like the given one."""
    close = difflib.get_close_matches(given, list(known), 1)
    return f", did you mean {close[0]!r}?" if close else ""


def _seen_from(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    agents = given.get("agents")
    for options in agents.values() if isinstance(agents, dict) else ():
        if not isinstance(options, dict):
            continue
        for name in ("script", "episode", "episodes", "tasks"):
            if isinstance(value := options.get(name), str):
                inside = folder / value
                options[name] = str(inside.absolute()) if inside.exists() else value
        if options.get("agent") == "scripted" and isinstance(script := options.get("script"), str):
            options["script"] = _script(Path(script))
    return given


def _script(path: Path) -> Any:
    """Return a script itself, so that it is kept with the sweep and travels; what cannot be read is told later."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return str(path)
