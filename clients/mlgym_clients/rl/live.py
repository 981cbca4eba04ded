"""One episode, from its making to its end, for programs that are not asynchronous."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from mlgym_clients.agents.calling import Result, ServerLostError
from mlgym_clients.rl import portal, watching
from mlgym_clients.rl.link import Link, OverError
from mlgym_clients.rl.rewards import FLOOR, Ending, Moment, gain
from mlgym_clients.rl.servers import Address
from mlgym_mcp.api import ScoreView, SessionRequest, SessionView, StatusView, TaskView

_Returned = TypeVar("_Returned")
_INFRASTRUCTURE = "infrastructure_error"


class EpisodeLostError(Exception):
    """An episode ended by a failure that is not the agent's: no reward is right for it, it is to be left out."""


class LiveEpisode:
    """A session that was made here, and is ended when this process is gone.

    A server that dies and is started again at its address is waited for, and the episode goes on; what was called
    when it died is asked for again, and not done twice.

    Args:
        where: the server.
        wanted: the session.
        patience_s: how long the server may be away, each time, before it is given up.

    Raises:
        ServerLostError: the server does not answer.
        ControlError: it refuses the session.
        EpisodeLostError: its sandbox could not be prepared.
    """

    def __init__(self, where: Address, wanted: SessionRequest, *, patience_s: float = 60.0) -> None:
        self._link = Link(where, wanted, patience_s)
        try:
            self.session: SessionView = self._link.started()
        except OverError as exc:
            raise EpisodeLostError(str(exc)) from exc
        except BaseException:
            self._link.drop()
            raise
        self._gain = 0.0
        self.ending: Ending | None = None
        self._given_up = False
        try:
            self.status = portal.call(self._link.until_ready)
            if self.status.state == "over":
                raise EpisodeLostError(self.status.detail)
            self.task = TaskView.model_validate(self._call("get_task", {}, until_done=False).structured)
        except OverError as exc:
            self.drop()
            raise EpisodeLostError(str(exc)) from exc
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
            ServerLostError: the server does not answer, and no other in its place.
        """
        try:
            result = self._call(tool, arguments, until_done=until_done)
        except OverError as exc:
            return self.stop(self._told(tool, arguments, str(exc)))
        score = ScoreView.model_validate(result.structured) if _is_score(tool, result) else None
        before = self._gain
        if score is not None and score.valid and score.score is not None:
            self._gain = gain(score.score, self.task.metric)
        over = False
        try:
            self.status = StatusView.model_validate(self._call("status", {}, until_done=False).structured)
        except OverError:
            over = True
        moment = Moment(
            tool, arguments, result.text, result.is_error, result.facts, score, before, self._gain, self.status
        )
        return self.stop(moment) if over or self.status.state == "over" else moment

    def unread(self, text: str) -> Moment:
        """Return the moment of an action that was no call; the session does not hear of it."""
        return replace(self._told("", {}, text), is_error=True)

    def _told(self, tool: str, arguments: Mapping[str, Any], text: str) -> Moment:
        return Moment(tool, arguments, text, False, {}, None, self._gain, self._gain, self.status)

    def lose(self, text: str) -> Moment:
        """Return the last moment of an episode that was lost."""
        self.ending = "lost"
        return replace(self.unread(text), status=None, ending="lost", outcome=_INFRASTRUCTURE)

    def end(self) -> None:
        """End the session, if it has not ended, and wait until it has; not for a server that was given up."""
        if self._given_up:
            self.drop()
        else:
            portal.call(self._link.close)

    def drop(self) -> None:
        """Have the session ended without waiting for it; fit for finalizers."""
        watching.end(self.session.id)
        self._link.drop()

    def finish(self) -> Moment:
        """End the episode where it stands, and return its last moment: see ``stop``.

        Raises:
            ServerLostError: the server does not answer, and no other in its place.
        """
        return self.stop(self._told("", {}, ""))

    def stop(self, moment: Moment) -> Moment:
        """End the episode with this moment, and return it with what the episode came to.

        What is in the workspace is graded, if nothing was submitted and the task allows it.

        Raises:
            ServerLostError: the server does not answer.
        """
        view = self._patiently(self._link.ended)
        final = view.score
        if view.outcome == _INFRASTRUCTURE:
            self.ending, self._gain = "lost", moment.gain_before
        elif final is None or not final.valid or final.score is None:
            self.ending, self._gain = "ended", FLOOR
        else:
            self.ending = "submitted" if final.kind == "submit" else "ended"
            self._gain = gain(final.score, self.task.metric)
        told = self.ending == "submitted" or view.detail in moment.text
        text = moment.text if told else f"{moment.text}\n[{view.detail}]".lstrip("\n")
        return replace(
            moment,
            text=text,
            score=moment.score or final,
            gain=self._gain,
            ending=self.ending,
            outcome=view.outcome,
        )

    def _call(self, tool: str, arguments: Mapping[str, Any], *, until_done: bool) -> Result:
        return self._patiently(self._link.call, tool, dict(arguments), until_done)

    def _patiently(self, function: Callable[..., Awaitable[_Returned]], *arguments: Any) -> _Returned:
        try:
            return portal.call(function, *arguments)
        except ServerLostError:
            self._given_up = True
            raise


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
