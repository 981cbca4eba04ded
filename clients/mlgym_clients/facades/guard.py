"""Who may use a facade: those who have its token, by a name that it has, and no web page of somebody else's."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LARGEST_BYTES = 8 * 1024 * 1024
"""Of a request or message."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_POLICY_VIOLATION = 1008


class Guard:
    """Stands before a facade.

    Args:
        app: the facade.
        token: what clients must have, as bearer or as API key; ``None``: nothing.
        hosts: the names by which clients may address it, besides loopback's.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._hosts = {*LOOPBACK, *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may come in."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(Headers(scope=scope))
        if refusal is None or (scope["type"] == "http" and scope["path"] == "/health" and refusal[0] == 401):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refusal[1]})
        else:
            await JSONResponse({"detail": refusal[1]}, status_code=refusal[0])(scope, receive, send)

    def _refusal(self, headers: Headers) -> tuple[int, str] | None:
        if _name(f"//{headers.get('host', '')}") not in self._hosts:
            return 421, "this is not the host that was asked for"
        origin = headers.get("origin")
        if origin is not None and _name(origin) not in self._hosts:
            return 403, "web pages of others may not use this"
        if self._token is not None:
            scheme, _, bearer = headers.get("authorization", "").partition(" ")
            given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            if not secrets.compare_digest(given.encode(), self._token):
                return 401, "the facade's token is wanted, as bearer or as X-API-Key"
        return None


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


async def body_of(request: Request) -> dict[str, Any]:
    """Return a request's body: a JSON object; nothing is an empty one.

    Raises:
        HTTPException: it is none, or too large.
    """
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > LARGEST_BYTES:
            raise HTTPException(413, f"a request has at most {LARGEST_BYTES} bytes")
    return object_of(bytes(data))


def object_of(data: bytes | str) -> dict[str, Any]:
    """Return a JSON object from its text; nothing is an empty one.

    Raises:
        HTTPException: it is none.
    """
    try:
        found = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError):
        raise HTTPException(400, "that is no JSON") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "a JSON object is wanted")
    return found
