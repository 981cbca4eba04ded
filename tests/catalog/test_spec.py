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
    (
        "[[metrics]]",
        '[workspace]\nshared = ["a.py", "../x"]\n[[metrics]]',
        "workspace.shared: expected names",
        "'../x'",
    ),
    ("[[metrics]]", '[workspace]\nshared = ["/x"]\n[[metrics]]', "workspace.shared: expected names of files", "'/x'"),
    (
        "[[metrics]]",
        '[workspace]\nshared = ["a.py"]\n[[metrics]]',
        "workspace.shared: expected a file a.py in ",
        "shared",
    ),
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


def test_an_agent_starts_with_shared_files_unless_the_task_has_its_own(write_toy: Callable[..., Path]) -> None:
    folder = write_toy(
        TASK.replace("[[metrics]]", '[workspace]\nshared = ["ours.py", "deep/theirs.py"]\n[[metrics]]', 1)
    )
    for name in ("shared/ours.py", "shared/deep/theirs.py", "shared/others.py", "toy/starter/ours.py"):
        path = folder.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    found = {name: path.read_text() for name, path in Task.load(folder).starter().items()}
    assert found == {"deep/theirs.py": "shared/deep/theirs.py", "ours.py": "toy/starter/ours.py"}


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


SHIPPED = sorted(path.parent.name for path in (ROOT / "tasks").glob("*/task.toml"))
THIRTEEN = {
    "battle_of_sexes",
    "blotto",
    "breakout",
    "cifar10",
    "fashion_mnist",
    "house_price",
    "image_captioning",
    "language_modeling",
    "metamaze",
    "mnli",
    "mountain_car",
    "prisoners_dilemma",
    "three_sat",
}


def test_the_thirteen_and_the_extra_are_shipped() -> None:
    assert set(SHIPPED) == THIRTEEN | {"model_soup"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_task_is_whole(real_tasks: Catalog, name: str) -> None:
    task = real_tasks.get(name)
    primary = task.spec.primary_metric
    assert {"mini", "full"} <= set(task.spec.presets)
    assert task.spec.task.licence
    assert task.spec.task.provenance
    assert primary.worst is not None
    assert primary.optimal is not None
    assert task.how_to_submit()
    assert task.summary()["metric"] == primary.name
    assert task.solution("baseline").files == task.starter(), "an agent starts with the baseline"
    assert task.solution("reference").files != task.starter()
    for preset in task.spec.presets:
        text = task.instruction(preset)
        assert "{params" not in text
        assert "/workspace" in text


@pytest.mark.parametrize("name", SHIPPED)
def test_a_mini_task_was_measured_and_better_work_scores_better(real_tasks: Catalog, name: str) -> None:
    task = real_tasks.get(name)
    metric, preset = task.spec.primary_metric, task.preset("mini")
    base, solution = preset.baseline, preset.solution
    assert None not in (base.value(metric.name), base.sd, base.se, base.seconds)
    assert None not in (solution.value(metric.name), solution.se, solution.seconds)
    assert base.measured
    assert solution.measured
    shown = f"{base.value(metric.name):.{max(2, metric.digits_validate)}f}"
    assert shown in task.instruction("mini")
    gain = (solution.value(metric.name) or 0) - (base.value(metric.name) or 0)
    gain = gain if metric.direction == "max" else -gain
    assert gain > 5 * max(base.se or 0, solution.se or 0)
    assert gain > 2 * (base.sd or 0), "from world to world, too"
    assert preset.gpus == 0
    assert preset.data.kind != "real" or name == "fashion_mnist", "mini needs no download but Debian's package"


def test_the_mini_baselines_take_less_than_five_cpu_minutes_together(real_tasks: Catalog) -> None:
    seconds = {name: real_tasks.get(name).preset("mini").baseline.seconds or 0.0 for name in SHIPPED}
    assert sum(seconds.values()) < 300, seconds


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
