"""The host: the one process that owns sessions and serves them over a unix socket and HTTP."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import Receive, Scope, Send

from mlgym_mcp import __version__
from mlgym_mcp.serving.auth import Access, ResourceServer
from mlgym_mcp.serving.creation import CREATION_ERRORS
from mlgym_mcp.serving.desks import Desks
from mlgym_mcp.serving.endpoint import Endpoint
from mlgym_mcp.serving.limits import Admission, FullError, Limits
from mlgym_mcp.serving.metrics import Metrics
from mlgym_mcp.serving.served import Served
from mlgym_mcp.session.about import about
from mlgym_mcp.session.ended import Ended
from mlgym_mcp.session.forking import Parent
from mlgym_mcp.session.journal import JournalError
from mlgym_mcp.session.owning import owned_tasks
from mlgym_mcp.session.registry import SessionRegistry
from mlgym_mcp.session.session import Session

logger = logging.getLogger(__name__)

LOOPBACK = TransportSecuritySettings(
    allowed_hosts=["127.0.0.1:*", "localhost:*", "[::1]:*"],
    allowed_origins=["http://127.0.0.1:*", "http://localhost:*", "http://[::1]:*"],
)
_GREETING_S = 10.0
_MAX_GREETING = 65_536

__all__ = ["CREATION_ERRORS", "LOOPBACK", "FullError", "Host"]


class HttpDesk(Protocol):
    """The MCP server for clients that choose their task themselves."""

    async def serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request of somebody who may come in."""


class Host:
    """Owns the registry and one endpoint per session.

    Args:
        registry: the sessions.
        security: which Host and Origin headers HTTP requests may carry.
        require_token: whether an endpoint wants its session's bearer token on top of the unguessable path.
        oauth: whose access tokens are as good as a session's bearer, if any.
        limits: how much it takes on.
        on_sigterm: what becomes of live sessions at SIGTERM: they end, or they are left to the next server.
    """

    def __init__(
        self,
        registry: SessionRegistry,
        *,
        security: TransportSecuritySettings = LOOPBACK,
        require_token: bool = False,
        oauth: ResourceServer | None = None,
        limits: Limits | None = None,
        on_sigterm: Literal["end", "detach"] = "end",
    ) -> None:
        self.registry = registry
        self.security = security
        self.require_token = require_token
        self.limits = limits or Limits()
        self.on_sigterm = on_sigterm
        self.access = Access(require_token, oauth)
        self.admission = Admission(self.limits, self._count)
        self.metrics = Metrics(registry.sessions)
        self.metrics.gauge("mlgym_pool_ready", "Sandboxes that are kept ready.", lambda: registry.pool.ready)
        self.metrics.gauge("mlgym_gpus_leased", "GPUs that are leased.", lambda: len(registry.gpu_desk.owners))
        self.metrics.gauge("mlgym_gpu_queue", "Sessions that wait for GPUs.", lambda: registry.gpu_desk.waiting)
        self.reading = anyio.CapacityLimiter(2)
        """Of the threads that read journals for the control API."""
        self.desks = Desks(self)
        self.desk: HttpDesk | None = None
        """What answers at ``/mcp``, if anything does."""
        self.base_url = ""
        self.stopping = anyio.Event()
        self.connections = 0
        self.last_busy = time.monotonic()
        self._endpoints: dict[str, Endpoint] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def run(self, *, address: str | None = None) -> AsyncIterator[None]:
        """Own all sessions and endpoints; sessions of a server that died are adopted first. Leaving ends them.

        Args:
            address: where clients come in, the same after a restart: see ``SessionRegistry.run``.
        """
        async with self.registry.run(address=address), owned_tasks() as tasks:
            self._tasks = tasks
            for session in self.registry.sessions():
                await self.adopt(session)
            tasks.start_soon(self._forget)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    self.stopping.set()
                    await self.registry.stop()
                    async with anyio.create_task_group() as closing:
                        for endpoint in self._endpoints.values():
                            closing.start_soon(endpoint.close)
                        closing.start_soon(self.desks.close)
                self._tasks = None

    async def create(self, task: str, **options: Any) -> Session:
        """Make a session with its endpoint, or return the one made before with the same ``key``.

        Raises:
            CREATION_ERRORS: it could not be made; ``FullError`` where the server is full.
        """
        session, _ = await self.find_or_create(task, **options)
        return session

    async def find_or_create(self, task: str, **options: Any) -> tuple[Session, bool]:
        """As ``create``; also returns whether the session is new.

        Raises:
            CREATION_ERRORS: it could not be made.
        """
        return await self._find_or_make(options.get("key"), lambda: self.registry.create(task, **options))

    async def fork(self, parent: Parent, *, key: str | None = None, **options: Any) -> tuple[Session, bool]:
        """As ``find_or_create``, for a session that begins with a snapshot of another; see ``Parent.options``.

        Raises:
            CREATION_ERRORS, StoreError: it could not be made.
        """
        given = parent.options(**options)
        session, made = await self._find_or_make(key, lambda: self.registry.create(parent.task, key=key, **given))
        if made and parent.session is not None and not parent.session.closed:
            with contextlib.suppress(JournalError):  # the child's journal says it as well
                parent.session.episode.journal.append("forked", snapshot=parent.snapshot, episode=session.episode.id)
        return session, made

    async def _find_or_make(self, key: str | None, make: Callable[[], Awaitable[Session]]) -> tuple[Session, bool]:
        if self._tasks is None or self.stopping.is_set():
            raise FullError("the server is stopping", 5, status=503)
        if self.registry.find_by_key(key) is not None:
            session = await make()
        else:
            with self.admission.one():
                session = await make()
        if session.id in self._endpoints:
            return session, False
        self.metrics.watch(session)
        await self._open(session)
        return session, True

    async def adopt(self, session: Session) -> None:
        """Give a session that was there before this server its endpoint: at the same URL, with the same token."""
        if session.id not in self._endpoints and not session.closed:
            self.metrics.watch(session, adopted=True)
            await self._open(session)

    async def _open(self, session: Session) -> None:
        assert self._tasks is not None, "use the host inside its run()"
        endpoint = Endpoint(session, self.security)
        self._endpoints[session.id] = endpoint  # before anything is waited for: there must not be two
        await self._tasks.start(endpoint.run)

    async def keep(self, served: Served) -> None:
        """Run a server until it is closed.

        Raises:
            FullError: the host is stopping.
        """
        if self._tasks is None or self.stopping.is_set():
            raise FullError("the server is stopping", 5, status=503)
        await self._tasks.start(served.run)

    def _count(self) -> tuple[int, int]:
        """Return how many sessions live, and how many of them are being prepared."""
        live = [session for session in self.registry.sessions() if not session.closed]
        return len(live), sum(session.over is None and not session.ready for session in live)

    def endpoint(self, session_id: str) -> Endpoint | None:
        """Return the endpoint of a session, also of one that ended a short while ago."""
        endpoint = self._endpoints.get(session_id)
        return None if endpoint is None or endpoint.closing else endpoint

    def mcp_url(self, session: Session) -> str:
        """Return where a session is reached over HTTP."""
        return self.url_of(session.id)

    def url_of(self, session_id: str) -> str:
        """Return where a session is or was reached over HTTP."""
        return f"{self.base_url}/sessions/{session_id}/mcp"

    async def ended(self, session_id: str) -> Ended | None:
        """Return the episode of a session that the registry does not hold (any more), if there is one."""
        registry = self.registry
        return await anyio.to_thread.run_sync(registry.ended.find, registry.root, session_id, limiter=self.reading)

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
                endpoint.calls.prune()
            await self.desks.forget()

    # ------------------------------------------------------------------ unix socket

    async def serve_socket(self, path: Path) -> None:
        """Accept relays on a unix socket that only this user can reach, until cancelled."""
        path.unlink(missing_ok=True)
        listener = await anyio.create_unix_listener(path, mode=0o600)
        try:
            async with listener:
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
        if greeting.get("task") is None:
            await self._at_desk(stream, greeting, buffered.buffer)
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
        with about(session.id):
            await endpoint.serve_lines(stream, buffered.buffer)

    async def _at_desk(self, stream: anyio.abc.SocketStream, greeting: Mapping[str, Any], received: bytes) -> None:
        """Serve a relay that names no task: at its owner's desk, which only this owner's sessions are on."""
        try:
            desk = await self.desks.at(str(greeting.get("key") or "nobody")[:500], options=greeting)
        except FullError as exc:
            await _answer(stream, {"error": str(exc)})
            return
        await _answer(stream, {"ok": True})
        await desk.serve_lines(stream, received)

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
