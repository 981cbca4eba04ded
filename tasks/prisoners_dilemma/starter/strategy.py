"""A strategy for the iterated prisoner's dilemma. This one, the baseline, is a noisy imitator.

``move(history)`` is called once per round. ``history`` is a list of ``(mine, theirs)`` moves of this match so
far, the newest last; 0 means cooperate, 1 means defect. Return 0 or 1.
"""

import os
import random

luck = random.Random(int(os.environ.get("MLGYM_SEED", "0")))


def move(history):
    """Copy the opponent's last move most of the time, else repeat your own."""
    if not history:
        return luck.randint(0, 1)
    mine, theirs = history[-1]
    return theirs if luck.random() < 0.8 else mine
