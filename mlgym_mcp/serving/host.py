"""The host: the one process that owns sessions and serves them over a unix socket and HTTP."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.server.transport_security import TransportSecuritySettings

from mlgym_mcp import __version__
from mlgym_mcp.catalog import TaskError
from mlgym_mcp.serving.endpoint import Endpoint
from mlgym_mcp.session.errors import SessionError
from mlgym_mcp.session.journal import JournalError
from mlgym_mcp.session.owning import owned_tasks
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.session import Session
from mlgym_sandbox.errors import SandboxError

logger = logging.getLogger(__name__)

LOOPBACK = TransportSecuritySettings(
    allowed_hosts=["127.0.0.1:*", "localhost:*", "[::1]:*"],
    allowed_origins=["http://127.0.0.1:*", "http://localhost:*", "http://[::1]:*"],
)
_GREETING_S = 10.0
_MAX_GREETING = 65_536

CREATION_ERRORS = (TaskError, SandboxError, SessionError, JournalError, ValueError, OSError)
"""What may go wrong when a session is made; each says so in one sentence."""


class Host:
    """Owns the registry and one endpoint per session.

    Args:
        registry: the sessions.
        security: which Host and Origin headers HTTP requests may carry.
        require_token: whether an endpoint wants its session's bearer token on top of the unguessable path.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        *,
        security: TransportSecuritySettings = LOOPBACK,
        require_token: bool = False,
    ) -> None:
        self.registry = registry
        self.security = security
        self.require_token = require_token
        self.base_url = ""
        self.stopping = anyio.Event()
        self.connections = 0
        self.last_busy = time.monotonic()
        self._endpoints: dict[str, Endpoint] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Own all sessions and endpoints; leaving ends them."""
        async with self.registry.run(), owned_tasks() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._forget)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self.registry.end_all("the server was stopped")
                    async with anyio.create_task_group() as closing:
                        for endpoint in self._endpoints.values():
                            closing.start_soon(endpoint.close)
                self._tasks = None

    async def create(self, task: str, **options: Any) -> Session:
        """Make a session with its endpoint, or return the one made before with the same ``key``.

        Raises:
            CREATION_ERRORS: it could not be made.
        """
        assert self._tasks is not None, "use the host inside its run()"
        session = await self.registry.create(task, **options)
        if session.id not in self._endpoints:
            endpoint = Endpoint(session, self.security, require_token=self.require_token)
            self._endpoints[session.id] = endpoint
            await self._tasks.start(endpoint.run)
        return session

    def endpoint(self, session_id: str) -> Endpoint | None:
        """Return the endpoint of a session, also of one that ended a short while ago."""
        endpoint = self._endpoints.get(session_id)
        return None if endpoint is None or endpoint.closing else endpoint

    def mcp_url(self, session: Session) -> str:
        """Return where a session is reached over HTTP."""
        return f"{self.base_url}/sessions/{session.id}/mcp"

    async def _forget(self) -> None:
        """Close the endpoints of sessions that the registry has forgotten."""
        while True:
            await anyio.sleep(5)
            if self.connections or self.registry.live:
                self.last_busy = time.monotonic()
            for session_id, endpoint in list(self._endpoints.items()):
                if self.registry.get(session_id) is None:
                    await endpoint.close()
                    self._endpoints.pop(session_id, None)

    # ------------------------------------------------------------------ unix socket

    async def serve_socket(self, path: Path) -> None:
        """Accept relays on a unix socket that only this user can reach, until cancelled."""
        path.unlink(missing_ok=True)
        listener = await anyio.create_unix_listener(path, mode=0o600)
        try:
            await listener.serve(self._relay)
        finally:
            path.unlink(missing_ok=True)

    async def _relay(self, stream: anyio.abc.SocketStream) -> None:
        """Serve one relay: a greeting line, an answer line, then MCP."""
        self.connections += 1
        self.last_busy = time.monotonic()
        try:
            async with stream:
                await self._greeted(stream)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass  # the relay is gone: the episode does not care
        except Exception:
            logger.exception("a relay connection failed")
        finally:
            self.connections -= 1
            self.last_busy = time.monotonic()

    async def _greeted(self, stream: anyio.abc.SocketStream) -> None:
        buffered = BufferedByteReceiveStream(stream)
        try:
            with anyio.fail_after(_GREETING_S):
                greeting = json.loads(await buffered.receive_until(b"\n", _MAX_GREETING))
        except (TimeoutError, anyio.EndOfStream, anyio.IncompleteRead, anyio.DelimiterNotFound, ValueError):
            return
        if greeting.get("command") == "stop":
            self.stopping.set()
            await _answer(stream, {"ok": True})
            return
        if greeting.get("command") == "status":
            await _answer(stream, self.status())
            return
        if greeting.get("version") != __version__:
            text = f"the running host is mlgym-mcp {__version__}: stop it with 'mlgym-mcp host stop' and call again"
            await _answer(stream, {"error": text})
            return
        try:
            session = await self.create(str(greeting["task"]), **_options(greeting))
        except CREATION_ERRORS as exc:
            await _answer(stream, {"error": str(exc)})
            return
        endpoint = self.endpoint(session.id)
        if endpoint is None:
            await _answer(stream, {"error": "the session has ended"})
            return
        await _answer(stream, {"ok": True, "session": session.id, "episode": session.episode.id})
        await endpoint.serve_lines(stream, buffered.buffer)

    def status(self) -> dict[str, Any]:
        """Return what the host holds, for people."""
        return {
            "ok": True,
            "version": __version__,
            "pid": os.getpid(),
            "sessions": [
                {"id": s.id, "task": s.task.id, "episode": s.episode.id, "phase": s.phase, "calls": s.calls.made}
                for s in self.registry.sessions()
            ],
            "connections": self.connections,
        }


def _options(greeting: Mapping[str, Any]) -> dict[str, Any]:
    allowed = ("preset", "seed", "budget", "sandbox", "unsafe", "key", "metadata", "engine")
    return {name: greeting[name] for name in allowed if greeting.get(name) is not None}


async def _answer(stream: anyio.abc.ByteSendStream, body: Mapping[str, Any]) -> None:
    await stream.send(json.dumps(body).encode() + b"\n")
