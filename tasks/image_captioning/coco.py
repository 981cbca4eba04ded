"""The real COCO 2017, as its publisher keeps it: zip archives of JPEG pictures, and one of captions in JSON.

Its validation pictures become our hidden ones. Pictures are packed into .npy files of limited size, one by one
through a memory map, so that little memory is needed.
"""

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from generator import hidden_order, publish
from PIL import Image

from mlgym_mcp.catalog.building import BuildContext

PICTURES_IN_A_FILE = 20_000
"""At 224x224 pixels in colour such a file has 3 GB."""
MAX_PIXELS = 2000 * 2000
"""COCO's largest pictures have 640x640; anything far larger is no picture of COCO."""


def build(ctx: BuildContext) -> None:
    """Resize the pictures and split the captions."""
    rng = np.random.default_rng(ctx.seed("split"))
    side, annotations = ctx.params["side"], ctx.source("annotations")

    known = captions(annotations, "val2017")
    names = chosen(known, ctx.params["val"] + ctx.params["test"], rng)
    hidden = [known[name] for name in names]
    shuffled = [names[number] for number in hidden_order(ctx)]
    with zipfile.ZipFile(ctx.source("val_images")) as zipped:
        pack(zipped, "val2017", shuffled, side, ctx.public / "test_images", lambda done: ctx.progress(0.04 * done))

    known = captions(annotations, "train2017")
    names = chosen(known, ctx.params["train"], rng)
    with zipfile.ZipFile(ctx.source("train_images")) as zipped:
        pack(
            zipped,
            "train2017",
            names,
            side,
            ctx.public / "train_images",
            lambda done: ctx.progress(0.04 + 0.94 * done, "resizing the training pictures"),
        )
    publish(ctx, [known[name] for name in names], hidden)


def captions(archive: Path, part: str) -> dict[str, list[str]]:
    """The captions of each picture by its file name: ``part`` is ``train2017`` or ``val2017``."""
    with zipfile.ZipFile(archive) as zipped:
        data = json.loads(zipped.read(f"annotations/captions_{part}.json"))
    names = {image["id"]: image["file_name"] for image in data["images"]}
    found: dict[str, list[str]] = {}
    for note in data["annotations"]:
        text = " ".join(note["caption"].split())
        if text:
            found.setdefault(names[note["image_id"]], []).append(text)
    return found


def chosen(known: dict[str, list[str]], count: int, rng: np.random.Generator) -> list[str]:
    """``count`` of the captioned pictures' names in random order.

    Raises:
        ValueError: there are not so many.
    """
    if len(known) < count:
        raise ValueError(f"the annotations caption {len(known)} pictures, {count} are needed")
    return [str(name) for name in rng.permutation(sorted(known))[:count]]


def pack(
    zipped: zipfile.ZipFile, part: str, names: Sequence[str], side: int, stem: Path, tell: Callable[[float], None]
) -> None:
    """Write the named pictures, in this order, to ``stem_0.npy``, ``stem_1.npy``, ...

    Args:
        zipped: the archive.
        part: the folder in it.
        names: file names.
        side: of the square that a picture is resized to, after the longer sides were cut off.
        stem: path and beginning of the names of the files to write.
        tell: is told how far it is, from 0 to 1.
    """
    for number, first in enumerate(range(0, len(names), PICTURES_IN_A_FILE)):
        some = names[first : first + PICTURES_IN_A_FILE]
        path = stem.with_name(f"{stem.name}_{number}.npy")
        packed = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(some), side, side, 3))
        for row, name in enumerate(some):
            with zipped.open(f"{part}/{name}") as file:
                packed[row] = square(file, side)
            if row % 500 == 0:
                tell((first + row) / len(names))
        packed.flush()
        del packed  # unmaps it


def square(file: IO[bytes], side: int) -> np.ndarray:
    """The middle of a JPEG picture as (side, side, 3), uint8.

    Raises:
        ValueError: the picture is far too large.
    """
    with Image.open(file, formats=["JPEG"]) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"a picture of {image.width}x{image.height} pixels, expected at most {MAX_PIXELS} pixels")
        # Decoding at half or quarter size right away is several times faster; it stays above the size asked for.
        image.draft("RGB", (side, side))
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        box = (left, top, left + short, top + short)
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR, box=box))
