"""Makes a new task's folder from a template: a small task that works and can be proved at once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final, Literal, get_args

from mlgym_mcp.catalog.catalog import TASK_FILE, Task, shipped_tasks
from mlgym_mcp.catalog.errors import TaskError

TaskKind = Literal["predictions", "player", "weights"]
KINDS: Final[tuple[TaskKind, ...]] = get_args(TaskKind)
_ID: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")


def make_task(task_id: str, kind: TaskKind, folder: Path) -> Path:
    """Make ``folder/task_id`` from the template of a kind and return it.

    Raises:
        TaskError: a name that cannot be one, a folder that is there already, or an unknown kind.
        OSError: no disk.
    """
    if not _ID.fullmatch(task_id):
        raise TaskError(f"{task_id!r} cannot be a task's id: expected lower-case letters, digits and underscores")
    if kind not in KINDS:
        raise TaskError(f"{kind!r} is no kind of task: expected one of {', '.join(KINDS)}")
    made = folder / task_id
    if made.exists():
        raise TaskError(f"{made} exists already: choose another id, or another --folder")
    template = shipped_tasks() / "templates" / kind
    draft = folder / f".{task_id}.making"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(template, draft, ignore=shutil.ignore_patterns("__pycache__"))
    try:
        path = draft / TASK_FILE
        title = task_id.replace("_", " ").capitalize()
        text = path.read_text(encoding="utf-8").replace("NEW_TASK_ID", task_id).replace("NEW_TASK_TITLE", title)
        path.write_text(text, encoding="utf-8")
        draft.rename(made)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    Task.load(made)
    return made
