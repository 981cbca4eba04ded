"""Performance profiles and AUP: the paper's table, and what must hold of any."""

from __future__ import annotations

import csv
import dataclasses
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlgym_mcp.records.profiles import BASELINE, VARIANTS, TaskScores, performance_profiles, task_scores
from mlgym_mcp.records.published import (
    AUP_CAVEATS,
    KNOWN_WRONG,
    LEFT_OUT,
    aup_as_printed,
    baselines,
    published_attempts,
)
from tests.records.written import attempt


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_published_table_is_reproduced_to_three_decimals(variant: str) -> None:
    printed = aup_as_printed()[variant]
    profiles = performance_profiles(task_scores(published_attempts()))
    assert len(printed) == 13
    assert {method: round(value, 3) for method, value in profiles.aup[variant].items()} == printed
    assert profiles.grid[-1] == 1.5


def test_the_published_runs_are_all_there() -> None:
    attempts = published_attempts()
    assert len(baselines()) == 13
    assert len(attempts) == 13 * 12 * 4
    assert not {a.method for a in attempts} & set(LEFT_OUT)
    rows = csv.DictReader((resources.files("mlgym_mcp.records.published") / "attempts.csv").read_text().splitlines())
    assert all((row["n_scores"] == "0") == (row["best_attempt"] == "") for row in rows)
    assert KNOWN_WRONG
    assert AUP_CAVEATS


def test_without_the_two_invalid_cells_the_range_and_the_order_change() -> None:
    """As the project worked out by hand: the metric depends on single wild cells."""
    honest = []
    for a in published_attempts():
        if a.task == "image_captioning" and a.best is not None and a.best > 0.4:
            a = dataclasses.replace(a, best=None, submitted=None)
        if a.task == "blotto" and a.best is not None and a.best > 0.5:
            a = dataclasses.replace(a, best=a.submitted)
        honest.append(a)
    profiles = performance_profiles(task_scores(honest))
    assert profiles.grid[-1] == 1.2
    assert max(profiles.aup["best"], key=lambda m: profiles.aup["best"][m]) == "gpt-o1"
    assert profiles.aup["best"]["gpt-o1"] == pytest.approx(1.163, abs=6e-4)


scores = st.none() | st.floats(-10, 1000) | st.sampled_from([0.0, float("nan"), float("inf")])
tables = st.lists(
    st.builds(
        TaskScores,
        task=st.uuids().map(str),
        higher_is_better=st.booleans(),
        baseline=st.none() | st.floats(-5, 100),
        scores=st.fixed_dictionaries(
            {v: st.dictionaries(st.sampled_from("abcd"), scores, max_size=4) for v in VARIANTS},
        ),
    ),
    max_size=5,
)


@given(tables)
def test_profiles_rise_to_one_and_areas_stay_within_the_range(rows: list[TaskScores]) -> None:
    profiles = performance_profiles(rows)
    for variant in VARIANTS:
        for method, curve in profiles.curves[variant].items():
            assert list(curve) == sorted(curve)
            assert curve[-1] == 1.0  # the range reaches beyond what failing costs
            assert 0 <= profiles.aup[variant][method] <= profiles.highest + 1e-9
        if profiles.tasks:
            assert BASELINE in profiles.aup[variant]


@given(tables, st.randoms(use_true_random=False))
def test_the_order_of_tasks_does_not_matter(rows: list[TaskScores], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = performance_profiles(rows), performance_profiles(shuffled)
    for variant in VARIANTS:
        assert one.aup[variant] == pytest.approx(other.aup[variant])


def test_the_best_everywhere_has_all_of_the_area_and_a_failure_less_than_the_worst() -> None:
    rows = [TaskScores(t, True, 1.0, {v: {"best": 4.0, "worst": 1.0, "failed": None} for v in VARIANTS}) for t in "abc"]
    profiles = performance_profiles(rows)
    aup = profiles.aup["last"]
    assert aup["best"] == pytest.approx(profiles.highest)
    assert aup["best"] > aup["worst"] == aup[BASELINE] > aup["failed"]
    assert profiles.infeasible["last"]["failed"] == ("a", "b", "c")


def test_a_task_that_nobody_solved_is_left_out() -> None:
    nobody = [attempt("a", -1.0, task="bad", baseline=-2.0), attempt("a", 0.7, task="good")]
    assert performance_profiles(task_scores(nobody)).tasks == ("good",)
    empty = performance_profiles(task_scores([attempt("a", None, metric="", baseline=None)]))
    assert (empty.tasks, empty.aup, empty.highest) == ((), {"best": {}, "last": {}}, 0.0)


def test_an_agent_that_is_called_baseline_is_not_the_baseline() -> None:
    profiles = performance_profiles(task_scores([attempt("baseline", 0.9)]))
    assert profiles.aup["last"]["baseline"] > profiles.aup["last"][BASELINE]


def test_of_several_runs_the_best_counts_and_those_without_a_score_are_no_zeros() -> None:
    runs = [attempt("a", 0.6, seed=0, validations=(0.95,)), attempt("a", 0.8, seed=1), attempt("a", None, seed=2)]
    (row,) = task_scores(runs)
    assert row.scores == {"best": {"a": 0.95}, "last": {"a": 0.8}}
    (row,) = task_scores([attempt("a", 3.0, higher=False), attempt("a", 2.0, higher=False)])
    assert row.scores["last"] == {"a": 2.0}
