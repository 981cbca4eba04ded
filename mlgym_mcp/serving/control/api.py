"""The control API: sessions made, shown, followed and ended; tasks, episodes, health, metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException

from mlgym_mcp import __version__
from mlgym_mcp.api import (
    EpisodePage,
    Health,
    Problem,
    SessionPage,
    SessionRequest,
    SessionView,
    TaskSummary,
)
from mlgym_mcp.records.episodes import episode_folders
from mlgym_mcp.serving.control import checkpoints
from mlgym_mcp.serving.control.dependencies import FoundSession, Hosted, handed_out, no_room, registry_key
from mlgym_mcp.serving.control.events import follow, replay
from mlgym_mcp.serving.control.health import HealthCheck
from mlgym_mcp.serving.control.views import ended_view, episode_view, session_view
from mlgym_mcp.serving.host import CREATION_ERRORS, Host
from mlgym_mcp.serving.limits import FullError
from mlgym_mcp.serving.metrics import CONTENT_TYPE
from mlgym_mcp.serving.summaries import end_of, summary_of
from mlgym_mcp.serving.traces import TracedControl
from mlgym_mcp.session.session import Session

_PAGE = 100
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": text}
    for code, text in (
        (400, "The request makes no sense."),
        (401, "The admin token is missing or wrong."),
        (408, "The body came too slowly."),
        (413, "The body is too large."),
        (422, "The request is not of the documented form."),
        (429, "Too many requests or sessions: see Retry-After."),
    )
}
_NO_SESSION: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "There is no such session."}}

_scheme = HTTPBearer(auto_error=False, description="The admin token.")
"""For the document only: HostApp has let in nobody without the token, before it read any body."""


class _Problem(HTTPException):
    """An error with its sentence."""

    def __init__(self, status: int, error: object) -> None:
        super().__init__(status, str(error))


_Limit = Annotated[int, Query(ge=1, le=_PAGE, description="How many at most.")]
_After = Annotated[str | None, Query(max_length=300, description="`next` of the page before.")]


class _Gone(NamedTuple):
    """A session of which only the episode is left."""

    view: SessionView
    folder: Path


async def _shown(host: Hosted, session: FoundSession, id: str) -> Session | _Gone:  # noqa: A002 - as in the path
    if isinstance(session, Session):
        return session
    with contextlib.suppress(OSError):  # its folder is being removed
        summary = await anyio.to_thread.run_sync(summary_of, session.folder, limiter=host.reading)
        if (end := end_of(summary)) is not None:
            return _Gone(ended_view(id, summary, end, host.url_of(id)), session.folder)
    raise _Problem(404, "no such session")


_Found = Annotated[Session | _Gone, Depends(_shown)]


async def _known_query(request: Request) -> None:
    """Refuse a query parameter that does not exist: one that was misspelt would go unnoticed."""
    if not request.query_params:
        return
    operation = request.app.openapi()["paths"][request.scope["route"].path][request.method.lower()]
    known = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
    for name in request.query_params:
        if name not in known:
            raise _Problem(
                422, f"there is no query parameter {name[:60]!r} here; there is: {', '.join(known) or 'none'}"
            )


open_to_all = APIRouter(responses={429: _ERRORS[429]})
guarded = APIRouter(dependencies=[Depends(_scheme), Depends(_known_query)], responses=_ERRORS)


@guarded.post(
    "/api/sessions",
    status_code=201,
    tags=["sessions"],
    responses={
        200: {"model": SessionView, "description": "The session made before with the same idempotency key."},
        409: {"model": Problem, "description": "The idempotency key belongs to another request."},
        503: {"model": Problem, "description": "The server is stopping: see Retry-After."},
    },
)
async def create_session(wanted: SessionRequest, host: Hosted, response: Response) -> SessionView:
    """Make a session. It is there at once; data and sandbox are prepared behind it."""
    try:
        session, made = await host.find_or_create(
            wanted.task,
            preset=wanted.preset,
            seed=wanted.seed,
            budget=wanted.budget,
            sandbox=wanted.sandbox,
            metadata=wanted.metadata,
            key=registry_key(wanted.idempotency_key),
        )
    except FullError as exc:
        raise no_room(exc) from exc
    except CREATION_ERRORS as exc:
        raise _Problem(400, exc) from exc
    if not made:
        config = session.config
        if (session.task.id, config.preset, config.seed) != (wanted.task, wanted.preset, wanted.seed):
            raise _Problem(409, "the idempotency key belongs to a session of another task, preset or seed")
    return handed_out(session, host, response, made=made)


@guarded.get("/api/sessions", tags=["sessions"])
async def list_sessions(host: Hosted, limit: _Limit = _PAGE, after: _After = None) -> SessionPage:
    """List the sessions, oldest first: the live ones, and for a while those that ended."""
    found = sorted(host.registry.sessions(), key=lambda session: session.episode.id)
    found = [session for session in found if after is None or session.episode.id > after]
    page = found[:limit]
    return SessionPage(
        sessions=[session_view(session, host.mcp_url(session)) for session in page],
        next=page[-1].episode.id if len(found) > limit else None,
    )


@guarded.get("/api/sessions/{id}", tags=["sessions"], responses=_NO_SESSION)
async def get_session(host: Hosted, session: _Found) -> SessionView:
    """Show a session; also one that ended long ago, or before the server was started again: from its episode."""
    return session.view if isinstance(session, _Gone) else session_view(session, host.mcp_url(session))


@guarded.delete("/api/sessions/{id}", tags=["sessions"], responses=_NO_SESSION)
async def delete_session(host: Hosted, session: _Found) -> SessionView:
    """End a session; calls in flight answer that it is over. Returns when its sandbox is gone; its episode stays."""
    if isinstance(session, _Gone):
        return session.view
    await session.end("abandoned", "the session was deleted")
    await session.wait_ended()
    return session_view(session, host.mcp_url(session))


@guarded.get(
    "/api/sessions/{id}/events",
    tags=["sessions"],
    response_class=StreamingResponse,
    responses={
        **_NO_SESSION,
        200: {"content": {"text/event-stream": {}}, "description": "The journal's events, then live ones."},
    },
)
async def session_events(
    host: Hosted,
    session: _Found,
    after: Annotated[int, Query(ge=-1, lt=2**63, description="The last sequence number that you have.")] = -1,
    last_event_id: Annotated[str | None, Header(description="As `after`: sent by clients that connect again.")] = None,
) -> StreamingResponse:
    """Follow a session: its journal from any sequence number on, then live, until it ends."""
    if last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19:
        after = max(after, int(last_event_id))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if isinstance(session, _Gone):
        return StreamingResponse(replay(session.folder, after), media_type="text/event-stream", headers=headers)
    return StreamingResponse(follow(session, after, host.stopping), media_type="text/event-stream", headers=headers)


@guarded.get("/api/tasks", tags=["tasks"])
async def list_tasks(host: Hosted) -> list[TaskSummary]:
    """List the tasks that can be attempted."""
    return [TaskSummary.model_validate(task.summary()) for task in host.registry.catalog.tasks()]


@guarded.get("/api/episodes", tags=["episodes"])
async def list_episodes(host: Hosted, limit: _Limit = 20, after: _After = None) -> EpisodePage:
    """List the episodes on disk, newest first."""
    return await anyio.to_thread.run_sync(_episodes, host.registry.root, limit, after, limiter=host.reading)


def _episodes(root: Path, limit: int, after: str | None) -> EpisodePage:
    names = sorted((folder.name for folder in episode_folders(root)), reverse=True)
    found = [name for name in names if after is None or name < after]
    page = found[:limit]
    views = [episode_view(summary_of(root / name)) for name in page]
    return EpisodePage(episodes=views, next=page[-1] if len(found) > limit else None)


@open_to_all.get("/api/health", tags=["server"])
async def health(request: Request) -> Health:
    """Tell how the server is; needs no token. Problems are fields of the answer, whose status is 200 regardless."""
    check: HealthCheck = request.app.state.health
    return await check.report()


@guarded.get(
    "/metrics",
    tags=["server"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The figures."}},
)
async def metrics(host: Hosted) -> Response:
    """Return the server's figures for Prometheus."""
    return Response(host.metrics.text(), media_type=CONTENT_TYPE)


guarded.include_router(checkpoints.router)


def make_control(host: Host) -> FastAPI:
    """Return the control API of a running host. It trusts whoever reaches it: put ``HostApp`` before it."""
    app = FastAPI(
        title="mlgym-mcp",
        version=__version__,
        summary="Sessions of machine-learning research tasks, served over MCP.",
        docs_url="/api/docs",
        redoc_url=None,
        openapi_url="/api/openapi.json",
        telemetry={"tracing": False},  # its spans tell whole paths, with the sessions' ids: see TracedControl
    )
    app.state.host = host
    app.state.health = HealthCheck(host)
    app.include_router(open_to_all)
    app.include_router(guarded)
    app.add_middleware(TracedControl)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _failed)
    app.add_exception_handler(Exception, _unforeseen)
    return app


def _answer(status: int, error: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    text = error.encode("utf-8", "backslashreplace").decode()  # lone surrogates of the client's are no UTF-8
    return JSONResponse({"error": text}, status, None if headers is None else dict(headers))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    host: Host = request.app.state.host
    host.metrics.refused.labels("422").inc()
    problems = []
    for item in error.errors()[:10]:
        where = ".".join(str(part)[:60] for part in item["loc"][1:]) or str(item["loc"][0])
        problems.append(f"{where}: {item['msg']}")
    return _answer(422, "; ".join(problems))


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    host: Host = request.app.state.host
    host.metrics.refused.labels(str(error.status_code)).inc()
    return _answer(error.status_code, str(error.detail), error.headers)


async def _unforeseen(request: Request, _: Exception) -> Response:
    host: Host = request.app.state.host
    host.metrics.errors.labels("control").inc()
    return _answer(500, "it failed in the server, see its log")
