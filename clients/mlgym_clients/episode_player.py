"""Plays one session: connects, lets an agent play, and tells what failed: the agent, or the way to its session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from mlgym_clients.agents.agent import Agent, AgentResult, Assignment
from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.tls import tls_context

_SILENCE_S = 300.0
"""The server sends something at least every 15 seconds while a call runs."""

_LOST = (httpx2.HTTPError, OSError, MCPError, anyio.BrokenResourceError, anyio.ClosedResourceError, ServerLostError)


async def play_session(
    agent: Agent,
    target: Any,
    assignment: Assignment = Assignment(),  # noqa: B008 - frozen
    *,
    token: str | None = None,
) -> AgentResult:
    """Play a session from where it stands and return how it went; errors come as themselves, never in a group.

    Args:
        agent: who plays.
        target: the session's URL, or anything else that the MCP client takes.
        assignment: what the agent is given besides.
        token: the session's bearer token, for a URL.

    Raises:
        ServerLostError: the server cannot be reached, or went away.
        EndpointError: the model's endpoint gave no answer.
    """
    outcome: AgentResult | None = None
    failure: Exception | None = None
    try:
        async with connected(target, token) as client:
            try:
                outcome = await agent.play(client, assignment)
            except Exception as exc:  # noqa: BLE001 - raised below, outside the client's task groups
                failure = exc
    except Exception as exc:  # noqa: BLE001 - the client's own: a group when its connection broke
        failure = failure or exc
    if outcome is not None:
        return outcome  # what breaks while the connection is closed is nobody's concern
    assert failure is not None
    leaves = list(_leaves(failure))
    for leaf in leaves:
        if isinstance(leaf, _LOST):
            raise ServerLostError(str(leaf) or type(leaf).__name__) from failure
    raise leaves[0]


@asynccontextmanager
async def connected(target: Any, token: str | None) -> AsyncIterator[Client]:
    """Connect to a session; what breaks arrives as the client raises it, in groups.

    Args:
        target: the session's URL, or anything else that the MCP client takes.
        token: the session's bearer token, for a URL.
    """
    if not isinstance(target, str):
        async with Client(target) as client:
            yield client
        return
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    timeout = httpx2.Timeout(30, read=_SILENCE_S)
    async with httpx2.AsyncClient(headers=headers, timeout=timeout, verify=tls_context()) as http:
        async with Client(streamable_http_client(target, http_client=http)) as client:
            yield client


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
