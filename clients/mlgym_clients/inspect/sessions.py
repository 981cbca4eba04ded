"""The sessions that the samples of an evaluation attempt, each with its connection to the server that made it."""

from __future__ import annotations

import atexit
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio
import anyio.to_thread
from inspect_ai.tool import MCPServer, mcp_server_http

from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.inspect.tools import readable
from mlgym_clients.rl.servers import Lease
from mlgym_clients.sweep.control import Control
from mlgym_mcp.api import SessionRequest, SessionView

_ANSWER_S = 60.0
_SILENCE_S = 3600.0
"""A call is answered, or heard of, within a minute, whatever it started: longer work goes on as a job."""
_BUSY_S = 3600.0

_leases: dict[str | None, Lease] = {}
_leasing = anyio.Lock()
_open: dict[str, OpenSession] = {}
"""By the id that Inspect gives each attempt at a sample. Not in the sample's store, which is logged."""


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that a sample attempts.

    Attributes:
        view: as it was made.
    """

    view: SessionView
    _control: Control
    _stack: AsyncExitStack

    def server(self) -> MCPServer:
        """Return its tools, for an agent."""
        server = mcp_server_http(
            name="mlgym",
            url=self.view.mcp_url,
            authorization=self.view.token,
            timeout=_ANSWER_S,
            sse_read_timeout=_SILENCE_S,
        )
        return readable(server)

    async def over(self) -> bool:
        """Whether it has ended.

        Raises:
            ServerLostError: the server does not answer.
        """
        now = await self._control.session(self.view.id)
        return now is None or now.state == "over"

    async def higher_is_better(self) -> bool | None:
        """Whether more is better by its metric; None for a task that the server has no more.

        Raises:
            ServerLostError: the server does not answer.
        """
        directions = {task.id: task.direction for task in await self._control.tasks()}
        direction = directions.get(self.view.task)
        return None if direction is None else direction == "max"

    async def ended(self) -> SessionView:
        """End it, if it has not ended, and return what it came to: unsubmitted work is graded if the task allows that.

        Raises:
            ServerLostError: the server does not answer, or has forgotten it.
        """
        view = await self._control.end(self.view.id)
        if view is None:
            raise ServerLostError("the server knows nothing of the session any more")
        return view


async def open_session(sample: str, server: str | None, wanted: SessionRequest) -> OpenSession:
    """Make the session of a sample.

    Args:
        sample: the id of this attempt at it.
        server: where; default: ``$MLGYM_SERVER``, else a server of this evaluation's own.
        wanted: which.

    Raises:
        ServerStartError: an own server did not come up.
        ServerLostError: the server does not answer, or has had no room for an hour.
        ControlError: it refuses.
    """
    async with _leasing:
        if server not in _leases:
            _leases[server] = await anyio.to_thread.run_sync(Lease, server)
            atexit.register(_leases[server].close)
    address = _leases[server].address
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(Control(address.url, address.token, busy_s=_BUSY_S))
        opened = OpenSession(await control.create(wanted), control, stack.pop_all())
    _open[sample] = opened
    return opened


def session_of(sample: str) -> OpenSession:
    """Return the session that a sample attempts.

    Raises:
        LookupError: it has none.
    """
    try:
        return _open[sample]
    except KeyError:
        raise LookupError("this sample has no session: it is not of a task of mlgym, or over") from None


async def close_session(sample: str) -> None:
    """End the session of a sample, if it has one; a server that is gone needs no end."""
    opened = _open.pop(sample, None)
    if opened is None:
        return
    try:
        await opened.ended()
    except ServerLostError:
        pass
    finally:
        await opened._stack.aclose()
