"""The ids of requests in the protocols with sessions (before 2026-07-28), by which a request sent again is known.

No id may be used twice in a session there (2025-11-25, "Requests"), so the same id with the same call is the same
request. There are clients that number all their requests alike; of those no id says anything.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from mcp.server.context import ServerRequestContext

_REQUESTS: Final = 64
_SESSIONS: Final = 64


class RequestId(NamedTuple):
    """What names a request: its id is unique in its session of the protocol."""

    session: str
    id: str


def request_of(ctx: ServerRequestContext[Any, Any]) -> RequestId | None:
    """Return what names a request over HTTP in the protocols with sessions; ``None`` in those without."""
    session = getattr(ctx.request, "headers", {}).get("mcp-session-id")
    return None if session is None or ctx.request_id is None else RequestId(session, repr(ctx.request_id))


class RequestIds:
    """The ids that were used lately, and the sessions in which one was used for two different calls."""

    def __init__(self) -> None:
        self._calls: dict[RequestId, str] = {}
        self._careless: dict[str, None] = {}

    def note(self, request: RequestId | None, call: str) -> None:
        """Note that a request was made.

        Args:
            request: what names it.
            call: what tells its call from others.
        """
        if request is None:
            return
        if self._calls.setdefault(request, call) != call:
            self._careless[request.session] = None
        if len(self._calls) > _REQUESTS:
            del self._calls[next(iter(self._calls))]
        if len(self._careless) > _SESSIONS:
            del self._careless[next(iter(self._careless))]

    def telling(self, request: RequestId) -> bool:
        """Whether an id names one request only, as far as was seen."""
        return request.session not in self._careless
