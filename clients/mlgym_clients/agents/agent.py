"""What an agent is: something that plays one session over MCP and says how it went."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from mcp import Client

from mlgym_clients.agents.calling import Result

StopReason = Literal["submitted", "over", "done", "limit", "silent", "stuck", "failed"]
"""Why an agent stopped: it submitted; the episode ended otherwise; its list of calls came to an end; a limit of its
own; its model calls no tools; its model goes in a circle or makes nothing but mistakes; it could not go on."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an agent is given besides the session.

    Attributes:
        seed: for agents that draw.
        folder: where the agent may leave files, such as its messages; ``None``: it keeps none.
        on_call: told of every tool call that was answered; it must neither raise nor block.
    """

    seed: int = 0
    folder: Path | None = None
    on_call: Callable[[str, Mapping[str, Any], Result], None] | None = None


@dataclass(frozen=True, slots=True)
class AgentResult:
    """How a play went. The score is not here: the episode has it.

    Attributes:
        steps: tool calls that were answered.
        stop: why it stopped.
        detail: the same in a sentence.
        requests: what a model was asked, answered or not.
        tokens_in: tokens the model read, cached ones included.
        tokens_out: tokens it wrote.
        tokens_cached: those of ``tokens_in`` that were cheaper because the endpoint had them.
        estimated: some counts are estimates, because the endpoint reported none.
        cost_usd: what the tokens cost; ``None`` when nobody knows the price, 0 without a model.
        messages: the file of the messages, if one was kept.
    """

    steps: int
    stop: StopReason
    detail: str = ""
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    estimated: bool = False
    cost_usd: float | None = 0.0
    messages: Path | None = None


class EndpointError(Exception):
    """A model's endpoint gave no answer: not the agent's failure, so the attempt must not count.

    Whoever runs the agent catches it: with ``permanent`` trying again is of no use (wrong key, unknown model),
    otherwise the attempt may be repeated later.

    Attributes:
        permanent: whether the same request would fail again.
        result: what was done and spent until then; ``None`` before anything was.
    """

    def __init__(self, message: str, *, permanent: bool, result: AgentResult | None = None) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.result = result


class Agent(Protocol):
    """Plays sessions. One agent may play many at a time: it keeps nothing between them."""

    @property
    def name(self) -> str:
        """Short, for tables: says which agent and, if it matters, which model."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return all that decides how it plays, as plain JSON, for a sweep's manifest. No secrets."""
        ...

    async def play(self, client: Client, assignment: Assignment = ...) -> AgentResult:
        """Play a session from where it stands.

        Raises:
            ServerLostError: the session's server does not answer any more.
            EndpointError: the model's endpoint does not.
        """
        ...
