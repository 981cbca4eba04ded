"""One episode, from its making to its end, for programs that are not asynchronous."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import anyio

from mlgym_clients.agents.calling import Caller, Result, ServerLostError
from mlgym_clients.episode_player import connected
from mlgym_clients.rl import portal, watching
from mlgym_clients.rl.rewards import FLOOR, Ending, Moment, gain
from mlgym_clients.rl.servers import Address
from mlgym_clients.sweep.control import Control, ControlError
from mlgym_mcp.api import ScoreView, SessionRequest, SessionView, StatusView, TaskView

_LOOK_S = 0.05
_INFRASTRUCTURE = "infrastructure_error"


class EpisodeLostError(Exception):
    """An episode ended by a failure that is not the agent's: no reward is right for it, it is to be left out."""


class LiveEpisode:
    """A session that was made here, and is ended when this process is gone.

    Args:
        where: the server.
        wanted: the session.
        patience_s: how long the server may be away before it is given up.

    Raises:
        ServerLostError: the server does not answer.
        ControlError: it refuses the session.
        EpisodeLostError: its sandbox could not be prepared.
    """

    def __init__(self, where: Address, wanted: SessionRequest, *, patience_s: float = 60.0) -> None:
        self._link = _Link(where, wanted, patience_s)
        try:
            self.session: SessionView = self._link.started()
        except BaseException:
            self._link.drop()
            raise
        self._gain = 0.0
        self.ending: Ending | None = None
        try:
            self.status = portal.call(self._link.until_ready)
            if self.status.state == "over":
                raise EpisodeLostError(self.status.detail)
            self.task = TaskView.model_validate(self._call("get_task", {}, until_done=False).structured)
        except BaseException:
            self.drop()
            raise

    def step(self, tool: str, arguments: Mapping[str, Any], *, until_done: bool = True) -> Moment:
        """Make one call.

        Args:
            tool: its name.
            arguments: its arguments.
            until_done: wait until a command that outlives its call has ended, and until a grading has.

        Raises:
            ServerLostError: the server does not answer.
        """
        result = self._call(tool, arguments, until_done=until_done)
        score = ScoreView.model_validate(result.structured) if _is_score(tool, result) else None
        before = self._gain
        if score is not None and score.valid and score.score is not None:
            self._gain = gain(score.score, self.task.metric)
        self.status = StatusView.model_validate(self._call("status", {}, until_done=False).structured)
        moment = Moment(
            tool, arguments, result.text, result.is_error, result.facts, score, before, self._gain, self.status
        )
        return moment if self.status.state != "over" else self.stop(moment)

    def unread(self, text: str) -> Moment:
        """Return the moment of an action that was no call; the session does not hear of it."""
        return Moment("", {}, text, True, {}, None, self._gain, self._gain, self.status)

    def lose(self, text: str) -> Moment:
        """Return the last moment of an episode that was lost."""
        self.ending = "lost"
        return replace(self.unread(text), status=None, ending="lost", outcome=_INFRASTRUCTURE)

    def end(self) -> None:
        """End the session, if it has not ended, and wait until it has."""
        portal.call(self._link.close)

    def drop(self) -> None:
        """Have the session ended without waiting for it; fit for finalizers."""
        watching.end(self.session.id)
        self._link.drop()

    def stop(self, moment: Moment) -> Moment:
        """End the episode with this moment, and return it with what the episode came to.

        What is in the workspace is graded, if nothing was submitted and the task allows it.

        Raises:
            ServerLostError: the server does not answer.
        """
        view = portal.call(self._link.ended)
        final = view.score
        if view.outcome == _INFRASTRUCTURE:
            self.ending, self._gain = "lost", moment.gain_before
        elif final is None or not final.valid or final.score is None:
            self.ending, self._gain = "ended", FLOOR
        else:
            self.ending = "submitted" if final.kind == "submit" else "ended"
            self._gain = gain(final.score, self.task.metric)
        text = moment.text if self.ending == "submitted" else f"{moment.text}\n[{view.detail}]".lstrip("\n")
        return replace(
            moment,
            text=text,
            score=moment.score or final,
            gain=self._gain,
            ending=self.ending,
            outcome=view.outcome,
        )

    def _call(self, tool: str, arguments: Mapping[str, Any], *, until_done: bool) -> Result:
        return portal.call(self._link.call, tool, dict(arguments), until_done)


def _is_score(tool: str, result: Result) -> bool:
    return tool in ("validate", "submit") and not result.is_error and "valid" in result.structured


def introduction(task: TaskView) -> str:
    """Return the task as text: the same whenever it is the same, so without what is left of the budget."""
    metric, budget = task.metric, task.budget
    better = "higher is better" if metric.direction == "max" else "lower is better"
    limits = [
        "" if budget.calls is None else f"{budget.calls} tool calls",
        "" if budget.wall_s is None else f"{budget.wall_s:g} s of wall time",
        "" if budget.validations is None else f"{budget.validations} validations",
        "" if budget.cpu_s is None else f"{budget.cpu_s:g} s of CPU time",
    ]
    return "\n".join(
        [
            task.instruction.rstrip(),
            "",
            f"Metric: {metric.name} ({better}); the baseline reaches {metric.baseline}.",
            f"Budget: {', '.join(filter(None, limits)) or 'no limits'}.",
            f"Files in /workspace: {', '.join(task.files)}.",
            f"Files in /data (read-only): {', '.join(task.data)}.",
            f"How to submit: {task.how_to_submit}",
        ]
    )


class _Link:
    """A session's connections, which live in one task of the portal's loop."""

    def __init__(self, where: Address, wanted: SessionRequest, patience_s: float) -> None:
        self._where, self._wanted, self._patience_s = where, wanted, patience_s
        self._started: Future[SessionView] = Future()
        self._caller: Caller | None = None
        self._control: Control | None = None
        self._session = ""
        self._broken: BaseException | None = None
        self._stop: anyio.Event | None = None
        self._done: anyio.Event | None = None
        self._over: SessionView | None = None
        portal.portal().start_task_soon(self._live)

    def started(self) -> SessionView:
        """Return the session, once it is made and connected."""
        return self._started.result()

    async def _live(self) -> None:
        self._stop, self._done = anyio.Event(), anyio.Event()
        try:
            async with Control(self._where.url, self._where.token, patience_s=self._patience_s) as control:
                view = await control.create(self._wanted)
                self._session, self._control = view.id, control
                watching.watch(self._where, view.id)
                try:
                    async with connected(view.mcp_url, view.token) as client:
                        self._caller = Caller(client)
                        self._started.set_result(view)
                        await self._stop.wait()
                except Exception as exc:
                    self._broken = exc  # told to whoever calls next
                    if not self._started.done():
                        watching.end(view.id)
                        raise
                finally:
                    self._caller = None
                await self._stop.wait()
                if self._over is None:
                    watching.end(view.id)  # its owner is gone
        except Exception as exc:  # noqa: BLE001 - raised where the session is waited for
            if not self._started.done():
                self._started.set_exception(_first(exc))
        finally:
            self._control = None
            self._done.set()

    async def call(self, tool: str, arguments: dict[str, Any], until_done: bool) -> Result:
        caller = self._caller
        if caller is None:
            raise ServerLostError(f"the connection is gone: {self._broken or 'it was closed'}")
        if until_done and tool in ("validate", "submit"):
            return await caller.score("validate" if tool == "validate" else "submit")
        result = await caller.call(tool, arguments)
        return await caller.finished(result) if until_done else result

    async def until_ready(self) -> StatusView:
        pause = _LOOK_S / 8
        while True:
            status = StatusView.model_validate((await self.call("status", {}, False)).structured)
            if status.state != "preparing":
                return status
            await anyio.sleep(pause)
            pause = min(10 * _LOOK_S, 1.5 * pause)

    async def ended(self) -> SessionView:
        """End the session, and return what it came to."""
        if self._over is None:
            if self._control is None:
                raise ServerLostError("the connection was closed")
            try:
                view = await self._control.end(self._session)
            except ControlError as exc:
                raise ServerLostError(f"the server does not show the session: {exc}") from exc
            if view is None:
                raise ServerLostError("the server does not know its session any more")
            watching.forget(self._session)
            self._over = view
        return self._over

    async def close(self) -> None:
        try:
            if self._control is not None:
                await self.ended()
        except ServerLostError:
            watching.end(self._session)  # tried once more, by somebody who has the time
        finally:
            if self._stop is not None and self._done is not None:
                self._stop.set()
                await self._done.wait()

    def drop(self) -> None:
        if (stop := self._stop) is not None:
            portal.soon(stop.set)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
