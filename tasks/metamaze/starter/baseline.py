"""Baseline: PPO with a small network on the raw observations. Writes checkpoints/0.npz, ... for policy.py.

Usage: python baseline.py [steps]. MLGYM_SEED is the seed; MLGYM_PRESET=full trains five policies on more steps.
"""

import os
import sys
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is loaded

import ppo
from metamaze import ACTIONS, MetaMaze
from policy import inputs

FULL = os.environ.get("MLGYM_PRESET") == "full"
CHECKPOINTS = 5 if FULL else 1
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000 if FULL else 400_000
SEED = int(os.environ.get("MLGYM_SEED", "0"))
SETTINGS = ppo.Settings(envs=256 if FULL else 64, length=40, entropy=0.05, clip=0.1, reward_scale=0.1)


def train(index):
    """Train and save policy number ``index``."""
    seed = SEED * CHECKPOINTS + index
    network = ppo.train(MetaMaze(SETTINGS.envs, seed), inputs, ACTIONS, SETTINGS, STEPS, seed)
    ppo.save(network, Path("checkpoints") / f"{index}.npz")
    print(f"wrote checkpoints/{index}.npz", flush=True)


if __name__ == "__main__":
    if CHECKPOINTS == 1:
        train(0)
    else:
        with get_context("spawn").Pool(min(CHECKPOINTS, os.cpu_count() or 1)) as pool:
            pool.map(train, range(CHECKPOINTS), chunksize=1)
