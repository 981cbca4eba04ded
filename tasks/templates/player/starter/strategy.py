"""A strategy for rock, paper, scissors. This one, the baseline, plays at random."""

import random


def move(history):
    """Return 0 (rock), 1 (paper) or 2 (scissors)."""
    return random.randrange(3)
