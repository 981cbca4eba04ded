"""Budgets and ends as an agent meets them: the real server, real sandboxes, both protocol eras."""

from __future__ import annotations

import re
import time

import anyio
import pytest

from mlgym_mcp.records.episodes import summarize
from mlgym_mcp.session.errors import MisuseError
from mlgym_mcp.session.journal import read_journal
from mlgym_mcp.session.session import Session
from tests.serving.conftest import playing, running_host, text_of
from tests.toy import CSV

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


def ends_of(session: Session) -> list[str]:
    return [event["outcome"] for event in read_journal(session.episode.folder) if event.type == "end"]


async def test_a_session_that_nobody_uses_any_more_is_scored_as_it_stands(backend: str) -> None:
    async with running_host(backend) as host, playing(host, budget={"idle_s": 3}) as (client, session):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        left = time.monotonic()
        with anyio.fail_after(30):
            end = await session.wait_ended()
        assert time.monotonic() - left >= 2.9
        assert end is not None
        assert end.outcome == "scored"
        assert end.score is not None
        assert end.score.kind == "autosubmit"
        text = await text_of(client, "shell", command="true")
        assert "no tool was called and no job ran for 3 s; the workspace was submitted as it stood" in text
    assert ends_of(session) == ["scored"]


async def test_a_session_left_with_nothing_to_grade_is_abandoned(backend: str) -> None:
    async with running_host(backend) as host, playing(host, budget={"idle_s": 0.5}) as (client, session):
        await text_of(client, "list_files")
        with anyio.fail_after(30):
            await session.wait_ended()
    assert ends_of(session) == ["abandoned"]
    assert summarize(session.episode.folder).value is None


async def test_a_running_job_and_a_long_call_are_use_and_idleness_counts_from_their_end(backend: str) -> None:
    async with (
        running_host(backend, wait_s=2.5) as host,
        playing(host, budget={"idle_s": 2}) as (client, session),
    ):
        started = time.monotonic()
        text = await text_of(client, "shell", command="sleep 5")
        assert "is still running" in text  # the call alone took longer than the idle time
        with anyio.fail_after(60):
            end = await session.wait_ended()
        assert end is not None
        assert end.outcome == "abandoned"
        assert time.monotonic() - started >= 7


async def test_the_end_of_the_wall_time_answers_every_call_in_flight_and_leaves_one_end(backend: str) -> None:
    answers: list[str] = []
    async with running_host(backend) as host, playing(host, budget={"wall_s": 3}) as (client, session):
        await text_of(client, "write_file", path="submission.csv", content=CSV)

        async def call(command: str) -> None:
            result = await client.call_tool("shell", {"command": command})
            assert not result.is_error
            answers.append(result.content[0].text)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for seconds in (60, 61, 62):
                    tasks.start_soon(call, f"sleep {seconds}")
            end = await session.wait_ended()
    assert [a.startswith("The episode is over (budget_exhausted): the wall time of 3 s") for a in answers] == [True] * 3
    assert end is not None
    assert end.outcome == "scored"
    assert ends_of(session) == ["scored"]
    assert sum(event.type == "score" for event in read_journal(session.episode.folder)) == 1


@ERAS
async def test_when_the_calls_are_spent_submit_status_and_jobs_still_work(mode: str, backend: str) -> None:
    async with running_host(backend, wait_s=1.5) as host, playing(host, mode, budget={"calls": 2}) as (client, session):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        job = re.search(r"job (\w+) is still", await text_of(client, "shell", command="sleep 2; echo finished"))
        assert job is not None
        refused = await client.call_tool("read_file", {"path": "start.py"})
        assert not refused.is_error
        assert "The budget of 2 tool calls is spent, so read_file was not run" in refused.content[0].text
        assert (await client.call_tool("status", {})).structured_content["budget"]["calls_left"] == 0
        text = ""
        with anyio.fail_after(30):
            while "[exit 0" not in text:
                text = await text_of(client, "job_wait", job_id=job[1])
        assert "finished" in text
        assert (await client.call_tool("submit", {})).structured_content["valid"]
    assert ends_of(session) == ["scored"]


@ERAS
async def test_a_warning_is_said_once_and_again_at_the_half_and_the_status_always_says_it(
    mode: str, backend: str
) -> None:
    async with running_host(backend) as host, playing(host, mode, budget={"calls": 12}) as (client, session):
        said = [await text_of(client, "shell", command="true") for _ in range(8)]
        assert ["Budget is low" in text for text in said] == [False] * 6 + [True, False]
        assert said[6].endswith("\n[Budget is low: 5 tool calls left. Submit before it is spent.]")
        for _ in range(2):
            status = (await client.call_tool("status", {})).structured_content
            assert status["warning"] == "Budget is low: 4 tool calls left. Submit before it is spent."
        said = [await text_of(client, "shell", command="true") for _ in range(4)]
        assert ["Budget is low" in text for text in said] == [False, True, False, False]
    results = [event["text"] for event in read_journal(session.episode.folder) if event.type == "result"]
    assert sum("[Budget is low" in text for text in results) == 2  # the record has what the agent was told


async def test_a_warning_is_also_in_the_json_of_a_validation(backend: str) -> None:
    async with running_host(backend) as host, playing(host, budget={"validations": 2}) as (client, _):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        result = await client.call_tool("validate", {})
        assert "[Budget is low: 1 validation left." in result.structured_content["message"]
        assert "[Budget is low: 1 validation left." in result.content[0].text
        again = await client.call_tool("validate", {})
        assert "[Budget is low: 0 validations left." in again.content[0].text


async def test_the_disk_is_shown_warned_about_and_its_end_is_the_sandboxs(backend: str) -> None:
    if backend != "bubblewrap":
        pytest.skip("the process backend has no disk of its own")
    async with running_host(backend) as host, playing(host, budget={"disk_mb": 32}) as (client, session):
        await text_of(client, "shell", command="head -c 27M /dev/zero > big")
        with anyio.fail_after(30):
            while not (status := (await client.call_tool("status", {})).structured_content)["warning"]:
                pass  # what is on the disk may be seen a second late
        assert status["budget"]["disk_mb"] == 32
        assert 0 <= status["budget"]["disk_left_mb"] <= 6.4
        assert "The disk is nearly full" in status["warning"]
        full = await text_of(client, "shell", command="head -c 60M /dev/zero > more")
        assert re.search(r"No space left|the disk limit was exceeded|File size limit", full)
        assert session.over is None


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ({"idle_s": 0}, "The budget's idle_s must be 0.1 to 2592000 seconds (30 days), not 0."),
        ({"wall_s": 3.2e9}, "The budget's wall_s must be 0.1 to 2592000 seconds (30 days), not 3200000000.0."),
        ({"calls": float("nan")}, "The budget's calls must be a whole number from 1 to 10000000, not nan."),
        ({"disk_mb": 65}, "The budget's disk_mb must be at most the preset's 64 MiB."),
        ({"walls": 1}, "A budget has no limit 'walls': its limits are "),
        ([1], "The budget must be an object of limits"),
    ],
)
async def test_a_budget_that_makes_no_sense_makes_no_session(budget: object, expected: str, backend: str) -> None:
    async with running_host(backend) as host:
        with pytest.raises(MisuseError, match=re.escape(expected)):
            await host.create("toy", budget=budget)
        assert host.registry.sessions() == []
