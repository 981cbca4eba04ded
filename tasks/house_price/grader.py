"""R² of predicted prices on the hidden part of the houses."""

import numpy as np

from mlgym_mcp.grading.api import GradeContext, Score

PATH = "submission.csv"
LOWEST, HIGHEST = 1.0, 1e8


def grade(ctx: GradeContext) -> Score:
    """Score the predictions on the split's houses."""
    prices, is_test = np.load(ctx.private("prices.npy")), np.load(ctx.private("is_test.npy"))
    read = ctx.predictions(
        PATH, header=("id", "price"), ids=range(len(prices)), kind="number", low=LOWEST, high=HIGHEST
    )
    counted = is_test == (ctx.split == "test")
    truth, predicted = prices[counted], np.array(read)[counted]
    errors, spread = (truth - predicted) ** 2, (truth - truth.mean()) ** 2
    r2 = 1.0 - errors.mean() / spread.mean()
    rmse = float(np.sqrt(errors.mean()))
    n = len(truth)
    # Delta method: a ratio of means moves with each house by its part of this.
    influence = (errors - (1.0 - r2) * spread) / spread.mean()
    return Score(
        {"r2": float(r2), "rmse": rmse},
        se={
            "r2": float(influence.std(ddof=1) / np.sqrt(n)),
            "rmse": float(errors.std(ddof=1) / np.sqrt(n) / (2 * rmse)) if rmse else 0.0,
        },
        public={"houses": n},
        private={"median_relative_error": float(np.median(np.abs(predicted / truth - 1)))},
    )


def gold(ctx: GradeContext) -> dict[str, bytes]:
    """Make the perfect submission, to prove that it reaches the optimum."""
    prices = np.load(ctx.private("prices.npy"))
    rows = "".join(f"{i},{price:.0f}\n" for i, price in enumerate(prices))
    return {PATH: f"id,price\n{rows}".encode()}
