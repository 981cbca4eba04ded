"""Mean return of the submitted policies in episodes that the referee plays: equally many for each of the 65 goals.

How much an episode brings depends above all on where its goal is; with every goal equally often the mean has a much
smaller error than with goals drawn at random.
"""

from statistics import fmean

import numpy as np
from starter.metamaze import ACTIONS, CELLS, OBSERVATION_SHAPE, MetaMaze

from mlgym_mcp.grading import rollouts
from mlgym_mcp.grading.api import GradeContext, Score

ENTRY = "policy.py"


def grade(ctx: GradeContext) -> Score:
    """Play the split's episodes with every checkpoint."""
    params = ctx.params
    per_goal = params["episodes_per_goal" if ctx.split == "test" else "val_episodes_per_goal"]
    goals = [goal for goal in range(len(CELLS)) for _ in range(per_goal)]
    ctx.rng("goals").shuffle(goals)  # nobody shall know from a slot's number where its goal is

    def begin(index):
        mazes = MetaMaze(len(goals), ctx.seed(f"episodes {index}"), params["horizon"])
        return mazes, mazes.reset(goals)

    observation = {"dtype": "f4", "shape": list(OBSERVATION_SHAPE)}
    action = {"dtype": "u1", "shape": [], "lt": ACTIONS}
    with ctx.player(ENTRY, role="policy", obs=observation, act=action, n=len(goals)) as player:
        played = rollouts.play(
            player,
            begin,
            lambda raw: np.frombuffer(raw, np.uint8),
            checkpoints=params["checkpoints"],
            slots=len(goals),
            horizon=params["horizon"],
            progress=ctx.progress,
        )
    returns = [[episode.total for episode in episodes] for episodes in played]
    mean, error = rollouts.mean_and_error(returns, goals)
    without = fmean(total == 0 for totals in returns for total in totals)
    return Score(
        {"return_mean": mean},
        se={"return_mean": error},
        public={"episodes": sum(map(len, played)), "share_without_any_reward": round(without, 3)},
        private={"return_by_checkpoint": [round(fmean(values), 3) for values in returns]},
    )


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission: nobody knows the best possible return."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """The simplest legal submission: always up."""
    return {ENTRY: PLAIN}


PLAIN = b"""\
import numpy as np


class Policy:
    def act(self, observations, done):
        return np.zeros(len(observations), np.uint8)


def make_policy(folder, index):
    return Policy()
"""
