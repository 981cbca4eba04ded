"""How long it takes to read episodes into the index, to look again, and to report a sweep.

    python bench/records.py [--episodes N] [--attempts N] [--events N]

Writes made-up episodes (real journals, of about ``--events`` events each) into a temporary folder, then measures in
this process: the first reading, a second look when nothing changed, a look when one in a hundred grew; and, in new
processes as a person would, ``mlgym-mcp report`` of a sweep as tables, as a page, and as a page, tables and pictures.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlgym_mcp.records.index import EpisodeIndex
from mlgym_mcp.session.journal import Journal

TASKS = ("house_price", "three_sat", "cifar10", "blotto", "mnli", "metamaze", "model_soup", "breakout")
AGENTS = ("one", "two", "three", "four", "five")


def write_episode(root: Path, number: int, events: int, random: random.Random) -> Path:
    """Write a made-up episode."""
    task, agent = TASKS[number % len(TASKS)], AGENTS[number // len(TASKS) % len(AGENTS)]
    folder = root / f"20260101-000000-{task}-{number:08x}"
    folder.mkdir(parents=True)
    journal = Journal(folder)
    about: dict[str, Any] = {"agent": agent, "sweep": "bench", "attempt": number}
    seed = number // (len(TASKS) * len(AGENTS))
    journal.append("session", task=task, preset="mini", seed=seed, sandbox="docker", budget={}, metadata=about)
    scores = max(1, events // 12)
    score: dict[str, Any] = {}
    for i in range(events // 2):
        call = journal.append("call", tool="shell", arguments={"command": "python train.py --rate 0.1"}, counted=True)
        journal.append("result", call=call.seq, seconds=0.5, text="epoch 1: loss 0.5\n" * random.randint(1, 40))
        if i % 6 == 0 or i >= events // 2 - 1:
            value = 0.5 + 0.3 * i / events + random.gauss(0, 0.05)
            last = i >= events // 2 - 1
            score = {
                "kind": "submit" if last else "validate",
                "valid": True,
                "primary": "accuracy",
                "higher_is_better": True,
                "baseline": 0.5,
                "metrics": {"accuracy": value},
                "se": {"accuracy": 0.01},
                "private": {"log": "x" * 500},
            }
            journal.append("score", **score)
    journal.append("end", outcome="scored", reason="submitted", score=score, spent={"cpu_s": 1.0 * scores})
    journal.close()
    return folder


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the wall and CPU seconds of some work, its child processes among them."""
    wall, before = time.perf_counter(), os.times()
    work()
    after = os.times()
    cpu = sum(getattr(after, n) - getattr(before, n) for n in ("user", "system", "children_user", "children_system"))
    return time.perf_counter() - wall, cpu


def main() -> None:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--attempts", type=int, default=1_000)
    parser.add_argument("--events", type=int, default=60)
    arguments = parser.parse_args()
    rows: list[tuple[str, float, float, str]] = []
    with tempfile.TemporaryDirectory(prefix="mlgym-bench-") as name:
        top = Path(name)
        source = random.Random(0)
        folders = [write_episode(top / "many", i, arguments.events, source) for i in range(arguments.episodes)]
        size = sum((folder / "events.jsonl").stat().st_size for folder in folders) / 1e6
        with EpisodeIndex(top / "index.sqlite") as index:

            def look() -> None:
                index.attempts(index.refresh([top / "many"])[0])

            rows.append((f"first reading of {arguments.episodes} episodes ({size:.0f} MB)", *timed(look), "30 s"))
            rows.append(("nothing changed", *timed(look), ""))
            for folder in folders[::100]:
                journal = Journal(folder)
                journal.append("note", text="more")
                journal.close()
            rows.append(("one in a hundred grew", *timed(look), ""))
        sweep = top / "sweep"
        for i in range(arguments.attempts):
            write_episode(sweep, i, arguments.events, source)
        environment = {**os.environ, "MLGYM_HOME": str(top / "home")}
        for words, options in (
            ("as tables, first time", []),
            ("as tables", []),
            ("as a page", ["--html", str(top / "report.html")]),
            ("as a page, CSV and pictures", ["--html", str(top / "r.html"), "--csv", name, "--plots", name]),
        ):
            command = [sys.executable, "-m", "mlgym_mcp.cli.entry", "report", str(sweep), *options]

            def report(command: list[str] = command) -> None:
                subprocess.run(command, check=True, capture_output=True, env=environment)

            rows.append((f"report of {arguments.attempts} attempts {words}", *timed(report), "10 s"))
    table = Table("what", "wall", "CPU", "budget")
    for what, wall, cpu, budget in rows:
        table.add_row(what, f"{wall:.2f} s", f"{cpu:.2f} s", budget)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
