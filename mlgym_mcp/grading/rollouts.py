"""Plays a submitted policy in a vectorised environment of the referee's. Standard library only.

Arrays come from the task's environment and are handled as they are (they need ``tolist`` and ``tobytes``), so this
module needs no NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final, Protocol

from mlgym_mcp.grading.api import GradeContext, Score
from mlgym_mcp.grading.errors import GraderError
from mlgym_mcp.grading.players import Player
from mlgym_mcp.grading.strata import stratified

ENTRY: Final = "policy.py"
"""The submission's file with ``make_policy(folder, index)``."""
_IDLE: Final = """\
import numpy as np


class Policy:
    def act(self, observations, done):
        return np.zeros(len(observations), "{dtype}")


def make_policy(folder, index):
    return Policy()
"""


class Games(Protocol):
    """Episodes side by side, one per slot; where an episode ends, the slot's next one begins at once."""

    def step(self, actions: Any, /) -> tuple[Any, Any, Any]:
        """Play one step in all slots: observations, rewards and done, arrays with one entry per slot."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode, played to its end: the sum of its rewards and its number of steps."""

    total: float
    steps: int


def evaluate(
    ctx: GradeContext,
    begin: Callable[[int], tuple[Games, Any]],
    decode: Callable[[bytes], Any],
    *,
    observation: Mapping[str, Any],
    action: Mapping[str, Any],
    slots: int,
) -> list[list[Episode]]:
    """Run the submission's ``policy.py`` and :func:`play` with it as the task's parameters say.

    Args:
        ctx: the grading, of a preset with the parameters ``checkpoints`` and ``horizon``.
        begin: as :func:`play`; it draws on ``ctx.seed`` for each checkpoint, so that no two play the same games.
        decode: as :func:`play`.
        observation: ``dtype`` and ``shape`` of one slot's observation.
        action: ``dtype``, ``shape`` and perhaps the limit ``lt`` of one slot's action.
        slots: how many episodes each checkpoint plays.

    Returns:
        For each checkpoint its episodes, in the order of the slots.

    Raises:
        InvalidSubmission: as :func:`play`, or there is no policy.
        GraderError: as :func:`play`.
    """
    with ctx.player(ENTRY, role="policy", obs=observation, act=action, n=slots) as player:
        return play(
            player,
            begin,
            decode,
            checkpoints=ctx.params["checkpoints"],
            slots=slots,
            horizon=ctx.params["horizon"],
            progress=ctx.progress,
        )


def score(played: Sequence[Sequence[Episode]], public: Mapping[str, Any], strata: Sequence[Any] | None = None) -> Score:
    """Return the score of what was played: the metric ``return_mean``, and how each checkpoint did for the journal.

    Args:
        played: what :func:`evaluate` returned.
        public: what the agent is shown about it.
        strata: as :func:`mean_and_error`.
    """
    returns = [[episode.total for episode in episodes] for episodes in played]
    mean, error = mean_and_error(returns, strata)
    return Score(
        {"return_mean": mean},
        se={"return_mean": error},
        public=public,
        private={"return_by_checkpoint": [round(fmean(values), 3) for values in returns]},
    )


def idle(dtype: str) -> dict[str, bytes]:
    """Make the simplest legal submission: a policy whose every action is a 0 of this NumPy dtype."""
    return {ENTRY: _IDLE.format(dtype=dtype).encode()}


def play(
    player: Player,
    begin: Callable[[int], tuple[Games, Any]],
    decode: Callable[[bytes], Any],
    *,
    checkpoints: int,
    slots: int,
    horizon: int,
    progress: Callable[[float, str], None] = lambda _fraction, _text: None,
) -> list[list[Episode]]:
    """Play one episode per slot with each of the submission's policies.

    Every slot's first episode counts, to its end and whatever its length, and no other one: a slot that ends early
    goes on for the company of the others, but uncounted. So short episodes have no more weight than long ones.

    Args:
        player: the submission, in the role ``policy``; its hello said ``n`` = ``slots``.
        begin: gives fresh games and their first observations for a checkpoint's index.
        decode: turns the player's raw actions into what ``step`` takes: checked for range by the player's
            protocol, clipped by the environment before anything else is done with them.
        checkpoints: how many policies are played: ``make_policy(folder, 0)`` and so on.
        slots: how many episodes each of them plays.
        horizon: the most steps that an episode can have.
        progress: told the fraction done and a word about it.

    Returns:
        For each checkpoint its episodes, in the order of the slots.

    Raises:
        InvalidSubmission: the policy failed; as :class:`Player` says.
        GraderError: the environment does not end its episodes.
    """
    played = []
    for index in range(checkpoints):
        player.load(index)
        player.reset(slots)
        games, observations = begin(index)
        news = b"\1" * slots
        totals: list[list[float]] = [[] for _ in range(slots)]
        episodes: list[Episode | None] = [None] * slots
        alive = list(range(slots))
        for step in range(1, horizon + 1):
            actions = decode(player.act(observations.tobytes(), news))
            observations, rewards, done = games.step(actions)
            gained, ended = rewards.tolist(), done.tolist()
            news = bytes(map(bool, ended))
            for slot in alive:
                totals[slot].append(gained[slot])
                if ended[slot]:
                    episodes[slot] = Episode(math.fsum(totals[slot]), step)
            alive = [slot for slot in alive if not ended[slot]]
            if not alive:
                break
            if step % 50 == 0:
                progress((index + step / horizon) / checkpoints, f"policy {index + 1}, step {step}")
        complete = [episode for episode in episodes if episode is not None]
        if len(complete) != slots:
            raise GraderError(f"{slots - len(complete)} of {slots} episodes did not end within {horizon} steps")
        played.append(complete)
    return played


def mean_and_error(returns: Sequence[Sequence[float]], strata: Sequence[Any] | None = None) -> tuple[float, float]:
    """The mean over checkpoints and episodes, and its standard error.

    With several checkpoints the error is that of the mean of their means: episodes of one policy are alike, so what
    counts is how much policies differ. With one checkpoint it is that of its episodes, within ``strata``.

    Args:
        returns: for each checkpoint one number per episode, equally many.
        strata: for each episode the kind of start that it had by design; kinds come with fixed shares.
    """
    if len(returns) > 1:
        found = stratified((0, fmean(values)) for values in returns)
    else:
        found = stratified(zip(strata or [0] * len(returns[0]), returns[0], strict=True))
    return found.mean, found.se
