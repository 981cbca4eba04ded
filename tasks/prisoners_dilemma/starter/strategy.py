"""A strategy for the iterated prisoner's dilemma. This one, the baseline, is a noisy imitator.

``move(history)`` is called once per round. ``history`` is a list of ``(mine, theirs)`` moves of this match so
far, the newest last; 0 means cooperate, 1 means defect. Return 0 or 1.
"""

import random


def move(history):
    """Copy the opponent's last move most of the time, else repeat your own."""
    if not history:
        return random.randint(0, 1)
    mine, theirs = history[-1]
    return theirs if random.random() < 0.8 else mine
