"""Baselines measured in this installation's secret worlds, kept beside them.

A ``task.toml`` records what a baseline reaches in the worlds of those who made the task. Where an installation has
played it in its own world, that counts: it is what an agent here has to beat.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mlgym_mcp.catalog.catalog import Task
from mlgym_mcp.catalog.errors import DataError
from mlgym_mcp.catalog.prepared import Places, private_home
from mlgym_mcp.catalog.spec import Measured
from mlgym_mcp.catalog.worlds import find_world
from mlgym_sandbox.home import home


@dataclass(frozen=True, slots=True)
class WorldBaseline:
    """What the baseline reached on the hidden test split of one world.

    Attributes:
        version: the task's, when it was measured.
        recipe: digest of the data's recipe, the world included.
        metrics: by name, full precision.
        se: standard errors.
        seconds: CPU seconds of the run.
        measured: when, an ISO date.
    """

    version: str
    recipe: str
    metrics: Mapping[str, float]
    se: Mapping[str, float]
    seconds: float
    measured: str


def baseline(task: Task, preset: str) -> Measured:
    """Return what the baseline reaches here: as measured in this world, else as ``task.toml`` records it.

    Raises:
        TaskError: no such preset.
    """
    recorded = task.preset(preset).baseline
    here = find_measured(task, preset)
    if here is None:
        return recorded
    error = here.se.get(task.spec.primary_metric.name)
    return Measured(
        metrics=dict(here.metrics),
        sd=recorded.sd,
        se=error,
        seconds=here.seconds,
        measured=f"{here.measured}, in this installation's world",
    )


def find_measured(task: Task, preset: str) -> WorldBaseline | None:
    """Return the measurement of this world, task version and recipe, or ``None`` if there is none (any more)."""
    try:
        recipe = _recipe(task, preset)
        if recipe is None:
            return None
        raw = json.loads(_path(task, preset).read_bytes())
        found = WorldBaseline(**raw)
    except (OSError, ValueError, TypeError, DataError):
        return None
    return found if (found.version, found.recipe) == (task.spec.task.version, recipe) else None


def keep_measured(
    task: Task,
    preset: str,
    metrics: Mapping[str, float],
    se: Mapping[str, float],
    *,
    seconds: float,
    measured: str,
) -> WorldBaseline:
    """Record a measurement of this world; replaces an earlier one, whole or not at all.

    Raises:
        DataError: the task has no world yet.
        OSError: no disk.
    """
    recipe = _recipe(task, preset)
    if recipe is None:
        raise DataError(f"{task.id} has no world yet; prepare its data first")
    kept = WorldBaseline(task.spec.task.version, recipe, dict(metrics), dict(se), round(seconds, 2), measured)
    private_home("worlds", "baselines")
    path = _path(task, preset)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(asdict(kept), file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return kept


def _recipe(task: Task, preset: str) -> str | None:
    secret = find_world(task.id)
    return None if secret is None else Places.of(task, preset, secret).recipe


def _path(task: Task, preset: str) -> Path:
    return home("worlds", "baselines") / f"{task.id}-{preset}.json"
