"""What an agent hears that comes back to a session which has ended, and which this server does not hold any more.

Every call of a tool is answered as it was when the episode ended: an ordinary result that says so and why. Anything
else is a JSON-RPC error with the same words, so that a client that only connects tells them too.
"""

from __future__ import annotations

import json
from typing import Any

from mcp.types import INVALID_REQUEST, PARSE_ERROR
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from mlgym_mcp.serving.wrapping import failed
from mlgym_mcp.session.errors import EpisodeOverError
from mlgym_mcp.tools.toolbox import BY_NAME

_OVER = -32000
_ERA = b"2026-07-28"
"""From this protocol on, a result says what kind of result it is."""


class OverEndpoint:
    """ASGI application in place of an ended session's endpoint. Holds nothing and remembers nothing.

    Args:
        text: that and why the episode is over.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] != "POST":
            await JSONResponse({"error": self._text}, 405, {"Allow": "POST"})(scope, receive, send)
            return
        new = dict(scope["headers"]).get(b"mcp-protocol-version") == _ERA
        await self._answer(await Request(scope, receive).body(), new=new)(scope, receive, send)

    def _answer(self, body: bytes, *, new: bool) -> Response:
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            return _error(None, PARSE_ERROR, "the body is not JSON", 400)
        if not isinstance(message, dict) or not isinstance(message.get("method", ""), str):
            return _error(None, INVALID_REQUEST, "the body is not a JSON-RPC request", 400)
        number = message.get("id")
        if "method" not in message or number is None:
            return Response(status_code=202)
        if not isinstance(number, str | int) or isinstance(number, bool):
            return _error(None, INVALID_REQUEST, "the request's id is neither a text nor a whole number", 400)
        params = message.get("params")
        name = params.get("name") if isinstance(params, dict) else None
        spec = BY_NAME.get(name) if isinstance(name, str) else None
        if message["method"] != "tools/call" or spec is None:
            return _error(number, _OVER, self._text, 200)
        result: dict[str, Any] = {"resultType": "complete"} if new else {}
        told = failed(spec, EpisodeOverError(self._text))
        result |= told.model_dump(by_alias=True, mode="json", exclude_none=True)
        return _json({"jsonrpc": "2.0", "id": number, "result": result})


def _error(number: str | int | None, code: int, text: str, status: int) -> Response:
    return _json({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": text}}, status)


def _json(body: dict[str, Any], status: int = 200) -> Response:
    text = json.dumps(body, ensure_ascii=True)
    return Response(text, status, {"Cache-Control": "no-store"}, media_type="application/json")
