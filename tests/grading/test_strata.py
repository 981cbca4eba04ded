"""Means over strata: the plain mean, with an error of only what differs within a stratum."""

from __future__ import annotations

import math
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_mcp.grading.strata import stratified

VALUES = st.lists(st.tuples(st.sampled_from("abc"), st.floats(-1e6, 1e6)), min_size=1, max_size=60)


def test_known_numbers() -> None:
    found = stratified([("b", 10.0), ("a", 0.0), ("b", 16.0), ("a", 2.0), ("b", 10.0), ("b", 12.0)])
    assert found.mean == 50 / 6
    assert found.by_stratum == {"a": 1.0, "b": 12.0}
    assert list(found.by_stratum) == ["a", "b"]
    within_a, within_b = 2.0, (4 + 16 + 4 + 0) / 3
    assert found.se == pytest.approx(math.sqrt((2 / 6) ** 2 * within_a / 2 + (4 / 6) ** 2 * within_b / 4))


def test_one_stratum_is_the_ordinary_standard_error() -> None:
    found = stratified((None, value) for value in (1.0, 2.0, 3.0, 6.0))
    assert found.mean == 3.0
    assert found.se == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))


def test_what_differs_between_strata_is_no_error() -> None:
    found = stratified(zip("aabb", [0.0, 0.0, 10.0, 10.0], strict=True))
    assert (found.mean, found.se) == (5.0, 0.0)


def test_a_stratum_of_one_value_adds_no_error() -> None:
    assert stratified([("only", 7.0)]).se == 0.0
    assert stratified([(1, 3.0), (2, 50.0), (3, -8.0)]).se == 0.0
    alone = stratified([("a", 0.0), ("a", 2.0), ("b", 99.0)])
    assert alone.se == pytest.approx(2 / 3 * 1.0)


def test_the_means_within_strata_can_be_shown_rounded() -> None:
    found = stratified([("a", 1.0), ("a", 0.0), ("a", 0.0), ("b", 2.0)])
    assert found.rounded() == {"a": 0.333, "b": 2.0}
    assert found.rounded(1) == {"a": 0.3, "b": 2.0}


def test_no_value_has_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one"):
        stratified([])


@given(VALUES)
def test_it_is_the_plain_mean_whatever_the_strata(values: list[tuple[str, float]]) -> None:
    found = stratified(values)
    assert found.mean == fmean(value for _, value in values)
    assert found.se >= 0
    counts = {name: sum(name == other for other, _ in values) for name in found.by_stratum}
    assert sum(counts.values()) == len(values)
    again = math.fsum(counts[name] * mean for name, mean in found.by_stratum.items()) / len(values)
    assert again == pytest.approx(found.mean, abs=1e-6)


@given(VALUES, st.randoms(use_true_random=False))
def test_the_order_of_the_values_does_not_matter(values: list[tuple[str, float]], luck: object) -> None:
    shuffled = list(values)
    luck.shuffle(shuffled)  # type: ignore[attr-defined]
    assert stratified(shuffled) == stratified(values)
