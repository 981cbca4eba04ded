"""Mean return of the submitted policies in games that the referee plays: half start left, half right."""

from statistics import fmean

import numpy as np
from starter.breakout import ACTIONS, OBSERVATION_SHAPE, Breakout

from mlgym_mcp.grading import rollouts
from mlgym_mcp.grading.api import GradeContext, Score

ENTRY = "policy.py"


def grade(ctx: GradeContext) -> Score:
    """Play the split's games with every checkpoint."""
    params = ctx.params
    slots = params["episodes" if ctx.split == "test" else "val_episodes"]
    left = [slot % 2 == 0 for slot in range(slots)]
    ctx.rng("sides").shuffle(left)  # nobody shall know from a slot's number how it starts

    def begin(index):
        games = Breakout(slots, ctx.seed(f"games {index}"), params["horizon"], params["sticky"])
        return games, games.reset(left)

    observation = {"dtype": "u1", "shape": list(OBSERVATION_SHAPE)}
    action = {"dtype": "u1", "shape": [], "lt": ACTIONS}
    with ctx.player(ENTRY, role="policy", obs=observation, act=action, n=slots) as player:
        played = rollouts.play(
            player,
            begin,
            lambda raw: np.frombuffer(raw, np.uint8),
            checkpoints=params["checkpoints"],
            slots=slots,
            horizon=params["horizon"],
            progress=ctx.progress,
        )
    returns = [[episode.total for episode in episodes] for episodes in played]
    mean, error = rollouts.mean_and_error(returns, left)
    steps = fmean(episode.steps for episodes in played for episode in episodes)
    return Score(
        {"return_mean": mean},
        se={"return_mean": error},
        public={"games": sum(map(len, played)), "mean_steps": round(steps, 1)},
        private={"return_by_checkpoint": [round(fmean(values), 3) for values in returns]},
    )


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission: nobody knows the best possible return."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """The simplest legal submission: the paddle never moves."""
    return {ENTRY: PLAIN}


PLAIN = b"""\
import numpy as np


class Policy:
    def act(self, observations, done):
        return np.zeros(len(observations), np.uint8)


def make_policy(folder, index):
    return Policy()
"""
