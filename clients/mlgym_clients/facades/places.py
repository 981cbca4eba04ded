"""Where a client of OpenEnv plays one episode after another."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

import anyio

from mlgym_clients.facades.episodes import Episode, Episodes, RefusedError, Step


class Place:
    """Where a client plays one episode after another."""

    def __init__(self, episodes: Episodes) -> None:
        self._episodes = episodes
        self._turn = anyio.Lock()
        self.episode: Episode | None = None
        self.attached = False
        """A WebSocket uses it; only one may."""
        self.closing = False
        self.used = time.monotonic()

    @property
    def idle_s(self) -> float:
        """How long nobody has asked anything here, seconds."""
        unasked = 0.0 if self._turn.locked() else time.monotonic() - self.used
        return unasked if self.episode is None else min(unasked, self.episode.idle_s)

    async def reset(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """End what is played here and begin anew.

        Raises:
            RefusedError: it cannot be begun.
        """
        wanted = self._episodes.wanted(given)
        async with self._turn:
            self.used = time.monotonic()
            await self._episodes.end(self.episode)
            self.episode = None
            self.episode = episode = await self._episodes.begin(wanted)
            about = episode.about()
            return _answer({"instruction": episode.instruction, **about}, None, False, about)

    async def step(self, action: Mapping[str, Any]) -> dict[str, Any]:
        """Call a tool, or list them.

        Raises:
            RefusedError: it is no such action, or there is nothing to play.
        """
        self.used = time.monotonic()
        if action.get("type") == "list_tools":
            return _answer({"tools": await self.tools()}, None, False, {})
        tool, arguments = action.get("tool_name"), action.get("arguments", {})
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(tool, str) or not isinstance(arguments, dict):
            raise RefusedError("an action is {'type': 'call_tool', 'tool_name': ..., 'arguments': {...}}")
        step = await self._call(tool, arguments)
        error = None
        if step.is_error and tool not in {each["name"] for each in await self.tools()}:
            error = {"error_type": "tool_not_found", "message": step.text}
        observation = {"tool_name": tool, "result": _result(step), "error": error}
        return _answer(observation, step.reward, step.done, dict(step.facts))

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a tool; what the step was worth stands in the result.

        Raises:
            RefusedError: there is nothing to play.
        """
        self.used = time.monotonic()
        step = await self._call(tool, arguments)
        return {**_result(step), "metadata": {"reward": step.reward, "done": step.done}}

    async def tools(self) -> list[dict[str, Any]]:
        """List the tools.

        Raises:
            RefusedError: the server does not say.
        """
        return [
            {"name": tool.name, "description": tool.description or "", "input_schema": tool.input_schema}
            for tool in await self._episodes.tools()
        ]

    def state(self) -> dict[str, Any]:
        """Return how it stands."""
        return {"episode_id": None, "step_count": 0} if self.episode is None else self.episode.about()

    async def close(self) -> None:
        """End what is played here."""
        async with self._turn:
            await self._episodes.end(self.episode)
            self.episode = None

    async def _call(self, tool: str, arguments: Mapping[str, Any]) -> Step:
        if self.episode is None:
            await self.reset({})  # of what is played by default; else it says what is missing
        episode = self.episode
        assert episode is not None
        return await episode.call(tool, arguments)


def _result(step: Step) -> dict[str, Any]:
    """A tool's result as OpenEnv's clients read it: ``data`` is what ``call_tool`` returns."""
    return {
        "content": [{"type": "text", "text": step.text}],
        "structured_content": step.facts.get("score"),
        "data": step.text,
        "is_error": step.is_error,
    }


def _answer(
    observation: Mapping[str, Any], reward: float | None, done: bool, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "observation": {**observation, "metadata": dict(metadata)},
        "reward": reward,
        "done": done,
        "metadata": dict(metadata),
    }
