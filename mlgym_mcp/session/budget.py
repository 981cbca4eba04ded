"""What a session may spend, and what it has spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

from mlgym_mcp.session.errors import MisuseError

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class _Range:
    """What values a limit may have, and the words for that."""

    low: float
    high: float
    words: str
    whole: bool = False

    def check(self, name: str, value: object) -> float | int:
        """Return the value as the limit keeps it.

        Raises:
            MisuseError: it is no number, not whole where it must be, or out of the range.
        """
        # A comparison with NaN is false, so it fits nowhere.
        if isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high:
            if not self.whole:
                return float(value)
            if value == int(value):
                return int(value)
        raise MisuseError(f"The budget's {name} must be {self.words}, not {_shown(value)}.")


_RANGES: Mapping[str, _Range] = {
    "wall_s": _Range(0.1, 30 * _DAY_S, "0.1 to 2592000 seconds (30 days)"),
    "calls": _Range(1, 10_000_000, "a whole number from 1 to 10000000", whole=True),
    "validations": _Range(0, 1_000_000, "a whole number from 0 to 1000000", whole=True),
    "cpu_s": _Range(0.1, 365 * _DAY_S, "0.1 to 31536000 CPU seconds (a year of one core)"),
    "idle_s": _Range(0.1, 30 * _DAY_S, "0.1 to 2592000 seconds (30 days)"),
    "disk_mb": _Range(16, 1 << 20, "a whole number of MiB from 16 to 1048576 (1 TiB)", whole=True),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one session; ``None`` is no limit.

    Attributes:
        wall_s: seconds from the moment the sandbox is ready.
        calls: tool calls that count (waiting for a job and asking for the task or the status do not).
        validations: scored ``validate`` calls.
        cpu_s: CPU seconds of everything run in the sandbox.
        idle_s: seconds without a tool call in flight, a grading or a running job.
        disk_mb: MiB that the workspace may take: a hard limit of the sandbox's, which here is only watched.

    Raises:
        MisuseError: a value that no session can have; the message says what is allowed.
    """

    wall_s: float | None = None
    calls: int | None = None
    validations: int | None = None
    cpu_s: float | None = None
    idle_s: float | None = None
    disk_mb: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in _RANGES.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, allowed.check(name, value))

    def override(self, **limits: object) -> Budget:
        """Return this budget with the given limits in place of its own; one that is ``None`` is left as it is.

        Raises:
            MisuseError: a limit that does not exist, or a value that it cannot have.
        """
        if unknown := [name for name in limits if name not in _RANGES]:
            known = ", ".join(field.name for field in fields(self))
            raise MisuseError(f"A budget has no limit {_shown(unknown[0])}: its limits are {known}.")
        given = {name: value for name, value in limits.items() if value is not None}
        return replace(self, **given)  # type: ignore[arg-type]  # checked when it is made


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent so far, in the units of ``Budget``."""

    wall_s: float = 0.0
    calls: int = 0
    validations: int = 0
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Level:
    """How much of one limit is left, and below which amount that is little."""

    name: str
    left: float
    low: float
    words: str

    @property
    def stage(self) -> int:
        """0: enough is left; 1: little; 2: half of that or less."""
        if self.left > self.low:
            return 0
        return 1 if self.left > self.low / 2 else 2


class Meter:
    """Counts spending against a budget.

    The wall clock starts with ``start()`` (so that preparing data or an image is not the agent's loss) and
    is the server's, never the sandbox's.
    """

    def __init__(self, budget: Budget, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget = budget
        self.calls = 0
        self.validations = 0
        self.cpu_s = 0.0
        self.disk_mb = 0.0
        self._clock = clock
        self._started: float | None = None
        self._stopped: float | None = None
        self._active = clock()
        self._said: dict[str, int] = {}

    def start(self, spent_s: float = 0.0) -> None:
        """Start the wall clock, with so many seconds spent already; again is no change."""
        if self._started is None:
            now = self._clock() if self._stopped is None else self._stopped
            self._started = now - spent_s
            self.touch()

    def stop(self) -> None:
        """Stop the wall clock for good."""
        if self._stopped is None:
            self._stopped = self._clock()

    def touch(self, ago_s: float = 0.0) -> None:
        """Note that the session was in use ``ago_s`` seconds ago."""
        self._active = max(self._active, self._clock() - max(0.0, ago_s))

    @property
    def wall_s(self) -> float:
        """Wall seconds spent."""
        if self._started is None:
            return 0.0
        end = self._clock() if self._stopped is None else self._stopped
        return end - self._started

    @property
    def spent(self) -> Spent:
        """What was spent so far."""
        return Spent(round(self.wall_s, 3), self.calls, self.validations, round(self.cpu_s, 3))

    @property
    def wall_left_s(self) -> float:
        """Wall seconds left; infinite without a limit."""
        return math.inf if self.budget.wall_s is None else max(0.0, self.budget.wall_s - self.wall_s)

    @property
    def idle_left_s(self) -> float:
        """Seconds that the session may still stay unused; infinite without a limit or before the start."""
        if self.budget.idle_s is None or self._started is None:
            return math.inf
        return max(0.0, self.budget.idle_s - (self._clock() - self._active))

    def exhausted(self) -> str | None:
        """Return which limit that ends the session is spent (wall time or CPU seconds), as a sentence."""
        budget = self.budget
        if budget.wall_s is not None and self.wall_s >= budget.wall_s:
            return f"the wall time of {_seconds(budget.wall_s)} is spent"
        if budget.cpu_s is not None and self.cpu_s >= budget.cpu_s:
            return f"the {_seconds(budget.cpu_s)} of CPU time are spent"
        return None

    def calls_exhausted(self) -> bool:
        """Whether no counted tool call is left."""
        return self.budget.calls is not None and self.calls >= self.budget.calls

    def validations_exhausted(self) -> bool:
        """Whether no validation is left."""
        return self.budget.validations is not None and self.validations >= self.budget.validations

    def idle_text(self) -> str:
        """Say, as a sentence, for how long nobody used the session when its idle time is over."""
        assert self.budget.idle_s is not None
        return f"no tool was called and no job ran for {_seconds(self.budget.idle_s)}"

    def warning(self) -> str | None:
        """Return one line naming every limit of which little is left, or ``None``."""
        return _line([level for level in self._levels() if level.stage])

    def new_warning(self) -> str | None:
        """Return one line naming the limits of which little is left since the last call, or ``None``.

        Each limit is named once when little is left of it, and once more at the half of that.
        """
        fresh = []
        for level in self._levels():
            if level.stage > self._said.get(level.name, 0):
                fresh.append(level)
            self._said[level.name] = level.stage
        return _line(fresh)

    def _levels(self) -> list[_Level]:
        budget, levels = self.budget, []

        def add(name: str, limit: float | None, used: float, low: float, words: Callable[[float], str]) -> None:
            if limit is not None and limit > 0:
                left = max(0.0, limit - used)
                # Little of a small budget is at most half of it: a session never begins with a warning.
                levels.append(_Level(name, left, min(low, limit / 2), words(left)))

        wall, calls, validations = budget.wall_s or 0.0, budget.calls or 0, budget.validations or 0
        cpu, disk = budget.cpu_s or 0.0, budget.disk_mb or 0.0
        add("wall_s", budget.wall_s, self.wall_s, max(0.2 * wall, 120), lambda left: f"{_seconds(left)} of wall time")
        add("calls", budget.calls, self.calls, max(0.2 * calls, 5), lambda left: _count(left, "tool call"))
        add(
            "validations",
            budget.validations,
            self.validations,
            max(0.2 * validations, 1),
            lambda left: _count(left, "validation"),
        )
        add("cpu_s", budget.cpu_s, self.cpu_s, 0.1 * cpu, lambda left: f"{_seconds(left)} of CPU time")
        add("disk_mb", budget.disk_mb, self.disk_mb, 0.2 * disk, lambda left: f"{left:.0f} of {disk:.0f} MiB")
        return levels


def _line(low: list[_Level]) -> str | None:
    spending = [level.words for level in low if level.name != "disk_mb"]
    lines = [f"Budget is low: {', '.join(spending)} left. Submit before it is spent."] if spending else []
    lines += [
        f"The disk is nearly full: {level.words} left. Delete what you do not need."
        for level in low
        if level.name == "disk_mb"
    ]
    return " ".join(lines) or None


def _seconds(value: float) -> str:
    if value < 120:
        return f"{value:.0f} s" if value >= 1 or value == 0 else f"{value:.1f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def _count(value: float, noun: str) -> str:
    return f"{value:.0f} {noun}{'' if value == 1 else 's'}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an integer of thousands of digits
        text = f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= 60 else f"{text[:57]}..."
