"""The agent ``replay``: makes the tool calls of a recorded episode again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp import Client
from pydantic import BaseModel, ConfigDict, Field

from mlgym_clients.agents.agent import AgentResult, Assignment
from mlgym_clients.agents.calling import Caller, Result
from mlgym_mcp.records.arguments import RecordError, sent_arguments
from mlgym_mcp.records.episodes import events, find_episode

__all__ = ["RecordError", "RecordedCall", "Replay", "ReplayOptions", "recorded_calls"]


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A tool call of an episode, and what it was answered with.

    Attributes:
        tool: the tool.
        arguments: as they were sent.
        facts: the result's facts for programs; empty if it had none, or no result.
        seq: its number in the journal.
    """

    tool: str
    arguments: Mapping[str, Any]
    facts: Mapping[str, Any]
    seq: int


def recorded_calls(folder: Path) -> list[RecordedCall]:
    """Return the calls of an episode in the order in which they came, without those the server made itself.

    Raises:
        RecordError: the journal is damaged, or the arguments of a call were not kept.
    """
    calls: dict[int, RecordedCall] = {}
    try:
        for event in events(folder):
            if event.type == "call" and event.get("follows") is None:
                arguments = sent_arguments(folder, event["arguments"], event.seq)
                calls[event.seq] = RecordedCall(event["tool"], arguments, {}, event.seq)
            elif event.type == "result" and event["call"] in calls:
                call = calls[event["call"]]
                calls[call.seq] = RecordedCall(call.tool, call.arguments, event.get("meta") or {}, call.seq)
    except RecordError:
        raise
    except Exception as exc:  # the journal's own error is the server's, which clients do not know
        raise RecordError(f"{folder}: {exc}") from exc
    return list(calls.values())


class ReplayOptions(BaseModel):
    """Options of the agent ``replay``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    episode: str = Field(min_length=1, description="The episode: its name, the beginning of it, 'last', or its folder.")
    episodes: Path | None = Field(default=None, description="Where episodes lie; default: this machine's.")


class Replay:
    """Makes the calls of an episode again, one after another; jobs are known by the ids they get this time.

    Raises:
        RecordError: the episode cannot be read.
    """

    def __init__(self, options: ReplayOptions) -> None:
        self.options = options
        try:
            self.folder = find_episode(options.episode, options.episodes)
        except (LookupError, OSError) as exc:
            raise RecordError(str(exc)) from exc
        self.calls = recorded_calls(self.folder)
        self.name = "replay"

    def describe(self) -> dict[str, Any]:
        """Return which episode is played."""
        return {"agent": "replay", "episode": self.folder.name, "calls": len(self.calls)}

    async def play(self, client: Client, assignment: Assignment = Assignment()) -> AgentResult:  # noqa: B008 - frozen
        """Make the recorded calls.

        Raises:
            ServerLostError: the session's server does not answer.
        """
        caller = Caller(client, on_call=assignment.on_call)
        jobs: dict[str, str] = {}
        for call in self.calls:
            result = await self._again(caller, call, jobs)
            if call.tool == "submit" and result.structured.get("valid"):
                return AgentResult(caller.made, "submitted", result.text)
            if result.refused and await caller.over():
                return AgentResult(caller.made, "over", result.text)
        return AgentResult(caller.made, "done", "every recorded call was made")

    async def _again(self, caller: Caller, call: RecordedCall, jobs: dict[str, str]) -> Result:
        """Make one call again; a job that had ended when it was answered is waited for here too."""
        if call.tool in ("validate", "submit"):
            return await caller.score("validate" if call.tool == "validate" else "submit")
        arguments = dict(call.arguments)
        if isinstance(job := arguments.get("job_id"), str):
            arguments["job_id"] = jobs.get(job, job)
        result = await caller.call(call.tool, arguments)
        if isinstance(old := call.facts.get("job_id"), str) and isinstance(new := result.facts.get("job_id"), str):
            jobs[old] = new
        if call.facts.get("state") not in (None, "running"):
            result = await caller.finished(result)
        return result
