"""Scenes of a secret world with captions by its people; the captions of validation and test stay in the vault.

The pictures of the hidden splits are handed out in one secret order under new numbers, so that nobody can tell which
picture counts for ``validate`` and which for ``submit``. The real COCO is made ready by ``coco.py``.
"""

import gzip
import json

import language
import numpy as np
import scenes

from mlgym_mcp.catalog.building import BuildContext

README = """Pictures, {side}x{side} pixels in colour, with captions that people gave them.

train_images_0.npy, ...  uint8, shape (n, {side}, {side}, 3); together {train} pictures: ids count through all the files
train_captions.jsonl     one line for each picture: {{"id": 0, "captions": ["...", ...]}}
test_images_0.npy, ...   the same for {test} pictures; write a caption for each: id 0 is the first picture

Read a file with numpy: images = np.load("train_images_0.npy", mmap_mode="r")
"""

Captions = list[list[str]]
"""The captions of each picture."""


def build(ctx: BuildContext) -> None:
    """Draw the world, its scenes, and what its people say of them."""
    rng = np.random.default_rng(ctx.seed("world"))
    look, words = scenes.draw_look(rng), language.draw_language(rng)
    captions: dict[str, Captions] = {}
    images: dict[str, np.ndarray] = {}
    for done, split in enumerate(("train", "val", "test")):
        ctx.progress(0.3 * done, f"drawing {split}")
        rng = np.random.default_rng(ctx.seed(split))
        drawn = [scenes.draw_things(look, rng) for _ in range(ctx.params[split])]
        images[split] = scenes.render(look, drawn, rng)
        captions[split] = [
            [language.describe(words, things, rng) for _ in range(ctx.params["captions"])] for things in drawn
        ]
    np.save(ctx.public / "train_images_0.npy", images["train"])
    hidden = np.concatenate([images["val"], images["test"]])
    np.save(ctx.public / "test_images_0.npy", hidden[hidden_order(ctx)])
    publish(ctx, captions["train"], captions["val"] + captions["test"])


def hidden_order(ctx: BuildContext) -> np.ndarray:
    """Which hidden picture (validation ones come first) gets which public number."""
    return np.random.default_rng(ctx.seed("order")).permutation(ctx.params["val"] + ctx.params["test"])


def publish(ctx: BuildContext, shown: Captions, hidden: Captions) -> None:
    """Write the public captions and the hidden references.

    Args:
        ctx: where to.
        shown: of the training pictures.
        hidden: of the validation pictures, then of the test pictures.
    """
    with (ctx.public / "train_captions.jsonl").open("w") as file:
        for number, texts in enumerate(shown):
            file.write(json.dumps({"id": number, "captions": texts}) + "\n")
    order = hidden_order(ctx)
    # Compressed: a caption in the vault may well occur in the training set, and must not look like a leak.
    packed = json.dumps([hidden[number] for number in order]).encode()
    (ctx.private / "references.json.gz").write_bytes(gzip.compress(packed, mtime=0))
    np.save(ctx.private / "is_test.npy", order >= ctx.params["val"])
    text = README.format(side=ctx.params["side"], train=len(shown), test=len(hidden))
    (ctx.public / "README.txt").write_text(text)
