"""Mean return of the submitted policies in games that the referee plays: half start left, half right."""

from statistics import fmean

import numpy as np
from starter.breakout import ACTIONS, OBSERVATION_SHAPE, Breakout

from mlgym_mcp.grading import rollouts
from mlgym_mcp.grading.api import GradeContext, Score


def grade(ctx: GradeContext) -> Score:
    """Play the split's games with every checkpoint."""
    params = ctx.params
    slots = params["episodes" if ctx.split == "test" else "val_episodes"]
    left = [slot % 2 == 0 for slot in range(slots)]
    ctx.rng("sides").shuffle(left)  # nobody shall know from a slot's number how it starts

    def begin(index):
        games = Breakout(slots, ctx.seed(f"games {index}"), params["horizon"], params["sticky"])
        return games, games.reset(left)

    played = rollouts.evaluate(
        ctx,
        begin,
        lambda raw: np.frombuffer(raw, np.uint8),
        observation={"dtype": "u1", "shape": list(OBSERVATION_SHAPE)},
        action={"dtype": "u1", "shape": [], "lt": ACTIONS},
        slots=slots,
    )
    steps = fmean(episode.steps for episodes in played for episode in episodes)
    return rollouts.score(played, {"games": sum(map(len, played)), "mean_steps": round(steps, 1)}, strata=left)


def gold(ctx: GradeContext) -> None:
    """There is no perfect submission: nobody knows the best possible return."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """The simplest legal submission: the paddle never moves."""
    return rollouts.idle("uint8")
