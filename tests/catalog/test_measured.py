"""Baselines of this installation's worlds: kept beside them, and gone with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlgym_mcp.catalog import Catalog, DataError, Task, prepare
from mlgym_mcp.catalog.measured import baseline, find_measured, keep_measured
from tests.toy import make_toy

pytestmark = pytest.mark.anyio


@pytest.fixture
def toy(tmp_path: Path, mlgym_home: Path) -> Task:
    return Catalog([make_toy(tmp_path / "tasks")]).get("toy")


def keep(task: Task) -> None:
    keep_measured(task, "mini", {"accuracy": 0.64}, {"accuracy": 0.05}, seconds=1.234, measured="2026-11-26")


async def test_before_anything_is_measured_the_recorded_baseline_counts(toy: Task) -> None:
    assert find_measured(toy, "mini") is None
    assert baseline(toy, "mini") == toy.preset("mini").baseline
    with pytest.raises(DataError, match="has no world yet"):
        keep(toy)


async def test_what_was_measured_in_this_world_counts_from_then_on(toy: Task, light_python: Path) -> None:
    await prepare(toy, "mini", python=light_python)
    keep(toy)
    here = baseline(toy, "mini")
    assert (here.value("accuracy"), here.se, here.seconds) == (0.64, 0.05, 1.23)
    assert "this installation's world" in here.measured
    assert "0.64" in toy.instruction("mini", here)
    assert "0.64" not in toy.instruction("mini")


async def test_another_world_version_or_recipe_is_not_the_one_that_was_measured(
    toy: Task, light_python: Path, mlgym_home: Path
) -> None:
    await prepare(toy, "mini", python=light_python)
    keep(toy)
    path = mlgym_home / "worlds" / "baselines" / "toy-mini.json"
    text = (toy.folder / "task.toml").read_text()
    (toy.folder / "task.toml").write_text(text.replace('version = "1.0.0"', 'version = "1.0.1"'))
    assert find_measured(Task.load(toy.folder), "mini") is None
    (toy.folder / "task.toml").write_text(text)
    assert find_measured(Task.load(toy.folder), "mini") is not None
    (toy.folder / "generator.py").write_text((toy.folder / "generator.py").read_text() + "\n# changed\n")
    assert find_measured(toy, "mini") is None
    keep(toy)
    (mlgym_home / "worlds" / "toy").unlink()
    await prepare(toy, "mini", python=light_python)
    assert find_measured(toy, "mini") is None, "another world"
    for broken in ("", "{", "[]", json.dumps({"metrics": 1})):
        path.write_text(broken)
        assert baseline(toy, "mini") == toy.preset("mini").baseline
