"""A sweep over all tasks that come with the program, by a scripted agent that hands in what it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlgym_clients.sweep.sweeping import begin_sweep
from mlgym_mcp.catalog import Catalog
from tests.sweep.conftest import Seen, around, ids, lines_of, needs_bubblewrap, sweep_of

pytestmark = [pytest.mark.anyio, pytest.mark.slow, needs_bubblewrap]
HAND_IN = [{"tool": "get_task"}, {"tool": "list_files"}, {"tool": "submit", "until_done": True}]


@pytest.mark.timeout(600)
async def test_a_scripted_agent_ends_every_mini_task_with_a_result(tmp_path: Path) -> None:
    path, seen = tmp_path / "s", Seen()
    spec = sweep_of({"given": HAND_IN}, max_sessions=2).model_copy(update={"tasks": "all"})
    summary = await begin_sweep(path, spec, around(path, "bubblewrap", seen))
    assert summary.complete, summary.given_up
    lines = lines_of(path)
    assert ids(lines) == sorted(f"{task.id}.mini.given.0" for task in Catalog.default().tasks())
    assert len(lines) >= 13
    assert {line["outcome"] for line in lines} <= {"scored", "invalid_submission", "abandoned"}
    scored = {line["task"] for line in lines if line["score"] is not None}
    assert {"prisoners_dilemma", "blotto", "battle_of_sexes", "three_sat"} <= scored, "the starter is a submission"
