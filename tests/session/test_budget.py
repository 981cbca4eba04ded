"""Budgets: what is spent is counted by the server's clock, and said in words."""

from __future__ import annotations

import pytest

from mlgym_mcp.session.budget import Budget, Meter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_wall_clock_starts_with_start_and_ends_with_stop() -> None:
    clock = Clock()
    meter = Meter(Budget(wall_s=60), clock=clock)
    clock.now += 1000
    assert meter.wall_s == 0
    assert meter.exhausted() is None
    meter.start()
    clock.now += 59
    assert meter.exhausted() is None
    assert meter.wall_left_s == 1
    clock.now += 1
    assert meter.exhausted() == "the wall time of 60 s is spent"
    meter.stop()
    clock.now += 500
    assert meter.wall_s == 60


def test_cpu_seconds_end_a_session_and_calls_do_not() -> None:
    meter = Meter(Budget(cpu_s=10, calls=2))
    meter.calls = 2
    assert meter.calls_exhausted()
    assert meter.exhausted() is None
    meter.cpu_s = 10.5
    assert meter.exhausted() == "the 10 s of CPU time are spent"


def test_a_warning_names_what_is_nearly_spent_and_nothing_else() -> None:
    meter = Meter(Budget(calls=50, wall_s=3600, cpu_s=100))
    assert meter.warning() is None
    meter.calls = 45
    assert meter.warning() == "Budget is low: 5 tool calls left. Submit before it is spent."
    meter.calls = 49
    meter.cpu_s = 95
    assert meter.warning() == "Budget is low: 1 tool call, 5 s of CPU time left. Submit before it is spent."


def test_a_budget_can_be_overridden_in_part_and_must_be_positive() -> None:
    assert Budget(calls=50, wall_s=10).override(calls=3) == Budget(calls=3, wall_s=10)
    with pytest.raises(ValueError, match="budget calls must be positive"):
        Budget(calls=0)
