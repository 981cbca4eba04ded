"""Calls that outlive their requests: broken off, sent again, handed out as tasks."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import anyio
import httpx
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp import Client, MCPError
from mcp.client import ClaimContext, ClientExtension, ResultClaim
from mcp.types import CallToolResult, Request, RequestParams, Result

from mlgym_mcp.serving.tasks_extension import TASKS
from mlgym_mcp.session.journal import read_journal
from mlgym_mcp.session.session import Session
from tests.chaos.killable import Killable
from tests.serving.conftest import CLI, playing, running_host, text_of
from tests.toy import CSV, make_toy

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
TALE = "echo begun >> runs.txt; sleep 2; echo done"


def calls_of(session: Session, tool: str) -> list[Any]:
    return [e for e in read_journal(session.episode.folder) if e.type == "call" and e["tool"] == tool]


async def broken_off(client: Client, tool: str, arguments: dict[str, object], after: anyio.Event) -> None:
    """Make a call and cut it when ``after`` is set, as a lost connection or an impatient client does."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cut() -> None:
                await after.wait()
                scope.cancel()

            tasks.start_soon(cut)
            await client.call_tool(tool, arguments)


async def broken_shell(client: Client, other: Client, command: str, sign: str) -> None:
    """Begin a command and cut the call when the file ``sign`` is there."""
    seen = anyio.Event()

    async def watch() -> None:
        with anyio.fail_after(30):
            while sign not in await text_of(other, "list_files"):
                await anyio.sleep(0.05)
        seen.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await broken_off(client, "shell", {"command": command}, seen)


async def broken_grading(client: Client, session: Session, tool: str) -> None:
    """Begin a ``validate`` or ``submit`` and cut the call while it is being graded."""
    grading = anyio.Event()

    async def watch() -> None:
        while not session.scoring.grading:
            await anyio.sleep(0.01)
        grading.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        await broken_off(client, tool, {}, grading)


@ERAS
async def test_a_call_sent_again_after_it_broke_is_the_same_job(mode: str, backend: str) -> None:
    async with running_host(backend) as host, playing(host, mode) as (client, session):
        async with Client(host.mcp_url(session), mode=mode) as other:
            await broken_shell(client, other, TALE, "runs.txt")
            again = await other.call_tool("shell", {"command": TALE})
        assert "done" in again.content[0].text
        assert "[exit 0" in again.content[0].text
        assert "was not run twice" in again.content[1].text
        assert again.meta["joined"] is True
        assert "begun\n[exit" in await text_of(client, "shell", command="cat runs.txt")
        assert len(calls_of(session, "shell")) == 2, "the one that was sent twice, and cat"


async def test_an_answer_that_was_lost_is_delivered_once_then_the_command_runs_anew(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, session):
        async with Client(host.mcp_url(session)) as other:
            await broken_shell(client, other, TALE, "runs.txt")
            with anyio.fail_after(30):
                while "running" in await text_of(other, "job_list"):
                    await anyio.sleep(0.1)
        assert "was not run twice" in await text_of(client, "shell", command=TALE)
        assert "was not run twice" not in await text_of(client, "shell", command=TALE)
        assert "begun\nbegun\n[exit" in await text_of(client, "shell", command="cat runs.txt")


async def test_a_change_in_between_makes_the_same_command_a_new_one(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, session):
        async with Client(host.mcp_url(session)) as other:
            await broken_shell(client, other, TALE, "runs.txt")
        await text_of(client, "write_file", path="train.py", content="print(2)\n")
        assert "was not run twice" not in await text_of(client, "shell", command=TALE)
        assert "begun\nbegun\n" in await text_of(client, "shell", command="cat runs.txt")


async def test_a_broken_call_lets_the_next_one_in_at_once(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, session):
        async with Client(host.mcp_url(session)) as other:
            await broken_shell(client, other, "touch runs.txt; sleep 30", "runs.txt")
        began = time.monotonic()
        assert "here" in await text_of(client, "shell", command="echo here")
        assert time.monotonic() - began < 10
        assert "running" in await text_of(client, "job_list"), "the job goes on"


async def test_a_call_with_a_key_of_its_own_is_made_once_however_often_it_is_sent(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, session):
        command = {"command": "echo begun >> runs.txt; sleep 1; wc -l < runs.txt"}
        answers: list[str] = []

        async def call(key: str) -> None:
            result = await client.call_tool("shell", command, meta={"claudecode/toolUseId": key})
            answers.append(result.content[0].text.splitlines()[0])

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(call, "toolu_1")
        await call("toolu_1")
        assert answers == ["1"] * 6
        await call("toolu_2")
        assert answers[-1] == "2", "another key is another call"
        other = {"command": "echo something else"}
        result = await client.call_tool("shell", other, meta={"claudecode/toolUseId": "toolu_2"})
        assert "something else" in result.content[0].text, "the same key for another command is no excuse"
        assert len(calls_of(session, "shell")) == 3


async def test_two_same_commands_that_nobody_broke_run_twice(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, _):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(text_of_command, client, "echo x >> runs.txt")
        assert "2" in await text_of(client, "shell", command="wc -l < runs.txt")


async def text_of_command(client: Client, command: str) -> None:
    await text_of(client, "shell", command=command)


SLOW_GRADER = """\
import time
from mlgym_mcp.grading.api import GradeContext, Score

def grade(ctx: GradeContext) -> Score:
    time.sleep(3)
    return Score(metrics={"accuracy": 0.75}, se={"accuracy": 0.1})
"""


@pytest.fixture
def slow_grader(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLGYM_TASKS", str(make_toy(tmp_path / "slow", grader=SLOW_GRADER)))


@ERAS
@pytest.mark.usefixtures("slow_grader")
async def test_a_submit_that_broke_ends_the_episode_and_its_answer_waits(mode: str, backend: str) -> None:
    async with running_host(backend) as host, playing(host, mode) as (client, session):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        await broken_grading(client, session, "submit")
        with anyio.fail_after(30):
            await session.wait_ended()
        assert session.over.outcome == "scored"
        again = await client.call_tool("submit", {})
        assert again.structured_content["valid"]
        assert again.structured_content["score"] == 0.75
        assert len(session.scoring.scores) == 1


@pytest.mark.usefixtures("slow_grader")
async def test_a_validate_that_broke_is_charged_once(backend: str) -> None:
    async with running_host(backend) as host, playing(host) as (client, session):
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        await broken_grading(client, session, "validate")
        again = await client.call_tool("validate", {})
        assert again.structured_content["score"] == 0.75
        assert again.structured_content["validations_left"] == 2
        assert session.meter.calls == 2, "write_file, and one validate"


@pytest.fixture
def server(own_home: Path, backend: str) -> Iterator[Killable]:
    made = Killable(own_home, backend)
    yield made
    made.close()


@ERAS
async def test_a_command_over_which_the_server_died_is_the_same_job_when_the_call_is_sent_again(
    mode: str, server: Killable
) -> None:
    await server.start()
    made = await server.api("POST", "/sessions", {"task": "toy"})
    done = anyio.Event()

    async def doomed() -> None:
        with contextlib.suppress(Exception):
            async with server.playing(made, mode) as client:
                await client.call_tool("shell", {"command": TALE})
        done.set()

    async with server.playing(made) as watcher, anyio.create_task_group() as tasks:
        await text_of(watcher, "shell", command="true")
        tasks.start_soon(doomed)
        with anyio.fail_after(30):
            while "runs.txt" not in await text_of(watcher, "list_files"):
                await anyio.sleep(0.05)
        server.kill()
        await server.start()
        with anyio.move_on_after(10):
            await done.wait()
        tasks.cancel_scope.cancel()
    async with server.playing(made, mode) as client:
        while "The session is still" in await text_of(client, "job_list"):
            pass
        again = await client.call_tool("shell", {"command": TALE})
        assert "done\n[exit 0" in again.content[0].text
        assert "was not run twice" in again.content[1].text
        assert "begun\n[exit" in await text_of(client, "shell", command="cat runs.txt")
        assert "was not run twice" not in await text_of(client, "shell", command=TALE)
        assert "begun\nbegun\n[exit" in await text_of(client, "shell", command="cat runs.txt")


async def test_calls_of_one_connection_keep_the_order_they_came_in(backend: str) -> None:
    """Many small changes pipelined on one stdio connection: commands, which run outside their requests, and edits."""
    process = await anyio.open_process(
        [*CLI, "serve", "toy", "--session", "order", "--sandbox", backend, "--unsafe"], stderr=None
    )
    async with process:
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        lines: list[dict[str, object]] = [
            {"id": 0, "method": "initialize", "params": hello},
            {"method": "notifications/initialized"},
        ]
        for i in range(1, 13):
            shell = {"name": "shell", "arguments": {"command": f"cat note.txt >> seen.txt; echo {i} >> seen.txt"}}
            write = {"name": "write_file", "arguments": {"path": "note.txt", "content": f"note {i}\n"}}
            lines.append({"id": i, "method": "tools/call", "params": write if i % 2 else shell})
        lines.append({"id": 13, "method": "tools/call", "params": {"name": "validate", "arguments": {}}})
        look = {"name": "shell", "arguments": {"command": "cat seen.txt"}}
        lines.append({"id": 14, "method": "tools/call", "params": look})
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send(b"".join(json.dumps({"jsonrpc": "2.0", **line}).encode() + b"\n" for line in lines))
        received = BufferedByteReceiveStream(process.stdout)
        answer: dict[str, Any] = {}
        with anyio.fail_after(60):
            while answer.get("id") != 14:
                answer = json.loads(await received.receive_until(b"\n", 1 << 20))
        seen = answer["result"]["content"][0]["text"].splitlines()[:-1]
        assert seen == [line for i in range(2, 13, 2) for line in (f"note {i - 1}", str(i))]
        await process.stdin.aclose()


@pytest.mark.usefixtures("slow_grader")
async def test_a_joined_grading_is_waited_for_no_longer_than_any_call(backend: str) -> None:
    async with running_host(backend, wait_s=0.5) as host, playing(host) as (client, session):
        while "The session is still" in await text_of(client, "job_list"):
            pass
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        await broken_grading(client, session, "validate")
        early = await client.call_tool("validate", {})
        assert early.structured_content["code"] == "refused"
        assert "again" in early.content[0].text
        with anyio.fail_after(60):
            while (result := await client.call_tool("validate", {})).structured_content["code"] == "refused":
                pass
        assert result.structured_content["score"] == 0.75
        assert len(session.scoring.scores) == 1
        assert session.meter.validations == 1


# ---------------------------------------------------------------- the Tasks extension, as a client sees it


class TaskParams(RequestParams):
    task_id: str


class TaskHandle(Result):
    result_type: Literal["task"] = "task"
    task_id: str
    status: str
    poll_interval_ms: int
    ttl_ms: int


class TaskState(Result):
    task_id: str
    status: str
    status_message: str
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class GetTask(Request[TaskParams, Literal["tasks/get"]]):
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams
    name_param: ClassVar[str | None] = "taskId"


class CancelTask(Request[TaskParams, Literal["tasks/cancel"]]):
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: TaskParams
    name_param: ClassVar[str | None] = "taskId"


class TasksClient(ClientExtension):
    identifier = TASKS

    def claims(self) -> Sequence[ResultClaim[Any]]:
        async def resolve(task: TaskHandle, ctx: ClaimContext) -> CallToolResult:
            while True:
                state = await ctx.session.send_request(GetTask(params=TaskParams(task_id=task.task_id)), TaskState)
                if state.status == "completed":
                    return CallToolResult.model_validate(state.result)
                assert state.status == "working", state
                await anyio.sleep(0.1)

        return [ResultClaim(result_type="task", model=TaskHandle, resolve=resolve)]


async def state_of(client: Client, task_id: str) -> TaskState:
    return await client.session.send_request(GetTask(params=TaskParams(task_id=task_id)), TaskState)


async def begin(client: Client, tool: str, **arguments: object) -> TaskHandle:
    handle = await client.session.call_tool(tool, arguments, allow_claimed=True)
    assert isinstance(handle, TaskHandle), handle
    return handle


async def test_a_client_that_takes_tasks_gets_the_whole_result_of_a_job_longer_than_any_wait(backend: str) -> None:
    async with running_host(backend, wait_s=1.5) as host:
        session = await host.create("toy")
        async with Client(host.mcp_url(session), extensions=[TasksClient()]) as client:
            assert TASKS in client.server_capabilities.extensions
            await text_of(client, "shell", command="true")
            result = await client.call_tool("shell", {"command": "echo a; sleep 5; echo b"})
            assert "a\nb\n[exit 0" in result.content[0].text
            handle = await begin(client, "shell", command="echo working; sleep 4")
            assert handle.ttl_ms > 60_000
            assert "free" in await text_of(client, "shell", command="echo free"), "a task is in nobody's way"
            assert (await state_of(client, handle.task_id)).status == "working"
        journal = [e for e in read_journal(session.episode.folder) if e.type == "result"]
        assert any("a\nb\n" in str(e.get("text")) for e in journal), "what the agent saw is recorded"


async def test_a_quick_call_is_answered_at_once_and_others_never_see_a_task(backend: str) -> None:
    async with running_host(backend, wait_s=1.5) as host:
        session = await host.create("toy")
        async with Client(host.mcp_url(session), extensions=[TasksClient()]) as client:
            await text_of(client, "shell", command="true")
            quick = await client.session.call_tool("shell", {"command": "echo hi"}, allow_claimed=True)
            assert isinstance(quick, CallToolResult)
        for mode in ("auto", "legacy"):
            async with Client(host.mcp_url(session), mode=mode) as plain:
                assert "is still running" in await text_of(plain, "shell", command="sleep 3")
                with pytest.raises(MCPError):
                    await state_of(plain, "x")


@pytest.mark.usefixtures("slow_grader")
@pytest.mark.parametrize("tool", ["validate", "submit"])
async def test_a_grading_longer_than_any_wait_is_one_task(tool: str, backend: str) -> None:
    async with running_host(backend, wait_s=1.5) as host:
        session = await host.create("toy")
        async with Client(host.mcp_url(session), extensions=[TasksClient()]) as client:
            await text_of(client, "write_file", path="submission.csv", content=CSV)
            result = await client.call_tool(tool, {})
            assert result.structured_content["valid"], result
            assert result.structured_content["score"] == 0.75
            assert len(session.scoring.scores) == 1


async def test_cancelling_a_task_ends_the_wait_and_not_the_job(backend: str) -> None:
    async with running_host(backend) as host:
        session = await host.create("toy")
        async with Client(host.mcp_url(session), extensions=[TasksClient()]) as client:
            await text_of(client, "shell", command="true")
            handle = await begin(client, "shell", command="sleep 3; echo survived > proof.txt")
            await client.session.send_request(CancelTask(params=TaskParams(task_id=handle.task_id)), Result)
            state = await state_of(client, handle.task_id)
            assert state.status == "cancelled"
            assert "job_stop" in state.status_message
            assert "running" in await text_of(client, "job_list")
            with anyio.fail_after(30):
                while "proof.txt" not in await text_of(client, "list_files"):
                    await anyio.sleep(0.1)


async def test_a_task_ends_with_its_episode_in_words(backend: str) -> None:
    async with running_host(backend) as host:
        session = await host.create("toy")
        async with Client(host.mcp_url(session), extensions=[TasksClient()]) as client:
            await text_of(client, "shell", command="true")
            handle = await begin(client, "shell", command="sleep 100")
            await session.end("abandoned", "the session was deleted")
            with anyio.fail_after(30):
                while (state := await state_of(client, handle.task_id)).status == "working":
                    await anyio.sleep(0.1)
            assert state.status == "completed"
            assert "The episode is over" in state.result["content"][0]["text"]


async def test_a_task_is_known_to_its_own_session_only(backend: str) -> None:
    async with running_host(backend) as host:
        mine, other = await host.create("toy"), await host.create("toy")
        async with (
            Client(host.mcp_url(mine), extensions=[TasksClient()]) as client,
            Client(host.mcp_url(other), extensions=[TasksClient()]) as thief,
        ):
            await text_of(client, "shell", command="true")
            handle = await begin(client, "shell", command="sleep 3")
            for wrong in (handle.task_id, "", "x" * 200):
                with pytest.raises(MCPError, match="no such task"):
                    await state_of(thief, wrong)
            assert (await state_of(client, handle.task_id)).status == "working"


async def test_a_header_that_names_another_task_is_refused(backend: str) -> None:
    async with running_host(backend) as host, httpx.AsyncClient() as http:
        session = await host.create("toy")
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}},
            "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"taskId": "a", "_meta": meta}}
        headers = {
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tasks/get",
            "Mcp-Name": "b",
        }
        answer = await http.post(host.mcp_url(session), json=body, headers=headers)
        assert answer.json()["error"]["code"] == -32020


async def test_what_is_kept_of_calls_is_bounded(backend: str) -> None:
    async with running_host(backend) as host, playing(host, budget={"calls": 1000}) as (client, session):
        calls = host.endpoint(session.id).calls
        for i in range(30):
            await client.call_tool("shell", {"command": f"echo {i}"}, meta={"dev.mlgym/call": f"key {i}"})
        assert len(calls) <= 9
        for i in range(5):
            await text_of(client, "shell", command=f"echo {i}")
        assert len(calls) <= 9
        calls.prune()
        assert len(calls) <= 8
        long_key = "k" * 300
        first = await client.call_tool("shell", {"command": "date +%N"}, meta={"dev.mlgym/call": long_key + "a"})
        second = await client.call_tool("shell", {"command": "date +%N"}, meta={"dev.mlgym/call": long_key + "b"})
        assert first.content[0].text != second.content[0].text, "long keys are told apart to the end"
