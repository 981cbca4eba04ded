"""Means of values that come in strata: kinds with fixed shares. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True, slots=True)
class Stratified:
    """A mean, its standard error, and the mean within each stratum, in the order of their names."""

    mean: float
    se: float
    by_stratum: Mapping[Any, float]

    def rounded(self, digits: int = 3) -> dict[Any, float]:
        """The mean within each stratum with so many decimals, for a score's ``private``."""
        return {name: round(mean, digits) for name, mean in self.by_stratum.items()}


def stratified(values: Iterable[tuple[Any, float]]) -> Stratified:
    """Return the mean of values and its standard error when every stratum has a fixed share of them.

    How many values are of which kind is by design, not by chance, so only what differs within a stratum is error:
    each adds its sample variance over its number of values, times its share squared. A stratum of one value adds
    nothing, as if it were known exactly.

    Args:
        values: for each value its stratum, by names that can be sorted, and itself.

    Raises:
        ValueError: there is no value.
    """
    groups: dict[Any, list[float]] = {}
    for stratum, value in values:
        groups.setdefault(stratum, []).append(value)
    everything = [value for group in groups.values() for value in group]
    mean = fmean(everything)
    parts = ((len(group) / len(everything)) ** 2 * _variance(group) / len(group) for group in groups.values())
    return Stratified(mean, math.sqrt(math.fsum(parts)), {name: fmean(groups[name]) for name in sorted(groups)})


def _variance(values: Sequence[float]) -> float:
    """The sample variance; 0 for a single value."""
    centre = fmean(values)
    return math.fsum((value - centre) ** 2 for value in values) / max(1, len(values) - 1)
