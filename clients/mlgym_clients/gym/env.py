"""A task as a Gymnasium environment."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
from gymnasium.error import ResetNeeded

from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.gym.actions import ActionKind, UnclearActionError, action_space, read_action
from mlgym_clients.gym.text import AnyText
from mlgym_clients.rl.holding import Holding
from mlgym_clients.rl.live import EpisodeLostError, LiveEpisode, introduction
from mlgym_clients.rl.rewards import Moment, Reward, reward_function
from mlgym_mcp.api import SessionRequest

_OPTIONS = ("task", "preset", "budget", "metadata")
_LARGEST_SEED = 2**31


class MLGymEnv(gymnasium.Env[str, Any]):
    """One task; every episode is a session of its own.

    An observation is the text that the tool returned, the first one the task. The episode is *terminated* by its own
    valid submission and *truncated* by anything else: a spent budget, ``max_steps``, a session that somebody ended. A
    truncated episode's workspace is graded as it stands, so that there is a final reward, unless the task does not
    allow it.

    Nothing is started before the first ``reset``. Sessions, and a server of its own, end with ``close``, with the last
    reference to the environment, and with the process, even if it is killed.

    Args:
        task: which task.
        preset: its size.
        server: URL of a server; default: ``$MLGYM_SERVER``, else one is started, which all environments of this
            process share.
        token: the server's admin token, or the file that holds it; default: ``$MLGYM_ADMIN_TOKEN``.
        actions: what an action is: see :func:`mlgym_clients.gym.actions.action_space`.
        reward: ``"score_change"``: by how much each score gained on the one before it, see
            :mod:`mlgym_clients.rl.rewards`; ``"final_score"``: the gain of the final score, at the end; or a function.
        budget: limits in place of the preset's: ``wall_s``, ``calls``, ``validations``, ...
        max_steps: actions after which an episode is truncated; ``None``: only its budget ends it.
        until_done: whether a step waits until a command has ended, however long it takes; without, it is a job.
        on_loss: what a failure that is not the agent's does: ``"raise"`` raises ``ServerLostError`` or
            ``EpisodeLostError``; ``"truncate"`` truncates the episode, with ``info["lost"]``: vectors need that.
        patience_s: how long a server may be away, each time: when it is there again, the episode goes on.
        max_length: characters of an observation; ``info["text"]`` has all.
        sandbox: ``docker`` or ``bubblewrap``; default: the server's.
        session_metadata: kept with the episodes.
        serve: arguments of ``mlgym-mcp serve`` for a server of its own.
        render_mode: ``"ansi"``: ``render`` returns the last action and its answer.

    Raises:
        ValueError: an argument is not one of those above.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(
        self,
        task: str,
        preset: str = "mini",
        *,
        server: str | None = None,
        token: str | Path | None = None,
        actions: ActionKind = "json",
        reward: str | Reward = "score_change",
        budget: Mapping[str, int | float] | None = None,
        max_steps: int | None = 200,
        until_done: bool = True,
        on_loss: Literal["raise", "truncate"] = "raise",
        patience_s: float = 60.0,
        max_length: int = 26_000,
        sandbox: str | None = None,
        session_metadata: Mapping[str, Any] | None = None,
        serve: Sequence[str] = (),
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "ansi"):
            raise ValueError(f"there is no render mode {render_mode!r}: use 'ansi'")
        if on_loss not in ("raise", "truncate"):
            raise ValueError(f"on_loss is 'raise' or 'truncate', not {on_loss!r}")
        if max_steps is not None and max_steps < 1:
            raise ValueError("max_steps is at least 1")
        self.action_space = action_space(actions)
        self._texts = AnyText(max_length)
        self.observation_space = self._texts
        self.render_mode = render_mode
        self._kind: ActionKind = actions
        self._reward = reward_function(reward)
        self._wanted = SessionRequest(
            task=task, preset=preset, budget=dict(budget or {}), sandbox=sandbox, metadata=dict(session_metadata or {})
        )
        self._max_steps, self._until_done, self._on_loss = max_steps, until_done, on_loss
        self._held = Holding(server, token, serve, patience_s)
        self._finalizer = weakref.finalize(self, self._held.drop)
        self._steps = 0
        self._shown = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """End the episode before, and begin one: a new session.

        Args:
            seed: the session's seed (``MLGYM_SEED`` of its programs), too; default: drawn.
            options: ``task``, ``preset``, ``budget`` and ``metadata`` of this episode.

        Returns:
            The task as text, and ``info``: ``session``, ``episode``, ``task`` (all of it), ``calls_left``, ...

        Raises:
            ValueError: there is no such option, or it does not fit.
            ControlError: the server refuses the session, for example because there is no such task.
            ServerLostError: the server does not answer.
            EpisodeLostError: the sandbox could not be prepared.
            ServerStartError: the server of its own did not come up.
        """
        super().reset(seed=seed)
        wanted = self._with(options or {})
        drawn = int(self.np_random.integers(_LARGEST_SEED))
        episode = self._held.begin(wanted.model_copy(update={"seed": drawn if seed is None else int(seed)}))
        self._steps = 0
        self._shown = self._texts.fitted(introduction(episode.task))
        session = episode.session
        info = {
            "session": session.id,
            "episode": session.episode,
            "mcp_url": session.mcp_url,
            "task": episode.task.model_dump(mode="json"),
            "calls_left": episode.status.budget.calls_left,
            "validations_left": episode.status.budget.validations_left,
        }
        return self._shown, info

    def step(self, action: Any) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make one tool call.

        Returns:
            Observation, reward, terminated, truncated, and ``info``: ``text`` (unclipped), ``tool``, ``is_error``,
            ``facts`` (exit code, ...), ``calls_left``, ``validations_left``, ``gain``, ``lost``, and, where there is
            one, the ``score`` of this step and the ``outcome`` of the episode.

        Raises:
            ResetNeeded: there is no episode, or it is over.
            ServerLostError: the server does not answer (with ``on_loss="raise"``).
            EpisodeLostError: the session's sandbox, or the server's, has failed (the same).
        """
        episode = self._held.episode
        if episode is None or episode.ending is not None:
            raise ResetNeeded("there is no episode, or it is over: call reset()")
        self._steps += 1
        try:
            moment = self._made(episode, action)
            if moment.ending is None and self._max_steps is not None and self._steps >= self._max_steps:
                moment = episode.stop(moment)
        except ServerLostError as exc:
            if self._on_loss == "raise":
                raise
            moment = episode.lose(f"The session's server was lost: {exc}")
        if moment.ending == "lost" and self._on_loss == "raise":
            raise EpisodeLostError(moment.text)
        observation = self._texts.fitted(moment.text)
        self._shown = f"{moment.tool} {dict(moment.arguments)}\n{observation}"
        ended = moment.ending == "submitted"
        return observation, float(self._reward(moment)), ended, moment.ending is not None and not ended, _info(moment)

    def render(self) -> str | None:
        """Return the last action and its answer."""
        return self._shown if self.render_mode == "ansi" else None

    def close(self) -> None:
        """End the session and, if this was the last environment on it, the server of its own."""
        self._held.close()

    def _made(self, episode: LiveEpisode, action: Any) -> Moment:
        try:
            call = read_action(action, self._kind)
        except UnclearActionError as exc:
            return episode.unread(str(exc))
        return episode.step(call.tool, call.arguments, until_done=self._until_done)

    def _with(self, options: Mapping[str, Any]) -> SessionRequest:
        if unknown := sorted(options.keys() - set(_OPTIONS)):
            raise ValueError(f"there is no option {unknown[0]!r} of reset: use {', '.join(_OPTIONS)}")
        return SessionRequest.model_validate(self._wanted.model_dump() | dict(options))


def _info(moment: Moment) -> dict[str, Any]:
    budget = None if moment.status is None else moment.status.budget
    info = {
        "text": moment.text,
        "tool": moment.tool,
        "is_error": moment.is_error,
        "facts": dict(moment.facts),
        "calls_left": None if budget is None else budget.calls_left,
        "validations_left": None if budget is None else budget.validations_left,
        "gain": moment.gain,
        "lost": moment.ending == "lost",
    }
    if moment.score is not None:
        info["score"] = moment.score.model_dump(mode="json")
    if moment.outcome is not None:
        info["outcome"] = moment.outcome
    return info
