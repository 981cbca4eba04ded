"""A lean HTTP client for benchmarks: kept-alive connections, the 2026-07-28 wire of MCP, the control API.

The Python SDK's client costs a millisecond a call, which would be most of what is measured.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

VERSION = "2026-07-28"
_META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}


class WireError(Exception):
    """The connection broke, or what came is no answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer.

    Attributes:
        status: HTTP's.
        headers: by name in lower case.
        body: without its transfer coding.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, or the last message of a stream of events, as JSON.

        Raises:
            WireError: it holds none.
        """
        text = self.body
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            data = [line[5:] for line in text.splitlines() if line.startswith(b"data:")]
            text = data[-1] if data else b""
        try:
            return json.loads(text)
        except ValueError as exc:
            raise WireError(f"HTTP {self.status} with {self.body[:200]!r}") from exc


class Connection:
    """One connection to a server on this machine, opened when needed and kept alive. One request at a time.

    Args:
        port: of 127.0.0.1.
        token: the bearer that every request carries.
    """

    def __init__(self, port: int, token: str) -> None:
        self._head = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Answer:
        """Send a request and return its answer; a connection that the server closed while idle is opened again.

        Raises:
            WireError: the connection broke before the answer was whole.
        """
        head = f"{method} {path} HTTP/1.1\r\n{self._head}{headers}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        sent = head.encode() + b"\r\n" + body
        fresh = self._streams is None
        while True:
            try:
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
                    fresh = True
                self._streams[1].write(sent)
                return await self._answer(self._streams[0])
            except asyncio.IncompleteReadError as exc:
                self.close()
                if exc.partial or fresh:
                    raise WireError("the server closed the connection") from exc
            except OSError as exc:
                self.close()
                if fresh:
                    raise WireError(f"the connection broke: {exc}") from exc
            except BaseException:  # the rest of an answer would be taken for that of the next request
                self.close()
                raise

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        status_line, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int((await reader.readline()).strip() or b"0", 16):
                parts.append((await reader.readexactly(size + 2))[:-2])
            await reader.readline()
            body = b"".join(parts)
        else:
            body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(int(status_line.split(" ", 2)[1]), headers, body)

    def close(self) -> None:
        """Drop the connection, whatever it is doing."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Session(Connection):
    """One agent's connection to its session's MCP endpoint."""

    def __init__(self, port: int, view: dict[str, Any]) -> None:
        super().__init__(port, view["token"])
        self.id: str = view["id"]
        self.token: str = view["token"]
        self.episode: str = view["episode"]
        self._path: str = view.get("path", f"/sessions/{self.id}/mcp")
        self._number = 0

    async def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool and return its result.

        Raises:
            WireError: there is none.
        """
        self._number += 1
        params = {"name": tool, "arguments": arguments, "_meta": _META}
        body = json.dumps({"jsonrpc": "2.0", "id": self._number, "method": "tools/call", "params": params}).encode()
        headers = (
            "Accept: application/json, text/event-stream\r\n"
            f"MCP-Protocol-Version: {VERSION}\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n"
        )
        answer = await self.request("POST", self._path, body, headers)
        said = answer.json()
        if answer.status != 200 or "result" not in said:
            raise WireError(f"{tool}: HTTP {answer.status}: {answer.body[:200]!r}")
        result: dict[str, Any] = said["result"]
        return result


class Control(Connection):
    """The control API of a server."""

    def __init__(self, port: int, token: str) -> None:
        super().__init__(port, token)
        self._port_of_sessions = port
        self.refusals = 0
        """How often the server wanted a request to come again later."""

    async def create(self, task: str, **wanted: Any) -> Session:
        """Make a session, asking again as long as the server wants that.

        Raises:
            WireError: it could not be made.
        """
        body = json.dumps({"task": task, **wanted}).encode()
        while True:
            answer = await self.request("POST", "/api/sessions", body)
            if answer.status == 201:
                return Session(self._port_of_sessions, answer.json())
            if answer.status != 429:
                raise WireError(f"no session: HTTP {answer.status}: {answer.body[:300]!r}")
            self.refusals += 1
            await asyncio.sleep(float(answer.headers["retry-after"]) / 4)

    async def view(self, session_id: str) -> dict[str, Any]:
        """Return what the control API shows of a session.

        Raises:
            WireError: it shows nothing.
        """
        answer = await self.request("GET", f"/api/sessions/{session_id}")
        if answer.status != 200:
            raise WireError(f"HTTP {answer.status}: {answer.body[:200]!r}")
        found: dict[str, Any] = answer.json()
        return found

    async def until_ready(self, session: Session) -> None:
        """Return when a session can be used.

        Raises:
            WireError: it ended before.
        """
        while (view := await self.view(session.id))["state"] == "preparing":
            await asyncio.sleep(0.1)
        if view["state"] != "ready":
            raise WireError(f"session {session.id} never was ready: {view['detail']}")

    async def delete(self, session_id: str) -> None:
        """End a session; returns when its sandbox is gone."""
        await self.request("DELETE", f"/api/sessions/{session_id}")
