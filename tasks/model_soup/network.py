"""A small network in NumPy: three dense layers with ReLU between them, and its training.

A model is a list of six float32 arrays: weight and bias of each layer; a weight has shape (inputs, outputs).
"""

from itertools import pairwise

import numpy as np

LAYERS = 3
NAMES = ("weight1", "bias1", "weight2", "bias2", "weight3", "bias3")


def fresh(sizes, rng):
    """A model with random weights; ``sizes`` are the widths: inputs, two hidden layers, outputs."""
    model = []
    for inputs, outputs in pairwise(sizes):
        bound = 1 / np.sqrt(inputs)
        model.append(rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32))
        model.append(rng.uniform(-bound, bound, outputs).astype(np.float32))
    return model


def scores(model, pixels):
    """Scores of the ten digits for rows of pixels: (n, 10)."""
    hidden = pixels
    for layer in range(LAYERS):
        hidden = hidden @ model[2 * layer] + model[2 * layer + 1]
        if layer < LAYERS - 1:
            hidden = np.maximum(hidden, 0)
    return hidden


def train(model, batches, rate, momentum=0.9):
    """SGD with momentum on cross-entropy; returns a new model.

    Args:
        model: where to begin; not changed.
        batches: yields (pixels, labels), one per step.
        rate: the learning rate.
        momentum: of the velocity.
    """
    model = [part.copy() for part in model]
    velocity = [np.zeros_like(part) for part in model]
    for pixels, labels in batches:
        inputs, hidden = [], pixels
        for layer in range(LAYERS):
            inputs.append(hidden)
            hidden = hidden @ model[2 * layer] + model[2 * layer + 1]
            if layer < LAYERS - 1:
                hidden = np.maximum(hidden, 0)
        error = np.exp(hidden - hidden.max(1, keepdims=True))
        error /= error.sum(1, keepdims=True)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        for layer in reversed(range(LAYERS)):
            gradients = (inputs[layer].T @ error, error.sum(0))
            if layer:
                error = (error @ model[2 * layer].T) * (inputs[layer] > 0)
            for part, gradient in zip((2 * layer, 2 * layer + 1), gradients, strict=True):
                velocity[part] *= momentum
                velocity[part] += gradient
                model[part] -= rate * velocity[part]
    return model


def soup(models, weights):
    """The weighted sum of models, layer by layer: ``weights`` has shape (models, 3)."""
    mixed = []
    for part in range(2 * LAYERS):
        stacked = np.stack([model[part] for model in models]).astype(np.float64)
        mixed.append(np.tensordot(weights[:, part // 2], stacked, 1).astype(np.float32))
    return mixed
