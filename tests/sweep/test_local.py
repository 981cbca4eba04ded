"""Sweeps of scripted agents against a real server of their own, which may be killed under them."""

from __future__ import annotations

import io
import json
import os
import signal
from contextlib import nullcontext
from pathlib import Path

import anyio
import pytest

from mlgym_clients.sweep.attempt import Attempt, Finished, News, Order
from mlgym_clients.sweep.board import Board
from mlgym_clients.sweep.folder import SweepFolder
from mlgym_clients.sweep.local import LocalEngine, Own
from mlgym_clients.sweep.own_server import ServerStartError, own_server
from mlgym_clients.sweep.running import Sweep
from mlgym_clients.sweep.spec import SweepError
from mlgym_clients.sweep.sweeping import begin_sweep, resume_sweep
from mlgym_mcp.records.index import EpisodeIndex
from mlgym_mcp.records.report import make_report
from mlgym_mcp.session.journal import FILE_NAME
from mlgym_sandbox.processes import process_started
from tests.sweep.conftest import GOOD, LAZY, WRONG, Seen, around, busy, ids, lines_of, server_arguments, sweep_of, until

pytestmark = pytest.mark.anyio


async def test_every_attempt_has_one_line_and_one_episode_whatever_became_of_it(
    own_home: Path, tmp_path: Path, backend: str
) -> None:
    path, seen = tmp_path / "s", Seen()
    spec = sweep_of({"good": GOOD, "wrong": WRONG, "lazy": LAZY}, name="trio", seeds=[3, 4], max_sessions=3)
    summary = await begin_sweep(path, spec, around(path, backend, seen))
    assert (summary.complete, summary.losses, summary.given_up) == (True, 0, [])
    lines = lines_of(path)
    assert ids(lines) == sorted(f"toy.mini.{agent}.{seed}" for agent in ("good", "wrong", "lazy") for seed in (3, 4))
    by_agent = {line["agent"]: line for line in lines}
    assert by_agent["good"]["stop"] == "submitted"
    assert by_agent["good"]["outcome"] == "scored"
    assert 0 <= by_agent["good"]["score"] <= 1
    assert by_agent["good"]["tokens_in"] == by_agent["good"]["cost_usd"] == 0
    for agent in ("wrong", "lazy"):
        assert by_agent[agent]["score"] is None, "a failure is a result, too"
        assert by_agent[agent]["outcome"] in ("invalid_submission", "abandoned")

    with EpisodeIndex(tmp_path / "index") as index:
        found, _ = index.refresh([path])
        attempts = index.attempts(found)
    assert {attempt.id for attempt in attempts} == {line["episode"] for line in lines}, "linked"
    assert {attempt.sweep for attempt in attempts} == {json.loads((path / "manifest.json").read_text())["id"]}
    assert sorted(attempt.seed for attempt in attempts) == [3, 3, 3, 4, 4, 4]
    assert len(make_report(attempts, None).attempts) == 6

    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["versions"]["mlgym-mcp"]
    assert manifest["tasks"]["toy"]["version"] == "1.0.0"
    assert manifest["hardware"]["cpus"] >= 1
    assert manifest["agents"]["good"]["script"][0]["tool"] == "write_file"

    again = await resume_sweep(path, around(path, backend, seen))
    assert (again.now, again.finished) == (0, 6)
    assert lines_of(path) == lines


async def test_a_server_that_is_killed_comes_back_and_what_it_took_along_is_played_again(
    own_home: Path, tmp_path: Path, backend: str
) -> None:
    path, seen = tmp_path / "s", Seen()
    spec = sweep_of({"busy": busy(0.7)}, seeds=4, max_sessions=2)

    def in_a_command() -> bool:
        last = [file.read_text().splitlines()[-1:] for file in (own_home / "episodes").glob(f"*/{FILE_NAME}")]
        return any('"shell"' in line and '"call"' in line for lines in last for line in lines)

    async def kill() -> None:
        await until(lambda: lines_of(path) and in_a_command())
        os.kill(json.loads((path / "server.lock").read_text())["pid"], signal.SIGKILL)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill)
        summary = await begin_sweep(path, spec, around(path, backend, seen))
    assert summary.complete
    lines = lines_of(path)
    assert len(set(ids(lines))) == len(lines) == 4
    assert {line["outcome"] for line in lines} == {"scored"}
    assert summary.losses >= 1
    assert all(again for _, _, again in seen.losses), "marked, and tried again"


async def test_what_had_finished_before_the_sweeper_died_is_found_and_not_played_again(
    own_home: Path, tmp_path: Path, backend: str
) -> None:
    path, spec = tmp_path / "s", sweep_of({"good": GOOD}, seeds=2, max_sessions=1)
    engine = LocalEngine(spec.make_agents(), Own(tmp_path, server_arguments(backend)))
    async with engine.run():
        attempts = list(spec.attempts(await engine.tasks()))
        with SweepFolder.begin(path, spec, "s-1", {}) as folder:
            first = attempts[0]
            folder.ledger.begin(first, 1)
            told: list[News] = []
            verdict = await engine.play(Order(first, 1, "s-1"), told.append, path)
            assert isinstance(verdict, Finished)
            folder.ledger.opened(first, 1, verdict.session, verdict.episode, "")
            # and here it is killed: the result is on the server, and in no ledger
        with SweepFolder.take_up(path) as folder:
            seen = Seen()
            summary = await Sweep(folder, engine, attempts, Board(attempts, {}), seen, pause_s=0.05).run()
    assert (summary.complete, summary.now, summary.found) == (True, 2, 1)
    by_id = {line["attempt"]: line for line in lines_of(path)}
    assert by_id[first.id]["episode"] == verdict.episode
    assert by_id[first.id]["score"] == verdict.facts["score"]
    assert by_id[first.id]["tokens_in"] is None, "who played it is dead, and with it what it spent"
    assert len(list((own_home / "episodes").glob("*"))) == 2


async def test_a_lost_try_that_was_not_finished_is_ended_before_the_next_one(
    own_home: Path, tmp_path: Path, backend: str
) -> None:
    spec = sweep_of({"good": GOOD})
    engine = LocalEngine(spec.make_agents(), Own(tmp_path, server_arguments(backend)))
    attempt = Attempt("toy", "mini", "good", 0)
    async with engine.run():
        lost = Order(attempt, 1, "s-1")
        control = engine._running()
        from mlgym_clients.sweep.playing import _request

        abandoned = await control.create(_request(lost))
        verdict = await engine.play(Order(attempt, 2, "s-1", earlier=abandoned.id), lambda _: None, tmp_path)
        assert isinstance(verdict, Finished)
        assert verdict.session != abandoned.id
        now = await control.session(abandoned.id)
        assert now is not None
        assert now.state == "over"
        assert (await control.create(_request(Order(attempt, 2, "s-1")))).id == verdict.session, "one try, one session"


async def test_a_task_that_has_changed_is_not_mixed_with_what_it_was(
    own_home: Path, tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "s"
    await begin_sweep(path, sweep_of({"lazy": LAZY}), around(path, backend, Seen()))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["tasks"]["toy"]["version"] = "0.9.0"
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SweepError, match="the task toy has changed"):
        await resume_sweep(path, around(path, backend, Seen()))


async def test_a_sweep_with_an_unknown_task_begins_nothing_and_leaves_nothing(
    own_home: Path, tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "s"
    spec = sweep_of({"lazy": LAZY}).model_copy(update={"tasks": ["tay"]})
    with pytest.raises(SweepError, match="did you mean 'toy'"):
        await begin_sweep(path, spec, around(path, backend, Seen()))
    assert not path.exists()
    assert not list((own_home / "episodes").glob("*"))


async def test_the_server_ends_with_the_pipe_of_whoever_asked_for_it(
    own_home: Path, tmp_path: Path, backend: str
) -> None:
    async with own_server(tmp_path, server_arguments(backend)) as server:
        first = json.loads((tmp_path / "server.lock").read_text())
        assert server.url.endswith(str(first["port"]))
    assert process_started(first["pid"]) is None
    async with own_server(tmp_path, server_arguments(backend)) as server:
        assert server.url.endswith(str(first["port"])), "at the same address, for the sessions of the one before"


async def test_the_server_ends_when_its_keeper_is_killed(own_home: Path, tmp_path: Path, backend: str) -> None:
    async with own_server(tmp_path, server_arguments(backend)) as server:
        pid = json.loads((tmp_path / "server.lock").read_text())["pid"]
        assert server.kept
        os.kill(server._keeper.pid, signal.SIGKILL)
        await until(lambda: process_started(pid) is None)
        await until(lambda: not server.kept)
    async with own_server(tmp_path, server_arguments(backend)) as another:
        assert another.url == server.url


async def test_a_server_that_cannot_start_says_why(own_home: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match="No such option"):
        async with own_server(tmp_path, ["--no-such-option"]):
            pass


async def test_the_board_knows_who_plays_what(own_home: Path, tmp_path: Path, backend: str) -> None:
    from rich.console import Console

    from mlgym_clients.sweep.live import picture

    path, shown = tmp_path / "s", []

    class Looking(Seen):
        def finished(self, board: Board, line: object) -> None:
            console = Console(width=120, record=True, file=io.StringIO())
            console.print(picture(board))
            shown.append(console.export_text())

    surroundings = around(path, backend, Looking())
    assert isinstance(surroundings.show(Board([], {})), nullcontext)
    await begin_sweep(path, sweep_of({"good": GOOD, "busy": busy(0.3)}, max_sessions=2), surroundings)
    assert "1 of 2 attempts" in shown[0]
    assert "2 of 2 attempts" in shown[1]
    assert "busy" in shown[0]
