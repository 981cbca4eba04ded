"""A toy task that prepares in no time: real files, real generator, real grader, for tests of everything around."""

from __future__ import annotations

from pathlib import Path

TASK = """\
schema_version = 1
[task]
id = "toy"
version = "1.0.0"
title = "Odd or even"
family = "tabular"
[[metrics]]
name = "accuracy"
primary = true
direction = "max"
bounds = [0.0, 1.0]
worst = 0.0
optimal = 1.0
digits_validate = 2
[submission]
kind = "predictions"
include = ["submission.csv"]
path = "submission.csv"
columns = ["id", "label"]
max_bytes = 100000
[grader]
timeout_s = 60
[validate]
max_calls = 3
[presets.mini]
cpus = 1
memory_mb = 512
storage_mb = 64
session_s = 600
run_s = 10
steps = 40
data = { kind = "generated" }
baseline = { accuracy = 0.5, sd = 0.05, seconds = 1 }
"""

GENERATOR = """\
import json
def build(ctx):
    rng = ctx.rng("labels")
    labels = {split: [rng.randrange(2) for _ in range(20)] for split in ("val", "test")}
    (ctx.public / "README.md").write_text("ids 0-19 are for validation, 20-39 for the test\\n")
    (ctx.private / "labels.json").write_text(json.dumps(labels))
"""

GRADER = """\
import json
from mlgym_mcp.grading.api import GradeContext, Score

def grade(ctx: GradeContext) -> Score:
    labels = json.loads(ctx.private("labels.json").read_text())
    given = ctx.predictions("submission.csv", header=("id", "label"), ids=range(40), kind="class", classes=2)
    truth = labels["val"] + labels["test"]
    part = range(20) if ctx.split == "val" else range(20, 40)
    right = sum(given[i] == truth[i] for i in part)
    return Score(metrics={"accuracy": right / 20}, se={"accuracy": 0.1}, public={"rows": 20})
"""

CSV = "id,label\n" + "".join(f"{i},{i % 2}\n" for i in range(40))
"""A valid submission."""


def make_toy(folder: Path, *, task: str = TASK, grader: str = GRADER) -> Path:
    """Write the toy task below ``folder`` and return ``folder``, for ``MLGYM_TASKS``."""
    toy = folder / "toy"
    (toy / "starter").mkdir(parents=True)
    (toy / "task.toml").write_text(task)
    (toy / "instruction.md").write_text("# {title}\nGuess, in preset {preset}. Baseline {baseline}.\n")
    (toy / "generator.py").write_text(GENERATOR)
    (toy / "grader.py").write_text(grader)
    (toy / "starter" / "start.py").write_text('print("hello from the starter")\n')
    return folder
