"""The routes of the Open Reward Standard (the package ``openreward``): tasks, sessions, and tool calls as streams.

A client gets a session's id, creates the session with a task, asks for the prompt and calls tools; every few seconds it
says that it is still there. A call's stream may break: asked for again by its ``task_id`` it goes on, and nothing is
done twice.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from typing import Any

import anyio
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mlgym_clients.facades.episodes import Episode, Episodes, RefusedError, Step
from mlgym_clients.facades.guard import body_of
from mlgym_clients.facades.listings import Listings, check_environment
from mlgym_mcp.api import SessionRequest

_PING_S = 10.0
_STARTING_S = 25.0
"""So long a request waits for a session that is being made; then the client is to ask again."""
_KEPT = 32
"""Answers of a session that may be asked for again."""
_SESSIONS = 4
"""So many sessions per episode there may be: those whose episode could not begin cost little."""
_FINISH = "end_episode"
"""The standard's terminal tool: no model sees it; a harness calls it when the model calls nothing any more."""
_ABOUT_FINISH = "Ends the episode where it stands; what is in the workspace is graded, if the task allows that."
_PIECE = 4096
_LONGEST_ID = 200


class Call:
    """One tool call, whose answer may be asked for again."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.answer = ""
        self.failure: str | None = None


class Session:
    """One client's session, from its making on."""

    def __init__(self) -> None:
        self.ready = anyio.Event()
        self.episode: Episode | None = None
        self.failure: str | None = None
        self.calls: dict[str, Call] = {}
        self.seen = time.monotonic()
        self.deleted = False

    @property
    def idle_s(self) -> float:
        """How long the client has said nothing, seconds; while a call of its goes on it need not."""
        silent = time.monotonic() - self.seen
        return silent if self.episode is None else min(silent, self.episode.idle_s)


class OpenReward:
    """The routes, and the sessions behind them.

    Args:
        episodes: those that are played.
        tasks: in which sessions are made and calls go on.
        idle_s: a client that has said nothing for so long is gone.
    """

    def __init__(self, episodes: Episodes, tasks: TaskGroup, idle_s: float) -> None:
        self._episodes = episodes
        self._tasks = tasks
        self._idle_s = idle_s
        self._listings = Listings(episodes)
        self._sessions: dict[str, Session] = {}

    def app(self) -> Starlette:
        """Return the application."""
        named = [
            Route(f"{before}/{name}", function, methods=[method])
            for before in ("", "/{environment}")
            for name, function, method in (
                ("tools", self._tools, "GET"),
                ("task_tools", self._tools, "GET"),
                ("prompt", self._prompt, "GET"),
                ("messages", self._messages, "GET"),
                ("call", self._call, "POST"),
            )
        ]
        routes = [
            Route("/health", self._health),
            Route("/version", self._version),
            Route("/create_session", self._create_session, methods=["POST"]),
            Route("/create", self._create, methods=["POST"]),
            Route("/ping", self._ping, methods=["POST"]),
            Route("/delete", self._delete, methods=["POST"]),
            Route("/delete_session", self._delete, methods=["POST"]),
            *self._listings.routes(),
            *named,
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _detail, RefusedError: _refused})

    async def run(self) -> None:
        """End the sessions of clients that are gone, until cancelled."""
        while True:
            await anyio.sleep(min(5.0, self._idle_s / 4))
            for name, session in list(self._sessions.items()):
                if session.idle_s > self._idle_s:
                    self._tasks.start_soon(self._end, name)  # which may take as long as a grading

    # --- sessions

    async def _create_session(self, request: Request) -> Response:
        if (await body_of(request)).get("env"):
            raise HTTPException(400, "there is nothing to override: a sandbox has its task's environment variables")
        return _stream(_events(("task_id", secrets.token_urlsafe(24)), ("end", "")))

    async def _create(self, request: Request) -> JSONResponse:
        name, given = _session_id(request), await body_of(request)
        if name in self._sessions:
            raise HTTPException(400, "Session already exists")
        if given.get("toolset_name") is not None:
            raise HTTPException(400, "there are no toolsets: the session's own tools are all there is")
        spec = given.get("task_spec")
        if spec is None:
            spec = await self._listings.task_at(given.get("split"), given.get("index"))
        if not isinstance(spec, dict):
            raise HTTPException(400, "a task_spec is wanted, or split and index")
        wanted = self._episodes.wanted(spec)
        if name in self._sessions:
            raise HTTPException(400, "Session already exists")
        if len(self._sessions) >= self._episodes.most * _SESSIONS:
            raise RefusedError(f"{len(self._sessions)} sessions are there already", full=True)
        session = self._sessions[name] = Session()
        self._tasks.start_soon(self._begin, session, wanted)
        return JSONResponse({"sid": name})

    async def _begin(self, session: Session, wanted: SessionRequest) -> None:
        try:
            session.episode = await self._episodes.begin(wanted)
        except Exception as exc:  # noqa: BLE001 - one session's failure is nobody else's
            session.failure = str(exc) or type(exc).__name__
        finally:
            session.ready.set()
        if session.deleted:
            await self._episodes.end(session.episode)

    async def _ping(self, request: Request) -> JSONResponse:
        self._session(request)
        return JSONResponse({"status": "ok"})

    async def _delete(self, request: Request) -> JSONResponse:
        name = _session_id(request)
        await self._end(name)
        return JSONResponse({"sid": name})

    async def _end(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            session.deleted = True
            await self._episodes.end(session.episode)

    def _session(self, request: Request) -> Session:
        session = self._sessions.get(_session_id(request))
        if session is None:
            raise HTTPException(404, "Active environment not found")
        session.seen = time.monotonic()
        return session

    async def _episode(self, request: Request) -> tuple[Session, Episode]:
        """Return a session's episode, once it has begun."""
        session = self._session(request)
        with anyio.move_on_after(_STARTING_S):
            await session.ready.wait()
        if session.failure is not None:
            raise HTTPException(400, session.failure)
        if session.deleted:
            raise HTTPException(410, "Session deleted")
        if session.episode is None:
            headers = {"X-Backend-State": "starting", "Retry-After": "2"}
            raise HTTPException(503, "Environment still starting.", headers=headers)
        return session, session.episode

    # --- what is played

    async def _health(self, request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def _version(self, request: Request) -> JSONResponse:
        return JSONResponse({"version": version("mlgym-mcp"), "build_sha": None})

    async def _tools(self, request: Request) -> JSONResponse:
        check_environment(request)
        listed = [
            {"name": tool.name, "description": tool.description or "", "input_schema": tool.input_schema}
            for tool in await self._episodes.tools()
        ]
        return JSONResponse(
            {
                "tools": listed,
                "terminal_tool": {"name": _FINISH, "arg": None, "description": _ABOUT_FINISH},
                "supports_score_group": False,
                "message_block_types": ["text", "image", "reasoning", "tool_call", "tool_result"],
            }
        )

    async def _prompt(self, request: Request) -> JSONResponse:
        check_environment(request)
        _, episode = await self._episode(request)
        return JSONResponse([_text(episode.instruction)])

    async def _messages(self, request: Request) -> JSONResponse:
        check_environment(request)
        _, episode = await self._episode(request)
        return JSONResponse([{"role": "user", "blocks": [_text(episode.instruction)], "detail": None}])

    async def _call(self, request: Request) -> Response:
        check_environment(request)
        session, episode = await self._episode(request)
        given = await body_of(request)
        number = given.get("task_id")
        if number is None:
            tool, arguments = given.get("name"), given.get("input", {})
            if not isinstance(tool, str) or not isinstance(arguments, dict):
                raise HTTPException(422, "the tool's name and an object of input are wanted")
            number, call = secrets.token_hex(16), Call()
            session.calls[number] = call
            while len(session.calls) > _KEPT:
                del session.calls[next(iter(session.calls))]
            self._tasks.start_soon(self._make, session, episode, call, tool, arguments)
        elif not isinstance(number, str) or number not in session.calls:
            return _stream(_events(("error", "unknown task_id")))
        return _stream(_followed(session.calls[number], number))

    async def _make(
        self, session: Session, episode: Episode, call: Call, tool: str, arguments: Mapping[str, Any]
    ) -> None:
        try:
            known = {_FINISH, *(each.name for each in await self._episodes.tools())}
            if tool not in known:
                found = {"ok": False, "error": f"Tool {tool[:100]!r} not found", "reason": "not_found"}
            elif episode.done:
                found = {"ok": False, "error": "the episode is over", "reason": "episode_finished"}
            elif tool == _FINISH:
                found = _output(await episode.finish())
            else:
                found = _output(await episode.call(tool, arguments))
            call.answer = json.dumps(found)
        except Exception as exc:  # noqa: BLE001 - one call's failure is nobody else's
            call.failure = str(exc) or type(exc).__name__
        finally:
            session.seen = time.monotonic()
            call.done.set()


def _output(step: Step) -> dict[str, Any]:
    metadata = {**step.facts, "is_error": step.is_error}
    output = {"blocks": [_text(step.text)], "metadata": metadata, "reward": step.reward, "finished": step.done}
    return {"ok": True, "output": output}


def _text(text: str) -> dict[str, Any]:
    return {"text": text, "detail": None, "type": "text"}


def _session_id(request: Request) -> str:
    name = request.headers.get("x-session-id", "").strip()
    if not name or len(name) > _LONGEST_ID:
        raise HTTPException(400, "X-Session-ID header is required")
    return name


# --- streams


async def _events(*events: tuple[str, str]) -> AsyncIterator[str]:
    for name, data in events:
        yield f"event: {name}\ndata: {data}\n\n"


async def _followed(call: Call, number: str) -> AsyncIterator[str]:
    """Tell a call's number at once and its answer when it is there; between them, that it goes on."""
    yield f"event: task_id\ndata: {number}\n\n"
    while not call.done.is_set():
        with anyio.move_on_after(_PING_S) as patience:
            await call.done.wait()
        if patience.cancelled_caught:
            yield ": it goes on\n\n"
    if call.failure is not None:
        yield f"event: error\ndata: {' '.join(call.failure.splitlines())}\n\n"
        return
    for at in range(0, len(call.answer), _PIECE):
        name = "end" if at + _PIECE >= len(call.answer) else "chunk"
        yield f"event: {name}\ndata: {call.answer[at : at + _PIECE]}\n\n"


def _stream(events: AsyncIterator[str]) -> Response:
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def _detail(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    full = isinstance(error, RefusedError) and error.full
    return JSONResponse({"detail": str(error)}, status_code=503 if full else 400)


@contextlib.asynccontextmanager
async def openreward_app(episodes: Episodes, idle_s: float) -> AsyncIterator[Starlette]:
    """Serve episodes to clients of the Open Reward Standard. See ``OpenReward`` for the arguments."""
    async with anyio.create_task_group() as tasks:
        facade = OpenReward(episodes, tasks, idle_s)
        tasks.start_soon(facade.run)
        yield facade.app()
        tasks.cancel_scope.cancel()
