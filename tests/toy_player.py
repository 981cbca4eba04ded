"""A toy task whose submission is a program: guess hidden bits, one a round, that the referee tells afterwards."""

from __future__ import annotations

from pathlib import Path

TASK = """\
schema_version = 1
[task]
id = "toy_player"
version = "1.0.0"
title = "Guess the next bit"
family = "games"
[[metrics]]
name = "payoff"
primary = true
direction = "max"
bounds = [0.0, 1.0]
worst = 0.0
optimal = 1.0
digits_validate = 3
[submission]
kind = "player"
protocol = "matches/1"
entry = "strategy.py"
include = ["strategy.py"]
max_bytes = 100000
autosubmit = false
[grader]
timeout_s = 40
player = { cpus = 1, memory_mb = 256, pids = 32, call_timeout_s = 1, total_timeout_s = 6, load_timeout_s = 4 }
[validate]
max_calls = 1000
[presets.mini]
cpus = 1
memory_mb = 256
storage_mb = 64
session_s = 3600
run_s = 10
steps = 100000
data = { kind = "generated" }
baseline = { payoff = 0.5, sd = 0.05, seconds = 1 }
"""

GENERATOR = """\
import json
def build(ctx):
    rng = ctx.rng("bits")
    bits = {split: [[rng.randrange(2) for _ in range(6)] for _ in range(8)] for split in ("val", "test")}
    (ctx.public / "README.md").write_text("8 matches of 6 rounds\\n")
    (ctx.private / "world.json").write_text(json.dumps(bits))
"""

GRADER = """\
import json
from mlgym_mcp.grading.api import GradeContext, Score

def grade(ctx: GradeContext) -> Score:
    bits = json.loads(ctx.private("world.json").read_text())[ctx.split]
    live = list(range(len(bits)))
    right = rounds = 0
    with ctx.player("strategy.py", role="matches") as player:
        player.start(len(bits))
        news = []
        for played in range(6):
            moves = player.moves(live, news, low=0, high=1)
            news = [(match, moves[match], bits[match][played]) for match in live]
            right += sum(mine == theirs for _, mine, theirs in news)
            rounds += len(news)
    return Score({"payoff": right / rounds}, se={"payoff": 0.05}, private={"secret": "known to the journal only"})
"""

ONES = "def move(history):\n    return 1\n"
"""A valid submission, which scores the share of ones."""


def make_toy_player(folder: Path, *, task: str = TASK) -> Path:
    """Write the task below ``folder`` and return ``folder``, for ``MLGYM_TASKS``."""
    toy = folder / "toy_player"
    (toy / "starter").mkdir(parents=True)
    (toy / "task.toml").write_text(task)
    (toy / "instruction.md").write_text("# {title}\nGuess, in preset {preset}. Baseline {baseline}.\n")
    (toy / "generator.py").write_text(GENERATOR)
    (toy / "grader.py").write_text(GRADER)
    (toy / "starter" / "strategy.py").write_text(ONES)
    return folder
