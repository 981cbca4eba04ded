"""The desk: one MCP server where an agent chooses its task and holds several sessions."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from mlgym_mcp.serving.auth import load_admin_token
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.tasks_extension import TASKS
from mlgym_mcp.tools.toolbox import TOOLS
from tests.serving.conftest import CLI, running_host, text_of
from tests.serving.test_long_calls import TasksClient, begin, state_of
from tests.toy import CSV

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


@asynccontextmanager
async def desk_host(backend: str, **options: bool) -> AsyncIterator[Host]:
    async with running_host(backend, **options) as host:
        host.desk = host.desks
        yield host


def at(host: Host) -> str:
    return f"{host.base_url}/mcp"


@asynccontextmanager
async def with_token(host: Host, token: str, **options: object) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http:
        async with Client(streamable_http_client(at(host), http_client=http), **options) as client:
            yield client


def stdio(*arguments: str) -> StdioServerParameters:
    return StdioServerParameters(
        command=CLI[0], args=[*CLI[1:], "serve", *arguments], env={**os.environ, "PYTHONPATH": ""}
    )


async def start(client: Client, **more: object) -> str:
    result = await client.call_tool("start_task", {"task": "toy", **more})
    assert not result.is_error, result
    return str(result.structured_content["session_id"])


@ERAS
async def test_an_agent_finds_a_task_starts_it_and_submits_without_ever_naming_a_session(
    mode: str, backend: str
) -> None:
    async with desk_host(backend) as host, Client(at(host), mode=mode) as client:
        assert "start_task" in client.instructions
        listed = await client.call_tool("list_tasks", {})
        (task,) = listed.structured_content["tasks"]
        assert task["task"] == "toy"
        assert task["metric"] == "accuracy"
        assert task["presets"] == [
            {"name": "mini", "baseline": 0.5, "calls": 40, "minutes": 10.0, "gpus": 0, "data": "missing"}
        ]
        assert "preset mini: baseline 0.5, 40 tool calls, 10 minutes, data missing" in listed.content[0].text
        started = await client.call_tool("start_task", {"task": "toy", "seed": 7, "budget": {"calls": 9}})
        name = started.structured_content["session_id"]
        assert f'session_id="{name}"' in started.content[0].text
        assert "7" in await text_of(client, "shell", command="echo $MLGYM_SEED")
        assert (await client.call_tool("get_task", {})).structured_content["budget"]["calls"] == 9
        assert (await client.call_tool("list_tasks", {})).structured_content["tasks"][0]["presets"][0][
            "data"
        ] == "ready"
        await text_of(client, "write_file", path="submission.csv", content=CSV)
        assert (await client.call_tool("validate", {})).structured_content["valid"]
        (row,) = (await client.call_tool("list_sessions", {})).structured_content["sessions"]
        assert (row["session_id"], row["state"], row["default"], row["calls"]) == (name, "ready", True, 4)
        assert row["best_validation"] is not None
        assert (await client.call_tool("submit", {})).structured_content["valid"]
        assert "[start_task begins another session.]" in await text_of(client, "shell", command="true")
        (row,) = (await client.call_tool("list_sessions", {})).structured_content["sessions"]
        assert row["state"] == "over"
        assert row["score"] is not None


@ERAS
async def test_every_tool_takes_an_optional_session_and_works_on_the_newest_without(mode: str, backend: str) -> None:
    async with desk_host(backend) as host, Client(at(host), mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {spec.name for spec in TOOLS} | {"list_tasks", "start_task", "list_sessions"}
        for tool in tools.values():
            assert len(tool.description) > 20
            assert tool.input_schema["additionalProperties"] is False
            for parameter in tool.input_schema.get("properties", {}).values():
                assert isinstance(parameter["type"], str)
                assert parameter["description"]
            if tool.name not in ("list_tasks", "start_task", "list_sessions"):
                assert "session_id" in tool.input_schema["properties"]
                assert "session_id" not in tool.input_schema.get("required", [])
        first, second = await start(client), await start(client)
        await text_of(client, "write_file", path="first.txt", content="1", session_id=first)
        await text_of(client, "write_file", path="second.txt", content="2")
        assert "first.txt" in await text_of(client, "list_files", session_id=first)
        assert "second.txt" not in await text_of(client, "list_files", session_id=first)
        assert "second.txt" in await text_of(client, "list_files", session_id=second)
        assert "first.txt" not in await text_of(client, "list_files")
        rows = (await client.call_tool("list_sessions", {})).structured_content["sessions"]
        assert [(row["session_id"], row["default"]) for row in rows] == [(second, True), (first, False)]
        (session, _) = host.registry.sessions()
        assert str(session.id) not in str(rows), "a session's name is no key to its endpoint"


@pytest.mark.parametrize(
    ("tool", "arguments", "expected"),
    [
        ("shell", {"command": "true", "session_id": "12345678"}, "There is no session '12345678' here. Sessions: "),
        ("shell", {"command": "true", "session_id": "a"}, "There is no session 'a' here."),
        ("get_task", {"session_id": "x" * 99}, "There is no session 'xxx"),
        ("get_task", {"session_id": 5}, "session_id is 5, but: input should be a valid string"),
        ("get_task", {"sesion": "x"}, "sesion is not an argument of get_task. get_task takes session_id"),
        ("shell", {}, "command is missing"),
        ("start_task", {}, "task is missing"),
        ("start_task", {"task": "toi"}, "There is no task 'toi'; did you mean 'toy'?"),
        ("start_task", {"task": "toy", "preset": "huge"}, "has no preset 'huge'"),
        ("start_task", {"task": "toy", "budget": {"coffee": 1}}, "coffee"),
        ("start_task", {"task": "toy", "budget": {"calls": -1}}, "calls"),
        ("start_task", {"task": "toy", "seed": -1}, "seed is -1"),
        ("start_task", {"task": "../../etc", "preset": "mini"}, "There is no task '../../etc'"),
        ("bash", {"command": "ls"}, "There is no tool 'bash'. The tools are: list_tasks, start_task, list_sessions"),
    ],
)
async def test_misuse_is_an_error_of_one_clear_sentence(
    tool: str, arguments: dict[str, object], expected: str, backend: str
) -> None:
    async with desk_host(backend) as host, Client(at(host)) as client:
        before = await client.call_tool("get_task", {})
        assert before.is_error
        assert before.content[0].text == "No session was started here yet. Call list_tasks, then start_task."
        await start(client)
        result = await client.call_tool(tool, arguments)
        assert result.is_error
        assert expected in result.content[0].text
        assert "Traceback" not in result.content[0].text
        assert len(host.registry.sessions()) == 1


async def test_a_desk_needs_the_admin_token_where_sessions_need_theirs(backend: str) -> None:
    async with desk_host(backend, require_token=True) as host, httpx.AsyncClient() as http:
        session = await host.create("toy")
        for token in (None, "wrong-wrong-wrong-wrong", session.token):
            headers = {"Accept": "application/json, text/event-stream"}
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            assert (await http.post(at(host), json={}, headers=headers)).status_code == 401
        async with with_token(host, load_admin_token().value) as client:
            rows = (await client.call_tool("list_sessions", {})).structured_content["sessions"]
            assert [row["task"] for row in rows] == ["toy"]
            refused = await text_of(client, "shell", command="true")
            assert "Or pass the session_id of one that list_sessions shows." in refused, "nobody else's by default"
            text = await text_of(client, "shell", command="echo reached", session_id=rows[0]["session_id"])
            assert "reached" in text


async def test_without_a_token_only_what_was_started_without_one_is_in_reach(backend: str) -> None:
    async with desk_host(backend) as host, Client(at(host)) as client, httpx.AsyncClient() as http:
        hidden = await host.create("toy")
        assert (await client.call_tool("list_sessions", {})).structured_content["sessions"] == []
        for name in (hidden.id, hidden.id[:8], hidden.episode.id):
            refused = await client.call_tool("shell", {"command": "true", "session_id": name})
            assert refused.is_error
            assert "There is no session" in refused.content[0].text
        mine = await start(client)
        async with with_token(host, load_admin_token().value) as admin:
            rows = (await admin.call_tool("list_sessions", {})).structured_content["sessions"]
            assert {row["session_id"] for row in rows} == {mine, hidden.id[:8]}
        wrong = {"Accept": "application/json, text/event-stream", "Authorization": "Bearer wrong-wrong-wrong-wrong"}
        assert (await http.post(at(host), json={}, headers=wrong)).status_code == 401
        evil = {"Accept": "application/json, text/event-stream", "Host": "evil.example"}
        assert (await http.post(at(host), json={}, headers=evil)).status_code == 421


async def test_no_desk_where_one_task_is_served(backend: str) -> None:
    async with running_host(backend) as host, httpx.AsyncClient() as http:
        assert (await http.post(at(host), json={})).status_code == 401
        token = {"Authorization": f"Bearer {load_admin_token().value}"}
        assert (await http.post(at(host), json={}, headers=token)).status_code == 404


async def test_a_start_that_is_sent_again_begins_one_session(backend: str) -> None:
    async with desk_host(backend) as host, Client(at(host)) as client:
        names = []

        async def one(key: str) -> None:
            result = await client.call_tool("start_task", {"task": "toy"}, meta={"claudecode/toolUseId": key})
            names.append(result.structured_content["session_id"])

        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(one, "toolu_1")
        assert len(set(names)) == 1
        await one("toolu_2")
        assert len(set(names)) == 2
        assert len(host.registry.sessions()) == 2


async def test_a_start_that_broke_is_found_by_the_next_same_one(backend: str) -> None:
    async with desk_host(backend) as host:
        desk = (await host.desks.at("somebody")).desk
        with anyio.CancelScope() as scope:
            scope.cancel()
            await desk.start("toy", "mini", 0, {})
        (made,) = host.registry.sessions()
        assert await desk.start("toy", "mini", 0, {}) is made, "the same request again"
        assert await desk.start("toy", "mini", 0, {}) is not made, "and then another"
        other = (await host.desks.at("another")).desk
        assert other.sessions() == []


async def test_tasks_of_the_tasks_extension_belong_to_the_desk(backend: str) -> None:
    async with desk_host(backend) as host:
        async with (
            Client(at(host), extensions=[TasksClient()]) as client,
            with_token(host, load_admin_token().value, extensions=[TasksClient()]) as admin,
        ):
            assert TASKS in client.server_capabilities.extensions
            await start(client)
            await text_of(client, "shell", command="true")
            result = await client.call_tool("shell", {"command": "sleep 2; echo whole"})
            assert "whole\n[exit 0" in result.content[0].text
            await start(admin)
            await text_of(admin, "shell", command="true")
            handle = await begin(admin, "shell", command="sleep 3")
            assert (await state_of(admin, handle.task_id)).status == "working"
            with pytest.raises(Exception, match="no such task"):
                await state_of(client, handle.task_id)


@ERAS
async def test_resources_are_of_the_newest_session_or_of_the_one_that_is_named(mode: str, backend: str) -> None:
    async with desk_host(backend) as host, Client(at(host), mode=mode) as client:

        async def read(uri: str) -> str:
            return "".join(content.text for content in (await client.read_resource(uri)).contents)

        names = {"instruction", "status", "scores", "log"}
        listed = (await client.list_resources()).resources
        assert {str(resource.uri) for resource in listed} == {f"task://{name}" for name in names}
        templates = (await client.list_resource_templates()).resource_templates
        assert {one.uri_template for one in templates} == {f"task://{{session_id}}/{name}" for name in names}
        with pytest.raises(MCPError, match="No session was started here yet"):
            await read("task://status")
        first, second = await start(client, budget={"calls": 7}), await start(client)
        await text_of(client, "shell", command="echo of the first", session_id=first)
        assert json.loads(await read(f"task://{first}/status"))["budget"]["calls"] == 7
        assert json.loads(await read("task://status"))["budget"]["calls"] == 40
        assert "of the first" in await read(f"task://{first}/log")
        assert "of the first" not in await read(f"task://{second}/log")
        assert "Guess, in preset mini" in await read("task://instruction")
        assert json.loads(await read("task://scores")) == []


async def test_no_resource_reaches_another_desks_session(backend: str) -> None:
    async with desk_host(backend) as host, Client(at(host)) as client:
        hidden = await host.create("toy")
        await start(client)
        for name in (hidden.id, hidden.id[:8], "..", "%2e%2e", "a%2Fb", "%00", "x" * 5000):
            with pytest.raises(MCPError) as refused:
                await client.read_resource(f"task://{name}/instruction")
            assert "Guess" not in str(refused.value)
            assert len(str(refused.value)) < 6000


@ERAS
async def test_a_prompt_begins_an_attempt_at_any_task_or_at_the_one_that_is_named(mode: str, backend: str) -> None:
    async with desk_host(backend) as host, Client(at(host), mode=mode) as client:
        (prompt,) = (await client.list_prompts()).prompts
        assert {argument.name: argument.required for argument in prompt.arguments} == {"task": False, "preset": False}
        for arguments, expected in (({}, "begin one of them with"), ({"task": "toy"}, "begin the task 'toy' with")):
            (message,) = (await client.get_prompt("attempt", arguments)).messages
            assert expected in message.content.text
        assert not host.registry.sessions(), "a prompt only says what to do"


# ---------------------------------------------------------------- on stdio


@ERAS
async def test_serve_without_a_task_is_a_desk_that_a_process_per_call_can_use(mode: str, backend: str) -> None:
    options = ("--sandbox", backend, "--unsafe")

    async def one(tool: str, **arguments: object) -> object:
        async with Client(stdio(*options), mode=mode) as client:
            return await client.call_tool(tool, arguments)

    assert (await one("list_tasks")).structured_content["tasks"][0]["task"] == "toy"
    name = (await one("start_task", task="toy")).structured_content["session_id"]
    await one("write_file", path="kept.txt", content="x")
    assert "kept.txt" in (await one("list_files")).content[0].text
    assert "kept.txt" in (await one("list_files", session_id=name)).content[0].text


async def test_a_desk_on_stdio_sees_its_own_sessions_only(backend: str) -> None:
    options = ("--sandbox", backend, "--unsafe")
    async with (
        Client(stdio("--session", "a", *options)) as a,
        Client(stdio("--session", "b", *options)) as b,
    ):
        name = await start(a)
        await text_of(a, "write_file", path="mine.txt", content="a")
        assert (await b.call_tool("list_sessions", {})).structured_content["sessions"] == []
        refused = await b.call_tool("list_files", {"session_id": name})
        assert refused.is_error
        assert "There is no session" in refused.content[0].text
        assert "mine.txt" not in refused.content[0].text
        async with Client(stdio("--session", "a", *options)) as again:
            assert "mine.txt" in await text_of(again, "list_files")


def test_what_is_of_one_task_is_refused_without_one() -> None:
    for wrong in (["--calls", "3"], ["--preset", "full"], ["--seed", "4"]):
        done = subprocess.run(
            [*CLI, "serve", *wrong], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 2
        assert "are of one task: name it" in done.stderr
        assert not done.stdout
