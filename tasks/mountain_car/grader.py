"""Mean return of the submitted policies in episodes that the referee plays."""

from statistics import fmean

import numpy as np
from starter.mountain_car import OBSERVATION_SHAPE, MountainCar

from mlgym_mcp.grading import rollouts
from mlgym_mcp.grading.api import GradeContext, Score

ENTRY = "policy.py"


def grade(ctx: GradeContext) -> Score:
    """Play the split's episodes with every checkpoint. Actions are clipped by the environment before their cost."""
    params = ctx.params
    slots = params["episodes" if ctx.split == "test" else "val_episodes"]

    def begin(index):
        cars = MountainCar(slots, ctx.seed(f"episodes {index}"), params["horizon"])
        return cars, cars.reset()

    observation = {"dtype": "f4", "shape": list(OBSERVATION_SHAPE)}
    with ctx.player(ENTRY, role="policy", obs=observation, act={"dtype": "f4", "shape": []}, n=slots) as player:
        played = rollouts.play(
            player,
            begin,
            lambda raw: np.frombuffer(raw, np.float32),
            checkpoints=params["checkpoints"],
            slots=slots,
            horizon=params["horizon"],
            progress=ctx.progress,
        )
    returns = [[episode.total for episode in episodes] for episodes in played]
    mean, error = rollouts.mean_and_error(returns)
    steps = fmean(episode.steps for episodes in played for episode in episodes)
    return Score(
        {"return_mean": mean},
        se={"return_mean": error},
        public={"episodes": sum(map(len, played)), "mean_steps": round(steps, 1)},
        private={"return_by_checkpoint": [round(fmean(values), 3) for values in returns]},
    )


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission: nobody knows the best possible return."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """The simplest legal submission: the engine is never used."""
    return {ENTRY: PLAIN}


PLAIN = b"""\
import numpy as np


class Policy:
    def act(self, observations, done):
        return np.zeros(len(observations), np.float32)


def make_policy(folder, index):
    return Policy()
"""
