"""``mlgym-mcp tasks``: make one, prove it, measure its baseline, as the person does who writes tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_commands import run
from tests.serving.conftest import light, own_home

__all__ = ["light", "own_home"]  # fixtures

pytestmark = pytest.mark.usefixtures("own_home")


def test_a_new_task_is_made_proved_measured_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my_tasks"
    folder.mkdir()
    said = run("tasks", "new", "my_task", "--kind", "weights", "--folder", str(folder))
    assert "mlgym-mcp tasks check my_task" in said
    assert "exists already" in run("tasks", "new", "my_task", "--folder", str(folder), status=1)
    monkeypatch.setenv("MLGYM_TASKS", str(folder))
    assert "Prepared my_task/mini: train.csv" in run("tasks", "prepare", "my_task")
    recorded = json.loads(run("tasks", "list", "--json"))[0]["presets"]["mini"]["baseline"]
    said = run("tasks", "measure", "my_task", "--sandbox", "bubblewrap")
    assert "Baseline of my_task/mini in this world: r2 " in said
    assert f"recorded: {recorded:.4g}" in said
    measured = said.split(": r2 ")[1].split()[0]
    shown = " ".join(run("tasks", "show", "my_task").split())
    assert "in this installation's world" in shown
    again = float(shown.split("Baseline**: ")[1].split()[0].rstrip(".,;"))
    assert again == pytest.approx(float(measured), abs=0.001), "both are rounded, each in its own way"
    assert run("tasks", "prepare", "my_task", "--measure").strip() == "The data of my_task/mini is ready.", "not twice"

    found = json.loads(run("tasks", "check", "my_task", "--json", "--sandbox", "bubblewrap"))["my_task"]
    assert all(finding["ok"] for finding in found)
    names = {finding["what"] for finding in found}
    assert {"baseline scores as recorded", "reference is clearly better", "no hidden byte is visible"} <= names


def test_all_tasks_are_proved_and_one_that_does_not_hold_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my_tasks"
    folder.mkdir()
    for name in ("good", "bad"):
        run("tasks", "new", name, "--kind", "weights", "--folder", str(folder))
    grader = folder / "bad" / "grader.py"
    strict = 'ctx.weights("weights.json", shape=(len(truth),), low=-100.0, high=100.0)'
    assert strict in grader.read_text()
    lenient = 'eval((ctx.submission / "weights.json").read_text(), {"null": 0, "true": 1, "NaN": 0})'
    grader.write_text(grader.read_text().replace(strict, lenient))
    monkeypatch.setenv("MLGYM_TASKS", str(folder))
    common = ("tasks", "check", "--all", "--jobs", "2", "--no-reference", "--sandbox", "bubblewrap")
    said = run(*common, "--markdown", status=1)
    assert "good/mini: proved in" in said
    assert "bad: hostile: true" in said
    assert "good: hostile" not in said


def test_a_task_that_cannot_be_read_fails_the_proof_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "task.toml").write_text("schema_version = 1\n")
    monkeypatch.setenv("MLGYM_TASKS", str(tmp_path))
    assert "broken/task.toml" in run("tasks", "check", "--all", "--json", status=1)
