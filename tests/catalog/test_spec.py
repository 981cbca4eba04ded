"""A badly written task is explained: file, key, what was expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_mcp.catalog import Catalog, Task, TaskError
from mlgym_mcp.catalog.spec import glob_covers
from tests.catalog.conftest import ROOT, TASK

CASES = [
    ('family = "tabular"', 'family = "tabuler"', "task.family: expected", "'tabuler'"),
    ('title = "Toy"', "", "task.title: is missing", "required"),
    ("steps = 40", "stepz = 40", "presets.mini.stepz: is not a known key", "did you mean 'steps'?"),
    ("steps = 40", "steps = 40\ncolour = 1", "presets.mini.colour: is not a known key", "expected one of"),
    ("steps = 40", 'steps = "many"', "presets.mini.steps: expected a valid integer", "'many'"),
    ("steps = 40", "steps = 0", "presets.mini.steps: expected greater than or equal to 1", "got 0"),
    ('direction = "max"', 'direction = "up"', "metrics[0].direction: expected 'max' or 'min'", "'up'"),
    ("bounds = [0.0, 1.0]", "bounds = [1.0, 0.0]", "metrics[0].bounds: expected [lowest, highest]", "[1, 0]"),
    ("primary = true", "primary = false", "metrics: expected exactly one metric with primary = true", "got 0"),
    ("accuracy = 0.5", "acuracy = 0.5", "presets.mini.baseline.acuracy: is no metric of the task", "(accuracy)"),
    ("accuracy = 0.5", "accuracy = nan", "presets.mini.baseline.accuracy: expected a finite number", "nan"),
    ('include = ["submission.csv"]', 'include = ["../x"]', "submission.include: expected globs", "'../x'"),
    ('include = ["submission.csv"]', 'include = ["*.txt"]', "submission.include: expected globs that cover", ""),
    ('path = "submission.csv"', "", "submission.path: is missing", "predictions file"),
    ('kind = "predictions"', 'kind = "player"', "submission.entry: expected the name of a .py file", "None"),
    ('kind = "predictions"', 'kind = "player"\nentry = "submission.csv"', "submission.entry: expected", ".py"),
    ('version = "1.0.0"', 'version = "1"', "task.version: expected a text that should match", "'1'"),
    ('kind = "generated"', 'kind = "real"', "presets.mini.data.sources: is missing", "data.lock.toml"),
    ('kind = "generated"', 'kind = "real", sources = ["x"]', "presets.mini.data.sources: expected names in", "'x'"),
    ('id = "toy"', 'id = "other"', "task.id: expected the name of its folder, 'toy'", "'other'"),
    ("schema_version = 1", "schema_version = 2", "schema_version: expected 1", "got 2"),
    ("[[metrics]]", '[instruction]\nfile = "no.md"\n[[metrics]]', "instruction.file: expected a file no.md", ""),
    ("[[metrics]]", '[grader]\nentrypoint = "os.system"\n[[metrics]]', "grader.entrypoint: expected", "os.system"),
    ("[[metrics]]", '[network]\nagent = "public"\n[[metrics]]', "network.agent: expected 'no-network'", "public"),
    ("[[metrics]]", "[[metrics", "is not valid TOML", ""),
]


@pytest.mark.parametrize(("old", "new", "where", "found"), CASES, ids=lambda value: str(value)[:40])
def test_an_error_names_file_key_and_expectation(
    write_toy: Callable[..., Path], old: str, new: str, where: str, found: str
) -> None:
    assert old in TASK
    folder = write_toy(TASK.replace(old, new, 1))
    with pytest.raises(TaskError) as caught:
        Task.load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'task.toml'}: ")
    assert where in message
    assert found in message
    assert "pydantic" not in message


def test_all_problems_of_a_file_are_told_at_once(write_toy: Callable[..., Path]) -> None:
    folder = write_toy(TASK.replace("steps = 40", "steps = 0").replace('title = "Toy"', ""))
    with pytest.raises(TaskError) as caught:
        Task.load(folder)
    assert len(caught.value.problems) == 2


def test_an_unknown_placeholder_of_the_instruction_is_refused(write_toy: Callable[..., Path]) -> None:
    folder = write_toy()
    (folder / "instruction.md").write_text("{params.columns}")
    with pytest.raises(TaskError, match=r"instruction.md: \{params.columns\}: is not a known placeholder"):
        Task.load(folder)


def test_an_unknown_task_or_preset_is_answered_with_what_there_is(toy: Task) -> None:
    catalog = Catalog([toy.folder.parent])
    with pytest.raises(TaskError, match="there is no task 'tou'; did you mean 'toy'"):
        catalog.get("tou")
    with pytest.raises(TaskError, match="there are: toy"):
        catalog.get("../../etc")
    with pytest.raises(TaskError, match="has no preset 'huge'; it has: mini"):
        catalog.get("toy").preset("huge")


def test_a_broken_task_does_not_hide_the_others(write_toy: Callable[..., Path]) -> None:
    folder = write_toy()
    (folder.parent / "bad").mkdir()
    (folder.parent / "bad" / "task.toml").write_text("x = 1")
    catalog = Catalog([folder.parent])
    assert catalog.ids() == ("bad", "toy")
    assert [task.id for task in catalog.tasks()] == ["toy"]
    assert set(catalog.broken()) == {"bad"}


def test_the_default_catalog_is_the_environments_or_the_checkouts(
    toy: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLGYM_TASKS", raising=False)
    assert Catalog.default().folders == (ROOT / "tasks",)
    monkeypatch.setenv("MLGYM_TASKS", f"{toy.folder.parent}")
    assert Catalog.default().ids() == ("toy",)
    monkeypatch.setenv("MLGYM_TASKS", str(tmp_path / "none"))
    with pytest.raises(TaskError, match="expected a folder of tasks"):
        Catalog.default()


@pytest.mark.parametrize("name", ["fashion_mnist", "house_price", "prisoners_dilemma"])
def test_a_shipped_task_is_whole(real_tasks: Catalog, name: str) -> None:
    task = real_tasks.get(name)
    primary = task.spec.primary_metric.name
    start = {"solve.py": "baseline.py"}
    for preset_name, preset in task.spec.presets.items():
        text = task.instruction(preset_name)
        assert "{params" not in text
        assert "/workspace" in text
        assert f"{preset.baseline.value(primary):.3f}" in text
        assert preset.baseline.sd is not None
        assert preset.baseline.se is not None
        gap = abs((preset.solution.value(primary) or 0) - (preset.baseline.value(primary) or 0))
        noise = max(preset.baseline.se, preset.solution.se or 0, preset.baseline.sd)
        assert gap > 5 * noise or preset_name == "full", "the reference must be clearly better"
    assert task.how_to_submit()
    assert task.summary()["metric"] == primary
    for file, path in task.solution("baseline").files.items():
        assert task.starter()[start.get(file, file)].read_bytes() == path.read_bytes(), "an agent starts with it"


@pytest.mark.parametrize(
    ("pattern", "name", "covers"),
    [
        ("a.csv", "a.csv", True),
        ("*.csv", "b.csv", True),
        ("*.csv", "d/b.csv", False),
        ("d/**", "d/e/f", True),
        ("**/f.py", "f.py", True),
        ("a.csv", "aXcsv", False),
    ],
)
def test_globs_cover_as_in_a_shell(pattern: str, name: str, covers: bool) -> None:
    assert glob_covers(pattern, name) is covers


@given(st.text(max_size=20), st.text(max_size=20))
def test_globs_never_fail(pattern: str, name: str) -> None:
    glob_covers(pattern, name)
