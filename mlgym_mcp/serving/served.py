"""One MCP server behind Streamable HTTP and line-framed connections, in both protocol eras."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
from mcp.server import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from mlgym_mcp.serving.lines import MAX_LINE, line_streams

_DRAIN_S = 2.0


class Served:
    """An MCP server and its connections.

    ``run()`` must live in one task from start to end: the SDK's manager holds a task group.
    """

    def __init__(self, server: MCPServer[Any], security: TransportSecuritySettings) -> None:
        self._server = server
        self._low: Any = server._lowlevel_server
        self._manager = StreamableHTTPSessionManager(
            app=self._low,
            security_settings=security,
            max_request_body_size=MAX_LINE,  # so that too long an argument is answered in words, as on stdio
            session_idle_timeout=None,  # the session decides when an episode ends, not MCP's idleness
        )
        self._requests: dict[anyio.CancelScope, bool] = {}
        self._started = anyio.Event()
        self._stop = anyio.Event()
        self.closing = False
        self.connections = 0

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until ``close`` is called."""
        async with self.around(), self._manager.run():
            self._started.set()
            task_status.started()
            await self._stop.wait()

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """Hold what the server needs while it runs; nothing, unless a subclass does."""
        yield

    def touch(self) -> None:
        """Note that somebody uses it; nothing, unless a subclass does."""

    async def close(self) -> None:
        """Let running calls answer for a moment, cut the streams that never end by themselves, stop serving."""
        deadline = time.monotonic() + _DRAIN_S
        while any(self._requests.values()) and time.monotonic() < deadline:
            await anyio.sleep(0.01)
        self.closing = True
        for scope in list(self._requests):
            scope.cancel()
        while self._requests:
            await anyio.sleep(0.005)
        self._stop.set()

    async def serve_lines(self, stream: anyio.abc.ByteStream, received: bytes = b"") -> None:
        """Serve one stdio-framed connection until it closes."""
        await self._started.wait()
        self.connections += 1
        scope = anyio.CancelScope()
        self._requests[scope] = False
        try:
            with scope:
                async with line_streams(stream, received) as (incoming, outgoing):
                    await self._low.run(incoming, outgoing, self._low.create_initialization_options())
        finally:
            del self._requests[scope]
            self.connections -= 1
            self.touch()

    async def serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request that was let in."""
        await self._started.wait()
        self.touch()
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        listens = dict(scope["headers"]).get(b"mcp-method") == b"subscriptions/listen"
        cancel = anyio.CancelScope()
        self._requests[cancel] = scope["method"] == "POST" and not listens
        try:
            with cancel:
                await self._manager.handle_request(scope, receive, watch)
        finally:
            del self._requests[cancel]
            self.touch()
        if cancel.cancelled_caught and not started:
            await JSONResponse({"error": "the session has ended"}, 404)(scope, receive, send)
