"""Episodes that were really played, played again."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from mlgym_clients.agents.calling import Caller, ServerLostError
from mlgym_clients.replay.playing import replay, request_for
from mlgym_clients.replay.recording import Recording, read_recording
from mlgym_clients.replay.replayer import Replayer
from mlgym_clients.replay.verdict import Verdict
from mlgym_clients.sweep.control import Control, ControlError
from mlgym_mcp.records.arguments import RecordError
from mlgym_mcp.records.episodes import events, summarize
from mlgym_mcp.serving.auth import load_admin_token
from mlgym_mcp.serving.host import Host
from mlgym_mcp.session.episode import Episode
from mlgym_mcp.session.session import Session
from mlgym_sandbox.home import home
from tests.serving.conftest import episode_folder, light, own_home, playing, running_host
from tests.toy import CSV

__all__ = ["light", "own_home"]  # fixtures

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def control_of(host: Host) -> AsyncIterator[Control]:
    async with Control(host.base_url, load_admin_token().value, patience_s=0.5) as control:
        yield control


async def recorded(host: Host, play: Callable[[Client, Session], Awaitable[None]], **options: Any) -> Recording:
    async with playing(host, **options) as (client, session):
        await client.call_tool("status", {})
        await client.call_tool("get_task", {})
        await session.wait_ready()
        await play(client, session)
        if session.over is None:
            await session.end("abandoned", "the test is done")
        await session.wait_ended()
        return read_recording(episode_folder(session))


async def again(host: Host, recording: Recording) -> Verdict:
    async with control_of(host) as control:
        return await replay(recording, control, episodes=home("episodes"))


def levels(verdict: Verdict) -> list[tuple[str, str]]:
    return [(each.step.tool, each.comparison.level) for each in verdict.compared]


async def test_an_episode_comes_again_with_its_jobs_blobs_parallel_calls_and_scores(own_home: Path) -> None:
    async def play(client: Client, session: Session) -> None:
        call = client.call_tool
        await call("shell", {"command": "cd /tmp; export A=5; date; echo pid $$"})
        job = await call("shell", {"command": "pwd; for i in $(seq 11); do echo line $i; sleep 0.1; done"})
        assert job.meta is not None
        assert job.meta["state"] == "running"
        job_id = job.meta["job_id"]
        while (await call("job_wait", {"job_id": job_id})).meta["state"] == "running":  # type: ignore[index]
            pass
        await call("job_output", {"job_id": job_id, "offset": -10})
        await call("job_list", {})
        async with anyio.create_task_group() as tasks:  # a slow change, and reads beside it
            tasks.start_soon(call, "shell", {"command": "sleep 0.2; echo $A > /workspace/made"})
            await anyio.sleep(0.05)
            tasks.start_soon(call, "shell", {"command": "cat /workspace/made"})
            tasks.start_soon(call, "read_file", {"path": "start.py"})
        await call("read_file", {"path": "nowhere"})
        await call("write_file", {"path": "big.txt", "content": "x" * 9000})
        await call("shell", {"command": "exit 3"})
        await call("submit", {})  # there is nothing to submit yet
        await call("write_file", {"path": "submission.csv", "content": CSV})
        await Caller(client).score("validate")
        await call("status", {})
        await Caller(client).score("submit")

    async with running_host(wait_s=0.8) as host:
        recording = await recorded(host, play)
        verdict = await again(host, recording)
    different = [(c.step.tool, c.comparison) for c in verdict.compared if c.comparison.level == "different"]
    assert not different
    assert verdict.level == "noise"
    assert verdict.reproduced
    assert verdict.score.level == "exact"
    found = levels(verdict)
    assert found.count(("validate", "exact")) == 1
    assert found.count(("submit", "exact")) == 2
    assert ("read_file", "exact") in found
    assert not verdict.notes
    second = home("episodes") / verdict.episode
    metadata = summarize(second).metadata
    assert (metadata["purpose"], metadata["replays"]) == ("replay", recording.folder.name)
    order = [(e["tool"], e["arguments"].get("command")) for e in events(second) if e.type == "call"]
    slow = order.index(("shell", "sleep 0.2; echo $A > /workspace/made"))
    assert order[slow + 1] == ("shell", "cat /workspace/made")
    begun = [e.type for e in events(second)]
    assert "call,call" in ",".join(begun), "what was in flight together is so again"
    json.dumps(verdict.as_json(), allow_nan=False)


async def test_what_comes_out_different_is_shown_where_it_begins(own_home: Path) -> None:
    async def play(client: Client, session: Session) -> None:
        await client.call_tool("shell", {"command": "echo the same"})
        await client.call_tool("shell", {"command": "echo first; od -An -N8 -tx8 /dev/urandom"})
        await client.call_tool("shell", {"command": "exit $((0x$(od -An -N1 -tx1 /dev/urandom | tr -d ' ') % 2))"})
        await client.call_tool("write_file", {"path": "submission.csv", "content": CSV})
        await client.call_tool("submit", {})

    async with running_host() as host:
        recording = await recorded(host, play)
        verdict = await again(host, recording)
    assert verdict.level == "different"
    assert verdict.reproduced, "the outcome is the same all the same"
    assert verdict.first is not None
    assert verdict.first.step.arguments["command"].startswith("echo first")
    diff = verdict.first.comparison.diff.splitlines()
    assert [line[0] for line in diff] == ["-", "+", "@", " ", "-", "+", " "]
    assert verdict.as_json()["first_difference"] == verdict.first.step.seq


async def test_a_budget_of_calls_refuses_the_same_calls_and_what_is_left_is_scored_again(own_home: Path) -> None:
    async def play(client: Client, session: Session) -> None:
        await client.call_tool("write_file", {"path": "submission.csv", "content": CSV})
        await client.call_tool("validate", {})
        await client.call_tool("shell", {"command": "echo 1"})
        await client.call_tool("shell", {"command": "echo 2"})

    async with running_host() as host:
        recording = await recorded(host, play, budget={"calls": 3})
        assert recording.made[-1].kind == "refused"
        verdict = await again(host, recording)
    assert verdict.reproduced
    assert levels(verdict)[-1] == ("shell", "exact")
    assert recording.outcome == "scored"
    assert recording.score is not None
    assert recording.score.kind == "autosubmit"


async def test_a_call_over_which_the_episode_ended_is_made_for_as_long_as_it_took(own_home: Path) -> None:
    async def play(client: Client, session: Session) -> None:
        await client.call_tool("shell", {"command": "echo before"})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "shell", {"command": "sleep 60"})
            with anyio.fail_after(20):
                while session.calls.in_flight == 0:
                    await anyio.sleep(0.01)
            await session.end("budget_exhausted", "the wall time is spent")

    async with running_host() as host:
        recording = await recorded(host, play, budget={"wall_s": 30})
        assert recording.made[-1].cut_off
        verdict = await again(host, recording)
    assert recording.outcome == "budget_exhausted"
    assert verdict.seconds < 30
    assert [level == "skipped" for tool, level in levels(verdict) if tool == "shell"] == [False, True]
    assert verdict.reproduced
    assert (verdict.outcome.level, verdict.score.level) == ("exact", "exact")


async def test_a_score_that_does_not_come_again_is_told(own_home: Path) -> None:
    async def play(client: Client, session: Session) -> None:
        await client.call_tool("write_file", {"path": "submission.csv", "content": CSV})
        await client.call_tool("submit", {})

    async with running_host() as host:
        recording = await recorded(host, play)
        submitted = recording.made[-1]
        assert submitted.score is not None
        assert submitted.score.se == 0.1
        better = replace(submitted.score, value=2.0)
        steps = {**recording.steps, submitted.seq: replace(submitted, score=better)}
        verdict = await again(host, replace(recording, steps=steps, score=better))
    assert (verdict.outcome.level, verdict.score.level) == ("exact", "different")
    assert not verdict.reproduced
    assert verdict.why_not().startswith("final score: 2 before, ")
    assert "standard errors apart" in verdict.why_not()


def written(tmp_path: Path, *more: tuple[str, dict[str, Any]], **session: Any) -> Path:
    """A journal without a server."""
    episode = Episode(tmp_path / "episode")
    about = {"task": "toy", "task_version": "9", "preset": "mini", "seed": 1, "budget": {"calls": 5, "wall_s": 10.0}}
    episode.journal.append("session", **about | session)
    for kind, fields in more:
        episode.journal.append(kind, **fields)
    episode.close()
    return episode.folder


@pytest.mark.parametrize(
    ("events", "session", "words"),
    [
        ([("restored", {"snapshot": "s1"})], {}, "went back to a snapshot"),
        ([], {"parent": {"episode": "e", "snapshot": "s1"}}, "began with a snapshot of another episode"),
        (
            [("call", {"tool": "shell", "arguments": {"command": {"$blob": "00", "chars": 9, "dropped": True}}})],
            {},
            "too large to be kept",
        ),
        ([("call", {"tool": "shell", "arguments": 3})], {}, "episode: "),
        ([("call", {"arguments": {}})], {}, "episode: "),
        ([], {"seed": "x"}, "episode: invalid literal"),
    ],
)
def test_what_cannot_be_played_again_says_why(tmp_path: Path, events: Any, session: Any, words: str) -> None:
    folder = written(tmp_path, *events, **session)
    with pytest.raises(RecordError, match=words):
        read_recording(folder)


def test_a_damaged_record_is_not_played(tmp_path: Path) -> None:
    folder = written(tmp_path, ("call", {"tool": "shell", "arguments": {}}))
    content = (folder / "events.jsonl").read_bytes()
    (folder / "events.jsonl").write_bytes(content.replace(b"mini", b"maxi"))
    with pytest.raises(RecordError, match="damaged at event 0"):
        read_recording(folder)
    (folder / "events.jsonl").write_bytes(b"")
    with pytest.raises(RecordError, match="its first event"):
        read_recording(folder)


def test_calls_that_were_not_carried_out_are_not_made_again_and_do_not_count(tmp_path: Path) -> None:
    early = {"tool": "shell", "arguments": {"command": "a"}, "counted": True}
    grading = {"tool": "validate", "arguments": {}, "counted": True}
    score = {"kind": "validate", "valid": True, "primary": "m", "metrics": {"m": 0.512}, "se": {"m": 0.1}, "shown": 0.5}
    folder = written(
        tmp_path,
        ("call", early),
        ("result", {"call": 1, "text": "The session is still starting the sandbox.", "meta": {"refused": True}}),
        ("call", grading),
        ("result", {"call": 3, "refused": "Grading goes on. Call validate again to get its result."}),
        ("score", score),
        ("call", grading),
        ("result", {"call": 6, "text": "Validation score: m 0.5"}),
        ("call", {**early, "follows": "x", "of": 1}),
        ("call", early),
        ("ending", {"outcome": "abandoned", "reason": "r"}),
        ("result", {"call": 9, "refused": "The episode is over."}),
        ("call", early),
        ("result", {"call": 12, "refused": "The episode is over."}),
        ("end", {"outcome": "abandoned", "reason": "r", "score": None}),
    )
    recording = read_recording(folder)
    assert [(s.seq, bool(s.skipped), s.cut_off) for s in recording.steps.values()] == [
        *((1, True, False), (3, True, False), (6, False, False), (9, False, True), (12, True, False))
    ]
    graded = recording.steps[6].score
    assert graded is not None
    assert (graded.value, graded.se) == (0.5, 0.1)
    request = request_for(recording, None)
    assert request.budget == {"calls": 4, "wall_s": 600.0}
    assert request.metadata["purpose"] == "replay"


async def test_a_server_that_refuses_or_goes_away_is_not_a_difference(own_home: Path, tmp_path: Path) -> None:
    recording = read_recording(written(tmp_path, ("call", {"tool": "shell", "arguments": {"command": "echo"}})))
    async with running_host() as host:
        async with Control(host.base_url, "not the admin token", patience_s=0.1) as control:
            with pytest.raises(ControlError, match="does not take this admin token"):
                await replay(recording, control)
        async with control_of(host) as control:
            verdict = await replay(recording, control, episodes=home("episodes"))
    assert verdict.notes == ("the task was version 9, and is version 1.0.0 now",)
    assert verdict.outcome.level == "skipped"
    assert not verdict.reproduced
    async with Control("http://127.0.0.1:9", "x" * 20, patience_s=0.1) as control:
        with pytest.raises(ServerLostError):
            await replay(recording, control)


def test_a_replayer_describes_itself(tmp_path: Path) -> None:
    folder = written(tmp_path, ("call", {"tool": "shell", "arguments": {"command": "echo"}}))
    described = Replayer(read_recording(folder)).describe()
    assert described == {"agent": "replay", "episode": "episode", "calls": 1}
    assert os.fspath(tmp_path) not in json.dumps(described)
