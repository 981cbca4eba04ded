"""Where one session is reached: over Streamable HTTP and over line-framed connections, in both protocol eras."""

from __future__ import annotations

import hmac
import time
from typing import Any

import anyio
import anyio.abc
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from mlgym_mcp.serving.lines import MAX_LINE, line_streams
from mlgym_mcp.serving.task_server import make_server
from mlgym_mcp.session.session import Session

_DRAIN_S = 2.0


class Endpoint:
    """One session's MCP server and its connections.

    ``run()`` must live in one task from start to end: the SDK's manager holds a task group. Connections come
    and go without touching the episode.
    """

    def __init__(self, session: Session, security: TransportSecuritySettings, *, require_token: bool) -> None:
        self.session = session
        self.require_token = require_token
        self._server = make_server(session)
        self._low: Any = self._server._lowlevel_server
        self._manager = StreamableHTTPSessionManager(
            app=self._low,
            security_settings=security,
            max_request_body_size=MAX_LINE,  # so that too long an argument is answered in words, as on stdio
            session_idle_timeout=None,  # the session decides when an episode ends, not MCP's idleness
        )
        self._requests: dict[anyio.CancelScope, bool] = {}
        self._stop = anyio.Event()
        self.closing = False
        self.connections = 0

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until ``close`` is called."""
        async with self._manager.run():
            task_status.started()
            await self._stop.wait()

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
            self.session.touch()

    async def serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request to the session's MCP endpoint."""
        headers = dict(scope["headers"])
        if self.require_token and not self._authorized(headers.get(b"authorization", b"")):
            problem = {"error": "this session needs its token: send 'Authorization: Bearer TOKEN'"}
            await JSONResponse(problem, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        self.session.touch()
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        ends_by_itself = scope["method"] == "POST" and headers.get(b"mcp-method") != b"subscriptions/listen"
        cancel = anyio.CancelScope()
        self._requests[cancel] = ends_by_itself
        try:
            with cancel:
                await self._manager.handle_request(scope, receive, watch)
        finally:
            del self._requests[cancel]
            self.session.touch()
        if cancel.cancelled_caught and not started:
            await JSONResponse({"error": "the session has ended"}, 404)(scope, receive, send)

    def _authorized(self, header: bytes) -> bool:
        kind, _, token = header.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self.session.token.encode())
