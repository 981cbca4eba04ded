"""The benchmarks run, on a task that takes no time, and see what they are there to see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import light, own_home

__all__ = ["light", "own_home"]  # fixtures

BENCH = Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
import leaks  # noqa: E402 - beside the benchmarks
from servers import many_server  # noqa: E402
from wire import Control  # noqa: E402

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.bubblewrap,
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap"),
    pytest.mark.usefixtures("own_home"),
]


def bench(name: str, *options: str) -> str:
    """Run a benchmark on the toy task; returns what it prints."""
    command = [sys.executable, str(BENCH / name), "--task", "toy", "--backends", "bubblewrap", *options]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def figures(path: Path) -> Any:
    return json.loads(path.read_text())["figures"]


def test_the_fleet_makes_all_its_calls_without_an_error(tmp_path: Path) -> None:
    bench("fleet.py", "--sizes", "4", "--calls", "8", "--rest", "0.1", "--json", str(tmp_path / "figures"))
    floor, row = figures(tmp_path / "figures")
    assert (floor["calls"], row["calls"]) == (160, 32)
    assert floor["errors"] == row["errors"] == []
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert row["sandbox_s"] > 0


def test_starts_of_commands_and_servers_are_timed(tmp_path: Path) -> None:
    bench("starts.py", "--rounds", "1", "--json", str(tmp_path / "figures"))
    found = figures(tmp_path / "figures")
    assert len(found) == 7
    nothing, *others = (each["cpu_s"][0] for each in found.values())
    assert all(cpu_s > nothing for cpu_s in others)
    assert all(each["wall_s"][0] > 0 for each in found.values())


def test_session_starts_are_timed_cold_and_warm(tmp_path: Path) -> None:
    bench("session_start.py", "--rounds", "1", "--warm", "1", "--json", str(tmp_path / "figures"))
    found = figures(tmp_path / "figures")
    assert [each["start"] for each in found] == ["cold"] * 3 + ["warm"] * 3
    assert all(len(each["seconds"]) == 1 and each["seconds"][0] > 0 for each in found)


def test_tool_calls_are_timed_beside_their_floors(tmp_path: Path) -> None:
    bench("tool_call.py", "--rounds", "2", "--json", str(tmp_path / "figures"))
    assert "bubblewrap, HTTP: shell true" in figures(tmp_path / "figures")


def test_a_soak_leaves_nothing_behind() -> None:
    said = bench("soak.py", "--minutes", "0.01", "--at-once", "8", "--rest", "0.1")
    assert said.count("nothing") >= 9


async def test_the_soak_would_see_a_session_that_is_left(own_home: Path) -> None:
    async with many_server(own_home, "bubblewrap") as server:
        control = Control(server.port, server.token)
        before, files = leaks.descriptors(server.pid), leaks.tree(own_home)
        session = await control.create("toy")
        await control.until_ready(session)
        assert leaks.processes(own_home, (server.pid,))
        assert leaks.descriptors(server.pid) - before
        assert any(session.id[:24] in name for name in leaks.tree(own_home).keys() - files.keys())
        await control.delete(session.id)
        control.close()
    assert not leaks.processes(own_home, ())
