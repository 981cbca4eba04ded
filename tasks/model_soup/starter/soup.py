"""Read the models and the labelled pictures, mix models, and measure a mixture.

weights: array of shape (models, 3): one row for each model, one column for each layer of the network.
"""

import json
import os
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

threadpool_limits(1)  # these arrays are small: more threads cost more than they bring

DATA = Path(os.environ.get("DATA_DIR", "/data"))
NAMES = ("weight1", "bias1", "weight2", "bias2", "weight3", "bias3")


def load_models():
    """The six arrays of all models; the first axis of each is the number of the model."""
    with np.load(DATA / "models.npz") as file:
        return {name: file[name] for name in NAMES}


def load_pictures():
    """pixels (n, 64), labels (n,), category (n,), picture (n,)."""
    with np.load(DATA / "public.npz") as file:
        return file["pixels"], file["labels"], file["category"], file["picture"]


def mix(models, weights):
    """The mixed model: a dict with the six arrays of one network."""
    weights = np.asarray(weights, np.float32)
    return {name: np.tensordot(weights[:, int(name[-1]) - 1], stacked, 1) for name, stacked in models.items()}


def scores(model, pixels):
    """Scores of the ten digits: (n, 10)."""
    hidden = np.maximum(pixels @ model["weight1"] + model["bias1"], 0)
    hidden = np.maximum(hidden @ model["weight2"] + model["bias2"], 0)
    return hidden @ model["weight3"] + model["bias3"]


def accuracies(model, pictures):
    """The accuracy in each of the 8 categories. Their mean is the score."""
    pixels, labels, category, _ = pictures
    right = scores(model, pixels).argmax(1) == labels
    return np.array([right[category == number].mean() for number in range(8)])


def save(weights, path="weights.json"):
    """Write the submission."""
    with open(path, "w") as file:
        json.dump(np.asarray(weights, float).tolist(), file)
