"""A bridge from stdio to a server over HTTP, for clients that only start commands, or cannot keep a token.

It passes messages on as they are, in both protocol eras, and holds nothing but what HTTP adds to them. A server that is
away, or was started anew, costs the call in flight and no more: the next one finds it again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
from mcp.shared.inbound import NAME_BEARING_METHODS, encode_header_value

from mlgym_mcp.connecting.servers import is_here

Write = Callable[[bytes], Awaitable[None]]
_VERSION = "io.modelcontextprotocol/protocolVersion"
_NAMES = {**NAME_BEARING_METHODS, **dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), "taskId")}
_INITIALIZED = b'{"jsonrpc": "2.0", "method": "notifications/initialized"}'
_UNREACHABLE = -32000
_CONNECT_S = 10.0


class Bridge:
    """The messages of one client, and the answers to them."""

    def __init__(self, url: str, token: str | None, http: httpx.AsyncClient, write: Write) -> None:
        """Connect nothing yet.

        Args:
            url: the server's MCP endpoint.
            token: its bearer token, if it wants one.
            http: sends requests; waits for answers as long as they take.
            write: takes one line for the client.
        """
        self._url = url
        parts = urlsplit(url)
        self._shown = f"{parts.scheme}://{parts.netloc}"  # the rest may be all that it takes to open a session
        self._headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._http = http
        self._write = write
        self._writing = anyio.Lock()
        self._calls: dict[str, anyio.CancelScope] = {}
        self._session: dict[str, str] = {}
        self._greeting: bytes | None = None
        self._greeted = anyio.Lock()

    async def run(self, lines: AsyncIterator[bytes]) -> None:
        """Pass on all lines until there are no more; what is in flight then is given up."""
        async with anyio.create_task_group() as tasks:
            async for line in lines:
                try:
                    message = json.loads(line)
                except (ValueError, RecursionError):
                    await self._tell_error(None, -32700, "this line is not JSON")
                    continue
                if not isinstance(message, dict):
                    await self._tell_error(None, -32600, "one message a line is wanted")
                elif "method" in message and "id" in message:
                    scope = anyio.CancelScope()
                    self._calls[json.dumps(message["id"])] = scope
                    if message["method"] == "initialize":
                        await self._request(message, line, scope)
                    else:
                        tasks.start_soon(self._request, message, line, scope)
                else:
                    await self._notify(message, line)
            tasks.cancel_scope.cancel()
        if self._session:
            with anyio.move_on_after(1):
                await self._quietly("DELETE", None, self._session)

    async def _notify(self, message: dict[str, Any], line: bytes) -> None:
        if message.get("method") == "notifications/cancelled" and not self._session:
            params = message.get("params")
            asked = json.dumps(params.get("requestId")) if isinstance(params, dict) else ""
            if (scope := self._calls.get(asked)) is not None:
                scope.cancel()  # without a session, closing the request is how one is cancelled
            return
        await self._quietly("POST", line, self._session)

    async def _request(self, message: dict[str, Any], line: bytes, scope: anyio.CancelScope) -> None:
        name = json.dumps(message["id"])
        try:
            with scope:
                await self._answered(message, line)
        except (httpx.HTTPError, UnicodeError) as exc:
            words = str(exc) or type(exc).__name__
            await self._tell_error(
                message["id"], _UNREACHABLE, f"the server at {self._shown} cannot be reached: {words}"
            )
        finally:
            if self._calls.get(name) is scope:
                del self._calls[name]

    async def _answered(self, message: dict[str, Any], line: bytes, *, again: bool = True) -> None:
        """Send a request, and pass on all that comes for it."""
        session = self._session
        headers = _modern(message) or session
        async with self._http.stream("POST", self._url, content=line, headers=self._headers | headers) as response:
            if message["method"] == "initialize":
                self._greeting = line
                given = response.headers.get("mcp-session-id")
                self._session = {"mcp-session-id": given} if given and response.is_success else {}
            kind = response.headers.get("content-type", "").partition(";")[0]
            if response.status_code == 404 and headers is session and session and again:
                await response.aread()
                await self._greet_again(session)
                return await self._answered(message, line, again=False)
            if kind == "text/event-stream" and response.is_success:
                answered = False
                async for data in _events(response):
                    if not _is_message(data):
                        continue
                    answered = answered or _answers(data, message["id"])
                    await self._pass_on(data, message)
                if answered:
                    return None
                reason = "its stream ended without an answer"
            else:
                body = await response.aread()
                if kind == "application/json" and _is_message(body):
                    return await self._pass_on(_with_id(body, message["id"]), message)
                reason = f"it answered {response.status_code} {response.reason_phrase}".strip()
        return await self._tell_error(
            message["id"], _UNREACHABLE, f"the server at {self._shown} gave no answer: {reason}"
        )

    async def _pass_on(self, data: bytes, message: Mapping[str, Any]) -> None:
        if message["method"] == "initialize" and self._session:
            result = json.loads(data).get("result")
            if isinstance(result, dict) and "protocolVersion" in result:
                self._session["mcp-protocol-version"] = str(result["protocolVersion"])
        await self._line(data)

    async def _greet_again(self, lost: Mapping[str, str]) -> None:
        """Begin a session anew after the server has forgotten the one before; the client need not know."""
        async with self._greeted:
            if self._session is not lost or self._greeting is None:
                return
            answer = await self._http.post(self._url, content=self._greeting, headers=self._headers)
            given = answer.headers.get("mcp-session-id")
            if not answer.is_success or not given:
                return
            version = lost.get("mcp-protocol-version")
            self._session = {"mcp-session-id": given} | ({"mcp-protocol-version": version} if version else {})
            await self._quietly("POST", _INITIALIZED, self._session)

    async def _quietly(self, method: str, line: bytes | None, headers: Mapping[str, str]) -> None:
        """Send what nobody waits for."""
        try:
            await self._http.request(method, self._url, headers=self._headers | dict(headers), content=line)
        except httpx.HTTPError as exc:
            print(f"mlgym-mcp: {self._shown}: {exc!r}", file=sys.stderr)  # noqa: T201

    async def _tell_error(self, request: object, code: int, words: str) -> None:
        error = {"jsonrpc": "2.0", "id": request, "error": {"code": code, "message": words}}
        await self._line(json.dumps(error).encode())

    async def _line(self, data: bytes) -> None:
        async with self._writing:
            await self._write(data.replace(b"\r", b"").replace(b"\n", b"") + b"\n")


def _modern(message: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers with which the 2026 protocol repeats a request, or none for earlier ones."""
    given = message.get("params")
    params = given if isinstance(given, dict) else {}
    meta = params.get("_meta")
    version = meta.get(_VERSION) if isinstance(meta, dict) else None
    if not isinstance(version, str):
        return {}
    headers = {"mcp-protocol-version": version, "mcp-method": str(message["method"])}
    name = params.get(_NAMES.get(str(message["method"]), ""))
    return headers if name is None else {**headers, "mcp-name": encode_header_value(str(name))}


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the data of server-sent events."""
    data: list[str] = []
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            if whole := "\n".join(data):
                yield whole.encode()
            data = []


def _is_message(body: bytes) -> bool:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and "jsonrpc" in message


def _answers(data: bytes, request: object) -> bool:
    """Say whether an event is the answer to a request."""
    message = json.loads(data)
    return "method" not in message and message.get("id") == request


def _with_id(body: bytes, request: object) -> bytes:
    """Give an error that was made before the request was read the request's id."""
    message = json.loads(body)
    return body if message.get("id") is not None else json.dumps({**message, "id": request}).encode()


async def bridge(url: str, token: str | None) -> None:
    """Connect this process's stdin and stdout with a server, until stdin ends."""

    async def write(line: bytes) -> None:
        await anyio.to_thread.run_sync(_out, line)

    timeout = httpx.Timeout(None, connect=_CONNECT_S)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=not is_here(url)) as http:
        await Bridge(url, token, http, write).run(_stdin())


def _out(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


async def _stdin() -> AsyncIterator[bytes]:
    while line := await anyio.to_thread.run_sync(sys.stdin.buffer.readline, abandon_on_cancel=True):
        if line.strip():
            yield line
