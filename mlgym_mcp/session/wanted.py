"""What was asked for when a session was made."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlgym_mcp import __version__
from mlgym_mcp.catalog import Task
from mlgym_mcp.session.budget import Budget
from mlgym_mcp.session.ended import digest_of
from mlgym_mcp.session.errors import MisuseError

if TYPE_CHECKING:
    from mlgym_mcp.session.forking import Parent
    from mlgym_mcp.session.session import Session


@dataclass(frozen=True, slots=True)
class Wanted:
    """A session that somebody asks for; see ``SessionRegistry.create``."""

    task: str
    preset: str
    seed: int
    budget: Mapping[str, Any]
    sandbox: str | None
    unsafe: bool
    metadata: Mapping[str, Any]
    key: str | None
    engine: Mapping[str, str] | None
    parent: Parent | None

    def first_event(self, session: Session) -> dict[str, Any]:
        """Return the fields of the event with which its journal begins."""
        config = session.config
        fields: dict[str, Any] = {
            "task": session.task.id,
            "task_version": session.task.spec.task.version,
            "preset": config.preset,
            "seed": config.seed,
            "budget": asdict(config.budget),
            "sandbox": session.backend.name,
            "server": __version__,
            "host": {"pid": os.getpid(), "node": platform.node(), "python": platform.python_version()},
            "metadata": config.metadata,
            "digests": {"session": digest_of(session.id), "token": digest_of(session.token)},
        }
        if self.parent is not None:
            fields["parent"] = {"episode": self.parent.folder.name, "snapshot": self.parent.snapshot}
        return fields


def budget_of(task: Task, preset: str, given: Mapping[str, Any]) -> Budget:
    """Return a preset's budget with what was given in place of its own.

    Raises:
        TaskError: the task has no such preset.
        MisuseError: a limit that is unknown or makes no sense.
    """
    chosen = task.preset(preset)
    own = Budget(
        wall_s=chosen.session_s,
        calls=chosen.steps,
        validations=task.spec.validate_.max_calls,
        cpu_s=chosen.cpu_s,
        disk_mb=chosen.storage_mb,
    )
    try:
        budget = own.override(**given)
    except TypeError as exc:
        raise MisuseError('The budget must be an object of limits, for example {"calls": 30}.') from exc
    if budget.disk_mb is not None and budget.disk_mb > chosen.storage_mb:
        raise MisuseError(f"The budget's disk_mb must be at most the preset's {chosen.storage_mb} MiB.")
    return budget
