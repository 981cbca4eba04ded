"""The agents ``baseline`` and ``reference``: play the solutions that travel with a task, through MCP only."""

from __future__ import annotations

import base64
import importlib.util
import os
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcp import Client
from pydantic import BaseModel, ConfigDict, Field

from mlgym_clients.agents.agent import AgentResult, Assignment
from mlgym_clients.agents.calling import Caller, Result

Kind = Literal["baseline", "reference"]
_PROGRAMS: dict[Kind, str] = {"baseline": "baseline.py", "reference": "solve.py"}
_PIECE = 96 << 10
"""Bytes of a file that is not text, in one command line."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What is written over the starter files, the program that then makes the submission, and how long it may run."""

    files: dict[str, bytes]
    command: str | None
    timeout_s: float


class SolutionOptions(BaseModel):
    """Options of the agents ``baseline`` and ``reference``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: Path | None = Field(default=None, description="The folder of the tasks; default: as the server finds it.")
    validate_first: bool = Field(default=False, description="Whether to validate once before submitting.")


class SolutionAgent:
    """Plays one of a task's own solutions: writes its files, runs its program, submits."""

    def __init__(self, kind: Kind, options: SolutionOptions) -> None:
        self.name = kind
        self._kind = kind
        self.options = options

    def describe(self) -> dict[str, Any]:
        """Return what decides how it plays; the solutions themselves are the tasks'."""
        return {"agent": self._kind, "validate_first": self.options.validate_first}

    async def play(self, client: Client, assignment: Assignment = Assignment()) -> AgentResult:  # noqa: B008 - frozen
        """Play the solution.

        Raises:
            ServerLostError: the session's server does not answer.
        """
        caller = Caller(client, on_call=assignment.on_call)
        task = (await caller.call("get_task")).structured
        try:
            solution = find_solution(str(task["id"]), str(task["preset"]), self._kind, self.options.tasks)
        except (LookupError, OSError, ValueError) as exc:
            return AgentResult(caller.made, "failed", f"the {self._kind} cannot be read: {exc}")
        for name, data in solution.files.items():
            if (problem := await _write(caller, name, data)) is not None:
                return await _ended(caller, problem, f"{name} could not be written")
        if solution.command is not None:
            started = await caller.call("shell", {"command": solution.command, "timeout_s": solution.timeout_s})
            done = await caller.finished(started)
            if done.refused or done.is_error or done.facts.get("exit_code") != 0:
                return await _ended(caller, done, f"{solution.command} failed")
        if self.options.validate_first:
            await caller.score("validate")
        final = await caller.score("submit")
        if final.structured.get("valid"):
            return AgentResult(caller.made, "submitted", final.text)
        return await _ended(caller, final, "the submission was not accepted")


async def _ended(caller: Caller, result: Result, what: str) -> AgentResult:
    if result.refused and await caller.over():
        return AgentResult(caller.made, "over", result.text)
    return AgentResult(caller.made, "failed", f"{what}: {result.text[-500:]}")


async def _write(caller: Caller, name: str, data: bytes) -> Result | None:
    """Write one file into the workspace; returns what went wrong."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return await _write_bytes(caller, name, data)
    result = await caller.call("write_file", {"path": name, "content": text})
    return result if result.is_error or result.refused else None


async def _write_bytes(caller: Caller, name: str, data: bytes) -> Result | None:
    path = shlex.quote(name)
    begin = f'mkdir -p "$(dirname {path})" && : > {path}'
    pieces = [base64.b64encode(data[i : i + _PIECE]).decode() for i in range(0, len(data), _PIECE)]
    for command in [begin, *(f"base64 -d >> {path} <<< {piece}" for piece in pieces)]:
        result = await caller.finished(await caller.call("shell", {"command": command}))
        if result.refused or result.facts.get("exit_code") != 0:
            return result
    return None


def find_solution(task: str, preset: str, kind: Kind, tasks: Path | None = None) -> Solution:
    """Read a task's solution from the tasks' folder.

    Raises:
        LookupError: there is no such task, or it has no such solution.
        OSError: a file cannot be read.
        ValueError: the task's description is not TOML.
    """
    folder = _task_folder(task, tasks)
    described = tomllib.loads((folder / "task.toml").read_text("utf-8"))
    workspace = described.get("workspace", {})
    begun = folder / workspace.get("starter", "starter")
    starter = {path.relative_to(begun).as_posix() for path in _files(begun)}
    files: dict[str, bytes] = {}
    if kind == "reference":
        own = folder / "reference"
        files = {path.relative_to(own).as_posix(): path.read_bytes() for path in _files(own)}
        if not files:
            raise LookupError(f"the task {task} has no folder reference/ beside its task.toml in {folder}")
    program = _PROGRAMS[kind]
    runs = program in files or program in starter
    limit = described.get("presets", {}).get(preset, {}).get("run_s", 3600)
    return Solution(files, f"python {program}" if runs else None, float(limit))


def _task_folder(task: str, tasks: Path | None) -> Path:
    roots = [tasks] if tasks is not None else list(_task_roots())
    for root in roots:
        if (root / task / "task.toml").is_file():
            return root / task
    looked = ", ".join(map(str, roots)) or "nowhere"
    raise LookupError(f"there is no task {task!r} in {looked}; set the option 'tasks' to the folder of the tasks")


def _task_roots() -> Iterator[Path]:
    yield from (Path(part) for part in os.environ.get("MLGYM_TASKS", "").split(os.pathsep) if part)
    spec = importlib.util.find_spec("mlgym_mcp")
    if spec is not None and spec.origin is not None:
        package = Path(spec.origin).parent
        yield from (package / "_tasks", package.parent / "tasks")


def _files(folder: Path) -> list[Path]:
    ignored = ("__pycache__", ".pyc")
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.endswith(ignored) for part in path.relative_to(folder).parts)
    ]
