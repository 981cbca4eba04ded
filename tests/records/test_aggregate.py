"""Means, normalised scores and intervals: what must hold of them whatever the scores are."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlgym_mcp.records.aggregate import (
    failures,
    interquartile_interval,
    interquartile_mean,
    mean_over_seeds,
    median,
    normalised,
    total,
)
from mlgym_mcp.records.leaderboard import counted_score
from tests.records.written import attempt

finite = st.floats(-1e6, 1e6)
many = st.lists(finite, min_size=1, max_size=40)


@given(many)
def test_an_interquartile_mean_lies_among_the_middle_values(values: list[float]) -> None:
    mean = interquartile_mean(values)
    cut = len(values) // 4
    middle = sorted(values)[cut : len(values) - cut]
    assert mean is not None
    assert middle[0] <= mean <= middle[-1]


@given(many, st.randoms(use_true_random=False))
def test_it_does_not_depend_on_the_order_and_moves_with_the_values(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    mean = interquartile_mean(values)
    assert interquartile_mean(shuffled) == mean
    assert interquartile_mean([v + 10 for v in values]) == pytest.approx(mean + 10, abs=1e-6)
    assert interquartile_mean([*values[:-1], values[-1] + 5]) >= mean - 1e-9


@given(st.lists(finite, min_size=8, max_size=30))
def test_one_wild_value_does_not_move_it_beyond_the_others(values: list[float]) -> None:
    assert min(values) <= interquartile_mean([*values, -3e13]) <= max(values)


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.floats(0, 10), max_size=8), max_size=4))
def test_an_interval_holds_its_mean_and_is_the_same_each_time(strata: dict[str, list[float]]) -> None:
    found = interquartile_interval(strata, resamples=200)
    everything = [value for values in strata.values() for value in values]
    if not everything:
        assert found is None
        return
    assert found is not None
    assert found.value == interquartile_mean(everything)
    if found.low is None or found.high is None:
        assert all(len(values) <= 1 for values in strata.values())
        return
    assert min(everything) - 1e-9 <= found.low <= found.high <= max(everything) + 1e-9
    assert interquartile_interval(dict(reversed(strata.items())), resamples=200) == found


def test_an_interval_is_as_wide_as_theory_says() -> None:
    """For many uniform values the standard error of a trimmed mean is known."""
    size = 400
    values = [i / (size - 1) for i in range(size)]
    found = interquartile_interval({"t": values})
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    # variance of a trimmed mean: winsorised variance / ((1 - 2 * 0.25)^2 * n)
    winsorised = 2 * 0.25 * 0.25**2 + 0.5**3 / 12
    expected = 1.96 * math.sqrt(winsorised / (0.25 * size))
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.1)


def test_resamples_stay_within_their_task() -> None:
    found = interquartile_interval({"easy": [1.0] * 6, "hard": [0.0] * 6})
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


@given(finite, finite, finite)
def test_normalised_the_baseline_is_nothing_and_the_reference_is_one(score: float, base: float, ref: float) -> None:
    assume(abs(ref - base) > 1e-3)
    assert normalised(base, base, ref) == 0
    assert normalised(ref, base, ref) == 1
    mirrored = normalised(-score, -base, -ref)  # as if less were better
    assert normalised(score, base, ref) == pytest.approx(mirrored)
    further = normalised(score + (ref - base), base, ref)
    assert further == pytest.approx(normalised(score, base, ref) + 1, rel=1e-6, abs=1e-6)


def test_without_a_scale_nothing_is_normalised() -> None:
    assert normalised(0.7, 0.5, 0.5) is None
    assert normalised(0.7, None, 0.9) is None
    assert normalised(None, 0.5, 0.9) is None
    assert normalised(1e308, 0.0, 1e-300) is None


def test_failing_never_counts_for_more_than_trying() -> None:
    assert counted_score(attempt(submitted=None), 0.5, 0.9) == 0
    assert counted_score(attempt(submitted=-1000.0), 0.5, 0.9) == 0
    assert counted_score(attempt(submitted=0.7), 0.5, 0.9) == pytest.approx(0.5)
    assert counted_score(attempt(submitted=0.4), 0.5, None) == 0
    assert counted_score(attempt(submitted=0.4), None, None) is None


def test_attempts_with_one_seed_count_as_one() -> None:
    found = mean_over_seeds([(0, 1.0), (0, 3.0), (1, 4.0)])
    assert found is not None
    assert (found.value, found.seeds) == (3.0, 2)
    assert found.se == pytest.approx(1.0)
    only = mean_over_seeds([(7, 0.5), (7, 0.7)])
    assert only is not None
    assert (only.value, only.se, only.seeds) == (pytest.approx(0.6), None, 1)
    assert mean_over_seeds([]) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1e300, 1e300)), min_size=1, max_size=12))
def test_a_mean_lies_among_its_scores(scores: list[tuple[int, float]]) -> None:
    found = mean_over_seeds(scores)
    assert found is not None
    assert min(s for _, s in scores) <= found.value <= max(s for _, s in scores)


def test_failures_are_counted_by_cause_and_unknown_costs_are_not_zero() -> None:
    own = [
        attempt(submitted=None),
        attempt(submitted=None),
        attempt(submitted=None, outcome="invalid_submission", code="shape"),
        attempt(),
    ]
    assert failures(own) == {"budget_exhausted": 2, "invalid_submission (shape)": 1}
    assert total([None, None]) is None
    assert total([0.1, None, 0.2]) == pytest.approx(0.3)
    assert median([None, 3.0, 1.0]) == 2.0
