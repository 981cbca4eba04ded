"""The soup: the referee mixes as the starter does, one world's figures, weights that are not numbers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from mlgym_mcp.catalog import prepare
from mlgym_mcp.catalog.own_submissions import gold, own_submission
from tests.catalog.conftest import ROOT, light_python, mlgym_home  # noqa: F401 - fixtures
from tests.catalog.test_tasks import copy_task, graded

pytestmark = pytest.mark.anyio

FOLDER = ROOT / "tasks" / "model_soup"
SMALL = {"width1 = 128, width2 = 64, first_steps = 400, tune_steps = 900":
         "width1 = 32, width2 = 32, first_steps = 150, tune_steps = 150", "draws = 5": "draws = 1"}  # fmt: skip

MEASURE = """
import json, sys
import numpy as np, soup
models, pictures = soup.load_models(), soup.load_pictures()
weights = json.load(open("weights.json"))
print(soup.accuracies(soup.mix(models, weights), pictures).mean())
sys.path.insert(0, sys.argv[1])
import network
stacked = [[models[name][i] for name in network.NAMES] for i in range(len(weights))]
values = network.scores(network.soup(stacked, np.array(weights)), pictures[0])
print((values.argmax(1) == pictures[1]).mean())
"""


async def test_a_soup_is_mixed_and_measured_by_the_referee(
    light_python: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    task = copy_task("model_soup", tmp_path / "tasks", SMALL)
    made = await prepare(task, "mini", python=light_python)
    assert sorted(made.public_files()) == ["README.txt", "models.npz", "public.npz"]
    assert await gold(task, made, light_python) is None
    plain = await own_submission("plain", task, made, light_python)
    assert plain is not None

    workspace = tmp_path / "workspace"
    workspace.mkdir()
    environment = {"DATA_DIR": str(made.public), "PATH": os.defpath}
    for part in ("starter", "reference"):
        for path in (FOLDER / part).glob("*.py"):
            (workspace / path.name).write_bytes(path.read_bytes())
    found = {}
    for name in ("baseline.py", "solve.py"):
        subprocess.run([light_python, name], cwd=workspace, env=environment, check=True, capture_output=True)
        files = {"weights.json": (workspace / "weights.json").read_bytes()}
        found[name] = await graded(task, made, files, light_python, tmp_path)
        assert found[name].reason is None
        command = [light_python, "-c", MEASURE, str(FOLDER)]
        said = subprocess.run(command, cwd=workspace, env=environment, check=True, capture_output=True, text=True)
        starter, referee = map(float, said.stdout.split())
        assert starter == pytest.approx(referee, abs=0.002), "both mix the same soup"
        assert starter == pytest.approx(found[name].metrics["macro_accuracy"], abs=0.1)
    accuracy = {name: result.metrics["macro_accuracy"] for name, result in found.items()}
    assert accuracy["baseline.py"] + 0.03 < accuracy["solve.py"] < 1
    assert len(found["solve.py"].private["accuracy_by_category"]) == 8

    val = await graded(task, made, plain, light_python, tmp_path, "val")
    test = await graded(task, made, plain, light_python, tmp_path)
    assert val.metrics != test.metrics
    assert 0 < test.se["macro_accuracy"] < val.se["macro_accuracy"] < 0.05


@pytest.mark.parametrize("weight", [10.0, -10.0, 0.0])
async def test_absurd_weights_get_a_score_and_no_more(
    light_python: Path,  # noqa: F811
    tmp_path: Path,
    weight: float,
) -> None:
    task = copy_task("model_soup", tmp_path / "tasks", SMALL)
    made = await prepare(task, "mini", python=light_python)
    files = {"weights.json": json.dumps([[weight] * 3] * 12).encode()}
    result = await graded(task, made, files, light_python, tmp_path)
    assert 0 <= result.metrics["macro_accuracy"] < 0.6
