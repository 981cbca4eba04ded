"""Budgets: what is spent is counted by the server's clock, and said in words, once."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mlgym_mcp.session.budget import Budget, Meter
from mlgym_mcp.session.errors import MisuseError


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


def test_the_wall_clock_goes_on_from_what_an_earlier_server_has_counted() -> None:
    clock = Clock()
    meter = Meter(Budget(wall_s=60), clock=clock)
    meter.start(50.0)
    clock.now += 4
    assert meter.wall_left_s == 6
    ended = Meter(Budget(wall_s=60), clock=clock)
    ended.stop()
    clock.now += 10
    ended.start(50.0)
    assert ended.wall_s == 50


def test_cpu_seconds_end_a_session_and_calls_do_not() -> None:
    meter = Meter(Budget(cpu_s=10, calls=2))
    meter.calls = 2
    assert meter.calls_exhausted()
    assert meter.exhausted() is None
    meter.cpu_s = 10.5
    assert meter.exhausted() == "the 10 s of CPU time are spent"


def test_idle_time_counts_from_the_last_use_and_not_before_the_start() -> None:
    clock = Clock()
    meter = Meter(Budget(idle_s=30), clock=clock)
    clock.now += 1000
    assert meter.idle_left_s == math.inf
    meter.start()
    clock.now += 20
    assert meter.idle_left_s == 10
    meter.touch(ago_s=5)
    assert meter.idle_left_s == 25
    meter.touch(ago_s=500)
    assert meter.idle_left_s == 25
    meter.touch(ago_s=-500)
    assert meter.idle_left_s == 30
    clock.now += 31
    assert meter.idle_left_s == 0
    assert meter.idle_text() == "no tool was called and no job ran for 30 s"
    assert Meter(Budget(), clock=clock).idle_left_s == math.inf


@pytest.mark.parametrize(
    ("budget", "spend", "first", "second"),
    [
        (Budget(calls=50), {"calls": 40}, "10 tool calls left", "5 tool calls left"),
        (Budget(calls=20), {"calls": 15}, "5 tool calls left", "2 tool calls left"),
        (Budget(calls=4), {"calls": 2}, "2 tool calls left", "1 tool call left"),
        (Budget(validations=50), {"validations": 40}, "10 validations left", "5 validations left"),
        (Budget(cpu_s=1000), {"cpu_s": 900}, "100 s of CPU time left", "50 s of CPU time left"),
        (Budget(disk_mb=1000), {"disk_mb": 800}, "200 of 1000 MiB left", "100 of 1000 MiB left"),
    ],
)
def test_each_limit_is_named_once_when_little_is_left_and_once_at_the_half_of_that(
    budget: Budget, spend: dict[str, int], first: str, second: str
) -> None:
    meter = Meter(budget)
    ((name, at),) = spend.items()
    limit = getattr(budget, name)
    setattr(meter, name, at - 1)
    assert meter.new_warning() is None
    assert meter.warning() is None
    setattr(meter, name, at)
    assert first in (meter.new_warning() or "")
    assert meter.new_warning() is None
    assert first in (meter.warning() or "")
    setattr(meter, name, limit - (limit - at) // 2)
    assert second in (meter.new_warning() or "")
    setattr(meter, name, limit)
    assert meter.new_warning() is None
    assert "0" in (meter.warning() or "")


def test_little_wall_time_is_a_fifth_or_two_minutes() -> None:
    clock = Clock()
    for wall_s, low in ((3600, 720), (300, 120), (100, 50)):
        meter = Meter(Budget(wall_s=wall_s), clock=clock)
        meter.start()
        clock.now += wall_s - low - 1
        assert meter.new_warning() is None
        clock.now += 1
        assert "of wall time left" in (meter.new_warning() or "")
        clock.now += low / 2 - 1
        assert meter.new_warning() is None
        clock.now += 1
        assert "of wall time left" in (meter.new_warning() or "")


def test_a_warning_names_only_what_is_new_and_the_state_names_all() -> None:
    meter = Meter(Budget(calls=50, wall_s=3600, cpu_s=100))
    meter.calls = 45
    assert meter.new_warning() == "Budget is low: 5 tool calls left. Submit before it is spent."
    meter.cpu_s = 95
    assert meter.new_warning() == "Budget is low: 5 s of CPU time left. Submit before it is spent."
    assert meter.warning() == "Budget is low: 5 tool calls, 5 s of CPU time left. Submit before it is spent."


def test_a_disk_that_was_emptied_and_filled_again_is_named_again() -> None:
    meter = Meter(Budget(disk_mb=100))
    meter.disk_mb = 85
    said = "The disk is nearly full: 15 of 100 MiB left. Delete what you do not need."
    assert meter.new_warning() == said
    assert meter.new_warning() is None
    meter.disk_mb = 10
    assert meter.new_warning() is None
    meter.disk_mb = 85
    assert meter.new_warning() == said
    assert meter.exhausted() is None


def test_a_budget_can_be_overridden_in_part() -> None:
    assert Budget(calls=50, wall_s=10).override(calls=3, wall_s=None) == Budget(calls=3, wall_s=10)
    whole = Budget(calls=30.0)  # type: ignore[arg-type]  # as JSON numbers come
    assert isinstance(whole.calls, int)
    assert Meter(Budget(validations=0)).validations_exhausted()


@pytest.mark.parametrize("name", ["wall_s", "calls", "validations", "cpu_s", "idle_s", "disk_mb"])
@pytest.mark.parametrize(
    "value",
    [-1, -0.5, math.nan, math.inf, -math.inf, 3.2e9, 10**400, 10**5000, True, "30", [1], {"a": 1}, "x" * 1000],
    ids=lambda value: type(value).__name__,
)
def test_a_limit_that_makes_no_sense_is_refused_with_one_sentence_that_says_what_is_allowed(
    name: str, value: object
) -> None:
    with pytest.raises(MisuseError, match=rf"^The budget's {name} must be .*[0-9].*, not .*\.$") as refused:
        Budget().override(**{name: value})
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("name", ["wall_s", "calls", "cpu_s", "idle_s", "disk_mb"])
def test_zero_is_refused(name: str) -> None:
    with pytest.raises(MisuseError, match=f"The budget's {name} must be"):
        Budget().override(**{name: 0})


@pytest.mark.parametrize("name", ["calls", "validations", "disk_mb"])
def test_half_a_call_is_refused(name: str) -> None:
    with pytest.raises(MisuseError, match="a whole number"):
        Budget().override(**{name: 20.5})


def test_a_limit_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(MisuseError, match="has no limit 'walls': its limits are wall_s, calls, validations, cpu_s, id"):
        Budget().override(walls=3)


class MeterMachine(RuleBasedStateMachine):
    """Whatever is spent in whatever order: nothing is ever unspent, and no limit is named more than twice."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.meter = Meter(Budget(wall_s=1000, calls=30, validations=5, cpu_s=500, idle_s=60), clock=self.clock)
        self.named = dict.fromkeys(("wall time", "tool call", "validation", "CPU time"), 0)
        self.wall = 0.0
        self.ended: str | None = None

    @rule()
    def start(self) -> None:
        self.meter.start()

    @rule(seconds=st.floats(0, 400))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def call(self) -> None:
        if not self.meter.calls_exhausted():
            self.meter.calls += 1
        self.meter.touch()

    @rule()
    def validate(self) -> None:
        if not self.meter.validations_exhausted():
            self.meter.validations += 1

    @rule(seconds=st.floats(0, 200))
    def compute(self, seconds: float) -> None:
        self.meter.cpu_s += seconds

    @rule()
    def stop(self) -> None:
        self.meter.stop()

    @rule()
    def say(self) -> None:
        line = self.meter.new_warning() or ""
        for word in self.named:
            self.named[word] += word in line
        assert self.meter.new_warning() is None

    @invariant()
    def it_adds_up(self) -> None:
        meter = self.meter
        assert meter.calls <= 30
        assert meter.validations <= 5
        assert meter.wall_s >= self.wall
        assert 0 <= meter.wall_left_s <= 1000
        assert meter.idle_left_s == math.inf or 0 <= meter.idle_left_s <= 60
        self.wall = meter.wall_s
        if self.ended is not None:
            assert meter.exhausted() is not None
        self.ended = meter.exhausted()
        assert max(self.named.values()) <= 2


TestMeter = MeterMachine.TestCase
