"""What a sweep does with what its engine says: results count once, what was lost is tried again, in bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mlgym_clients.sweep.attempt import Called, Finished, Lost, News, Opened, Order, Verdict
from mlgym_clients.sweep.board import Board
from mlgym_clients.sweep.engine import EngineError
from mlgym_clients.sweep.folder import SweepFolder
from mlgym_clients.sweep.running import Summary, Sweep
from mlgym_clients.sweep.spec import make_sweep
from mlgym_mcp.api import TaskSummary
from tests.sweep.conftest import Seen, ids, lines_of
from tests.sweep.test_spec import THERE

pytestmark = pytest.mark.anyio

Play = Callable[[Order], Any]


class FakeEngine:
    """Answers as it is told; remembers what was asked, and how much at a time."""

    capacity = 2

    def __init__(self, play: Play) -> None:
        self._play = play
        self.orders: list[Order] = []
        self.now = self.most = 0

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        yield

    async def tasks(self) -> list[TaskSummary]:
        return THERE

    def facts(self) -> dict[str, Any]:
        return {"engine": "fake"}

    async def play(self, order: Order, tell: Callable[[News], None], folder: Path) -> Verdict:
        self.orders.append(order)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            tell(Opened(f"session-{order.key}", f"episode-{order.key}"))
            tell(Called("shell", 1))
            await anyio.lowlevel.checkpoint()
            answer = self._play(order)
            if isinstance(answer, anyio.Event):
                await answer.wait()
                answer = finished(order)
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.now -= 1


def finished(order: Order) -> Finished:
    return Finished(f"session-{order.key}", f"episode-{order.key}", {"score": 0.5, "cost_usd": 0.0})


class Trial:
    """A sweep of six attempts, three of each agent, on a fake engine."""

    def __init__(self, place: Path, play: Play, **options: Any) -> None:
        agents = {"a": {"agent": "random"}, "b": {"agent": "random"}}
        self.spec = make_sweep({"tasks": ["toy"], "agents": agents, "seeds": 3, "max_sessions": 2, **options})
        self.engine = FakeEngine(play)
        self.seen = Seen()
        self.place = place
        self.sweep: Sweep | None = None

    async def run(self) -> Summary:
        there = (self.place / "manifest.json").exists()
        opened = SweepFolder.take_up(self.place) if there else SweepFolder.begin(self.place, self.spec, "s-1", {})
        with opened as folder:
            attempts = list(self.spec.attempts(THERE))
            board = Board(attempts, {})
            self.sweep = Sweep(folder, self.engine, attempts, board, self.seen, pause_s=0.001)
            with anyio.fail_after(20):
                summary = await self.sweep.run()
            assert not board.playing
            return summary


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLGYM_HOME", str(tmp_path / "home"))


async def test_every_attempt_is_played_once_and_no_more_at_a_time_than_asked_for(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "s", finished)
    summary = await trial.run()
    assert summary.complete
    assert (summary.ended, summary.now, trial.engine.most) == ("through", 6, 2)
    assert len({order.key for order in trial.engine.orders}) == len(trial.engine.orders) == 6
    assert len(set(ids(lines_of(tmp_path / "s")))) == 6
    again = await trial.run()
    assert (again.now, again.finished, len(trial.engine.orders)) == (0, 6, 6), "nothing is repeated"


async def test_what_was_lost_is_tried_again_knows_its_lost_session_and_is_marked(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "s", lambda order: Lost("the node died") if order.number < 3 else finished(order))
    summary = await trial.run()
    assert summary.complete
    assert (summary.losses, len(trial.engine.orders)) == (12, 18)
    assert {line["infrastructure_failures"] for line in lines_of(tmp_path / "s")} == {2}
    for order in trial.engine.orders:
        earlier = None if order.number == 1 else f"session-s-1:{order.attempt.id}#{order.number - 1}"
        assert order.earlier == earlier


async def test_an_attempt_that_is_always_lost_is_given_up_and_played_by_a_resumed_sweep(tmp_path: Path) -> None:
    well = False
    trial = Trial(tmp_path / "s", lambda order: finished(order) if well else Lost("dead"), infrastructure_retries=1)
    summary = await trial.run()
    assert (summary.finished, len(summary.given_up), summary.ended) == (0, 6, "through")
    assert len(trial.engine.orders) == 12
    assert not lines_of(tmp_path / "s"), "it says nothing of the agent"
    well = True
    assert (await trial.run()).complete


async def test_what_can_never_be_had_is_not_asked_for_twice(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "s", lambda _: Lost("unknown budget", permanent=True))
    summary = await trial.run()
    assert len(trial.engine.orders) == len(summary.given_up) == 6
    assert all(not again for _, _, again in trial.seen.losses)


async def test_an_agent_whose_endpoint_refuses_it_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    def play(order: Order) -> Verdict:
        if order.attempt.agent == "a":
            return Lost("wrong key", permanent=True, agent_only=True)
        return finished(order)

    trial = Trial(tmp_path / "s", play, max_sessions=1)
    summary = await trial.run()
    assert [order.attempt.agent for order in trial.engine.orders].count("a") == 1
    assert (summary.finished, {given.reason for given in summary.given_up}) == (3, {"wrong key"})


async def test_drained_nothing_more_begins_and_what_is_played_comes_to_its_end(tmp_path: Path) -> None:
    release = anyio.Event()
    trial = Trial(tmp_path / "s", lambda _: release)

    async def drain() -> None:
        while trial.engine.now < 2:
            await anyio.sleep(0.001)
        assert trial.sweep is not None
        trial.sweep.drain()
        release.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain)
        summary = await trial.run()
    assert (summary.ended, summary.finished, summary.complete) == ("drained", 2, False)
    trial.engine = FakeEngine(finished)
    assert (await trial.run()).now == 4


async def test_stopped_what_is_played_has_no_result_and_is_asked_about_later(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "s", lambda _: anyio.Event())

    async def stop() -> None:
        while trial.engine.now < 2:
            await anyio.sleep(0.001)
        assert trial.sweep is not None
        trial.sweep.stop()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop)
        summary = await trial.run()
    assert (summary.ended, summary.finished) == ("stopped", 0)
    trial.engine = FakeEngine(finished)
    assert (await trial.run()).complete
    assert sum(order.earlier is not None for order in trial.engine.orders) == 2


async def test_an_engine_that_is_dead_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "s", lambda _: EngineError("the server cannot be started"))
    summary = await trial.run()
    assert (summary.ended, summary.problem, summary.finished) == ("failed", "the server cannot be started", 0)


async def test_when_one_attempt_after_the_other_comes_to_nothing_the_run_ends(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "s", lambda _: Lost("the disk is full"), seeds=50, infrastructure_retries=0)
    summary = await trial.run()
    assert summary.ended == "failed"
    assert "the disk is full" in summary.problem
    assert len(trial.engine.orders) <= 11


async def test_a_drain_does_not_wait_for_the_pause_before_another_try(tmp_path: Path) -> None:
    trial = Trial(tmp_path / "s", lambda _: Lost("dead"), infrastructure_retries=100, seeds=1, max_sessions=1)
    with SweepFolder.begin(tmp_path / "s", trial.spec, "s-1", {}) as folder:
        attempts = list(trial.spec.attempts(THERE))
        sweep = Sweep(folder, trial.engine, attempts, Board(attempts, {}), trial.seen, pause_s=3600)
        async with anyio.create_task_group() as tasks:

            async def drain() -> None:
                while not trial.seen.losses:
                    await anyio.sleep(0.001)
                sweep.drain()

            tasks.start_soon(drain)
            with anyio.fail_after(20):
                summary = await sweep.run()
    assert (summary.ended, summary.finished) == ("drained", 0)
