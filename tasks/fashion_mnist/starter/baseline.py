"""Baseline: a small convolutional network in plain NumPy, trained for a few epochs with momentum SGD.

Reads the data from $DATA_DIR (default /data) and writes submission.csv. Usage: python solve.py [epochs] [seed]
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("DATA_DIR", "/data"))
EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else int(os.environ.get("MLGYM_SEED", "0"))
FILTERS, KERNEL, BATCH, LEARNING_RATE, MOMENTUM = 8, 5, 64, 0.003, 0.9


def load(name):
    """Images as floats from 0 to 1."""
    return np.load(DATA / name).astype(np.float32) / 255.0


def patches(images):
    """Every 5x5 window of every image: (n, 24, 24, 25)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (KERNEL, KERNEL), axis=(1, 2))
    return np.ascontiguousarray(windows).reshape(*windows.shape[:3], KERNEL * KERNEL)


class Network:
    """5x5 convolution, ReLU, 2x2 max pooling, one dense layer."""

    def __init__(self, rng):
        side = (28 - KERNEL + 1) // 2
        inputs = side * side * FILTERS
        self.weights = [
            rng.normal(0, 1 / KERNEL, (KERNEL * KERNEL, FILTERS)).astype(np.float32),
            np.zeros(FILTERS, np.float32),
            rng.normal(0, 1 / np.sqrt(inputs), (inputs, 10)).astype(np.float32),
            np.zeros(10, np.float32),
        ]
        self.velocity = [np.zeros_like(w) for w in self.weights]

    def forward(self, images):
        kernel, kernel_bias, dense, dense_bias = self.weights
        windows = patches(images)
        active = np.maximum(windows @ kernel + kernel_bias, 0)
        n, side = len(images), active.shape[1] // 2
        blocks = (
            active.reshape(n, side, 2, side, 2, FILTERS).transpose(0, 1, 3, 5, 2, 4).reshape(n, side, side, FILTERS, 4)
        )
        best = blocks.argmax(-1)
        pooled = np.take_along_axis(blocks, best[..., None], -1)[..., 0]
        scores = pooled.reshape(n, -1) @ dense + dense_bias
        return scores, (windows, pooled, best)

    def step(self, images, labels, rate):
        """One step of SGD on a batch; returns its mean loss."""
        scores, (windows, pooled, best) = self.forward(images)
        n, side = len(images), pooled.shape[1]
        scores -= scores.max(1, keepdims=True)
        probability = np.exp(scores)
        probability /= probability.sum(1, keepdims=True)
        loss = -np.log(probability[np.arange(n), labels] + 1e-9).mean()
        error = probability
        error[np.arange(n), labels] -= 1
        error /= n
        features = pooled.reshape(n, -1)
        gradients = [None, None, features.T @ error, error.sum(0)]
        back = (error @ self.weights[2].T).reshape(pooled.shape) * (pooled > 0)
        blocks = np.zeros((*pooled.shape, 4), np.float32)
        np.put_along_axis(blocks, best[..., None], back[..., None], -1)
        spread = blocks.reshape(n, side, side, FILTERS, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(-1, FILTERS)
        gradients[0] = windows.reshape(-1, KERNEL * KERNEL).T @ spread
        gradients[1] = spread.sum(0)
        for weight, velocity, gradient in zip(self.weights, self.velocity, gradients, strict=True):
            velocity *= MOMENTUM
            velocity -= rate * gradient
            weight += velocity
        return float(loss)

    def predict(self, images):
        return np.concatenate([self.forward(images[i : i + 500])[0].argmax(1) for i in range(0, len(images), 500)])


def main():
    rng = np.random.default_rng(SEED)
    images, labels = load("train_images.npy"), np.load(DATA / "train_labels.npy")
    network = Network(rng)
    started = time.monotonic()
    batches = len(images) // BATCH
    for epoch in range(1, EPOCHS + 1):
        order, losses = rng.permutation(len(images)), []
        for number in range(batches):
            chosen = order[number * BATCH : (number + 1) * BATCH]
            done = (epoch - 1 + (number + 1) / batches) / EPOCHS
            losses.append(network.step(images[chosen], labels[chosen], LEARNING_RATE * (1 - done)))
            if (number + 1) % max(1, batches // 10) == 0:
                print(f"epoch {epoch}/{EPOCHS} {done:4.0%} loss {np.mean(losses[-50:]):.3f}", flush=True)
        print(
            f"epoch {epoch}/{EPOCHS} done, loss {np.mean(losses):.3f}, {time.monotonic() - started:.0f} s", flush=True
        )
    predicted = network.predict(load("test_images.npy"))
    with open("submission.csv", "w") as file:
        file.write("id,label\n")
        file.writelines(f"{i},{label}\n" for i, label in enumerate(predicted))
    print(f"wrote submission.csv with {len(predicted)} predictions")


if __name__ == "__main__":
    main()
