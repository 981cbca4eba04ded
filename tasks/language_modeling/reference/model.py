"""The language model that is graded: counts of what followed the last 1, 2, 3, ... bytes, mixed. NumPy only.

``solve.py`` counts and leaves counts.npz beside this file; the grader calls ``load`` once, then ``next_logits``.
"""

from pathlib import Path

import numpy as np

ORDERS = (0, 1, 2, 3, 4, 6, 8, 12)
SPARE = 4.0  # how many times the number of different followers the shorter contexts weigh
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
FOLLOWER = np.uint64(255)


def contexts(columns):
    """For each order a code of the last so many bytes: ``columns[j]`` are the bytes j + 1 before the next one.

    Yields (order, uint64 array) with the low 8 bits free for the byte that follows.
    """
    code, power = np.zeros(len(columns[0]), np.uint64), np.uint64(1)
    for order in range(max(ORDERS) + 1):
        if order in ORDERS:
            mixed = (code ^ (code >> np.uint64(32))) * MULTIPLIER
            yield order, (mixed ^ (mixed >> np.uint64(29))) & ~FOLLOWER
        if order < max(ORDERS):
            code = code + (columns[order].astype(np.uint64) + np.uint64(1)) * power
            power = np.uint64(int(power) * 0x100000001B3 % 2**64)


class Model:
    """Each order's counts, mixed with the next shorter order's chances the more, the more followers it has seen."""

    def __init__(self, tables):
        """``tables``: for each order the entries (context code | follower), sorted, and their counts."""
        self.tables = {}
        for order, (entries, counts) in tables.items():
            keys, starts = np.unique(entries & ~FOLLOWER, return_index=True)
            followers = (entries & FOLLOWER).astype(np.intp)
            self.tables[order] = keys, np.append(starts, len(entries)), followers, counts.astype(float)

    def next_logits(self, tokens):
        """Logarithms of the chances of the next byte: ``tokens`` uint8 (n, context), answer float32 (n, 256)."""
        chance = np.full((len(tokens), 256), 1 / 256)
        columns = [np.ascontiguousarray(tokens[:, -1 - back]) for back in range(max(ORDERS))]
        for order, asked in contexts(columns):
            keys, starts, followers, counts = self.tables[order]
            place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
            known = np.flatnonzero(keys[place] == asked)
            first, kinds = starts[place[known]], starts[place[known] + 1] - starts[place[known]]
            nth = np.repeat(np.arange(len(known)), kinds)
            entry = np.arange(len(nth)) + (first - np.concatenate([[0], np.cumsum(kinds)[:-1]]))[nth]
            seen = np.bincount(nth, counts[entry], len(known))
            spare = SPARE * kinds
            chance[known] *= (spare / (seen + spare))[:, None]
            chance[known[nth], followers[entry]] += counts[entry] / (seen + spare)[nth]
        return np.log(chance).astype(np.float32)


def load(folder):
    """The model, from the counts in ``folder``."""
    with np.load(Path(folder) / "counts.npz", allow_pickle=False) as file:
        return Model({order: (file[f"entries{order}"], file[f"counts{order}"]) for order in ORDERS})
