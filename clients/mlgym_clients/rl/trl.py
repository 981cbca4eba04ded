"""Tasks as environments of TRL: ``GRPOTrainer(environment_factory=task_environment("three_sat"))``.

TRL makes tools of an environment's public methods, from their types and docstrings; it calls ``reset`` with a row of
the data set before a rollout and ``get_reward`` after it. Nothing of TRL is needed here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlgym_clients.agents.calling import ServerLostError
from mlgym_clients.rl.holding import Holding
from mlgym_clients.rl.live import introduction
from mlgym_clients.rl.rewards import Moment, Reward, reward_function
from mlgym_mcp.api import SessionRequest

_OF_A_ROW = ("task", "preset", "seed", "budget")


class TaskEnvironment:
    """One rollout at a time, each a session of its own; TRL keeps instances and resets them.

    A command is waited for until it has ended. Sessions, and a server of its own, end with the next ``reset``, with
    ``get_reward``, with the last reference to the environment, and with the process, even if it is killed.
    """

    def __init__(self, wanted: SessionRequest, held: Holding, reward: Reward) -> None:
        self._wanted, self._held, self._reward = wanted, held, reward
        self._paid = 0.0
        self._finalizer = weakref.finalize(self, held.drop)

    def reset(self, **row: Any) -> str:
        """Begin a rollout: a new session.

        Args:
            row: of the data set; ``task``, ``preset``, ``seed`` and ``budget`` count, if there are such columns.

        Returns:
            The task, to be put behind the prompt.
        """
        given = {name: row[name] for name in _OF_A_ROW if row.get(name) is not None}
        self._paid = 0.0
        episode = self._held.begin(SessionRequest.model_validate(self._wanted.model_dump() | given))
        return f"\n\n{introduction(episode.task)}"

    def get_reward(self) -> float | None:
        """End the rollout, and return all that it paid; ``None`` if it was lost, which TRL leaves out."""
        episode = self._held.episode
        if episode is None:
            return None
        try:
            if episode.ending is None:
                self._paid += self._reward(episode.finish())
        except ServerLostError as exc:
            episode.lose(str(exc))
        return None if episode.ending == "lost" else self._paid

    def shell(self, command: str) -> str:
        """Run a bash command in the sandbox, in /workspace at first. There is no network.

        Args:
            command: A bash command line; may have several lines.

        Returns:
            What it printed, and its exit code.
        """
        return self._call("shell", command=command)

    def read_file(self, path: str) -> str:
        """Read a text file.

        Args:
            path: Relative to /workspace, or absolute.

        Returns:
            Its lines.
        """
        return self._call("read_file", path=path)

    def write_file(self, path: str, content: str) -> str:
        """Write a text file, replacing one that is there.

        Args:
            path: Relative to /workspace, or absolute.
            content: The whole text.

        Returns:
            What was written.
        """
        return self._call("write_file", path=path, content=content)

    def edit_file(self, path: str, old: str, new: str) -> str:
        """Replace a piece of a text file.

        Args:
            path: Relative to /workspace, or absolute.
            old: The text to be replaced; it must be there exactly once.
            new: The text in its place.

        Returns:
            What was changed.
        """
        return self._call("edit_file", path=path, old=old, new=new)

    def validate(self) -> str:
        """Score the work as it stands on a hidden validation set. Limited in number; the episode goes on.

        Returns:
            The score, or what is wrong.
        """
        return self._call("validate")

    def submit(self) -> str:
        """Score the work on the hidden test set and end the episode. Only when you are done.

        Returns:
            The final score, or what is wrong with the submission.
        """
        return self._call("submit")

    def _call(self, tool: str, **arguments: Any) -> str:
        episode = self._held.episode
        if episode is None or episode.ending is not None:
            return "The episode is over."
        moment: Moment
        try:
            moment = episode.step(tool, arguments)
        except ServerLostError as exc:
            moment = episode.lose(f"The session's server was lost: {exc}")
        self._paid += self._reward(moment)
        return moment.text


def task_environment(
    task: str = "",
    preset: str = "mini",
    *,
    server: str | None = None,
    token: str | Path | None = None,
    reward: str | Reward = "score_change",
    budget: Mapping[str, int | float] | None = None,
    sandbox: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    serve: Sequence[str] = (),
    patience_s: float = 60.0,
) -> Callable[[], TaskEnvironment]:
    """Return what ``GRPOTrainer`` takes as ``environment_factory``.

    Args:
        task: which task; may be left out when the data set has a column ``task``.
        preset: its size.
        server: URL of a server; default: ``$MLGYM_SERVER``, else one is started, which all environments share.
        token: the server's admin token, or the file that holds it; default: ``$MLGYM_ADMIN_TOKEN``.
        reward: what a step is worth, see :mod:`mlgym_clients.rl.rewards`; a rollout's reward is the sum.
        budget: limits in place of the preset's.
        sandbox: ``docker`` or ``bubblewrap``; default: the server's.
        metadata: kept with the episodes.
        serve: arguments of ``mlgym-mcp serve`` for a server of its own.
        patience_s: how long the server may be away, each time: when it is there again, the rollout goes on.

    Raises:
        ValueError: an argument does not fit.
    """
    paying = reward_function(reward)
    wanted = SessionRequest(
        task=task or "named-by-the-row",
        preset=preset,
        budget=dict(budget or {}),
        sandbox=sandbox,
        metadata=dict(metadata or {}),
    )
    return lambda: TaskEnvironment(wanted, Holding(server, token, serve, patience_s), paying)
