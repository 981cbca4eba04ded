"""Reference: learn from this match which move follows which, and beat the likeliest one."""

from itertools import pairwise


def move(history):
    """Return 0 (rock), 1 (paper) or 2 (scissors)."""
    theirs = [other for _, other in history]
    if not theirs:
        return 0
    seen = [0, 0, 0]
    for before, after in pairwise(theirs):
        if before == theirs[-1]:
            seen[after] += 1
    return (seen.index(max(seen)) + 1) % 3
