"""Pictures of a secret world: labelled ones for the agent, and ones whose labels stay in the vault.

The images of the hidden validation and test splits are handed out in one secret order, so that nobody can tell which
image counts for ``validate`` and which for ``submit``. The real CIFAR-10 is made ready by ``photographs.py``.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pictures
from shapes import SHAPES

from mlgym_mcp.catalog.building import BuildContext

LEVELS = 32
"""Brightness levels of these pictures: enough under their noise, and the archives shrink by two fifths."""

README = """Colour pictures, 32x32 pixels, of ten classes: {names}.

train.npz    images: uint8, shape ({train}, 32, 32, 3); labels: uint8, shape ({train},)
test.npz     images: uint8, shape ({test}, 32, 32, 3); predict a label for each: id 0 is the first image
classes.txt  the names of the labels 0 to 9, one a line

Read them with numpy: archive = np.load("train.npz"); images = archive["images"]; labels = archive["labels"]
"""

Labelled = tuple[np.ndarray, np.ndarray]
"""Images, uint8 (n, 32, 32, 3), and their labels, uint8 (n,)."""


def build(ctx: BuildContext) -> None:
    """Draw the world and its pictures; hide the labels of validation and test."""
    world = pictures.draw_world(np.random.default_rng(ctx.seed("world")))
    parts: dict[str, Labelled] = {}
    for done, name in enumerate(("train", "val", "test")):
        ctx.progress(0.2 * done, f"drawing {name}")
        images, labels = pictures.pictures(world, ctx.params[name], np.random.default_rng(ctx.seed(name)))
        step = 256 // LEVELS
        parts[name] = images // step * step + step // 2, labels
    publish(ctx, tuple(SHAPES), **parts, save=np.savez_compressed)


def publish(
    ctx: BuildContext,
    names: Sequence[str],
    *,
    train: Labelled,
    val: Labelled,
    test: Labelled,
    save: Callable[..., None],
) -> None:
    """Write the public archives and the hidden answers.

    Args:
        ctx: where to, and the secret of the order.
        names: of the classes.
        train: shown as it is.
        val: hidden, for ``validate``.
        test: hidden, for ``submit``.
        save: ``np.savez`` or ``np.savez_compressed``.
    """
    ctx.progress(0.7, "writing")
    order = np.random.default_rng(ctx.seed("order")).permutation(len(val[0]) + len(test[0]))
    save(ctx.public / "train.npz", images=train[0], labels=train[1])
    save(ctx.public / "test.npz", images=np.concatenate([val[0], test[0]])[order])
    (ctx.public / "classes.txt").write_text("\n".join(names) + "\n")
    text = README.format(names=", ".join(names), train=len(train[0]), test=len(order))
    (ctx.public / "README.txt").write_text(text)
    np.save(ctx.private / "answers.npy", np.concatenate([val[1], test[1]])[order])
    np.save(ctx.private / "is_test.npy", order >= len(val[0]))
