"""Mean return of the submitted policies in episodes that the referee plays."""

from statistics import fmean

import numpy as np
from starter.mountain_car import OBSERVATION_SHAPE, MountainCar

from mlgym_mcp.grading import rollouts
from mlgym_mcp.grading.api import GradeContext, Score


def grade(ctx: GradeContext) -> Score:
    """Play the split's episodes with every checkpoint. Actions are clipped by the environment before their cost."""
    params = ctx.params
    slots = params["episodes" if ctx.split == "test" else "val_episodes"]

    def begin(index):
        cars = MountainCar(slots, ctx.seed(f"episodes {index}"), params["horizon"])
        return cars, cars.reset()

    played = rollouts.evaluate(
        ctx,
        begin,
        lambda raw: np.frombuffer(raw, np.float32),
        observation={"dtype": "f4", "shape": list(OBSERVATION_SHAPE)},
        action={"dtype": "f4", "shape": []},
        slots=slots,
    )
    steps = fmean(episode.steps for episodes in played for episode in episodes)
    return rollouts.score(played, {"episodes": sum(map(len, played)), "mean_steps": round(steps, 1)})


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission: nobody knows the best possible return."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """The simplest legal submission: the engine is never used."""
    return rollouts.idle("float32")
