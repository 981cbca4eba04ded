"""The MCP Inspector's command line against the real command: a task and the desk, on stdio and over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from mlgym_sandbox.home import home
from tests.conformance.conftest import Node, Ran
from tests.serving.conftest import CLI

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]

PROGRAM = "node_modules/@modelcontextprotocol/inspector/clients/cli/build/index.js"
ERAS = ("legacy", "modern")
UNAUTHORIZED, UNREACHABLE, TOOL_FAILED = 3, 4, 5
"""How the Inspector exits; 6 is for schemas that not every client takes."""


@dataclass(frozen=True)
class Inspector:
    """The Inspector before one server."""

    node: Node
    server: Sequence[str]
    folder: Path

    async def run(self, method: str, *arguments: str, era: str = "legacy", code: int = 0) -> Ran:
        """Make one call; fails if the Inspector ends otherwise than foreseen."""
        options = ("--method", method, *arguments, "--protocol-era", era, "--format", "json")
        ran = await self.node.run(PROGRAM, *self.server, *options, environment={"HOME": str(self.folder)})
        assert ran.code == code, f"{method} {arguments} ended with {ran.code}: {ran.out[-500:]} {ran.err[-1500:]}"
        return ran

    async def result(self, method: str, *arguments: str, era: str = "legacy", code: int = 0) -> Any:
        """Make one call and return its result."""
        return json.loads((await self.run(method, *arguments, era=era, code=code)).out)["result"]

    async def tool(self, name: str, era: str = "legacy", code: int = 0, **arguments: object) -> Any:
        """Call a tool."""
        given = ("--tool-name", name, "--tool-args-json", json.dumps(arguments))
        return await self.result("tools/call", *given, era=era, code=code)

    async def strict(self, era: str) -> set[str]:
        """Return the names of the tools; the Inspector must find nothing in their schemas that a client may refuse."""
        ran = await self.run("tools/list", "--strict", era=era)
        assert "schema" not in ran.err, ran.err
        return {tool["name"] for tool in json.loads(ran.out)["result"]["tools"]}


def on_stdio(node: Node, folder: Path, *arguments: str) -> Inspector:
    """The Inspector before the command on stdio; it hands a server no more of the environment than it is told to."""
    names = ("MLGYM_HOME", "MLGYM_TASKS")
    settings = [word for name in names for word in ("-e", f"{name}={os.environ[name]}")]
    return Inspector(node, [*CLI, "serve", *arguments, "--transport", "stdio", *settings], folder)


@asynccontextmanager
async def over_http(*arguments: str, ready: bytes) -> AsyncIterator[str]:
    """The command over HTTP on a free port; yields the first URL that it prints."""
    command = [*CLI, "serve", *arguments, "--http", "127.0.0.1:0"]
    async with await anyio.open_process(command, stderr=subprocess.STDOUT) as process:
        try:
            assert process.stdout is not None
            printed = b""
            with anyio.fail_after(60):
                while ready not in printed:
                    try:
                        printed += await process.stdout.receive()
                    except anyio.EndOfStream:
                        pytest.fail(f"the server ended: {printed.decode()}")
            yield next(word for word in printed.decode().split() if word.startswith("http://127.0.0.1:"))
            process.send_signal(signal.SIGINT)
            with anyio.fail_after(30):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()


async def look_over(inspector: Inspector, era: str, *, errors: bool) -> None:
    """What the Inspector can do with a session; with ``errors``, also what it cannot."""

    async def tools() -> None:
        assert {"get_task", "shell", "read_file", "validate", "submit"} <= await inspector.strict(era)

    async def calls() -> None:
        ran = await inspector.tool("shell", era, command="printf 012 > octal; exit 3")
        assert "[exit 3 after" in ran["content"][0]["text"], "a command that fails is no failed call"
        assert ran["_meta"]["exit_code"] == 3
        assert "structuredContent" not in ran
        read = await inspector.tool("read_file", era, path="octal")
        assert "012" in read["content"][0]["text"]

    async def misuse() -> None:
        wrong = await inspector.tool("shell", era, TOOL_FAILED, cmd="true")
        assert "cmd is not an argument of shell" in wrong["content"][0]["text"]

    async def unknown() -> None:
        ran = await inspector.run(
            "tools/call", "--tool-name", "no_such", "--tool-arg", "a=1", era=era, code=TOOL_FAILED
        )
        assert "no_such" in ran.err

    async def resources() -> None:
        (instruction,) = (await inspector.result("resources/read", "--uri", "task://instruction", era=era))["contents"]
        assert instruction["mimeType"] == "text/markdown"
        assert "Odd or even" in instruction["text"]

    async def nothing() -> None:
        ran = await inspector.run("resources/read", "--uri", "task://nothing", era=era, code=1)
        assert "task://nothing" in ran.err

    async def prompts() -> None:
        prompt = await inspector.result("prompts/get", "--prompt-name", "attempt", era=era)
        assert "submit" in prompt["messages"][0]["content"]["text"]

    async with anyio.create_task_group() as tasks:
        for look in (tools, calls, resources, prompts, *((misuse, unknown, nothing) if errors else ())):
            tasks.start_soon(look)


async def test_a_task_on_stdio(node: Node, tmp_path: Path, backend: str) -> None:
    options = ("--sandbox", backend, "--unsafe", "--session", "inspected")
    inspector = on_stdio(node, tmp_path, "toy", *options)
    await look_over(inspector, "legacy", errors=True)
    await look_over(inspector, "modern", errors=False)
    status = await inspector.tool("status")
    assert status["structuredContent"]["budget"]["calls"] == 40
    assert status["structuredContent"]["budget"]["calls_left"] <= 36, "all of them met the same session"


async def test_a_task_over_http(node: Node, tmp_path: Path, backend: str) -> None:
    async with over_http("toy", "--sandbox", backend, "--unsafe", ready=b"The sandbox is ready.") as url:
        inspector = Inspector(node, [url, "--transport", "http"], tmp_path)
        await look_over(inspector, "legacy", errors=False)
        await look_over(inspector, "modern", errors=True)


async def test_the_desk_on_stdio(node: Node, tmp_path: Path, backend: str) -> None:
    desk = on_stdio(node, tmp_path, "--sandbox", backend, "--unsafe", "--session", "inspected")
    for era in ERAS:
        assert {"list_tasks", "start_task", "list_sessions", "shell"} <= await desk.strict(era)
    listed = await desk.tool("list_tasks", "modern")
    assert [task["task"] for task in listed["structuredContent"]["tasks"]] == ["toy"]
    await desk.tool("start_task", task="toy")
    assert "done\n[exit 0" in (await desk.tool("shell", "modern", command="echo done"))["content"][0]["text"]
    await desk.tool("start_task", "legacy", TOOL_FAILED, task="no_such")


async def test_the_desk_over_http_and_who_may_not_come_in(node: Node, tmp_path: Path, backend: str) -> None:
    async with over_http("--sandbox", backend, "--unsafe", ready=b"SIGTERM leaves them") as docs:
        token = (home() / "admin.token").read_text().strip()
        where = [docs.replace("/api/docs", "/mcp"), "--transport", "http"]
        desk = Inspector(node, [*where, "--header", f"Authorization: Bearer {token}"], tmp_path)
        for era in ERAS:
            assert {"list_tasks", "start_task", "list_sessions"} <= await desk.strict(era)
        await Inspector(node, where, tmp_path).run("tools/list", code=UNAUTHORIZED)
    await desk.run("tools/list", code=UNREACHABLE)


async def test_a_task_that_does_not_exist_is_one_sentence_on_stderr(node: Node, tmp_path: Path) -> None:
    ran = await on_stdio(node, tmp_path, "no_such").run("tools/list", code=1)
    assert "there is no task 'no_such'; there are: toy" in ran.err
