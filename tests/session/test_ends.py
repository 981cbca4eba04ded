"""How sessions end: exactly once, with one outcome, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mlgym_mcp.catalog.catalog import Task
from mlgym_mcp.grading.errors import GraderError
from mlgym_mcp.session.budget import Budget, Meter
from mlgym_mcp.session.calls import CallSpec
from mlgym_mcp.session.ending import Outcome
from mlgym_mcp.session.episode import Episode
from mlgym_mcp.session.errors import InfrastructureError, RefusedError
from mlgym_mcp.session.journal import Event, read_journal
from mlgym_mcp.session.scoring import Score, Scoring
from mlgym_mcp.session.session import Session, SessionConfig
from mlgym_mcp.session.setup import Setup
from mlgym_sandbox.errors import SandboxError, SandboxLostError
from mlgym_sandbox.spec import JobStatus, Usage
from tests.toy import make_toy

IDLE_S, WALL_S, CPU_S = 60.0, 600.0, 100.0
GRADES = st.sampled_from(["valid", "invalid", "missing", "failed", "crashed"])


class FakeSandbox:
    """Does nothing, and is lost when told."""

    name = "fake"

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.lost = False
        self.job_runs = False
        self.closed = 0

    async def usage(self) -> Usage:
        await asyncio.sleep(0)
        if self.lost:
            raise SandboxLostError("gone")
        return Usage(self.cpu_s, 0, 1, 0, 0)

    async def jobs(self) -> tuple[JobStatus, ...]:
        await asyncio.sleep(0)
        if self.lost:
            raise SandboxLostError("gone")
        return (JobStatus("j1", "train", "running", None, None, 0.0, 1.0, 0),) if self.job_runs else ()

    async def close(self) -> None:
        self.closed += 1


async def no_attach(_: str) -> None:
    raise SandboxLostError("there is none of that name")


async def no_sync(self: Any, type: str, /, **fields: Any) -> Event:  # noqa: A002
    """Append without the disk: when a thread is done is not for a test to wait for."""
    await asyncio.sleep(0)
    event: Event = self.append(type, **fields)
    return event


class EndsMachine(RuleBasedStateMachine):
    """Plays calls, gradings, clocks, crashes and ends against a session whose sandbox and grader are made up."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.loop = asyncio.Runner()
        self.sandbox = FakeSandbox()
        self.prepared: asyncio.Future[None]
        self.calls: list[asyncio.Task[Any]] = []
        self.release: list[asyncio.Event] = []
        self.gradings: list[tuple[str, asyncio.Future[str]]] = []
        self.patches = [
            mock.patch("mlgym_mcp.session.session.set_up", self._set_up),
            mock.patch("mlgym_mcp.session.journal.Journal.append_durable", no_sync),
            mock.patch.object(Scoring, "_graded", self._graded),
        ]
        for patch in self.patches:
            patch.start()
        self.folder = tempfile.TemporaryDirectory(prefix="ends-")
        self.run_(self._begin())

    async def _set_up(self, *_: Any) -> Setup:
        await self.prepared
        return Setup(self.sandbox, SimpleNamespace(), Path("python"))  # type: ignore[arg-type]

    async def _graded(self, kind: Any, _: Any) -> Score:
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.gradings.append((kind, told))
        how = await told
        if how == "failed":
            raise GraderError("the grader fell over")
        if how == "crashed":
            raise ZeroDivisionError("nobody foresaw this")
        valid = how == "valid"
        return Score(
            kind=kind,
            valid=valid,
            primary="accuracy",
            higher_is_better=True,
            digits=2,
            metrics={"accuracy": 0.5} if valid else {},
            code=None if valid else {"invalid": "format", "missing": "missing"}[how],
            reason=None if valid else how,
        )

    async def _begin(self) -> None:
        self.prepared = asyncio.get_running_loop().create_future()
        budget = Budget(wall_s=WALL_S, calls=6, validations=2, cpu_s=CPU_S, idle_s=IDLE_S)
        backend: Any = SimpleNamespace(name="fake", attach=no_attach, remove=no_attach)
        task = Task.load(make_toy(Path(self.folder.name)) / "toy")
        episode = Episode(Path(self.folder.name) / "episode")
        self.session = Session("f" * 32, "token", SessionConfig(task, "mini", 0, budget, 0.05), backend, episode)
        self.session.meter = Meter(budget, clock=lambda: self.now)
        self.run = asyncio.get_running_loop().create_task(self.session.run())

    def run_(self, work: Coroutine[Any, Any, None]) -> None:
        """Do one thing, then let everything that can go on go on."""

        async def settled() -> None:
            await work
            for _ in range(40):
                await asyncio.sleep(0)

        self.loop.run(settled())

    @initialize(works=st.sampled_from([True] * 15 + [False]))
    def prepare(self, works: bool) -> None:
        async def do() -> None:
            if works:
                self.prepared.set_result(None)
            else:
                self.prepared.set_exception(SandboxError("no engine answers"))

        self.run_(do())

    @rule(mode=st.sampled_from(["shared", "ordered"]))
    def call(self, mode: Any) -> None:
        gone = asyncio.Event()
        self.release.append(gone)
        self._start("shell", CallSpec(mode), gone.wait())

    @rule(kind=st.sampled_from(["validate", "submit"]))
    def score(self, kind: Any) -> None:
        spec = CallSpec("exclusive", counted=kind == "validate", after_end=kind == "submit")
        self._start(kind, spec, self.session.scoring.score(kind))

    def _start(self, name: str, spec: CallSpec, work: Coroutine[Any, Any, Any]) -> None:
        async def act() -> Any:
            try:
                return await self.session.calls.perform(name, {}, spec, lambda: work, lambda _: {})
            finally:
                work.close()

        async def do() -> None:
            self.calls.append(asyncio.get_running_loop().create_task(act()))

        self.run_(do())

    @rule()
    def finish_a_call(self) -> None:
        async def do() -> None:
            if self.release:
                self.release.pop(0).set()

        self.run_(do())

    @rule(which=st.integers(0, 3))
    def a_client_goes_away(self, which: int) -> None:
        async def do() -> None:
            if which < len(self.calls):
                self.calls[-1 - which].cancel()

        self.run_(do())

    @rule(how=GRADES)
    def grade(self, how: str) -> None:
        async def do() -> None:
            for _, told in self.gradings:
                if not told.done():
                    told.set_result(how)
                    return

        self.run_(do())

    @rule(seconds=st.sampled_from([1.0, 2.0, 5.0, IDLE_S - 1, IDLE_S, WALL_S]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self._look()

    @rule(seconds=st.sampled_from([1.0, 5.0, CPU_S / 3, CPU_S]))
    def compute(self, seconds: float) -> None:
        self.sandbox.cpu_s += seconds
        self._look()

    @rule(runs=st.booleans())
    def a_job(self, runs: bool) -> None:
        self.sandbox.job_runs = runs

    @precondition(lambda self: len(self.calls) > 2)  # early ends leave little to see
    @rule()
    def lose_the_sandbox(self) -> None:
        self.sandbox.lost = True
        self._look()

    @precondition(lambda self: len(self.calls) > 2)
    @rule()
    def delete(self) -> None:
        self.run_(self.session.end("abandoned", "the session was deleted"))

    @precondition(lambda self: len(self.calls) > 2)
    @rule()
    def stop_the_server(self) -> None:
        async def do() -> None:
            self.run.cancel()

        self.run_(do())

    def _look(self) -> None:
        async def do() -> None:
            if self.session.ready and self.session.over is None:
                busy = bool(self.session.calls.in_flight)
                await self.session.watch.check_limits()
                if busy or self.sandbox.job_runs:
                    assert self.session.over is None or "no tool was called" not in self.session.over.reason

        self.run_(do())

    def teardown(self) -> None:
        try:
            self.run_(self.session.end("abandoned", "the test is over"))
            for _ in range(3):  # what is still being graded gets a score
                self.grade("valid")
            self.loop.run(asyncio.wait_for(self._ended(), 10))
            self._check()
        finally:
            self.loop.close()
            for patch in self.patches:
                patch.stop()
            self.folder.cleanup()

    async def _ended(self) -> None:
        if not self.prepared.done():
            self.prepared.cancel()
        await self.session.wait_ended()
        await asyncio.gather(self.run, return_exceptions=True)
        await asyncio.gather(*self.calls, return_exceptions=True)

    def _check(self) -> None:
        events = list(read_journal(self.session.episode.folder))
        ends = [event for event in events if event.type == "end"]
        scores = [event for event in events if event.type == "score"]
        over = self.session.over
        assert over is not None
        assert len(ends) == 1
        assert ends[0] is events[-1]
        end = ends[0]
        assert end["outcome"] in get_args(Outcome)
        assert (end["outcome"], end["reason"]) == (over.outcome, over.reason)
        # A score only where something valid was graded for good, and that at most once.
        final = [score for score in scores if score["valid"] and score["kind"] != "validate"]
        assert len(final) <= 1
        assert (end["score"] is not None) == (end["outcome"] == "scored") == bool(final)
        if final:
            assert end["score"]["metrics"] == {"accuracy": 0.5}
        if end["outcome"] == "invalid_submission":
            assert any(not score["valid"] for score in scores)
        assert sum(kind == "autosubmit" for kind, _ in self.gradings) <= 1
        # What was charged is what was scored.
        validations = sum(score["valid"] and score["kind"] == "validate" for score in scores)
        assert end["spent"]["validations"] == validations <= 2
        assert end["spent"]["calls"] <= 6
        # Every call was answered in words, and every answer is in the journal.
        for call in self.calls:
            assert call.done()
            if not call.cancelled() and (error := call.exception()) is not None:
                assert isinstance(error, RefusedError | InfrastructureError), error
        calls = {event.seq for event in events if event.type == "call"}
        assert {event["call"] for event in events if event.type == "result"} <= calls
        assert self.sandbox.closed == (1 if self.prepared.done() and self.prepared.exception() is None else 0)


Step = tuple[str, dict[str, object]]


def play(*steps: Step) -> tuple[Outcome, str, list[str]]:
    """Play fixed steps; return outcome and reason of the end, and the kinds of what was graded."""
    machine = EndsMachine()
    try:
        machine.prepare(works=True)
        for name, arguments in steps:
            getattr(machine, name)(**arguments)
    finally:
        machine.teardown()
    assert machine.session.over is not None
    return machine.session.over.outcome, machine.session.over.reason, [kind for kind, _ in machine.gradings]


SUBMIT: Step = ("score", {"kind": "submit"})
VALIDATE: Step = ("score", {"kind": "validate"})
CALL: Step = ("call", {"mode": "shared"})
GONE: Step = ("a_client_goes_away", {"which": 0})
DELETE: Step = ("delete", {})


def late(seconds: float = WALL_S) -> Step:
    return "pass_time", {"seconds": seconds}


def graded(how: str) -> Step:
    return "grade", {"how": how}


@pytest.mark.parametrize("end", [late(), DELETE])
def test_a_submit_that_is_being_graded_when_the_time_is_over_is_the_score_and_nothing_else_is_graded(end: Step) -> None:
    outcome, reason, kinds = play(SUBMIT, end, graded("valid"))
    assert outcome == "scored"
    assert reason.endswith("; the work was submitted")
    assert kinds == ["submit"]


def test_a_submit_whose_client_went_away_still_ends_the_episode_with_its_score() -> None:
    assert play(SUBMIT, GONE, graded("valid")) == ("scored", "the work was submitted", ["submit"])


@pytest.mark.parametrize("end", ["lose_the_sandbox", "stop_the_server"])
def test_a_submit_that_waits_for_a_validation_is_not_graded_after_the_end(end: str) -> None:
    outcome, _, kinds = play(VALIDATE, GONE, SUBMIT, CALL, (end, {}))
    assert outcome == "infrastructure_error"
    assert kinds == ["validate"]


def test_a_validation_under_way_is_dropped_for_the_last_grading() -> None:
    outcome, _, kinds = play(VALIDATE, late(), graded("valid"), graded("valid"))
    assert outcome == "scored"
    assert kinds == ["validate", "autosubmit"]


@pytest.mark.parametrize("how", ["failed", "crashed"])
def test_a_grader_that_fails_at_the_end_is_infrastructure_and_no_score(how: str) -> None:
    outcome, reason, _ = play(CALL, late(), graded(how))
    assert outcome == "infrastructure_error"
    assert reason.startswith("the wall time of 10 min is spent; what was left was not graded: The grader failed")


@pytest.mark.parametrize(("how", "outcome"), [("invalid", "invalid_submission"), ("missing", "budget_exhausted")])
def test_what_is_not_valid_at_the_end_is_told_from_nothing_at_all(how: str, outcome: str) -> None:
    assert play(CALL, late(), graded(how))[0] == outcome


def test_an_unused_session_is_abandoned_and_one_whose_calls_are_spent_has_exhausted_its_budget() -> None:
    done: Step = ("finish_a_call", {})
    assert play(CALL, done, late(IDLE_S), graded("missing"))[:2] == (
        "abandoned",
        "no tool was called and no job ran for 60 s",
    )
    assert play(*[CALL, done] * 6, late(IDLE_S), graded("missing"))[:2] == (
        "budget_exhausted",
        "the 6 tool calls are spent and no tool was called and no job ran for 60 s",
    )


@pytest.mark.parametrize("busy", [CALL, VALIDATE, ("a_job", {"runs": True})])
def test_a_call_in_flight_a_grading_and_a_running_job_are_no_idleness(busy: Step) -> None:
    gone = [GONE] if busy is VALIDATE else []
    assert play(busy, *gone, late(IDLE_S), late(IDLE_S))[1].startswith("the test is over")


EndsMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=25)
TestEnds = EndsMachine.TestCase
