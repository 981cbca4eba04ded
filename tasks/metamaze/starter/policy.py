"""The submission: how your policies act. The referee calls ``make_policy(folder, index)`` and then ``act``.

This one, the baseline's, reads the network that ``python baseline.py`` has trained and draws actions as it says.
"""

from pathlib import Path

import numpy as np


def inputs(observations):
    """What the network sees: the 15 numbers as they are, float32 (n, 15)."""
    return observations.astype(np.float32)


class Policy:
    """A trained network, in NumPy."""

    def __init__(self, path, seed):
        with np.load(path, allow_pickle=False) as file:
            self.weights = {name: file[name] for name in file.files}
        self.rng = np.random.default_rng(seed)

    def act(self, observations, done):
        """Actions (n,) for observations float32 (n, 15); done (n,) is True where a new episode has begun."""
        w, x = self.weights, inputs(observations)
        for layer in ("first", "second"):
            x = np.tanh(x @ w[f"{layer}.weight"] + w[f"{layer}.bias"])
        scores = x @ w["action.weight"] + w["action.bias"]
        return (scores + self.rng.gumbel(size=scores.shape)).argmax(1)


def make_policy(folder, index):
    """Policy number ``index``: checkpoints/0.npz is the first."""
    return Policy(Path(folder) / "checkpoints" / f"{index}.npz", seed=index)
