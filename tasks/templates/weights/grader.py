"""R² of the submitted weights on fresh rows of the secret model."""

import json
import math

import world

from mlgym_mcp.grading.api import GradeContext, Score


def grade(ctx: GradeContext) -> Score:
    """Score the weights on the split's rows."""
    truth = json.loads(ctx.private("weights.json").read_text())
    given = ctx.weights("weights.json", shape=(len(truth),), low=-100.0, high=100.0)
    rows = world.rows(truth, ctx.params[ctx.split], ctx.rng("rows"))
    mean = math.fsum(y for _, y in rows) / len(rows)
    errors = [(y - sum(a * w for a, w in zip(x, given, strict=True))) ** 2 for x, y in rows]
    spread = [(y - mean) ** 2 for _, y in rows]
    total = math.fsum(spread)
    r2 = 1 - math.fsum(errors) / total
    # Delta method: a ratio of means moves with each row by its part of this.
    parts = [error - (1 - r2) * part for error, part in zip(errors, spread, strict=True)]
    return Score({"r2": r2}, se={"r2": math.sqrt(math.fsum(part**2 for part in parts)) / total})


def gold(ctx: GradeContext) -> None:
    """Not even the true weights predict the noise: there is no perfect submission."""


def plain(ctx: GradeContext) -> dict[str, bytes]:
    """Make the simplest legal submission; `tasks check` spoils copies of it."""
    return {"weights.json": json.dumps([0.5] * ctx.params["weights"]).encode()}
