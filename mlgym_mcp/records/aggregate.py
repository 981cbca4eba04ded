"""Figures over attempts: means with errors, normalised scores, interquartile means with intervals, failures.

What counts, everywhere here: an attempt that ended. One that an infrastructure error ended says nothing of its agent,
so it is left out and counted as such; never a zero. An attempt that failed by itself counts.

A normalised score is ``(score - baseline) / (reference - baseline)``: 0 is what the agent was given, 1 is the
reference solution. An attempt without a score, or worse than the baseline, counts as 0 in means of them, so that
failing never looks better than trying.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlgym_mcp.records.attempts import Attempt

RESAMPLES = 2000
CONFIDENCE = 0.95
_CELLS = 1_000_000
"""Of one array of resamples: 8 MB."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds.

    Attributes:
        value: the mean of the seeds' means.
        se: its standard error, from how the seeds differ; ``None`` with fewer than two.
        seeds: how many.
    """

    value: float
    se: float | None
    seeds: int


@dataclass(frozen=True, slots=True)
class Interval:
    """An interquartile mean with its bootstrap interval, ``None`` where nothing can be resampled."""

    value: float
    low: float | None
    high: float | None


def mean_over_seeds(scores: Iterable[tuple[int, float]]) -> Mean | None:
    """Return the mean of (seed, score) pairs; several attempts with one seed count as one."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for seed, score in scores:
        by_seed[seed].append(score)
    if not by_seed:
        return None
    means = [_mean(values) for values in by_seed.values()]
    count = len(means)
    se = statistics.stdev(means) / math.sqrt(count) if count > 1 else None
    return Mean(_mean(means), se, count)


def normalised(score: float | None, baseline: float | None, reference: float | None) -> float | None:
    """Return a score with the baseline as 0 and the reference as 1, whatever the direction; not limited.

    ``None`` if there is no score, or the reference does not differ from the baseline, so that there is no scale.
    """
    if score is None or baseline is None or reference is None:
        return None
    scale = reference - baseline
    if not math.isfinite(scale) or abs(scale) <= 1e-12 * max(abs(reference), abs(baseline)):
        return None
    value = (score - baseline) / scale
    return value if math.isfinite(value) else None


def interquartile_mean(values: Sequence[float]) -> float | None:
    """Return the mean of the middle half: a quarter of the values, rounded down, is dropped at each end."""
    if not values:
        return None
    cut = len(values) // 4
    return _mean(sorted(values)[cut : len(values) - cut])


def interquartile_interval(
    strata: Mapping[str, Sequence[float]], *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Interval | None:
    """Return the interquartile mean of all values with its stratified bootstrap interval (percentiles).

    Values are drawn with replacement within their stratum (a task), so that each keeps its weight. The draws are the
    same each time. With one value in each stratum there is nothing to draw, so there is no interval.

    Raises:
        ImportError: numpy is not installed; :func:`interquartile_mean` needs none.
    """
    filled = [values for _, values in sorted(strata.items()) if values]
    centre = interquartile_mean([value for values in filled for value in values])
    if centre is None:
        return None
    if all(len(values) == 1 for values in filled):
        return Interval(centre, None, None)
    import numpy as np

    arrays = [np.asarray(values, dtype=np.float64) for values in filled]
    size = sum(len(array) for array in arrays)
    cut = size // 4
    random = np.random.default_rng(0)
    means = []
    for begin in range(0, resamples, max(1, _CELLS // size)):
        rows = min(max(1, _CELLS // size), resamples - begin)
        drawn = np.concatenate([a[random.integers(0, len(a), (rows, len(a)))] for a in arrays], axis=1)
        drawn.sort(axis=1)
        means.append(drawn[:, cut : size - cut].mean(axis=1))
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return Interval(centre, float(low), float(high))


def failures(attempts: Iterable[Attempt]) -> dict[str, int]:
    """Return how many attempts have no score, by cause, the most frequent first."""
    counts = Counter(attempt.cause for attempt in attempts if attempt.cause)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def total(values: Iterable[float | None]) -> float | None:
    """Return the sum of what is known; ``None`` if nothing is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of what is known; ``None`` if nothing is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _mean(values: Sequence[float]) -> float:
    """The mean, within the smallest and largest value also after rounding, and without overflow."""
    mean = math.fsum(value / len(values) for value in values)
    return min(max(mean, min(values)), max(values))
