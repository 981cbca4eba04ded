"""A sweep over several Ray nodes on this machine, one of which is killed in mid-sweep, and then the driver."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sweep.conftest import busy, eval_process, ids, lines_of, sweep_of, toml_of, until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap"),
]
ROOT = Path(__file__).parents[2]


@contextmanager
def cluster(log: Path, nodes: int) -> Iterator[subprocess.Popen[str]]:
    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: sockets below it have long names
    environment = {**os.environ, "RAY_TMPDIR": place, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.sweep.ray_nodes", str(nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env=environment,
        )
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(60)
            finally:
                process.kill()
                assert process.stdout is not None
                process.stdout.close()
                shutil.rmtree(place, ignore_errors=True)


def states(path: Path) -> list[str]:
    with sqlite3.connect(path / "ledger.sqlite") as base:
        return [state for (state,) in base.execute("SELECT state FROM try")]


async def test_with_a_node_killed_and_then_the_driver_every_attempt_ends_exactly_once(
    own_home: Path, tmp_path: Path
) -> None:
    path, log, file = tmp_path / "s", tmp_path / "log", tmp_path / "sweep.toml"
    scripts = {f"busy{i}": busy(1 + 0.6 * i) for i in range(5)}  # never do all of a node's end at the same time
    file.write_text(toml_of(sweep_of(scripts, seeds=2, sandbox="bubblewrap")))
    with cluster(tmp_path / "cluster", 2) as nodes:
        assert nodes.stdout is not None
        assert nodes.stdin is not None
        address = nodes.stdout.readline().strip()
        assert address.startswith("127.0.0.1:"), (tmp_path / "cluster").read_text()
        options = ["--engine", "ray", "--ray-address", address]

        with eval_process(str(file), "--out", str(path), *options, log=log) as driver:
            await until(lambda: lines_of(path) or driver.poll() is not None, 90)
            assert driver.poll() is None, log.read_text()
            nodes.stdin.write("kill\n")
            nodes.stdin.flush()
            assert nodes.stdout.readline() == "done\n"
            await until(lambda: "lost" in states(path) or driver.poll() is not None, 90)
            driver.kill()
            driver.wait()
        done = lines_of(path)
        assert len(done) < 10, log.read_text()

        with eval_process("--resume", str(path), *options, log=log) as driver:
            await until(lambda: driver.poll() is not None, 90)
            assert driver.returncode == 0, log.read_text()

    lines = lines_of(path)
    assert lines[: len(done)] == done
    wanted = sorted(f"toy.mini.{agent}.{seed}" for agent in scripts for seed in range(2))
    assert ids(lines) == wanted, "every attempt, exactly once"
    assert {line["outcome"] for line in lines} == {"scored"}
    assert states(path).count("committed") == 10
    journals = {journal.parent.name for journal in (path / "episodes").glob("*/events.jsonl")}
    assert journals == {line["episode"] for line in lines}, "the nodes' journals came along"
    assert json.loads((path / "manifest.json").read_text())["engine"] == "ray"
