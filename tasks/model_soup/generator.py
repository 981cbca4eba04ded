"""Trains the candidates of the soup in a secret world, and draws the pictures that they are judged by.

The digits are scikit-learn's bundled ones. Which digits are for training, for the agent and for the hidden
splits, how strong each corruption is, which categories belong together, and the order of the models are secret.
"""

import corruptions
import network
import numpy as np
from sklearn.datasets import load_digits

from mlgym_mcp.catalog.building import BuildContext

BATCH = 64
README = """{models} trained models with the same shape, and labelled pictures to try them on.

models.npz    {models} models. Arrays: weight1 (models, 64, {width1}), bias1 (models, {width1}),
              weight2 (models, {width1}, {width2}), bias2 (models, {width2}),
              weight3 (models, {width2}, 10), bias3 (models, 10); float32.
              The network: x @ weight1 + bias1, ReLU, @ weight2 + bias2, ReLU, @ weight3 + bias3; the largest
              of the 10 numbers is the predicted digit.
public.npz    pixels float32 (n, 64): pictures of 8x8 pixels; labels uint8 (n,): the digits;
              category uint8 (n,): 0 to 7, one of {categories};
              picture int32 (n,): rows with the same number are the same digit, spoilt in different ways.

All models were tuned from the same first model, on different mixtures of categories. Some are damaged.
The hidden pictures are other digits, spoilt in the same eight ways.
"""


class Pools:
    """Training pictures of every category, drawn ``draws`` times beforehand; the last one is clean."""

    def __init__(self, pictures, labels, draws, world, rng):
        kinds = [*range(len(corruptions.CATEGORIES)), None]
        self.pixels = [
            np.concatenate([corruptions.corrupt(pictures, kind, world, rng) for _ in range(draws)]) for kind in kinds
        ]
        self.labels = np.tile(labels, draws)
        self.rng = rng

    def batches(self, steps, mixture, clean, wrong=0.0):
        """Yield ``steps`` batches.

        Args:
            steps: how many.
            mixture: shares of the categories, sum 1.
            clean: share of clean pictures.
            wrong: share of wrong labels.
        """
        rng = self.rng
        counts = rng.multinomial(BATCH, np.append(mixture * (1 - clean), clean), size=steps)
        for count in counts:
            rows = rng.integers(0, len(self.labels), BATCH)
            edges = np.cumsum(count)[:-1]
            parts = zip(self.pixels, np.split(rows, edges), strict=True)
            pixels = np.concatenate([pool[part] for pool, part in parts])
            labels = self.labels[rows]
            if wrong:
                labels = np.where(rng.random(BATCH) < wrong, (labels + 1) % 10, labels)
            yield pixels, labels


def mixtures(count, rng):
    """What the tuned models were tuned on: ``count`` mixtures, each good for two categories or for a few."""
    kinds = len(corruptions.CATEGORIES)
    partner = rng.permutation(kinds)
    found = []
    for number in range(count):
        if number % (kinds + 2) < kinds:
            first, second = partner[number % kinds], partner[(number % kinds) ^ 1]
            mixture = np.full(kinds, 0.02)
            mixture[first] += 0.6
            mixture[second] += 0.2
        else:
            mixture = rng.dirichlet(np.full(kinds, 0.3))
        found.append(mixture / mixture.sum())
    return found


def candidates(params, pools, progress):
    """Train all models: the first one, the tuned ones and the damaged ones; a list."""
    rng, kinds = pools.rng, len(corruptions.CATEGORIES)
    sizes = (64, params["width1"], params["width2"], 10)
    even = np.full(kinds, 1 / kinds)
    first = network.train(network.fresh(sizes, rng), pools.batches(params["first_steps"], even, 0.6), 0.05)
    models = [first]
    for mixture in mixtures(params["models"] - 1 - params["damaged"], rng):
        models.append(network.train(first, pools.batches(params["tune_steps"], mixture, 0.1), 0.06))
        progress(len(models) / params["models"])
    for number in range(
        params["damaged"]
    ):  # by wrong labels; one model of three by a single category in too large steps
        if number % 3 == 2:
            batches, rate = pools.batches(params["tune_steps"], np.eye(kinds)[rng.integers(kinds)], 0.0), 0.1
        else:
            batches, rate = pools.batches(params["tune_steps"], even, 0.1, wrong=0.7), 0.08
        models.append(network.train(first, batches, rate))
    return models


def build(ctx: BuildContext) -> None:
    """Write models and labelled pictures to the public folder, the hidden pictures to the vault."""
    params = ctx.params
    pictures, labels = load_digits(return_X_y=True)
    pictures = (pictures / 16).astype(np.float32).reshape(-1, corruptions.SIDE, corruptions.SIDE)
    rng = np.random.default_rng(ctx.seed("split"))
    order = rng.permutation(len(labels))
    edges = np.cumsum([params[name] for name in ("train", "public", "val")])
    train, public, val, test = np.split(order, edges)

    world = corruptions.draw_world(np.random.default_rng(ctx.seed("corruptions")))
    pools = Pools(
        pictures[train], labels[train], params["train_draws"], world, np.random.default_rng(ctx.seed("models"))
    )
    models = candidates(params, pools, lambda done: ctx.progress(0.9 * done, "training"))
    models = [models[i] for i in rng.permutation(len(models))]
    arrays = {name: np.stack([model[part] for model in models]) for part, name in enumerate(network.NAMES)}
    np.savez(ctx.public / "models.npz", **arrays)

    for name, rows, draws, folder in (
        ("public", public, 1, ctx.public),
        ("val", val, params["draws"], ctx.private),
        ("test", test, params["draws"], ctx.private),
    ):
        chance = np.random.default_rng(ctx.seed(f"pictures {name}"))
        drawn = corruptions.all_categories(pictures[rows], labels[rows], draws, world, chance)
        np.savez_compressed(folder / f"{name}.npz", **drawn)
    facts = {key: params[key] for key in ("models", "width1", "width2")}
    names = ", ".join(corruptions.CATEGORIES)
    (ctx.public / "README.txt").write_text(README.format(categories=names, **facts))
