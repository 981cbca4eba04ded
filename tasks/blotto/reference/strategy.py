"""Reference: win four fields for sure: those that the opponent holds weakest, once its habits show.

Before that, a fixed plan that beats most ways to spread soldiers: give up the outer two fields.
"""

SOLDIERS, FIELDS = 120, 6
PLAN = [1, 32, 29, 29, 28, 1]
DESERTED = 6
"""A field that never held more than this is given up by the opponent, but for what rounding leaves there."""
PRIOR = 4
"""Weight, in rounds, of the assumption that all fields are held alike."""


def weakest(history):
    """Fields by how many soldiers they are expected to hold, the fewest first, and the expectations."""
    total = [sum(theirs[field] for _, theirs in history) for field in range(FIELDS)]
    mean = [(20 * PRIOR + held) / (PRIOR + len(history)) for held in total]
    return sorted(range(FIELDS), key=mean.__getitem__), mean


def move(history):
    """Take deserted fields cheaply and put the rest on as many others as a majority needs."""
    most = [max((theirs[field] for _, theirs in history), default=SOLDIERS) for field in range(FIELDS)]
    order, mean = weakest(history)
    deserted = [field for field in order if most[field] <= DESERTED][:2]
    seldom_by_chance = len(deserted) == 2 or len(history) > 1
    if not seldom_by_chance or (not deserted and max(mean) - min(mean) < 14):
        return list(PLAN)
    placed = [0] * FIELDS
    for field in deserted:
        placed[field] = DESERTED + 1
    contested = [field for field in order if field not in deserted][: 4 - len(deserted)]
    left = SOLDIERS - sum(placed)
    expected = sum(mean[field] for field in contested)
    for field in contested:
        placed[field] = int(left * mean[field] / expected)
    placed[contested[0]] += SOLDIERS - sum(placed)
    return placed
