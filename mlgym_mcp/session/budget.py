"""What a session may spend, and what it has spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_LOW = 0.1


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one session; ``None`` is no limit.

    Attributes:
        wall_s: seconds from the moment the sandbox is ready.
        calls: tool calls that count (waiting for a job and asking for the task or the status do not).
        validations: scored ``validate`` calls.
        cpu_s: CPU seconds of everything run in the sandbox.
    """

    wall_s: float | None = None
    calls: int | None = None
    validations: int | None = None
    cpu_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("wall_s", "calls", "validations", "cpu_s"):
            value = getattr(self, name)
            if value is not None and (value < 0 or (value == 0 and name != "validations")):
                raise ValueError(f"budget {name} must be positive, got {value!r}")

    def override(
        self,
        *,
        wall_s: float | None = None,
        calls: int | None = None,
        validations: int | None = None,
        cpu_s: float | None = None,
    ) -> Budget:
        """Return this budget with the given limits in place of its own."""
        return Budget(
            wall_s=self.wall_s if wall_s is None else wall_s,
            calls=self.calls if calls is None else calls,
            validations=self.validations if validations is None else validations,
            cpu_s=self.cpu_s if cpu_s is None else cpu_s,
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent so far, in the units of ``Budget``."""

    wall_s: float = 0.0
    calls: int = 0
    validations: int = 0
    cpu_s: float = 0.0


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
        self._clock = clock
        self._started: float | None = None
        self._stopped: float | None = None

    def start(self) -> None:
        """Start the wall clock; again is no change."""
        if self._started is None:
            self._started = self._clock()

    def stop(self) -> None:
        """Stop the wall clock for good."""
        if self._stopped is None:
            self._stopped = self._clock()

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
        return float("inf") if self.budget.wall_s is None else max(0.0, self.budget.wall_s - self.wall_s)

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

    def warning(self) -> str | None:
        """Return one line naming every limit of which less than a tenth is left, or ``None``."""
        budget = self.budget
        low = []
        if budget.wall_s is not None and (left := budget.wall_s - self.wall_s) < _LOW * budget.wall_s:
            low.append(f"{_seconds(max(0.0, left))} of wall time")
        if budget.calls is not None and (calls := budget.calls - self.calls) <= max(1, _LOW * budget.calls):
            low.append(f"{calls} tool call{'' if calls == 1 else 's'}")
        if budget.cpu_s is not None and (cpu := budget.cpu_s - self.cpu_s) < _LOW * budget.cpu_s:
            low.append(f"{_seconds(max(0.0, cpu))} of CPU time")
        return f"Budget is low: {', '.join(low)} left. Submit before it is spent." if low else None


def _seconds(value: float) -> str:
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"
