"""Points of the plane, labelled by a secret ellipse."""

from mlgym_mcp.catalog.building import BuildContext

NOISE = 0.03
"""The share of labels that are flipped."""


def build(ctx: BuildContext) -> None:
    """Write the public tables and the hidden answers."""
    rng = ctx.rng("world")
    centre = (rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5))
    axes = (rng.uniform(0.8, 1.2), rng.uniform(1.2, 1.6))

    def point():
        x, y = rng.gauss(0, 1), rng.gauss(0, 1)
        inside = ((x - centre[0]) / axes[0]) ** 2 + ((y - centre[1]) / axes[1]) ** 2 < 1
        return x, y, int(inside != (rng.random() < NOISE))

    points = [point() for _ in range(ctx.params["train"])]
    rows = "".join(f"{i},{x:.4f},{y:.4f},{label}\n" for i, (x, y, label) in enumerate(points))
    (ctx.public / "train.csv").write_text(f"id,x,y,label\n{rows}")

    hidden = [point() for _ in range(ctx.params["unlabelled"])]
    rows = "".join(f"{i},{x:.4f},{y:.4f}\n" for i, (x, y, _) in enumerate(hidden))
    (ctx.public / "test.csv").write_text(f"id,x,y\n{rows}")
    (ctx.private / "labels.txt").write_text("\n".join(str(label) for _, _, label in hidden))
    # Which rows count for validate and which for submit is secret, too: here the order itself is random.
    split = ["val"] * ctx.params["val"] + ["test"] * ctx.params["test"]
    rng.shuffle(split)
    (ctx.private / "split.txt").write_text("\n".join(split))
