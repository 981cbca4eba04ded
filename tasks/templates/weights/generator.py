"""A secret linear model, and rows of it."""

import json

import world

from mlgym_mcp.catalog.building import BuildContext


def build(ctx: BuildContext) -> None:
    """Write training rows for the agent and the secret weights to the vault."""
    rng = ctx.rng("world")
    weights = [rng.choice((-1, 1)) * rng.uniform(0.5, 1.0) for _ in range(ctx.params["weights"])]
    lines = [",".join(f"{value:.5f}" for value in (*x, y)) for x, y in world.rows(weights, ctx.params["train"], rng)]
    (ctx.public / "train.csv").write_text("\n".join(lines) + "\n")
    (ctx.private / "weights.json").write_text(json.dumps(weights))
