"""All desks of a host: one for each relay's owner, and those over HTTP."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anyio
from starlette.types import Receive, Scope, Send

from mlgym_mcp.serving.desk import Desk
from mlgym_mcp.serving.desk_server import DeskEndpoint

if TYPE_CHECKING:
    from mlgym_mcp.serving.host import Host

ADMIN = "http:admin"
OPEN = "http"
IS_ADMIN = "mlgym.admin"
"""The key of an HTTP request's scope that says whether it carried the admin token."""
_KEPT_S = 60.0
_OPTIONS = ("sandbox", "unsafe", "engine")


class Desks:
    """Makes and keeps desks; each owner sees the sessions that were started at its own, the admin all."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._desks: dict[str, DeskEndpoint] = {}
        self._making = anyio.Lock()

    async def at(
        self, owner: str, *, everything: bool = False, options: Mapping[str, Any] | None = None
    ) -> DeskEndpoint:
        """Return an owner's desk, made now if there is none.

        Args:
            owner: whose.
            everything: whether it reaches all sessions of the host.
            options: how sessions are made from now on: sandbox, engine.

        Raises:
            FullError: the host is stopping.
        """
        async with self._making:
            found = self._desks.get(owner)
            if found is None or found.closing:
                found = DeskEndpoint(Desk(self._host, owner, everything=everything), self._host.security)
                await self._host.keep(found)
                self._desks[owner] = found
        found.touch()
        if options is not None:
            found.desk.options = {name: options[name] for name in _OPTIONS if options.get(name) is not None}
        return found

    async def serve_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request of somebody who may come in: with the admin token all sessions are in reach."""
        admin = scope.get(IS_ADMIN) is True
        desk = await self.at(ADMIN if admin else OPEN, everything=admin)
        await desk.serve_http(scope, receive, send)

    async def forget(self) -> None:
        """Close the desks of relays that are gone and have left no session."""
        now = time.monotonic()
        for owner, desk in list(self._desks.items()):
            unused = not desk.connections and now - desk.last_used > _KEPT_S and owner not in (ADMIN, OPEN)
            if unused and not desk.desk.sessions():
                del self._desks[owner]
                await desk.close()

    async def close(self) -> None:
        """Close all desks."""
        async with anyio.create_task_group() as closing:
            for desk in self._desks.values():
                closing.start_soon(desk.close)
