"""The engine of this machine: all agents in this process, all sessions on one server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlgym_clients.agents.agent import Agent
from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.sweep.attempt import Lost, News, Order, Verdict
from mlgym_clients.sweep.control import Control, ControlError
from mlgym_clients.sweep.engine import EngineError
from mlgym_clients.sweep.own_server import OwnServer, ServerStartError, own_server
from mlgym_clients.sweep.playing import play_attempt
from mlgym_mcp.api import Health, TaskSummary


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A server that runs already: its URL and its admin token."""

    url: str
    token: str


@dataclass(frozen=True, slots=True)
class Own:
    """A server of the sweep's own: a folder for its log, and arguments of ``mlgym-mcp serve``."""

    place: Path
    arguments: Sequence[str] = ()


class LocalEngine:
    """Plays attempts from this process.

    Args:
        agents: by name.
        server: which.
        patience_s: how long the server may be away before a try is lost.
    """

    def __init__(self, agents: Mapping[str, Agent], server: Elsewhere | Own, *, patience_s: float = 60.0) -> None:
        self._agents = agents
        self._server = server
        self._patience_s = patience_s
        self._control: Control | None = None
        self._health: Health | None = None
        self._own: OwnServer | None = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Reach the server, or start one.

        Raises:
            EngineError: it does not answer, or does not start.
        """
        async with AsyncExitStack() as stack:
            if isinstance(self._server, Own):
                self._server.place.mkdir(parents=True, exist_ok=True)
                try:
                    own = await stack.enter_async_context(own_server(self._server.place, self._server.arguments))
                except (ServerStartError, OSError) as exc:
                    raise EngineError(str(exc)) from exc
                self._own = own
                url, token, patience_s = own.url, own.token, self._patience_s
            else:
                url, token, patience_s = self._server.url, self._server.token, 5.0
            async with Control(url, token, patience_s=patience_s) as first:
                try:
                    self._health = await first.health()
                    await first.tasks()
                except (ServerLostError, ControlError) as exc:
                    raise EngineError(str(exc)) from exc
            control = Control(url, token, patience_s=self._patience_s)
            self._control = await stack.enter_async_context(control)
            yield

    async def tasks(self) -> list[TaskSummary]:
        """Return the server's tasks.

        Raises:
            EngineError: it does not answer.
        """
        try:
            return await self._running().tasks()
        except (ServerLostError, ControlError) as exc:
            raise EngineError(str(exc)) from exc

    @property
    def capacity(self) -> int:
        """One attempt for each CPU: what agents start is what takes time."""
        return os.cpu_count() or 1

    def facts(self) -> dict[str, Any]:
        """Return which server plays."""
        own = isinstance(self._server, Own)
        server = {"own": own, "url": None if own else self._running().url}
        if self._health is not None:
            server |= {"version": self._health.version, "sandbox": self._health.sandbox}
        return {"engine": "local", "server": server}

    async def play(self, order: Order, tell: Callable[[News], None], folder: Path) -> Verdict:
        """Play one try.

        Raises:
            EngineError: the sweep's own server cannot be kept running.
        """
        agent = self._agents[order.attempt.agent]
        verdict = await play_attempt(order, self._running(), agent, tell, folder=folder)
        if isinstance(verdict, Lost) and self._own is not None and not self._own.kept:
            raise EngineError(f"the sweep's server dies again and again: {self._own.last_words()}")
        return verdict

    def _running(self) -> Control:
        assert self._control is not None, "use it inside its run()"
        return self._control
