"""The host's HTTP side: ``/sessions/<id>/mcp`` for agents, ``/api`` for those who run them."""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Awaitable, Callable

from mcp.server.transport_security import TransportSecurityMiddleware
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from mlgym_mcp import __version__
from mlgym_mcp.api import SessionRequest, SessionView
from mlgym_mcp.serving.host import CREATION_ERRORS, Host
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.views import detail_of, score_view, state_of
from mlgym_sandbox.home import home

_MAX_BODY = 1 << 20


def admin_token() -> str:
    """Return this installation's admin token, made on first use and kept in a file only the user can read."""
    path = home() / "admin.token"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(24)
        part = home() / f"admin.token.{secrets.token_hex(4)}"
        part.touch(mode=0o600)
        part.write_text(token + "\n")
        try:
            path.hardlink_to(part)  # the first of two servers wins
        except FileExistsError:
            token = path.read_text().strip()
        part.unlink()
        return token


class HostApp:
    """ASGI application over a host. The host must be running."""

    def __init__(self, host: Host, token: str) -> None:
        self._host = host
        self._control: ASGIApp = Starlette(
            routes=[
                Route("/api/health", self._health, methods=["GET"]),
                Route("/api/tasks", self._guarded(self._tasks), methods=["GET"]),
                Route("/api/sessions", self._guarded(self._create), methods=["POST"]),
                Route("/api/sessions", self._guarded(self._list), methods=["GET"]),
                Route("/api/sessions/{id}", self._guarded(self._get), methods=["GET"]),
                Route("/api/sessions/{id}", self._guarded(self._delete), methods=["DELETE"]),
            ]
        )
        self._token = token
        self._security = TransportSecurityMiddleware(host.security)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        parts = scope["path"].strip("/").split("/")
        if len(parts) == 3 and parts[0] == "sessions" and parts[2] == "mcp":
            endpoint = self._host.endpoint(parts[1])
            if endpoint is None:
                await JSONResponse({"error": "no such session, or it ended a while ago"}, 404)(scope, receive, send)
                return
            await endpoint.serve_http(scope, receive, send)
            return
        refused = await self._security.validate_request(Request(scope, receive), is_post=False)
        await (refused or self._control)(scope, receive, send)

    def _guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            kind, _, token = request.headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token.encode()):
                text = "the control API needs the admin token: send 'Authorization: Bearer TOKEN'"
                return JSONResponse({"error": text}, 401, {"WWW-Authenticate": "Bearer"})
            return await handler(request)

        return guarded

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__, "live_sessions": self._host.registry.live})

    async def _tasks(self, _: Request) -> Response:
        return JSONResponse([task.summary() for task in self._host.registry.catalog.tasks()])

    async def _create(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY:
                return JSONResponse({"error": f"the body is larger than {_MAX_BODY} bytes"}, 413)
        try:
            wanted = SessionRequest.model_validate(json.loads(body or b"{}"))
            session = await self._host.create(
                wanted.task,
                preset=wanted.preset,
                seed=wanted.seed,
                budget=wanted.budget,
                sandbox=wanted.sandbox,
                metadata=wanted.metadata,
                key=None if wanted.idempotency_key is None else f"api:{wanted.idempotency_key}",
            )
        except ValidationError as exc:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in exc.errors()]
            return JSONResponse({"error": "; ".join(problems)}, 422)
        except CREATION_ERRORS as exc:
            return JSONResponse({"error": str(exc)}, 400)
        return JSONResponse(self._view(session, with_token=True).model_dump(mode="json"), 201)

    async def _list(self, _: Request) -> Response:
        return JSONResponse([self._view(s).model_dump(mode="json") for s in self._host.registry.sessions()])

    async def _get(self, request: Request) -> Response:
        session = self._host.registry.get(request.path_params["id"])
        if session is None:
            return JSONResponse({"error": "no such session"}, 404)
        return JSONResponse(self._view(session).model_dump(mode="json"))

    async def _delete(self, request: Request) -> Response:
        session = self._host.registry.get(request.path_params["id"])
        if session is None:
            return JSONResponse({"error": "no such session"}, 404)
        await session.end("abandoned", "the session was deleted")
        await session.wait_ended()
        return JSONResponse(self._view(session).model_dump(mode="json"))

    def _view(self, session: Session, *, with_token: bool = False) -> SessionView:
        over = session.over
        wall = session.meter.budget.wall_s
        return SessionView(
            id=session.id,
            task=session.task.id,
            preset=session.config.preset,
            seed=session.config.seed,
            state=state_of(session),
            detail=detail_of(session),
            episode=session.episode.id,
            mcp_url=self._host.mcp_url(session),
            token=session.token if with_token else None,
            created=session.created,
            expires=None if wall is None else session.created + wall,
            calls=session.calls.made,
            outcome=None if over is None else over.outcome,
            score=None if over is None or over.score is None else score_view(over.score),
        )


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
