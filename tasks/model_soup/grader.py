"""Accuracy of the soup that the submitted weights make, as a mean over the eight categories.

The submission is a table of numbers; the referee mixes its own copies of the models with them.
"""

import json

import corruptions
import network
import numpy as np

from mlgym_mcp.grading.api import GradeContext, Score

PATH = "weights.json"
LIMIT = 10.0


def grade(ctx: GradeContext) -> Score:
    """Mix the models and try them on the split's pictures."""
    with np.load(ctx.public("models.npz"), allow_pickle=False) as file:
        parts = [file[name] for name in network.NAMES]
    models = [[part[number] for part in parts] for number in range(ctx.params["models"])]
    shape = (len(models), network.LAYERS)
    weights = np.array(ctx.weights(PATH, shape=shape, low=-LIMIT, high=LIMIT))
    with np.load(ctx.private(f"{ctx.split}.npz"), allow_pickle=False) as file:
        pixels, labels, category, picture = (file[name] for name in ("pixels", "labels", "category", "picture"))
    with np.errstate(over="ignore", invalid="ignore"):
        values = network.scores(network.soup(models, weights), pixels)
    right = (values.argmax(1) == labels) & np.isfinite(values).all(1)
    # Every category has the same rows, so the macro accuracy is the mean over digits of each one's accuracy;
    # drawings of one digit go right and wrong together, so digits are what is counted for the standard error.
    by_digit = np.bincount(picture, weights=right) / np.bincount(picture)
    by_category = {
        name: round(float(right[category == number].mean()), 4) for number, name in enumerate(corruptions.CATEGORIES)
    }
    return Score(
        {"macro_accuracy": float(by_digit.mean())},
        se={"macro_accuracy": float(by_digit.std(ddof=1) / np.sqrt(len(by_digit)))},
        public={"pictures": len(labels)},
        private={"accuracy_by_category": by_category},
    )


def gold(ctx: GradeContext) -> None:
    """Nobody knows the best weights; the metric's ``optimal`` is an upper bound."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """The first model alone."""
    weights = [[float(number == 0)] * network.LAYERS for number in range(ctx.params["models"])]
    return {PATH: json.dumps(weights).encode()}
