"""How long grading takes, task by task, and how fast submitted programs can be asked.

    python bench/grading.py [--tasks a,b] [--preset mini] [--backend bubblewrap] [--rounds N] [--json FILE]

First: for each task the baseline is played in a sandbox exactly as an agent would, then validated and submitted: CPU
seconds of the baseline, wall seconds of both gradings. Then: a policy is asked for actions in Breakout through the
player's protocol, in a sandbox, by a real referee: round trips and environment steps per second, beside the same
policy and environment in one process. Quote ratios of one run: absolute times drift with the machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.table import Table

from mlgym_mcp.catalog import Catalog, Task
from mlgym_mcp.catalog.catalog import shipped_tasks
from mlgym_mcp.session.errors import SessionError
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.setup import pack
from mlgym_mcp.session.solutions import scored, trial_session

SLOTS = (1, 64, 512)

TASK = """\
schema_version = 1
[task]
id = "bench_player"
version = "1.0.0"
title = "Bench of the player"
family = "rl"
[[metrics]]
name = "steps"
primary = true
direction = "max"
bounds = [0.0, 1e12]
[submission]
kind = "player"
protocol = "policy/1"
entry = "policy.py"
include = ["policy.py"]
max_bytes = 65536
[grader]
timeout_s = 300
player = { cpus = 1, memory_mb = 1024, pids = 32, call_timeout_s = 30, total_timeout_s = 240, load_timeout_s = 60 }
[presets.mini]
session_s = 3600
run_s = 60
steps = 50
data = { kind = "none" }
params = { rounds = ROUNDS }
"""

POLICY = """\
import numpy as np

class Policy:
    def __init__(self):
        rng = np.random.default_rng(0)
        self.first = rng.normal(0, 0.1, (400, 64)).astype(np.float32)
        self.second = rng.normal(0, 0.1, (64, 3)).astype(np.float32)

    def act(self, obs, done):
        hidden = np.maximum(obs.reshape(len(obs), -1).astype(np.float32) @ self.first, 0)
        return (hidden @ self.second).argmax(1)

def make_policy(folder, index):
    return Policy()
"""

GRADER = """\
import time

import numpy as np
import ourpolicy
from breakout import OBSERVATION_SHAPE, Breakout

from mlgym_mcp.grading.api import Score


def timed(act, n, rounds):
    games = Breakout(n, seed=1)
    obs, done = games.reset(), np.zeros(n, bool)
    begin = time.perf_counter()
    for _ in range(rounds):
        obs, _, done = games.step(act(obs, done))
    return time.perf_counter() - begin


def grade(ctx):
    found, rounds = {}, ctx.params["rounds"]
    for n in SLOTS:
        inside = timed(ourpolicy.make_policy(None, 0).act, n, rounds)
        facts = {"obs": {"dtype": "u1", "shape": list(OBSERVATION_SHAPE)}, "act": {"dtype": "u1", "lt": 3}, "n": n}
        with ctx.player("policy.py", role="policy", **facts) as player:
            player.load(0)
            player.reset(n)
            act = lambda obs, done: np.frombuffer(player.act(obs.tobytes(), done.tobytes()), np.uint8)
            timed(act, n, 5)
            through = timed(act, n, rounds)
        found[str(n)] = {"in_process_s": inside, "player_s": through, "rounds": rounds}
    return Score({"steps": 1.0}, public={"rates": found})
""".replace("SLOTS", str(SLOTS))


def make_player_task(folder: Path, rounds: int) -> Path:
    """Write the task that times a player, and return its parent for a catalog."""
    made = folder / "bench_player"
    (made / "starter").mkdir(parents=True)
    (made / "task.toml").write_text(TASK.replace("ROUNDS", str(rounds)))
    (made / "instruction.md").write_text("# {title}\n")
    (made / "grader.py").write_text(GRADER)
    (made / "ourpolicy.py").write_text(POLICY)
    (made / "starter" / "policy.py").write_text(POLICY)
    shutil.copy(shipped_tasks() / "breakout" / "starter" / "breakout.py", made / "breakout.py")
    return folder


async def time_task(registry: SessionRegistry, task: Task, preset: str) -> dict[str, Any]:
    """Play a task's baseline and grade it twice."""
    solution = task.solution("baseline")
    async with trial_session(registry, task, preset, "bench") as session:
        sandbox = await session.sandbox()
        await sandbox.untar(pack({name: path.read_bytes() for name, path in solution.files.items()}))
        if solution.command is not None:
            status, _ = await sandbox.run(solution.command, wait_s=5, timeout_s=task.preset(preset).run_s)
            while status.state == "running":
                status = await sandbox.wait(status.id, 30)
            assert status.exit_code == 0, f"the baseline of {task.id} failed"
        cpu = (await sandbox.usage()).cpu_s
        validation = await scored(session, "validate")
        submitted = await scored(session, "submit")
    return {"baseline_cpu_s": cpu, "validate_s": validation.seconds, "submit_s": submitted.seconds}


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything that was asked for."""
    console, results = Console(), {}
    catalog = Catalog([shipped_tasks()])
    names = arguments.tasks.split(",") if arguments.tasks else catalog.ids()
    table = Table("task", "baseline CPU s", "validate s", "submit s", title=f"grading, {arguments.backend}")
    registry = SessionRegistry(catalog, sandbox=arguments.backend)
    async with registry.run():
        for name in names:
            with console.status(name):
                try:
                    found = await time_task(registry, catalog.get(name), arguments.preset)
                except (SessionError, AssertionError) as error:
                    table.add_row(name, str(error)[:60])
                    continue
            results[name] = found
            table.add_row(name, *(f"{found[key]:.1f}" for key in ("baseline_cpu_s", "validate_s", "submit_s")))
    if results:
        table.add_section()
        total = [sum(found[key] for found in results.values()) for key in ("baseline_cpu_s", "validate_s", "submit_s")]
        table.add_row("all", *(f"{value:.1f}" for value in total))
    console.print(table)

    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog([make_player_task(Path(folder), arguments.rounds)])
        registry = SessionRegistry(catalog, sandbox=arguments.backend)
        async with registry.run(), trial_session(registry, catalog.get("bench_player"), "mini", "bench") as session:
            await session.sandbox()
            score = await scored(session, "validate")
        assert score.valid, score.reason
    results["player"] = rates = score.public["rates"]
    table = Table(
        "slots", "round trips/s", "env steps/s", "in process", "share", "per round trip, more", title="player"
    )
    for slots, found in rates.items():
        n, rounds = int(slots), found["rounds"]
        through, inside = rounds / found["player_s"], rounds / found["in_process_s"]
        more = (found["player_s"] - found["in_process_s"]) / rounds * 1e6
        steps = (f"{through:,.0f}", f"{through * n:,.0f}", f"{inside * n:,.0f}", f"{through / inside:.0%}")
        table.add_row(slots, *steps, f"{more:.0f} µs")
    console.print(table)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="", help="names, separated by commas; default: all")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--backend", default="bubblewrap", choices=["bubblewrap", "docker"])
    parser.add_argument("--rounds", type=int, default=1000, help="questions to the player per number of slots")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    results = anyio.run(run, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
