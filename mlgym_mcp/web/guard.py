"""Who may look: browsers on this machine, or those that have the token. And what a page may do in a browser."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "mlgym_view"
LOGIN = "/login"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PLOTS_POLICY = f"{POLICY}; style-src-attr 'unsafe-inline'"
"""For pages with plots, whose lines are styled one by one. Scripts and style sheets still come from here only."""
BYTES_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
"""For files of an episode: whatever they are, they do nothing."""
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_MOST_BODY = 4096


class Guard:
    """ASGI middleware: looks at Host, method, origin and token before anything else does.

    Args:
        app: what is guarded.
        token: what a browser must have been given; ``None``: nothing, for loopback only.
        hosts: names by which the server may be called, with or without a port; ``None``: somebody else looks.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Sequence[str] | None = LOOPBACK) -> None:
        self._app = app
        self._token = token
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or let it through."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refused(scope)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if answer is None and scope["method"] == "POST":
            answer = (
                await self._login(Request(scope, receive)) if path == LOGIN else _plain(405, "only reading is done")
            )
        elif answer is None and path != LOGIN and not path.startswith("/static/") and not self._is_known(scope):
            answer = self._unknown(scope)
        await (answer or self._app)(scope, receive, guarded)

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return _plain(405, "only reading is done")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return _plain(
                421, "this server is not called so: open it by its address, or name the host when starting it"
            )
        site, mode = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode")
        if site not in (None, "none", "same-origin") and mode != "navigate":
            return _plain(403, "another site may not use this one")
        if scope["method"] == "POST":
            origin = headers.get("origin")
            if site not in (None, "none", "same-origin") or (
                origin is not None and origin.partition("://")[2].lower() != hosts[0].lower()
            ):
                return _plain(403, "another site may not use this one")
        return None

    def _is_ours(self, host: str) -> bool:
        if self._hosts is None:
            return True
        host = host.lower()
        name, colon, port = host.rpartition(":")
        if colon and port.isascii() and port.isdigit() and not host.endswith("]"):
            return name in self._hosts or host in self._hosts
        return host in self._hosts

    def _is_known(self, scope: Scope) -> bool:
        if self._token is None:
            return True
        headers = Headers(scope=scope)
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, _ticket(self._token))

    def _unknown(self, scope: Scope) -> Response:
        headers = Headers(scope=scope)
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(f"{scope.get('root_path', '')}{LOGIN}", 303)
        return PlainTextResponse("the token is needed", 401, {"WWW-Authenticate": "Bearer"})

    async def _login(self, request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _MOST_BODY:
                return _plain(413, "that is no token")
        given = parse_qs(body.decode("latin-1"), max_num_fields=4).get("token", [""])[0].strip()
        base = request.scope.get("root_path", "")
        if self._token is None:
            return RedirectResponse(f"{base}/", 303)
        if not _same(given, self._token):
            return RedirectResponse(f"{base}{LOGIN}?wrong=1", 303)
        answer = RedirectResponse(f"{base}/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE, _ticket(self._token), path=base or "/", httponly=True, samesite="strict", secure=secure
        )
        return answer


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(text, status)


def _ticket(token: str) -> str:
    """What a browser keeps in place of the token."""
    return hmac.new(token.encode(), b"mlgym-mcp view", hashlib.sha256).hexdigest()


def _same(given: str, right: str) -> bool:
    mine, theirs = (hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (right, given))
    return hmac.compare_digest(mine, theirs)
