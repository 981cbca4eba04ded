"""Calls and tasks that a client asks for again after their server was killed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError

from mlgym_mcp.session.journal import Event, read_journal
from tests.attacks.conftest import gated_grader
from tests.chaos.killable import Killable
from tests.serving.conftest import text_of
from tests.serving.test_long_calls import TasksClient, TaskState, begin, state_of
from tests.toy import CSV, make_toy

pytestmark = pytest.mark.anyio
TALE = "echo begun >> runs.txt; sleep 2; echo done"


@pytest.fixture
def server(own_home: Path, backend: str) -> Iterator[Killable]:
    made = Killable(own_home, backend, wait_s=20)
    yield made
    made.close()


def journal_of(server: Killable, made: dict[str, Any]) -> list[Event]:
    return list(read_journal(server.home / "episodes" / made["episode"]))


async def restart(server: Killable, number: int = signal.SIGKILL) -> None:
    server.kill(number)
    await server.start()


@asynccontextmanager
async def tasking(server: Killable, made: dict[str, Any]) -> AsyncIterator[Client]:
    """A client that takes tasks; a server that dies under it is no failure."""
    async with server.playing(made, extensions=[TasksClient()]) as client:
        while "The session is still" in await text_of(client, "job_list"):
            pass
        yield client


async def finished(client: Client, task_id: str) -> TaskState:
    with anyio.fail_after(30):
        while (state := await state_of(client, task_id)).status == "working":
            await anyio.sleep(0.05)
    return state


async def test_a_commands_task_goes_on_in_the_next_server_and_the_one_after(server: Killable) -> None:
    await server.start()
    made, other = [await server.api("POST", "/sessions", {"task": "toy"}) for _ in range(2)]
    async with tasking(server, made) as client:
        handle = await begin(client, "shell", command=TALE)
        server.kill()
        await server.start()
        state = await state_of(client, handle.task_id)
        assert state.status == "completed" or "restarted" in state.status_message
        done = await finished(client, handle.task_id)
        assert done.status == "completed"
        assert done.result is not None
        assert "done\n[exit 0" in done.result["content"][0]["text"]
        await restart(server)
        assert "done\n[exit 0" in str((await finished(client, handle.task_id)).result["content"][0]["text"])
        assert "begun\n[exit" in await text_of(client, "shell", command="cat runs.txt")
        for wrong in ("", handle.task_id[:-1], handle.task_id.upper()):
            with pytest.raises(MCPError, match="no such task"):
                await state_of(client, wrong)
    async with tasking(server, other) as thief:
        with pytest.raises(MCPError, match="no such task"):
            await state_of(thief, handle.task_id)
    assert not server.errors()


@pytest.fixture
def gate(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A grader that waits for the file ``go`` here, and says that it has ``arrived``."""
    place = tmp_path / "gate"
    place.mkdir()
    grader = gated_grader(place)
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "gated", grader=grader)))
    return place


@pytest.mark.parametrize("tool", ["validate", "submit"])
async def test_a_gradings_task_is_graded_again_and_charged_once(tool: str, gate: Path, server: Killable) -> None:
    await server.start()
    made = await server.api("POST", "/sessions", {"task": "toy"})
    async with tasking(server, made) as client:
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        handle = await begin(client, tool)
        with anyio.fail_after(30):
            while not (gate / "arrived").exists():
                await anyio.sleep(0.01)
        server.kill()
        (gate / "go").touch()
        await server.start()
        first = (await finished(client, handle.task_id)).result
        assert first is not None
        assert first["structuredContent"]["valid"], first
        if tool == "submit":
            await server.api("DELETE", f"/sessions/{made['id']}")  # returns when the end is recorded
        await restart(server)
        if tool == "submit":
            with pytest.raises(MCPError, match=r"The episode is over \(scored\)"):
                await finished(client, handle.task_id)
        else:
            again = (await finished(client, handle.task_id)).result
            assert again is not None
            assert again["structuredContent"] == first["structuredContent"]
            status = (await client.call_tool("status", {})).structured_content
            assert (status["scores"], status["budget"]["validations_left"]) == (1, 2)
    events = journal_of(server, made)
    assert [event.type for event in events].count("score") == 1
    counted = [event["tool"] for event in events if event.type == "call" and event["counted"]]
    assert counted.count(tool) == (tool == "validate"), counted
    assert not server.errors()


async def test_a_call_with_a_key_is_made_once_across_servers_though_it_was_answered(server: Killable) -> None:
    await server.start()
    made = await server.api("POST", "/sessions", {"task": "toy"})

    async def call(client: Client, tool: str, key: str, **arguments: object) -> Any:
        return await client.call_tool(tool, arguments, meta={"dev.mlgym/call": key})

    async with server.playing(made) as client:
        while "The session is still" in await text_of(client, "job_list"):
            pass
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        command = "echo begun >> runs.txt; wc -l < runs.txt"
        assert (await call(client, "shell", "one", command=command)).content[0].text.startswith("1\n")
        score = (await call(client, "validate", "two")).structured_content
        await restart(server)
        while "The session is still" in await text_of(client, "job_list"):
            pass
        again = await call(client, "shell", "one", command=command)
        assert again.content[0].text.startswith("1\n")
        assert again.meta["joined"] is True
        assert (await call(client, "validate", "two")).structured_content == score
        assert (await call(client, "shell", "three", command=command)).content[0].text.startswith("2\n")
        other = await call(client, "shell", "one", command="echo another")
        assert other.content[0].text.startswith("another\n"), "the same key for another command is no excuse"
    assert [event.type for event in journal_of(server, made)].count("score") == 1


async def test_a_score_whose_answer_was_lost_with_the_server_is_given_and_not_charged_again(server: Killable) -> None:
    await server.start()
    made = await server.api("POST", "/sessions", {"task": "toy"})
    async with server.playing(made) as client:
        while "The session is still" in await text_of(client, "job_list"):
            pass
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        score = (await client.call_tool("validate", {})).structured_content
        server.kill()
        assert journal_of(server, made)[-1].type == "result"
        journal = server.home / "episodes" / made["episode"] / "events.jsonl"
        journal.write_bytes(journal.read_bytes()[:-5])  # as if it had died while it wrote that
        await server.start()
        while "The session is still" in await text_of(client, "job_list"):
            pass
        again = await client.call_tool("validate", {})
        assert again.structured_content == score
        assert again.meta["joined"] is True
        fresh = await client.call_tool("validate", {})
        assert fresh.structured_content["validations_left"] == score["validations_left"] - 1


async def test_a_command_that_a_stopped_server_could_not_wait_for_is_the_same_job_when_called_again(
    server: Killable,
) -> None:
    await server.start()
    made = await server.api("POST", "/sessions", {"task": "toy"})
    command = "echo begun >> runs.txt; until [ -e /tmp/go ]; do sleep 0.05; done; echo done"
    async with server.playing(made) as client, server.playing(made) as watcher, anyio.create_task_group() as tasks:
        while "The session is still" in await text_of(client, "job_list"):
            pass
        told = []

        async def doomed() -> None:
            with contextlib.suppress(Exception):
                told.append(await text_of(client, "shell", command=command))

        tasks.start_soon(doomed)
        with anyio.fail_after(30):
            while "runs.txt" not in await text_of(watcher, "list_files"):
                await anyio.sleep(0.05)
        await anyio.to_thread.run_sync(server.kill, signal.SIGTERM)
        await server.start()
    async with tasking(server, made) as client:
        handle = await begin(client, "shell", command=command)
        await text_of(client, "shell", command="touch /tmp/go")
        done = (await finished(client, handle.task_id)).result
        assert done is not None
        assert "done\n[exit 0" in done["content"][0]["text"]
        assert "begun\n[exit" in await text_of(client, "shell", command="cat runs.txt")
    assert all("The server is being restarted" in text for text in told)
