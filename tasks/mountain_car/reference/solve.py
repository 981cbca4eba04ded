"""Reference: the cross-entropy method. Draw policies of four numbers, keep the best, draw around them, and again.

Writes checkpoints/0.json, ... for policy.py.
"""

import json
import os
from pathlib import Path

import numpy as np
from mountain_car import MountainCar
from policy import power

CHECKPOINTS = 5 if os.environ.get("MLGYM_PRESET") == "full" else 1
SEED = int(os.environ.get("MLGYM_SEED", "0"))
ROUNDS, POPULATION, ELITE, EPISODES = 20, 32, 8, 64


def returns(weights, seed):
    """The mean return of each of the policies (population, 4)."""
    slots = len(weights) * EPISODES
    cars, each = MountainCar(slots, seed), np.repeat(weights, EPISODES, 0).T
    observations, total, alive = cars.reset(), np.zeros(slots), np.ones(slots, bool)
    while alive.any():
        observations, rewards, done = cars.step(power(each, observations))
        total += rewards * alive
        alive &= ~done
    return total.reshape(-1, EPISODES).mean(1)


def search(seed):
    """The weights of a good policy."""
    rng = np.random.default_rng(seed)
    centre, spread = np.zeros(4), np.full(4, 3.0)
    for number in range(ROUNDS):
        weights = centre + spread * rng.normal(size=(POPULATION, 4))
        score = returns(weights, seed * ROUNDS + number)
        best = weights[score.argsort()[-ELITE:]]
        centre, spread = best.mean(0), best.std(0) + 0.02
        print(f"round {number + 1}: best {score.max():.2f}, mean of the kept {np.sort(score)[-ELITE:].mean():.2f}")
    return centre


if __name__ == "__main__":
    Path("checkpoints").mkdir(exist_ok=True)
    for index in range(CHECKPOINTS):
        weights = search(SEED * CHECKPOINTS + index)
        Path("checkpoints", f"{index}.json").write_text(json.dumps(weights.tolist()))
