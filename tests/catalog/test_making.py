"""New tasks from templates: whole, readable, and never over something that is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlgym_mcp.catalog import Catalog, TaskError
from mlgym_mcp.catalog.making import KINDS, make_task


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_task_is_in_the_catalog_at_once(tmp_path: Path, kind: str) -> None:
    made = make_task("my_task", kind, tmp_path)  # type: ignore[arg-type]
    task = Catalog([tmp_path]).get("my_task")
    assert task.folder == made.resolve()
    assert task.spec.submission.kind == kind
    assert task.spec.task.title == "My task"
    assert task.solution("baseline").files
    assert task.solution("reference").files != task.solution("baseline").files
    assert not [path for path in made.rglob("*") if path.is_file() and "NEW_TASK" in path.read_text()]
    assert [path.name for path in tmp_path.iterdir()] == ["my_task"]


@pytest.mark.parametrize("name", ["My", "1st", "a-b", "a/b", "..", "", "a" * 49])
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TaskError, match="cannot be a task's id"):
        make_task(name, "player", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(TaskError, match="exists already"):
        make_task("mine", "weights", tmp_path)
    assert not list((tmp_path / "mine").iterdir())


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="expected one of predictions, player, weights"):
        make_task("mine", "pickle", tmp_path)  # type: ignore[arg-type]
