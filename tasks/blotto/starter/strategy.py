"""A strategy for Colonel Blotto. This one, the baseline, masses soldiers on a few fields by chance.

``move(history)`` is called once per round. ``history`` is a list of ``(mine, theirs)`` allocations of this match so
far, the newest last; an allocation is a list of 6 numbers. Return a list of 6 whole numbers that are not negative
and sum to at most 120.
"""

import os
import random

SOLDIERS, FIELDS = 120, 6
luck = random.Random(int(os.environ.get("MLGYM_SEED", "0")))


def move(history):
    """Put weight on three fields by chance (perhaps the same one twice), a little on all, and scale to 120."""
    weights = [luck.uniform(0, 8) for _ in range(FIELDS)]
    for _ in range(3):
        weights[luck.randrange(FIELDS)] += luck.uniform(10, 30)
    total = sum(weights)
    placed = [int(SOLDIERS * weight / total) for weight in weights]
    placed[luck.randrange(FIELDS)] += SOLDIERS - sum(placed)
    return placed
