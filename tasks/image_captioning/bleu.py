"""Corpus BLEU-4 against several references, with a standard error.

Papineni et al. (2002): the geometric mean of the clipped precisions of 1- to 4-grams over the whole corpus, times a
brevity penalty that compares the length of all captions with the sum of the closest reference lengths.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

LONGEST = 4


def words(text: str) -> list[str]:
    """A caption's words: lower case, without punctuation ("A man's hat." is "a mans hat")."""
    text = unicodedata.normalize("NFC", text).lower().replace("'", "").replace("\u2019", "")
    return "".join(c if c.isalnum() else " " for c in text).split()


def _ngrams(caption: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(caption[i : i + n]) for i in range(len(caption) - n + 1))


def counts(caption: str, references: Sequence[str]) -> list[int]:
    """What one picture adds to the corpus: 4 matches, 4 totals, the caption's length, the closest reference's."""
    said = words(caption)
    others = [words(reference) for reference in references]
    matches, totals = [], []
    for n in range(1, LONGEST + 1):
        most: Counter[tuple[str, ...]] = Counter()
        for other in others:
            most |= _ngrams(other, n)
        own = _ngrams(said, n)
        matches.append((own & most).total())
        totals.append(own.total())
    closest = min((abs(len(other) - len(said)), len(other)) for other in others)[1]
    return [*matches, *totals, len(said), closest]


def bleu(table: np.ndarray) -> tuple[float, float]:
    """BLEU of a corpus and its standard error.

    The error is by linearisation: BLEU is a smooth function of the sums over pictures, whose scatter is seen.

    Args:
        table: one row of :func:`counts` for each picture.
    """
    table = np.asarray(table, float)
    sums = table.sum(0)
    matches, totals, said, wanted = sums[:4], sums[4:8], sums[8], sums[9]
    if matches.min() == 0:
        return 0.0, 0.0
    short = said < wanted
    penalty = 1 - wanted / said if short else 0.0
    score = math.exp(np.log(matches / totals).mean() + penalty)
    # The gradient of ln BLEU at the sums.
    slope = np.concatenate([1 / matches, -1 / totals, [wanted / said if short else 0, -1 if short else 0] / said])
    slope[:8] /= LONGEST
    return score, float(score * np.linalg.norm((table - table.mean(0)) @ slope))
