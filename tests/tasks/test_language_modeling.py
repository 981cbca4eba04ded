"""Language modelling: no window of hidden text tells the player what it is asked for in another one."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlgym_mcp.catalog import Task
from tests.catalog.conftest import ROOT, light_python  # noqa: F401 - a fixture

FOLDER = ROOT / "tasks" / "language_modeling"
SHARD, PAPER = 100_000_000, 10_485_760
PLACES = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import generator
length, span, count = json.loads(sys.argv[2])
print(json.dumps([generator.places(length, span, count, seed).tolist() for seed in (1, 2)]))
"""


def lengths(params: dict[str, Any], preset: str) -> dict[str, int]:
    """How much text each split has."""
    if preset == "full":
        return dict.fromkeys(("val", "test"), (SHARD - PAPER) // 2)
    return {split: int(params[f"{split}_bytes"]) for split in ("val", "test")}


@pytest.mark.parametrize("preset", ["mini", "full"])
def test_windows_lie_more_than_a_window_apart_in_random_order(
    preset: str,
    light_python: Path,  # noqa: F811
) -> None:
    params = Task.load(FOLDER).preset(preset).params
    span = int(params["context"]) + 1
    for split, length in lengths(params, preset).items():
        count = int(params[f"{split}_windows"])
        numbers, folders = json.dumps([length, span, count]), json.dumps([str(ROOT), str(FOLDER)])
        command = [str(light_python), "-B", "-c", PLACES, folders, numbers]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        first, second = json.loads(done.stdout)
        assert first != second
        for starts in (first, second):
            inorder = sorted(starts)
            assert len(starts) == count
            assert starts != inorder
            assert inorder[0] >= 0
            assert inorder[-1] + span <= length
            gaps = [later - (earlier + span) for earlier, later in itertools.pairwise(inorder)]
            assert min(gaps) > span


def test_hostile_players_meet_enough_batches() -> None:
    for preset in ("mini", "full"):
        params = Task.load(FOLDER).preset(preset).params
        assert int(params["val_windows"]) // int(params["batch"]) >= 6
