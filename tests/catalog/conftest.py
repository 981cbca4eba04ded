"""A toy task that prepares with the standard library alone, the real tasks, and a Python that has numpy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from mlgym_mcp.catalog import Catalog, Task
from mlgym_sandbox import environment

ROOT = Path(__file__).resolve().parents[2]

TASK = """\
schema_version = 1
[task]
id = "toy"
version = "1.0.0"
title = "Toy"
family = "tabular"
[[metrics]]
name = "accuracy"
primary = true
direction = "max"
bounds = [0.0, 1.0]
[submission]
kind = "predictions"
include = ["submission.csv"]
path = "submission.csv"
columns = ["id", "label"]
max_bytes = 1000
[presets.mini]
session_s = 600
run_s = 10
steps = 40
params = { rows = 50 }
data = { kind = "generated" }
baseline = { accuracy = 0.5, sd = 0.05, seconds = 1 }
"""

GENERATOR = """\
def build(ctx):
    rng = ctx.rng("labels")
    labels = [rng.randrange(2) for _ in range(ctx.params["rows"])]
    (ctx.public / "deep").mkdir()
    (ctx.public / "deep" / "data.txt").write_text(f"{ctx.preset} {rng.random()}\\n")
    (ctx.private / "labels.txt").write_text(" ".join(map(str, labels)))
    ctx.progress(0.5, "half")
"""


@pytest.fixture(scope="session")
def light_python() -> Path:
    """The light environment's Python: the user's own if there is one, else prepared there now."""
    return (environment.find("light") or anyio.run(environment.prepare, "light")).python


@pytest.fixture(autouse=True)
def mlgym_home(light_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("MLGYM_HOME", str(folder))
    return folder


@pytest.fixture
def write_toy(tmp_path: Path) -> Callable[..., Path]:
    """Writes the toy task; returns its folder."""

    def write(task: str = TASK, generator: str = GENERATOR, lock: str | None = None) -> Path:
        folder = tmp_path / "tasks" / "toy"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "starter").mkdir(parents=True)
        (folder / "task.toml").write_text(task)
        (folder / "instruction.md").write_text("# {title}\n{metric}; {params.rows} rows; {budget}\n")
        (folder / "grader.py").write_text("")
        (folder / "generator.py").write_text(generator)
        if lock is not None:
            (folder / "data.lock.toml").write_text(lock)
        return folder

    return write


@pytest.fixture
def toy(write_toy: Callable[..., Path]) -> Task:
    return Task.load(write_toy())


@pytest.fixture
def real_tasks() -> Catalog:
    return Catalog([ROOT / "tasks"])
