"""A strategy for the battle of the sexes. This one, the baseline, mostly copies its partner.

``move(history)`` is called once per round. ``history`` is a list of ``(mine, theirs)`` choices of this match so
far, the newest last. Return 0 or 1.
"""

import os
import random

luck = random.Random(int(os.environ.get("MLGYM_SEED", "0")))


def move(history):
    """Begin with 0; then copy the partner's last choice most of the time, and try something now and then."""
    if not history:
        return 0
    if luck.random() < 0.2:
        return luck.randint(0, 1)
    mine, theirs = history[-1]
    return theirs if luck.random() < 0.875 else mine
