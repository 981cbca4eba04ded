"""Mean return of the submitted policies in episodes that the referee plays: equally many for each of the 65 goals.

How much an episode brings depends above all on where its goal is; with every goal equally often the mean has a much
smaller error than with goals drawn at random.
"""

from statistics import fmean

import numpy as np
from starter.metamaze import ACTIONS, CELLS, OBSERVATION_SHAPE, MetaMaze

from mlgym_mcp.grading import rollouts
from mlgym_mcp.grading.api import GradeContext, Score


def grade(ctx: GradeContext) -> Score:
    """Play the split's episodes with every checkpoint."""
    params = ctx.params
    per_goal = params["episodes_per_goal" if ctx.split == "test" else "val_episodes_per_goal"]
    goals = [goal for goal in range(len(CELLS)) for _ in range(per_goal)]
    ctx.rng("goals").shuffle(goals)  # nobody shall know from a slot's number where its goal is

    def begin(index):
        mazes = MetaMaze(len(goals), ctx.seed(f"episodes {index}"), params["horizon"])
        return mazes, mazes.reset(goals)

    played = rollouts.evaluate(
        ctx,
        begin,
        lambda raw: np.frombuffer(raw, np.uint8),
        observation={"dtype": "f4", "shape": list(OBSERVATION_SHAPE)},
        action={"dtype": "u1", "shape": [], "lt": ACTIONS},
        slots=len(goals),
    )
    without = fmean(episode.total == 0 for episodes in played for episode in episodes)
    public = {"episodes": sum(map(len, played)), "share_without_any_reward": round(without, 3)}
    return rollouts.score(played, public, strata=goals)


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission: nobody knows the best possible return."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """The simplest legal submission: always up."""
    return rollouts.idle("uint8")
