"""Reference: PPO as in the baseline, on a better description of the grid and with better settings.

Writes checkpoints/0.npz, ... for policy.py, which here holds the description.
"""

import os
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded

import ppo
from breakout import ACTIONS, Breakout
from policy import inputs

CHECKPOINTS = 5 if os.environ.get("MLGYM_PRESET") == "full" else 1
STEPS = 600_000
SEED = int(os.environ.get("MLGYM_SEED", "0"))
SETTINGS = ppo.Settings(length=64, learning_rate=2e-3, decay=True)


def train(index):
    """Train and save policy number ``index``."""
    seed = SEED * CHECKPOINTS + index
    network = ppo.train(Breakout(SETTINGS.envs, seed), inputs, ACTIONS, SETTINGS, STEPS, seed)
    ppo.save(network, Path("checkpoints") / f"{index}.npz")


if __name__ == "__main__":
    if CHECKPOINTS == 1:
        train(0)
    else:
        with get_context("spawn").Pool(min(CHECKPOINTS, os.cpu_count() or 1)) as pool:
            pool.map(train, range(CHECKPOINTS), chunksize=1)
