"""The benchmark of sweeps runs, and makes all its calls."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "sweep.py"


def test_a_small_sweep_is_measured_without_an_error(own_home: Path, tmp_path: Path, backend: str) -> None:
    if backend == "process":
        return  # the benchmark has no --unsafe
    sizes = ["--attempts", "4", "--at-once", "4", "--calls", "5", "--floor-calls", "8"]
    command = [sys.executable, str(BENCH), "--task", "toy", *sizes, "--json", str(tmp_path / "figures")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures").read_text())["figures"]
    assert (figures["attempts"], figures["calls"], figures["errors"]) == (4, 20, [])
    assert figures["floor_ms_per_call"] > 0
