"""A heuristic for the search. This one, the baseline, chooses a variable and its value at random.

``choose(state)`` is called whenever the search needs a decision. ``state`` is a ``State`` as in dpll.py. Return an
unassigned literal: 7 to try variable 7 as true first, -7 to try it as false first.
"""

import os
import random

chance = random.Random(int(os.environ.get("MLGYM_SEED", "0")))


def choose(state):
    """Any unassigned variable, either value."""
    return chance.choice(state.unassigned()) * chance.choice((1, -1))
