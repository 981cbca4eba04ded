"""The real CIFAR-10, as the hub keeps it: parquet files with a PNG and a label in each row. Needs pyarrow."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet
from generator import Labelled, publish
from PIL import Image

from mlgym_mcp.catalog.building import BuildContext

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ROWS = 1000
"""Rows decoded at once."""


def build(ctx: BuildContext) -> None:
    """Carve the hidden validation split from the training set, equally many of each class; hide the test set."""
    images, labels = labelled_images(ctx.source("train"))
    ctx.progress(0.5, "decoding")
    test = labelled_images(ctx.source("test"))
    rng = np.random.default_rng(ctx.seed("split"))
    share = ctx.params["val"] // len(CLASSES)
    members = [rng.permutation(np.flatnonzero(labels == label)) for label in range(len(CLASSES))]
    val = np.concatenate([indices[:share] for indices in members])
    train = rng.permutation(np.concatenate([indices[share:] for indices in members]))
    counts = {"train": len(train), "val": len(val), "test": len(test[1])}
    if counts != {name: ctx.params[name] for name in counts}:
        raise ValueError(f"the sources give {counts} images, other numbers than task.toml says")
    publish(
        ctx,
        CLASSES,
        train=(images[train], labels[train]),
        val=(images[val], labels[val]),
        test=test,
        save=np.savez,  # photographs do not shrink
    )


def labelled_images(path: Path) -> Labelled:
    """All images and labels of a file.

    Raises:
        ValueError: a row is no 32x32 picture with a label from 0 to 9.
    """
    with pyarrow.parquet.ParquetFile(path) as file:
        count = file.metadata.num_rows
        images, labels = np.empty((count, 32, 32, 3), np.uint8), np.empty(count, np.uint8)
        row = 0
        for batch in file.iter_batches(ROWS, columns=["img", "label"]):
            for picture, label in zip(batch["img"].to_pylist(), batch["label"].to_pylist(), strict=True):
                with Image.open(io.BytesIO(picture["bytes"]), formats=["PNG"]) as image:
                    if image.size != (32, 32) or not 0 <= label < len(CLASSES):
                        raise ValueError(f"row {row} of {path.name} holds {image.size} pixels and the label {label}")
                    images[row] = np.asarray(image.convert("RGB"))
                labels[row] = label
                row += 1
    return images, labels
