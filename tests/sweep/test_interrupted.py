"""The command, interrupted: by Ctrl-C, by SIGKILL; and gone on with."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mlgym_sandbox.processes import process_started
from tests.sweep.conftest import GOOD, busy, eval_process, ids, lines_of, server_arguments, sweep_of, toml_of, until

pytestmark = pytest.mark.anyio


class Command:
    """The command over a sweep of the toy task."""

    def __init__(self, place: Path, backend: str, seconds: float, **options: Any) -> None:
        self.path = place / "s"
        self.log = place / "log"
        self._file = place / "sweep.toml"
        self._file.write_text(toml_of(sweep_of({"busy": busy(seconds)}, sandbox=backend, **options)))
        self._options = ["--unsafe"] if backend == "process" else []

    def begin(self) -> Any:
        return eval_process(str(self._file), "--out", str(self.path), *self._options, log=self.log)

    def resume(self) -> Any:
        return eval_process("--resume", str(self.path), *self._options, log=self.log)

    def tries(self) -> list[tuple[str, str]]:
        with sqlite3.connect(self.path / "ledger.sqlite") as base:
            return base.execute("SELECT attempt, state FROM try").fetchall()

    def server(self) -> int:
        return int(json.loads((self.path / "server.lock").read_text())["pid"])

    def said(self) -> str:
        return self.log.read_text()


async def test_killed_at_any_point_it_goes_on_and_counts_nothing_twice(
    own_home: Path, tmp_path: Path, backend: str
) -> None:
    command = Command(tmp_path, backend, 0.8, seeds=4, max_sessions=2)
    with command.begin() as process:
        await until(lambda: lines_of(command.path) and _opened(command))
        process.kill()
        process.wait()
    server = command.server()
    await until(lambda: process_started(server) is None)
    done = lines_of(command.path)
    assert len(done) < 4, command.said()
    with command.resume() as process:
        assert await until(lambda: process.poll() is not None)
        assert process.wait() == 0, command.said()
    lines = lines_of(command.path)
    assert lines[: len(done)] == done, "what had finished is as it was"
    assert len(set(ids(lines))) == len(lines) == 4
    states = [state for _, state in command.tries()]
    assert states.count("committed") == 4
    assert "orphaned" in states
    played = [attempt for attempt, _ in command.tries()]
    assert all(played.count(line["attempt"]) == 1 for line in done), "nothing that finished is repeated"


async def test_ctrl_c_once_drains_and_twice_stops(own_home: Path, tmp_path: Path, backend: str) -> None:
    command = Command(tmp_path, backend, 1.0, seeds=4, max_sessions=1)
    with command.begin() as process:
        await until(lambda: lines_of(command.path))
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None)
        assert process.returncode == 3, command.said()
    drained = lines_of(command.path)
    assert 1 <= len(drained) < 4
    assert {state for _, state in command.tries()} == {"committed"}, "what was played came to its end"
    assert "--resume" in command.said()

    with command.resume() as process:
        await until(lambda: _opened(command))
        process.send_signal(signal.SIGINT)
        await until(lambda: command.said().count("Draining") == 2)
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None, 30)
        assert process.returncode == 3, command.said()
    assert lines_of(command.path) == drained
    assert [state for _, state in command.tries()].count("stopped") == 1
    assert process_started(command.server()) is None, "its server is gone with it"


def _opened(command: Command) -> bool:
    with sqlite3.connect(command.path / "ledger.sqlite") as base:
        return bool(base.execute("SELECT 1 FROM try WHERE state='running' AND session IS NOT NULL").fetchone())


async def test_a_sweep_over_a_server_that_runs_already(own_home: Path, tmp_path: Path, backend: str) -> None:
    from mlgym_clients.sweep.own_server import own_server

    file, path, log = tmp_path / "sweep.toml", tmp_path / "s", tmp_path / "log"
    file.write_text(toml_of(sweep_of({"good": GOOD})))
    async with own_server(tmp_path, server_arguments(backend)) as server:
        (tmp_path / "token").write_text(server.token)
        (tmp_path / "wrong").write_text("x" * 32)
        options = [str(file), "--server", server.url, "--out", str(path)]
        with eval_process(*options, "--token-file", str(tmp_path / "wrong"), log=log) as process:
            await until(lambda: process.poll() is not None)
            assert process.returncode == 1
            assert "does not take this admin token" in log.read_text()
            assert not path.exists()
        with eval_process(*options, "--token-file", str(tmp_path / "token"), "--json", log=log) as process:
            await until(lambda: process.poll() is not None)
            assert process.returncode == 0, log.read_text()
    assert ids(lines_of(path)) == ["toy.mini.good.0"]
    assert not (path / "server.log").exists()
