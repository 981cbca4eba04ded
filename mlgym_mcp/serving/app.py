"""The host's HTTP side: ``/sessions/<id>/mcp`` for agents, the control API for those who run them."""

from __future__ import annotations

from math import ceil

import anyio.to_thread
from mcp.server.transport_security import TransportSecurityMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mlgym_mcp.serving.auth import METADATA_PATH, bearer_of, is_same, refusal
from mlgym_mcp.serving.control.api import make_control
from mlgym_mcp.serving.dashboard import PATH as VIEW
from mlgym_mcp.serving.dashboard import Dashboard
from mlgym_mcp.serving.desks import IS_ADMIN
from mlgym_mcp.serving.endpoint import Endpoint
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.limits import BodyError, RateLimiter, take_body
from mlgym_mcp.serving.lines import MAX_LINE
from mlgym_mcp.serving.over import OverEndpoint
from mlgym_mcp.serving.summaries import end_of, summary_of
from mlgym_mcp.session.about import about
from mlgym_mcp.session.ended import NOBODY

_BODILESS = ("GET", "HEAD", "DELETE", "OPTIONS")
_OPEN = ("/api/health", "/api/docs", "/api/docs/oauth2-redirect", "/api/openapi.json")
"""What needs no token; everything else does, what does not exist included."""


class HostApp:
    """ASGI application over a host. The host must be running.

    Args:
        host: what it serves.
        token: the admin token.
    """

    def __init__(self, host: Host, token: str) -> None:
        self._host = host
        self._token = token
        self._control = make_control(host)
        self._dashboard = Dashboard(host, token)
        self._security = TransportSecurityMiddleware(host.security)
        self._rates = RateLimiter(host.limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: guard against foreign hosts, limit, route."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        host = self._host
        parts = scope["path"].strip("/").split("/")
        session_id = parts[1] if len(parts) == 3 and parts[0] == "sessions" and parts[2] == "mcp" else None
        endpoint = None if session_id is None else host.endpoint(session_id)
        desk = host.desk if parts == ["mcp"] else None
        refused = await self._refused(scope, session_id, endpoint)
        over: OverEndpoint | None = None
        if refused is None and session_id is not None and endpoint is None:
            over = await self._over(scope, session_id)
            if over is None:
                refused = JSONResponse({"error": "no such session"}, 404)
        if refused is None and scope["method"] not in _BODILESS:
            limit = host.limits.body if endpoint is None and desk is None else MAX_LINE
            try:
                receive = await take_body(scope["headers"], receive, limit, host.limits.body_s)
            except BodyError as exc:
                refused = JSONResponse({"error": str(exc)}, exc.status, {"Connection": "close"})
        if refused is not None:
            host.metrics.refused.labels(str(refused.status_code)).inc()
            await refused(scope, receive, send)
            return
        with about(session_id):
            if endpoint is not None:
                await endpoint.serve_http(scope, receive, send)
            elif over is not None:
                await over(scope, receive, send)
            elif desk is not None:
                await desk.serve_http({**scope, IS_ADMIN: is_same(bearer_of(scope), self._token)}, receive, send)
            elif host.access.oauth is not None and scope["path"].startswith(METADATA_PATH):
                await JSONResponse(host.access.oauth.metadata())(scope, receive, send)
            elif _is_view(scope["path"]):
                await self._dashboard(scope, receive, send)
            else:
                await self._control(scope, receive, send)

    async def _refused(self, scope: Scope, session_id: str | None, endpoint: Endpoint | None) -> Response | None:
        """Return the answer to a request that goes no further; all of it is known before its body is read."""
        host = self._host
        if (refused := await self._security.validate_request(Request(scope), is_post=False)) is not None:
            return refused
        client = f"session:{session_id}" if endpoint is not None else str((scope.get("client") or ("?",))[0])
        if wait_s := self._rates.wait_s(client):
            return JSONResponse({"error": "too many requests: slow down"}, 429, {"Retry-After": f"{ceil(wait_s)}"})
        if endpoint is not None:
            return await host.access.refused(endpoint.session, scope)
        if session_id is not None:
            return None  # there may be an episode that remembers it
        path = scope["path"].rstrip("/")
        if path == "/mcp" and host.desk is not None and not host.require_token and not _has_authorization(scope):
            return None  # to a desk from which only what was started there is in reach
        if _is_view(path):
            return None  # it asks for the admin token itself: browsers cannot send it as a bearer
        if path in _OPEN or path.startswith(METADATA_PATH) or is_same(bearer_of(scope), self._token):
            return None
        return refusal(401, "this needs the admin token: send 'Authorization: Bearer TOKEN'")

    async def _over(self, scope: Scope, session_id: str) -> OverEndpoint | None:
        """Return what answers in place of a session that has ended, to whoever it would have let in.

        To anybody else it does not exist, as an unknown one does not, and that takes equally long to find out.
        """
        host = self._host
        ended = await host.ended(session_id)
        opens = (ended or NOBODY).opened_by(bearer_of(scope)) or not host.require_token
        if ended is None or not opens:
            return None
        try:
            summary = await anyio.to_thread.run_sync(summary_of, ended.folder, limiter=host.reading)
        except OSError:
            return None
        end = end_of(summary)
        return None if end is None else OverEndpoint(end.text())


def _is_view(path: str) -> bool:
    return path == VIEW or path.startswith(f"{VIEW}/")


def _has_authorization(scope: Scope) -> bool:
    return any(name == b"authorization" for name, _ in scope["headers"])


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
