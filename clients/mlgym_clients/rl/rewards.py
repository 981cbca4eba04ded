"""What a step of an episode is worth to a learner.

A *gain* puts scores of all tasks on one scale: 0 is what the given baseline reaches, 1 the best that is possible
(where the task knows none: as far above the baseline as the baseline is from zero). Nothing counts for less than -1,
which is also what an episode without a valid final score comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlgym_mcp.api import MetricView, ScoreView, StatusView

FLOOR = -1.0

Ending = Literal["submitted", "ended", "lost"]
"""Its own submission; anything else, such as a spent budget; a failure that is not the agent's."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A step of an episode, with all that a reward may depend on.

    Attributes:
        tool: what was called; empty when the action was no call.
        arguments: with what.
        text: the answer.
        is_error: it was a misuse, or no call at all.
        facts: of the answer, for programs: exit code, job id, ...
        score: what this step scored, valid or not: a validation, a submission, or what the end made of the work.
        gain_before: gain of the last valid score before this step; 0 while there was none.
        gain: the same after it.
        status: how the session stands; ``None`` when nobody could say.
        ending: how the episode ended; ``None`` while it goes on.
        outcome: the server's word for its end.
    """

    tool: str
    arguments: Mapping[str, Any]
    text: str
    is_error: bool
    facts: Mapping[str, Any]
    score: ScoreView | None
    gain_before: float
    gain: float
    status: StatusView | None = None
    ending: Ending | None = None
    outcome: str | None = None


Reward = Callable[[Moment], float]


def score_change(moment: Moment) -> float:
    """Return how much the work gained by this score. What an episode pays is the gain of its final score."""
    return 0.0 if moment.ending == "lost" else moment.gain - moment.gain_before


def final_score(moment: Moment) -> float:
    """Return the gain of the final score at the end, and nothing before it."""
    return moment.gain if moment.ending in ("submitted", "ended") else 0.0


REWARDS: Mapping[str, Reward] = {"score_change": score_change, "final_score": final_score}


def reward_function(wanted: str | Reward) -> Reward:
    """Return a reward by its name; a function is one already.

    Raises:
        ValueError: there is none of that name.
    """
    if callable(wanted):
        return wanted
    if wanted not in REWARDS:
        raise ValueError(f"there is no reward {wanted!r}: use {' or '.join(map(repr, REWARDS))}, or a function")
    return REWARDS[wanted]


def gain(score: float, metric: MetricView) -> float:
    """Return the gain of a score: see the module.

    Args:
        score: in the task's own unit.
        metric: the metric, with its direction, baseline and best value.
    """
    baseline = metric.baseline if metric.baseline is not None else 0.0
    optimal = metric.optimal
    possible = 0.0 if optimal is None else abs(optimal - baseline)
    gained = score - baseline if metric.direction == "max" else baseline - score
    return max(FLOOR, gained / (possible or abs(baseline) or 1.0))
