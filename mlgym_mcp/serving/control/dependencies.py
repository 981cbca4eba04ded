"""What several routes share: the host, the session that a path names, the answer to whoever makes a session."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Request, Response

from mlgym_mcp.api import SessionView
from mlgym_mcp.serving.control.views import session_view
from mlgym_mcp.serving.host import Host
from mlgym_mcp.serving.limits import FullError
from mlgym_mcp.session.ended import Ended
from mlgym_mcp.session.session import Session


def _host(request: Request) -> Host:
    host: Host = request.app.state.host
    return host


Hosted = Annotated[Host, Depends(_host)]


async def _session(host: Hosted, id: str) -> Session | Ended:  # noqa: A002 - the path parameter's name
    found = host.registry.get(id) or await host.ended(id)
    if found is None:
        raise HTTPException(404, "no such session")
    return found


FoundSession = Annotated[Session | Ended, Depends(_session)]
"""The session of the path, or the episode that is left of it."""


def registry_key(idempotency_key: str | None) -> str | None:
    """Return the registry's key for a caller's: other ways to make a session have keys of their own."""
    return None if idempotency_key is None else f"api:{idempotency_key}"


def no_room(exc: FullError) -> HTTPException:
    """Return the answer to a session that there is no room for now."""
    return HTTPException(exc.status, str(exc), {"Retry-After": f"{exc.retry_after_s:.0f}"})


def handed_out(session: Session, host: Host, response: Response, *, made: bool) -> SessionView:
    """Return a session with its token, which no cache may keep: 201 if it was made now, 200 if it was there."""
    if not made:
        response.status_code = 200
    response.headers["Location"] = f"/api/sessions/{session.id}"
    response.headers["Cache-Control"] = "no-store"
    return session_view(session, host.mcp_url(session), with_token=True)
