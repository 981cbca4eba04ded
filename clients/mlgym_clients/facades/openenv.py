"""The routes of OpenEnv (the package ``openenv``): reset, step and state over a WebSocket, tools over JSON-RPC.

A client has a place, which is its own WebSocket's or was made by ``openenv/session/create``; in a place one episode
after another is played, each begun by a reset. What a step is worth and whether the episode is over stands beside the
observation, and, for tools called over JSON-RPC, in the result's ``metadata``.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from mlgym_clients.facades.episodes import Episodes, RefusedError
from mlgym_clients.facades.guard import body_of, object_of
from mlgym_clients.facades.listings import ENVIRONMENT, Listings
from mlgym_clients.facades.places import Place

_INVALID_REQUEST, _NO_METHOD, _INVALID_PARAMS, _INTERNAL, _SERVER = -32600, -32601, -32602, -32603, -32000
_PLACES = 4
"""So many clients per episode may be connected: those who have not reset anything cost little."""
_OBJECT: dict[str, Any] = {"type": "object"}
_CALL = {
    "title": "CallToolAction",
    "type": "object",
    "properties": {
        "type": {"const": "call_tool"},
        "tool_name": {"type": "string"},
        "arguments": _OBJECT,
        "metadata": _OBJECT,
    },
    "required": ["tool_name"],
}
_OBSERVATION = {
    "title": "CallToolObservation",
    "type": "object",
    "properties": {"tool_name": {"type": "string"}, "result": {}, "error": {}, "metadata": _OBJECT},
}
_STATE = {
    "title": "State",
    "type": "object",
    "properties": {"episode_id": {"type": ["string", "null"]}, "step_count": {"type": "integer", "minimum": 0}},
}


class OpenEnv:
    """The routes, and the places behind them.

    Args:
        episodes: those that are played.
        idle_s: a place that nobody has used for so long, and no WebSocket holds, is closed.
    """

    def __init__(self, episodes: Episodes, idle_s: float) -> None:
        self._episodes = episodes
        self._most = episodes.most * _PLACES
        self._idle_s = idle_s
        self._places: dict[str, Place] = {}

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/health", self._health),
            Route("/metadata", self._metadata),
            Route("/schema", self._schema),
            Route("/reset", self._reset, methods=["POST"]),
            Route("/step", self._step, methods=["POST"]),
            Route("/state", self._state),
            Route("/mcp", self._rpc, methods=["POST"]),
            WebSocketRoute("/ws", self._websocket),
            *Listings(self._episodes).routes(),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _detail, RefusedError: _refused})

    async def run(self) -> None:
        """Close places that nobody uses any more, until cancelled."""
        async with anyio.create_task_group() as closing:
            while True:
                await anyio.sleep(self._idle_s / 4)
                for name, place in list(self._places.items()):
                    if not place.attached and place.idle_s > self._idle_s:
                        closing.start_soon(self._close, name)  # which may take as long as a grading

    # --- places

    def _make(self) -> str:
        if len(self._places) >= self._most:
            raise RefusedError(f"{self._most} clients are connected already", full=True)
        name = secrets.token_urlsafe(24)
        self._places[name] = Place(self._episodes)
        return name

    def _place(self, name: Any) -> Place:
        place = self._places.get(name) if isinstance(name, str) else None
        if place is None:
            raise RefusedError(f"Unknown session_id: {str(name)[:100]}")
        return place

    async def _close(self, name: str) -> None:
        place = self._places.pop(name, None)
        if place is not None:
            with anyio.CancelScope(shield=True):
                await place.close()

    # --- plain HTTP

    async def _health(self, request: Request) -> JSONResponse:
        return JSONResponse({"status": "healthy"})

    async def _metadata(self, request: Request) -> JSONResponse:
        about = "Machine-learning tasks, each in a locked-down sandbox with a budget and a hidden grader."
        return JSONResponse({"name": ENVIRONMENT, "description": about, "version": version("mlgym-mcp")})

    async def _schema(self, request: Request) -> JSONResponse:
        return JSONResponse({"action": _CALL, "observation": _OBSERVATION, "state": _STATE})

    async def _reset(self, request: Request) -> JSONResponse:
        given = await body_of(request)
        name = given.pop("session_id", None) or self._make()
        answer = await self._place(name).reset(given)
        answer["metadata"]["session_id"] = name
        return JSONResponse(answer)

    async def _step(self, request: Request) -> JSONResponse:
        given = await body_of(request)
        action = given.get("action")
        if not isinstance(action, dict):
            raise HTTPException(422, "an action is wanted, and the session_id that reset gave")
        return JSONResponse(await self._place(given.get("session_id")).step(action))

    async def _state(self, request: Request) -> JSONResponse:
        return JSONResponse(self._place(request.query_params.get("session_id")).state())

    # --- JSON-RPC

    async def _rpc(self, request: Request) -> JSONResponse:
        return JSONResponse(await self._answered(await body_of(request), None, None))

    async def _answered(self, asked: dict[str, Any], own: Place | None, own_name: str | None) -> dict[str, Any]:
        """Answer a request; ``own`` is the place of the WebSocket on which it came."""
        number, params = asked.get("id"), asked.get("params", {})
        try:
            if asked.get("jsonrpc") != "2.0" or not isinstance(params, dict):
                raise _RpcError(_INVALID_REQUEST, "a request of JSON-RPC 2.0 with an object of params is wanted")
            result = await self._method(str(asked.get("method")), params, own, own_name)
        except _RpcError as exc:
            return {"jsonrpc": "2.0", "id": number, "error": {"code": exc.code, "message": str(exc), "data": None}}
        except RefusedError as exc:
            code = _SERVER if exc.full else _INVALID_PARAMS if "session_id" in str(exc) else _INTERNAL
            return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": str(exc), "data": None}}
        return {"jsonrpc": "2.0", "id": number, "result": result}

    async def _method(self, method: str, params: dict[str, Any], own: Place | None, own_name: str | None) -> Any:
        if method == "openenv/session/create":
            return {"session_id": own_name or self._make()}
        if method == "openenv/session/close":
            name = params.get("session_id")
            place = self._place(name)
            if place is own:
                raise _RpcError(_INVALID_REQUEST, "a WebSocket's own session ends with it")
            if place.attached:
                place.closing = True
                return {"session_id": name, "closed": False, "closing": True}
            await self._close(str(name))
            return {"session_id": name, "closed": True}
        if method not in ("tools/list", "tools/call"):
            raise _RpcError(_NO_METHOD, f"Method not found: {method[:100]}")
        place = own or (self._place(params["session_id"]) if params.get("session_id") else Place(self._episodes))
        if method == "tools/list":
            return {"tools": await place.tools()}
        name, arguments = params.get("name"), params.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise _RpcError(_INVALID_PARAMS, "the tool's name and an object of arguments are wanted")
        if own is None and not params.get("session_id"):
            raise _RpcError(_INVALID_PARAMS, "a session_id is wanted: openenv/session/create gives one")
        return await place.call(name, arguments)

    # --- the WebSocket

    async def _websocket(self, socket: WebSocket) -> None:
        await socket.accept()
        given = socket.query_params.get("session_id")
        try:
            name = given or self._make()
            place = self._place(name)
            if place.attached:
                raise RefusedError(f"Session {name} already has an attached WebSocket")
        except RefusedError as exc:
            await _send(socket, _error(str(exc), "CAPACITY_REACHED" if exc.full else "SESSION_ERROR"))
            await socket.close()
            return
        place.attached = True
        try:
            while await self._message(socket, place, name):
                pass
            await socket.close()
        except WebSocketDisconnect:
            pass
        finally:
            place.attached = False
            place.used = time.monotonic()
            if not given or place.closing:
                await self._close(name)

    async def _message(self, socket: WebSocket, place: Place, name: str) -> bool:
        """Answer one message; whether there may be more."""
        try:
            message = object_of(await socket.receive_text())
        except HTTPException as exc:
            await _send(socket, _error(exc.detail, "INVALID_JSON"))
            return True
        except KeyError:  # bytes
            await _send(socket, _error("text is wanted", "INVALID_JSON"))
            return True
        kind, data = message.get("type"), message.get("data", {})
        if kind == "close":
            return False
        if not isinstance(data, dict):
            await _send(socket, _error("data must be an object", "VALIDATION_ERROR"))
            return True
        answers: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "reset": lambda: _observed(place.reset(data)),
            "step": lambda: _observed(place.step(data)),
            "state": lambda: _stated(place),
            "mcp": lambda: self._called(data, place, name),
        }
        if not isinstance(kind, str) or kind not in answers:
            await _send(socket, _error(f"Unknown message type: {str(kind)[:100]}", "UNKNOWN_TYPE"))
            return True
        try:
            answer = await answers[kind]()
        except RefusedError as exc:
            answer = _error(str(exc), "CAPACITY_REACHED" if exc.full else "EXECUTION_ERROR")
        await _send(socket, answer)
        return True

    async def _called(self, data: dict[str, Any], place: Place, name: str) -> dict[str, Any]:
        return {"type": "mcp", "data": await self._answered(data, place, name)}


class _RpcError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


async def _observed(answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "observation", "data": await answer}


async def _stated(place: Place) -> dict[str, Any]:
    return {"type": "state", "data": place.state()}


def _error(message: str, code: str) -> dict[str, Any]:
    return {"type": "error", "data": {"message": message, "code": code}}


async def _send(socket: WebSocket, message: Mapping[str, Any]) -> None:
    await socket.send_text(json.dumps(message))


async def _detail(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, status_code=error.status_code)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    full = isinstance(error, RefusedError) and error.full
    return JSONResponse({"detail": str(error)}, status_code=503 if full else 400)


@contextlib.asynccontextmanager
async def openenv_app(episodes: Episodes, idle_s: float) -> AsyncIterator[Starlette]:
    """Serve episodes to clients of OpenEnv. See ``OpenEnv`` for the arguments."""
    facade = OpenEnv(episodes, idle_s)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(facade.run)
        yield facade.app()
        tasks.cancel_scope.cancel()
