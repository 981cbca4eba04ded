"""Finds tasks and reads them: folders with a ``task.toml``. Their code is never imported here."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from mlgym_mcp.catalog.errors import TaskError
from mlgym_mcp.catalog.lock import Lock
from mlgym_mcp.catalog.spec import SHARED, Measured, Preset, TaskSpec
from mlgym_mcp.catalog.wording import load

TASK_FILE: Final = "task.toml"
LOCK_FILE: Final = "data.lock.toml"
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+(?:\.[a-z_0-9]+)?)\}")
_IGNORED: Final = ("__pycache__", ".pyc")


@dataclass(frozen=True)
class Solution:
    """A solution that travels with a task: files for the workspace and the command that makes the submission."""

    files: dict[str, Path]
    command: str | None


@dataclass(frozen=True)
class Task:
    """A task's folder and what its ``task.toml`` says."""

    folder: Path
    spec: TaskSpec

    @classmethod
    def load(cls, folder: Path) -> Task:
        """Read and check a task's folder.

        Raises:
            TaskError: one sentence per problem: file, key, what was expected.
        """
        task = cls(folder, load(folder / TASK_FILE, TaskSpec))
        if problems := list(task._problems()):
            raise TaskError(*problems)
        return task

    @property
    def id(self) -> str:
        """The task's name."""
        return self.spec.task.id

    def preset(self, name: str) -> Preset:
        """Return a preset.

        Raises:
            TaskError: the task has none of that name.
        """
        try:
            return self.spec.presets[name]
        except KeyError:
            there = ", ".join(self.spec.presets)
            raise TaskError(f"the task {self.id} has no preset {name!r}; it has: {there}") from None

    @cached_property
    def lock(self) -> Lock:
        """The sources of its data; empty when it needs none."""
        path = self.folder / LOCK_FILE
        return load(path, Lock) if path.exists() else Lock(schema_version=1)

    def starter(self) -> dict[str, Path]:
        """Return the files an agent starts with, by their names in the workspace: shared ones and the task's own."""
        return dict(sorted((self._shared() | _files(self.folder / self.spec.workspace.starter)).items()))

    def solution(self, kind: Literal["baseline", "reference"]) -> Solution:
        """Return a solution: its files over the starter's, and the program that has to be run first, if any.

        The baseline is what the agent starts with: ``baseline.py``, or else the starter files are the submission.
        """
        files = self.starter() | ({} if kind == "baseline" else _files(self.folder / kind))
        program = "baseline.py" if kind == "baseline" else "solve.py"
        return Solution(files, f"python {program}" if program in files else None)

    def instruction(self, preset: str, baseline: Measured | None = None) -> str:
        """Return the instruction, its ``{placeholders}`` filled in for a preset.

        Args:
            preset: which preset.
            baseline: what the baseline reaches; default: as ``task.toml`` records it.

        Raises:
            TaskError: no such preset, or a placeholder that nothing is known about.
        """
        chosen = self.preset(preset)
        metric = self.spec.primary_metric
        reached = (baseline or chosen.baseline).value(metric.name)
        known: dict[str, str] = {
            "preset": preset,
            "title": self.spec.task.title,
            "metric": f"{metric.name} ({'higher' if metric.direction == 'max' else 'lower'} is better)",
            "baseline": "not measured" if reached is None else f"{reached:.{max(2, metric.digits_validate)}f}",
            "budget": budget_text(chosen, self.spec.validate_.max_calls),
            "cpus": f"{chosen.cpus:g}",
            "memory_mb": str(chosen.memory_mb),
            "run_s": f"{chosen.run_s:g}",
            "how_to_submit": self.how_to_submit(),
        }
        known |= {f"params.{name}": str(value) for name, value in chosen.params.items()}
        path = self.folder / self.spec.instruction.file

        def fill(found: re.Match[str]) -> str:
            try:
                return known[found[1]]
            except KeyError:
                raise TaskError(
                    f"{path}: {found[0]}: is not a known placeholder, expected one of: {', '.join(sorted(known))}"
                ) from None

        return _PLACEHOLDER.sub(fill, path.read_text(encoding="utf-8")).strip() + "\n"

    def how_to_submit(self) -> str:
        """Return how to submit, in a sentence or two."""
        rules = self.spec.submission
        if rules.how:
            return rules.how
        if rules.kind == "predictions":
            return (
                f"Write /workspace/{rules.path}: a CSV with the header {','.join(rules.columns)} and one row for "
                f"each id to predict, at most {rules.max_bytes} bytes. Then call validate, and submit when done."
            )
        return (
            f"Leave {', '.join(rules.include)} in /workspace (at most {rules.max_files} files, {rules.max_bytes} "
            "bytes in all). Then call validate, and submit when done."
        )

    def summary(self) -> dict[str, Any]:
        """Return the facts of a list of tasks, as JSON values."""
        metric = self.spec.primary_metric
        facts = self.spec.task
        return {
            "id": self.id,
            "title": facts.title,
            "version": facts.version,
            "family": facts.family,
            "summary": facts.summary,
            "tags": list(facts.tags),
            "metric": metric.name,
            "direction": metric.direction,
            "submission": self.spec.submission.kind,
            "presets": {
                name: {
                    "environment": preset.environment,
                    "gpus": preset.gpus,
                    "steps": preset.steps,
                    "session_s": preset.session_s,
                    "data": preset.data.kind,
                    "baseline": preset.baseline.value(metric.name),
                    "solution": preset.solution.value(metric.name),
                }
                for name, preset in self.spec.presets.items()
            },
        }

    def _shared(self) -> dict[str, Path]:
        """The files it shares with other tasks, whether or not they are there, by their names in the workspace."""
        return {name: self.folder.parent / SHARED / name for name in self.spec.workspace.shared}

    def _problems(self) -> list[str]:
        where = self.folder / TASK_FILE
        problems = []
        if self.folder.name != self.id:
            problems.append(f"{where}: task.id: expected the name of its folder, {self.folder.name!r}, got {self.id!r}")
        named = [("instruction.file", self.spec.instruction.file)]
        named.append(("grader.entrypoint", self.spec.grader.entrypoint.partition(":")[0] + ".py"))
        for name, preset in self.spec.presets.items():
            if preset.data.kind != "none":
                module = preset.data.generator.partition(":")[0]
                named.append((f"presets.{name}.data.generator", f"{module}.py"))
        for key, name in dict.fromkeys(named):
            if not (self.folder / name).is_file():
                problems.append(f"{where}: {key}: expected a file {name} beside it, there is none")
        if not (self.folder / self.spec.workspace.starter).is_dir():
            starter = self.spec.workspace.starter
            problems.append(f"{where}: workspace.starter: expected a folder {starter} beside it, there is none")
        for name, path in self._shared().items():
            if not path.is_file():
                problems.append(f"{where}: workspace.shared: expected a file {name} in {path.parent}, there is none")
        if problems:
            return problems
        there = {source.name for source in self.lock.sources}
        for name, preset in self.spec.presets.items():
            problems += [
                f"{where}: presets.{name}.data.sources: expected names in {LOCK_FILE} "
                f"({', '.join(sorted(there)) or 'it has none'}), got {source!r}"
                for source in preset.data.sources
                if source not in there
            ]
            if not problems:
                self.instruction(name)
        return problems


def shipped_tasks() -> Path:
    """Return the folder of the tasks that came with this program: the checkout's, or the package's.

    Raises:
        TaskError: there is none.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package.parent / "tasks", package / "_tasks"):
        if any(folder.glob(f"*/{TASK_FILE}")):
            return folder
    raise TaskError(f"no tasks were found in {package / '_tasks'}: install the package again, or set MLGYM_TASKS")


def budget_text(preset: Preset, validations: int) -> str:
    """Return a preset's budget in words."""
    parts = [f"{preset.steps} tool calls", f"{preset.session_s / 60:g} minutes of wall time"]
    parts.append(f"{validations} validations")
    if preset.cpu_s is not None:
        parts.append(f"{preset.cpu_s / 60:g} minutes of CPU time")
    return ", ".join(parts)


class Catalog:
    """All tasks of some folders; a later folder does not hide a task of an earlier one.

    Raises:
        TaskError: a folder that is not there.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._loaded: dict[str, Task] = {}
        for folder in self.folders:
            if not folder.is_dir():
                raise TaskError(f"{folder}: expected a folder of tasks, there is none")

    @classmethod
    def default(cls) -> Catalog:
        """Return the tasks of ``$MLGYM_TASKS`` (folders, separated by colons), of the checkout, or of the package.

        Raises:
            TaskError: none of them is there.
        """
        if chosen := os.environ.get("MLGYM_TASKS"):
            return cls([Path(part).expanduser() for part in chosen.split(os.pathsep) if part])
        return cls([shipped_tasks()])

    def ids(self) -> tuple[str, ...]:
        """Return the names of all tasks, whether or not they can be read."""
        found = {path.parent.name for folder in self.folders for path in folder.glob(f"*/{TASK_FILE}")}
        return tuple(sorted(found))

    def get(self, task_id: str) -> Task:
        """Return a task.

        Raises:
            TaskError: there is none of that name, with the nearest one that there is; or it is badly written.
        """
        if task_id not in self._loaded:
            if task_id not in self.ids():
                near = difflib.get_close_matches(task_id, self.ids(), n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self.ids()) or 'none'}"
                raise TaskError(f"there is no task {task_id[:60]!r}; {hint}")
            folder = next(f / task_id for f in self.folders if (f / task_id / TASK_FILE).is_file())
            self._loaded[task_id] = Task.load(folder.resolve())
        return self._loaded[task_id]

    def tasks(self) -> list[Task]:
        """Return all tasks that can be read; :meth:`broken` has the others."""
        return [task for name in self.ids() if isinstance(task := self._try(name), Task)]

    def broken(self) -> dict[str, TaskError]:
        """Return why some tasks cannot be read, by name."""
        return {name: error for name in self.ids() if isinstance(error := self._try(name), TaskError)}

    def _try(self, name: str) -> Task | TaskError:
        try:
            return self.get(name)
        except TaskError as error:
            return error


def _files(folder: Path) -> dict[str, Path]:
    """All regular files below a folder, by their names relative to it."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.endswith(_IGNORED) for part in path.relative_to(folder).parts)
    }
