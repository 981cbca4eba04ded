"""Where the attempts of a sweep are played: on this machine, or on the nodes of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from mlgym_clients.sweep.attempt import News, Order, Verdict
from mlgym_mcp.api import TaskSummary


class EngineError(Exception):
    """An engine cannot play any attempt any more, or never could; the message says why."""


class Engine(Protocol):
    """Plays attempts, many at a time.

    It plays each order once and says what came of it; that lost tries are repeated, and that nothing counts twice, is
    the sweep's. An attempt is cancelled as anything is in anyio: through the scope that waits for ``play``.
    """

    def run(self) -> AbstractAsyncContextManager[None]:
        """Be there for attempts until the block ends.

        Raises:
            EngineError: it cannot.
        """
        ...

    async def tasks(self) -> list[TaskSummary]:
        """Return what can be attempted.

        Raises:
            EngineError: nobody answers.
        """
        ...

    @property
    def capacity(self) -> int:
        """How many attempts there is room for at a time."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """Return what it is, for the manifest: plain JSON without secrets."""
        ...

    async def play(self, order: Order, tell: Callable[[News], None], folder: Path) -> Verdict:
        """Play one try; ``tell`` hears of its session before the agent begins, and then of every call.

        Args:
            order: what to play.
            tell: must neither raise nor block.
            folder: where the agent may leave files.

        Raises:
            EngineError: it cannot play anything any more.
        """
        ...
