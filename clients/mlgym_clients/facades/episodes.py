"""The episodes that a facade's clients play, and what there is to play."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
from mcp.types import Tool
from pydantic import ValidationError

from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.episode_player import connected
from mlgym_clients.rl.live import EpisodeLostError, LiveEpisode, introduction
from mlgym_clients.rl.rewards import Moment, Reward, score_change
from mlgym_clients.rl.servers import Address
from mlgym_clients.sweep.control import Control, ControlError
from mlgym_clients.sweep.own_server import ServerStartError
from mlgym_mcp.api import SessionRequest, TaskSummary

_DESK_ONLY = frozenset({"list_tasks", "start_task", "list_sessions"})
_WAIT_FOR = frozenset({"validate", "submit"})
"""A step waits for a grading, however long it takes. Commands that take longer than a call go on as jobs."""
_WANTED = frozenset({"task", "preset", "seed", "budget", "sandbox"})


class RefusedError(Exception):
    """What a client asks for cannot be done; the message says why, for the client."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full
        """Whether it is for want of room: later it might be."""


@dataclass(frozen=True, slots=True)
class Step:
    """What came of a call.

    Attributes:
        text: the answer, for the agent.
        is_error: it was a misuse.
        reward: what the step was worth.
        done: the episode is over.
        facts: for programs.
    """

    text: str
    is_error: bool
    reward: float
    done: bool
    facts: Mapping[str, Any]


class Episode:
    """One attempt. Calls are made one after another, in the order in which they come."""

    def __init__(self, live: LiveEpisode, reward: Reward, threads: anyio.CapacityLimiter) -> None:
        self._live = live
        self._reward = reward
        self._threads = threads
        self._turn = anyio.Lock()
        self.steps = 0
        self.total = 0.0
        self.done = False
        self._used = time.monotonic()

    @property
    def idle_s(self) -> float:
        """How long nobody has called anything, seconds."""
        return 0.0 if self._turn.locked() else time.monotonic() - self._used

    @property
    def name(self) -> str:
        """The name of its record."""
        return self._live.session.episode

    @property
    def instruction(self) -> str:
        """What is to be done, and with what."""
        return introduction(self._live.task)

    def about(self) -> dict[str, Any]:
        """Return what a client may know of it."""
        task, metric = self._live.task, self._live.task.metric
        return {
            "episode_id": self.name,
            "step_count": self.steps,
            "task": task.id,
            "title": task.title,
            "preset": task.preset,
            "seed": task.seed,
            "metric": metric.model_dump(mode="json"),
            "total_reward": self.total,
            "done": self.done,
        }

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Step:
        """Call a tool.

        Raises:
            RefusedError: the episode is over, or its server is lost.
        """
        return await self._step(lambda: self._live.step(tool, arguments, until_done=tool in _WAIT_FOR))

    async def finish(self) -> Step:
        """End it where it stands: what is in its workspace is graded, if the task allows that, and paid for.

        Raises:
            RefusedError: as ``call``.
        """
        return await self._step(self._live.finish)

    async def _step(self, made: Callable[[], Moment]) -> Step:
        async with self._turn:
            if self.done:
                raise RefusedError("the episode is over: begin another")
            try:
                moment = await self._in_thread(made)
            except ServerLostError as exc:
                self.done = True
                self._live.drop()
                raise RefusedError(str(exc)) from exc
            finally:
                self._used = time.monotonic()
            worth = self._reward(moment)
            self.steps += 1
            self.total += worth
            self.done = moment.ending is not None
            if self.done:
                await self._in_thread(self._live.end)
            return Step(moment.text, moment.is_error, worth, self.done, _facts(moment))

    async def end(self) -> None:
        """End it, if it has not ended: what is in its workspace is graded, if the task allows that."""
        with anyio.CancelScope(shield=True):
            async with self._turn:
                if not self.done:
                    self.done = True
                    await self._in_thread(self._live.end)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await anyio.to_thread.run_sync(work, limiter=self._threads)


def _facts(moment: Moment) -> dict[str, Any]:
    facts: dict[str, Any] = dict(moment.facts)
    if moment.score is not None:
        facts["score"] = moment.score.model_dump(mode="json", exclude_none=True)
    if moment.ending is not None:
        facts |= {"ending": moment.ending, "outcome": moment.outcome}
    return facts


class Episodes:
    """All episodes of a facade. Made by ``playing``.

    Args:
        where: tells the server at which the next one is played; may block.
        default: what is played where a client does not say.
        reward: what a step is worth.
        most: how many there may be at a time.
        patience_s: how long the server may be away, each time.
    """

    def __init__(
        self, where: Callable[[], Address], default: Mapping[str, Any], reward: Reward, most: int, patience_s: float
    ) -> None:
        self._where = where
        self._patience_s = patience_s
        self._default = default
        self._reward = reward
        self.most = most
        self._threads = anyio.CapacityLimiter(most + 8)
        self._taken = 0
        self._open: set[Episode] = set()
        self._tools: list[Tool] = []

    def wanted(self, given: Mapping[str, Any]) -> SessionRequest:
        """Return the session that a client asks for; what it says besides is for others.

        Raises:
            RefusedError: it makes no sense.
        """
        asked = {**self._default, **{k: v for k, v in given.items() if k in _WANTED and v is not None}}
        if "task" not in asked:
            raise RefusedError("say which task is to be attempted, as in reset(task='three_sat')")
        try:
            key = secrets.token_hex(16)
            return SessionRequest.model_validate({**asked, "metadata": {"agent": "facade"}, "idempotency_key": key})
        except ValidationError as exc:
            (first, *_) = exc.errors()
            raise RefusedError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from exc

    async def begin(self, wanted: SessionRequest) -> Episode:
        """Begin an episode; returns when its sandbox is ready.

        Raises:
            RefusedError: there is no room, or the server refuses or is lost.
        """
        if self._taken >= self.most:
            raise RefusedError(f"{self.most} episodes are played already: end one, or try again later", full=True)
        self._taken += 1
        try:
            live = await anyio.to_thread.run_sync(self._begun, wanted, limiter=self._threads)
        except (ControlError, EpisodeLostError, ServerLostError, ServerStartError) as exc:
            self._taken -= 1
            raise RefusedError(str(exc)) from exc
        except BaseException:
            self._taken -= 1
            raise
        episode = Episode(live, self._reward, self._threads)
        self._open.add(episode)
        return episode

    def _begun(self, wanted: SessionRequest) -> LiveEpisode:
        return LiveEpisode(self._where(), wanted, patience_s=self._patience_s)

    async def end(self, episode: Episode | None) -> None:
        """End an episode and give its room back."""
        if episode is None or episode not in self._open:
            return
        self._open.discard(episode)
        try:
            await episode.end()
        finally:
            self._taken -= 1

    async def tools(self) -> list[Tool]:
        """Return the tools of every session.

        Raises:
            RefusedError: the server does not say.
        """
        if not self._tools:
            async with self._controlled(self._patience_s) as (where, control):
                await control.health()  # once it is there
            try:
                async with connected(f"{where.url}/mcp", where.token) as desk:
                    listed = (await desk.list_tools()).tools
            except Exception as exc:  # whatever breaks here comes in groups
                raise RefusedError(f"{where.url} does not list its tools") from exc
            self._tools = [_of_session(tool) for tool in listed if tool.name not in _DESK_ONLY]
        return self._tools

    async def tasks(self) -> list[TaskSummary]:
        """Return what can be attempted.

        Raises:
            RefusedError: the server does not say.
        """
        async with self._controlled(min(10.0, self._patience_s)) as (_, control):
            return await control.tasks()

    @asynccontextmanager
    async def _controlled(self, patience_s: float) -> AsyncIterator[tuple[Address, Control]]:
        try:
            where = await anyio.to_thread.run_sync(self._where, limiter=self._threads)
            async with Control(where.url, where.token, patience_s=patience_s) as control:
                yield where, control
        except (ControlError, ServerLostError, ServerStartError) as exc:
            raise RefusedError(str(exc)) from exc

    async def end_all(self) -> None:
        """End all that are being played."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as tasks:
                for episode in list(self._open):
                    tasks.start_soon(self.end, episode)


def _of_session(tool: Tool) -> Tool:
    """Return a tool of the desk as a session has it."""
    schema = dict(tool.input_schema)
    schema["properties"] = {name: value for name, value in schema.get("properties", {}).items() if name != "session_id"}
    return tool.model_copy(update={"input_schema": schema})


@asynccontextmanager
async def playing(
    where: Callable[[], Address],
    default: Mapping[str, Any] | None = None,
    *,
    reward: Reward = score_change,
    most: int = 64,
    patience_s: float = 60.0,
) -> AsyncIterator[Episodes]:
    """Have episodes played; at the end all are ended. See ``Episodes`` for the arguments."""
    episodes = Episodes(where, default or {}, reward, most, patience_s)
    try:
        yield episodes
    finally:
        await episodes.end_all()
