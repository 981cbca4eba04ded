"""Houses of a secret market: priced ones for the agent, and ones whose prices stay in the vault."""

import market
import numpy as np
import table

from mlgym_mcp.catalog.building import BuildContext

README = """Houses sold in one city, {first} to {last}.

train.csv  {train} houses with their price in dollars (last column)
test.csv   {test} houses without it; predict one for each id

Empty cells are unknown. "none" in basement_grade: no basement. Areas are in square feet.
"""


def build(ctx: BuildContext) -> None:
    """Draw the market and the houses; hide the prices of validation and test."""
    world = market.draw_world(np.random.default_rng(ctx.seed("market")))
    count = {name: ctx.params[name] for name in ("train", "val", "test")}
    train, prices = market.houses(world, count["train"], np.random.default_rng(ctx.seed("train")))
    hidden, answers = market.houses(world, count["val"] + count["test"], np.random.default_rng(ctx.seed("hidden")))
    ctx.progress(0.5, "writing")

    # Houses are drawn independently, so any secret choice of the validation rows will do.
    order = np.random.default_rng(ctx.seed("split")).permutation(len(answers))
    is_test = np.ones(len(answers), bool)
    is_test[order[: count["val"]]] = False

    labelled = {"id": range(count["train"])} | train | {"price": prices.astype(int)}
    table.write(ctx.public / "train.csv", labelled)
    table.write(ctx.public / "test.csv", {"id": range(len(answers))} | hidden)
    facts = {"first": market.FIRST_YEAR, "last": market.LAST_YEAR, "train": count["train"], "test": len(answers)}
    (ctx.public / "README.txt").write_text(README.format(**facts))
    np.save(ctx.private / "prices.npy", answers)
    np.save(ctx.private / "is_test.npy", is_test)
