"""The real houses of Ames, Iowa, as OpenML keeps them: split in secret, the hidden prices in the vault.

Which house is where is decided by a secret hash of its number in the source, its new ``id`` by another: neither the
order of the rows nor their numbers lead back to the published table.
"""

import arff
import numpy as np
import table

from mlgym_mcp.catalog.building import BuildContext

SOURCE = "ames"
NUMBER, PRICE = "Id", "SalePrice"
README = """Houses sold in Ames, Iowa.

train.csv  {train} houses with their price in dollars (last column)
test.csv   {test} houses without it; predict one for each id

Empty cells are unknown, or say that there is no such thing, where the description below has "NA" for that.
The columns, as the publisher describes them:

{columns}
"""


def build(ctx: BuildContext) -> None:
    """Split the table; hide the prices of validation and test."""
    houses = arff.read(ctx.source(SOURCE).read_text(encoding="utf-8"))
    columns = dict(houses.columns)
    numbers, prices = columns.pop(NUMBER), np.array(columns.pop(PRICE), np.int64)
    sizes = [ctx.params[name] for name in ("train", "val", "test")]
    if len(set(numbers)) != sum(sizes):
        raise ValueError(f"expected {sum(sizes)} houses with different {NUMBER}, got {len(set(numbers))}")

    order = sorted(range(len(numbers)), key=lambda row: ctx.seed(f"split {numbers[row]}"))
    train, held_back = order[: sizes[0]], order[sizes[0] :]
    in_test = set(held_back[sizes[1] :])
    hidden = sorted(held_back, key=lambda row: ctx.seed(f"place {numbers[row]}"))

    def rows(which):
        return {"id": range(len(which))} | {name: [cells[row] for row in which] for name, cells in columns.items()}

    table.write(ctx.public / "train.csv", rows(train) | {"price": prices[train]})
    table.write(ctx.public / "test.csv", rows(hidden))
    described = "\n".join(line.rstrip() for line in houses.comments)
    facts = {"train": len(train), "test": len(hidden), "columns": described}
    (ctx.public / "README.txt").write_text(README.format(**facts), encoding="utf-8")
    np.save(ctx.private / "prices.npy", prices[hidden])
    np.save(ctx.private / "is_test.npy", np.array([row in in_test for row in hidden]))
