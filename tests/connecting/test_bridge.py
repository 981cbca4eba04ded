"""The bridge: a client on stdio plays over HTTP as if it called the server itself, whatever happens in between."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client, StdioServerParameters

from mlgym_mcp.connecting.bridge import Bridge
from tests.clients.small_server import SmallServer
from tests.serving.conftest import CLI, backend, light, own_home, running_host, text_of
from tests.toy import CSV

__all__ = ["backend", "light", "own_home"]  # fixtures

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_home")]


def over_bridge(url: str) -> StdioServerParameters:
    return StdioServerParameters(command=CLI[0], args=[*CLI[1:], "bridge", url], env=dict(os.environ))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_whole_episode_is_played_over_it(mode: str, backend: str) -> None:
    async with running_host(backend) as host:
        session = await host.create("toy")
        async with Client(over_bridge(host.mcp_url(session)), mode=mode) as client:
            seen: list[float] = []

            async def progress(done: float, total: float | None, message: str | None) -> None:
                seen.append(done)

            assert "submission.csv" in await text_of(client, "get_task")
            await text_of(client, "write_file", path="ümläut.csv", content=CSV)
            await client.call_tool("shell", {"command": "sleep 2; mv *.csv submission.csv"}, progress_callback=progress)
            async with anyio.create_task_group() as tasks:  # many at a time, in one stream
                for _ in range(20):
                    tasks.start_soon(text_of, client, "status")
            submitted = await client.call_tool("submit", {})
            assert submitted.structured_content is not None
            assert submitted.structured_content["valid"]
        await session.wait_ended()


@asynccontextmanager
async def small(answer: Any) -> AsyncIterator[tuple[Any, list[dict[str, Any]], list[httpx.Request]]]:
    """A bridge to a server of our own: a way to send lines, what comes out, and what was asked."""
    out: list[dict[str, Any]] = []
    asked: list[httpx.Request] = []
    send, receive = anyio.create_memory_object_stream[bytes](100)

    async def respond(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return await answer(request)

    async def write(line: bytes) -> None:
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        out.append(json.loads(line))

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as http, send, receive:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Bridge("http://127.0.0.1:8000/mcp", "tok", http, write).run, receive)
            yield send, out, asked
            send.close()


async def until(condition: Any) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.005)


def line(**message: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "body", "told"),
    [
        (401, "application/json", '{"detail": "no token"}', "it answered 401 Unauthorized"),
        (502, "text/html", "<html>", "it answered 502 Bad Gateway"),
        (200, "text/event-stream", "data: {}\n\n", "its stream ended without an answer"),
        (200, "text/event-stream", "data: [1\n\ndata: 3\n\n", "its stream ended without an answer"),
        (200, "application/json", "[1", "it answered 200"),
        (200, "application/json", '["jsonrpc"]', "it answered 200"),
        (202, "", "", "it answered 202"),
        (400, "application/json", '{"jsonrpc": "2.0", "id": null, "error": {"code": 5, "message": "no"}}', "no"),
    ],
)
async def test_whatever_a_server_says_the_client_gets_an_answer(status: int, kind: str, body: str, told: str) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={"content-type": kind}, text=body)

    async with small(answer) as (send, out, asked):
        await send.send(line(id="x", method="tools/list"))
        await until(lambda: out and "error" in out[-1])
        assert out[-1]["id"] == "x"
        assert told in out[-1]["error"]["message"]
        assert asked[0].headers["authorization"] == "Bearer tok"


async def test_lines_that_are_no_messages_are_refused_and_the_next_is_heard() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": {}})

    async with small(answer) as (send, out, _):
        for bad in (b"nonsense", b"[]", b"3", b"[" * 100_000):
            await send.send(bad)
        await send.send(line(id=1, method="ping"))
        await until(lambda: len(out) == 5)
        assert [message.get("error", {}).get("code") for message in out] == [-32700, -32600, -32600, -32700, None]


async def test_a_line_that_is_odd_is_passed_on_byte_for_byte() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": 1, "result": {}})

    odd = b'{"jsonrpc": "2.0",  "id": 1, "method": "x", "params": {"a": NaN, "b": "\\ud800", "a": 1e999}}'
    async with small(answer) as (send, out, asked):
        await send.send(odd + b"\n")
        await until(lambda: out)
        assert asked[0].content.strip() == odd


async def test_what_the_2026_protocol_repeats_in_headers_is_repeated_and_a_cancelled_request_is_closed() -> None:
    closed: list[bool] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        try:
            await anyio.sleep_forever()
        finally:
            closed.append(True)
        raise AssertionError

    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    async with small(answer) as (send, out, asked):
        await send.send(line(id=7, method="resources/read", params={"uri": "task://ü", "_meta": meta}))
        await until(lambda: asked)
        assert asked[0].headers["mcp-protocol-version"] == "2026-07-28"
        assert asked[0].headers["mcp-method"] == "resources/read"
        assert asked[0].headers["mcp-name"] == "=?base64?dGFzazovL8O8?="
        await send.send(line(method="notifications/cancelled", params={"requestId": 7}))
        await until(lambda: closed)
        assert len(asked) == 1
        assert out == []


class Switched(httpx.AsyncBaseTransport):
    """Leads to one server after the other, and to none in between."""

    def __init__(self) -> None:
        self.server: httpx.ASGITransport | None = None

    @asynccontextmanager
    async def on(self) -> AsyncIterator[None]:
        mcp = SmallServer().mcp()
        app = mcp.streamable_http_app()
        async with mcp.session_manager.run():
            self.server = httpx.ASGITransport(app)
            yield
            self.server = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.server is None:
            raise httpx.ConnectError("connection refused")
        return await self.server.handle_async_request(request)


@pytest.mark.parametrize("era", ["2026-07-28", "2025-11-25"])
async def test_a_server_that_is_started_anew_is_found_again(era: str) -> None:
    meta: dict[str, Any] = {}
    about = {"clientInfo": {"name": "t", "version": "1"}, "capabilities": {}, "protocolVersion": era}
    if era == "2026-07-28":
        meta = {f"io.modelcontextprotocol/{key}": value for key, value in about.items()}
        meta["io.modelcontextprotocol/clientCapabilities"] = meta.pop("io.modelcontextprotocol/capabilities")
    transport = Switched()
    async with small(transport.handle_async_request) as (send, out, asked):

        async def call(number: int) -> dict[str, Any]:
            params = {"name": "shell", "arguments": {"command": f"run {number}"}, **({"_meta": meta} if meta else {})}
            await send.send(line(id=number, method="tools/call", params=params))
            await until(lambda: any(message.get("id") == number for message in out))
            return next(message for message in out if message.get("id") == number)

        async with transport.on():
            if not meta:
                await send.send(line(id=0, method="initialize", params=about))
                await until(lambda: out)
                await send.send(line(method="notifications/initialized"))
            assert (await call(1))["result"]["content"][0]["text"] == "ok run 1"
        assert "cannot be reached: connection refused" in (await call(2))["error"]["message"]
        async with transport.on():
            assert (await call(3))["result"]["content"][0]["text"] == "ok run 3"
            if not meta:
                assert (await call(4))["result"]["content"][0]["text"] == "ok run 4"
                sessions = [request.headers.get("mcp-session-id") for request in asked]
                assert len(set(sessions) - {None}) == 2
                assert asked[-1].headers["mcp-protocol-version"] == era
