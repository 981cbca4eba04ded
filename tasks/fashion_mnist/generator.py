"""Fashion-MNIST as arrays: a labelled training set for the agent, hidden labels for the vault.

The images of the hidden validation split are carved from the publisher's training set; together with the
publisher's test set they are handed out in one secret order, so that nobody can tell which image counts for
``validate`` and which for ``submit``, nor look up an image by its place in the published files.
"""

import numpy as np

from mlgym_mcp.catalog.building import BuildContext

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
README = """Fashion-MNIST: photographs of clothes, 28x28 pixels, grey.

train_images.npy  uint8, shape ({train}, 28, 28)
train_labels.npy  uint8, shape ({train},)
test_images.npy   uint8, shape ({test}, 28, 28); predict a label for each: id 0 is the first image
classes.txt       the names of the labels 0 to 9, one a line
"""


def images(path):
    """Read an IDX file of images."""
    raw = path.read_bytes()
    magic, count, height, width = np.frombuffer(raw, ">u4", 4)
    if magic != 2051 or (height, width) != (28, 28):
        raise ValueError(f"{path} is not an IDX file of 28x28 images")
    return np.frombuffer(raw, np.uint8, offset=16).reshape(count, 28, 28)


def labels(path):
    """Read an IDX file of labels."""
    raw = path.read_bytes()
    if np.frombuffer(raw, ">u4", 1)[0] != 2049:
        raise ValueError(f"{path} is not an IDX file of labels")
    return np.frombuffer(raw, np.uint8, offset=8)


def carve(wanted, known, rng):
    """Choose ``wanted`` indices, equally many of each class, in random order; returns (chosen, rest)."""
    chosen = []
    for label in range(10):
        members = np.flatnonzero(known == label)
        chosen.append(rng.permutation(members)[: wanted // 10])
    chosen = rng.permutation(np.concatenate(chosen))
    rest = np.setdiff1d(np.arange(len(known)), chosen)
    return chosen, rest


def build(ctx: BuildContext) -> None:
    """Make the public arrays and the hidden answers."""
    rng = np.random.default_rng(ctx.seed("split"))
    all_images, all_labels = images(ctx.source("train_images")), labels(ctx.source("train_labels"))
    test_images, test_labels = images(ctx.source("test_images")), labels(ctx.source("test_labels"))
    ctx.progress(0.3, "splitting")

    val, rest = carve(ctx.params["val"], all_labels, rng)
    chosen, _ = carve(ctx.params["train"], all_labels[rest], rng)
    train = rest[chosen]
    ctx.progress(0.5, "writing")

    order = rng.permutation(len(val) + len(test_labels))
    unlabelled = np.concatenate([all_images[val], test_images])[order]
    answers = np.concatenate([all_labels[val], test_labels])[order]
    is_test = (np.arange(len(order)) >= len(val))[order]

    np.save(ctx.public / "train_images.npy", all_images[train])
    np.save(ctx.public / "train_labels.npy", all_labels[train])
    np.save(ctx.public / "test_images.npy", unlabelled)
    (ctx.public / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (ctx.public / "README.txt").write_text(README.format(train=len(train), test=len(unlabelled)))
    np.save(ctx.private / "answers.npy", answers)
    np.save(ctx.private / "is_test.npy", is_test)
