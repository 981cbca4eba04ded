"""Where one session is reached: over Streamable HTTP and over line-framed connections, in both protocol eras."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp.server.transport_security import TransportSecuritySettings

from mlgym_mcp.serving.long_calls import LongCalls
from mlgym_mcp.serving.served import Served
from mlgym_mcp.serving.task_server import make_server
from mlgym_mcp.session.session import Session


class Endpoint(Served):
    """One session's MCP server and its connections, which come and go without touching the episode."""

    def __init__(self, session: Session, security: TransportSecuritySettings) -> None:
        self.session = session
        self.calls = LongCalls(session)
        super().__init__(make_server(self.calls), security)

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """Own the calls that outlive their requests."""
        async with self.calls.running():
            yield

    def touch(self) -> None:
        """Note that somebody uses the session."""
        self.session.touch()
