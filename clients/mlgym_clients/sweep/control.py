"""The control API as a sweep uses it: patient with a server that is busy or starts again, never with a refusal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import httpx2
from pydantic import TypeAdapter, ValidationError

from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.tls import tls_context
from mlgym_mcp.api import Health, SessionRequest, SessionView, TaskSummary

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_BUSY_S = 3600.0
_Shape = TypeVar("_Shape", Health, SessionView)
_TASKS = TypeAdapter(list[TaskSummary])


class ControlError(Exception):
    """The server refuses a request: asking again is of no use. ``status`` is that of its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Control:
    """A server's control API. Use it as a context manager.

    Args:
        url: of the server.
        token: the admin token.
        patience_s: how long a server may be away before it is given up.
        busy_s: how long a server may say that it is full.
        transport: how requests travel, if not over TCP.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        patience_s: float = 60.0,
        busy_s: float = _BUSY_S,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._busy_s = busy_s
        headers = {"Authorization": f"Bearer {token}"}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=16)
        timeout = httpx2.Timeout(60, read=300)
        self._http = httpx2.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=timeout,
            limits=limits,
            verify=tls_context(),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def health(self) -> Health:
        """Return how the server is.

        Raises:
            ServerLostError: it does not answer.
            ControlError: what answers is no server of this version.
        """
        return self._parsed(Health, await self._asked("GET", "/api/health"))

    async def tasks(self) -> list[TaskSummary]:
        """Return what can be attempted there.

        Raises:
            ServerLostError: it does not answer.
            ControlError: it refuses, or answers as another version does.
        """
        answer = await self._asked("GET", "/api/tasks")
        try:
            return _TASKS.validate_json(answer)
        except ValidationError as exc:
            raise self._strange(exc) from exc

    async def create(self, wanted: SessionRequest) -> SessionView:
        """Make a session, or return the one that was made before with the same idempotency key.

        Raises:
            ServerLostError: the server does not answer, or has been full for too long.
            ControlError: it refuses.
        """
        body = wanted.model_dump_json(exclude_none=True).encode()
        return self._parsed(SessionView, await self._asked("POST", "/api/sessions", body))

    async def session(self, session: str) -> SessionView | None:
        """Return a session, also one that has ended; ``None`` if there is no such session.

        Raises:
            ServerLostError: the server does not answer.
            ControlError: it refuses.
        """
        return await self._of_session("GET", session)

    async def end(self, session: str) -> SessionView | None:
        """End a session and return it; ``None`` if there is no such session.

        Raises:
            ServerLostError: the server does not answer.
            ControlError: it refuses.
        """
        return await self._of_session("DELETE", session)

    async def _of_session(self, method: str, session: str) -> SessionView | None:
        try:
            return self._parsed(SessionView, await self._asked(method, f"/api/sessions/{session}"))
        except ControlError as exc:
            if exc.status == 404:
                return None
            raise

    async def _asked(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Ask until there is an answer. All requests may be repeated: sessions are made with a key of their own."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        pause = _FIRST_PAUSE_S
        away_since: float | None = None
        busy_since: float | None = None
        while True:
            now = time.monotonic()
            try:
                answer = await self._http.request(method, path, content=body, headers=headers)
            except (httpx2.HTTPError, OSError) as exc:
                if isinstance(exc, httpx2.ReadTimeout) and await self._alive():
                    away_since = None  # what was asked for takes long, as the last grading of a session may
                    continue
                away_since = away_since if away_since is not None else now
                if time.monotonic() - away_since >= self._patience_s:
                    raise ServerLostError(f"{self.url} does not answer: {exc or type(exc).__name__}") from exc
            else:
                if answer.is_success:
                    return answer.content
                if answer.status_code not in (429, 503):
                    raise self._refusal(answer)
                away_since, busy_since = None, busy_since if busy_since is not None else now
                if time.monotonic() - busy_since >= self._busy_s:
                    raise ServerLostError(f"{self.url} has had no room for too long: {_sentence(answer)}")
                pause = max(pause, min(_seconds(answer.headers.get("retry-after")), 30.0))
            await anyio.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, pause * 2)

    async def _alive(self) -> bool:
        try:
            return (await self._http.get("/api/health", timeout=10)).is_success
        except (httpx2.HTTPError, OSError):
            return False

    def _refusal(self, answer: httpx2.Response) -> Exception:
        if answer.status_code == 401:
            return ControlError(401, f"{self.url} does not take this admin token")
        if answer.status_code >= 500:
            return ServerLostError(f"{self.url} failed: {_sentence(answer)}")
        return ControlError(answer.status_code, _sentence(answer))

    def _parsed(self, shape: type[_Shape], answer: bytes) -> _Shape:
        try:
            return shape.model_validate_json(answer)
        except ValidationError as exc:
            raise self._strange(exc) from exc

    def _strange(self, error: ValidationError) -> ControlError:
        (first, *_) = error.errors()
        place = ".".join(map(str, first["loc"]))
        return ControlError(200, f"{self.url} is no mlgym-mcp server of this version: {place}: {first['msg']}")


def _sentence(answer: httpx2.Response) -> str:
    """What an answer says is wrong."""
    try:
        said: Any = answer.json()
    except ValueError:
        said = None
    if isinstance(said, dict) and isinstance(said.get("error"), str):
        return str(said["error"])[:2000]
    return f"status {answer.status_code}"


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
