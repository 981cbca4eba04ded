"""One attempt at a task, whoever made it: what reports count, compare and draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["validate", "submit", "autosubmit"]

UNKNOWN = "unknown"
"""The method of an episode whose metadata name no agent."""
_LONGEST_NAME = 80
_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True)
class Point:
    """One valid score of an attempt.

    Attributes:
        seconds: since the attempt began.
        kind: what asked for it: ``validate`` is on the validation split, the others are on the test split.
        value: the primary metric.
        se: its standard error, if the grader knows one.
    """

    seconds: float
    kind: Kind
    value: float
    se: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a model was asked and what it cost. ``None`` is "not known", which is not zero.

    Attributes:
        tokens_in: tokens read, cached ones included.
        tokens_out: tokens written.
        cost: US dollars.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of one method at one task.

    Attributes:
        id: the episode's name.
        folder: where the episode is; empty for published figures.
        task: which task.
        preset: its size.
        method: which agent, as the sweep called it.
        seed: of the session.
        sweep: which sweep it belongs to, or empty.
        number: which attempt of the sweep it is, or empty.
        purpose: what the session was made for, if not for an attempt.
        metric: the primary metric; empty if nothing was ever graded.
        higher_is_better: its direction.
        points: valid scores, oldest first.
        best: the best of all scores (the paper's "best attempt").
        submitted: the score of what was submitted, on the test split; for published runs the last score, as the
            paper has it (its "best submission").
        se: the standard error of ``submitted``.
        baseline: what the given baseline solution reaches.
        outcome: how it ended; ``live`` while it has not.
        code: why the last submission had no score, in a word.
        reason: how it ended, in a sentence.
        started: Unix time, seconds.
        seconds: wall seconds of the session.
        cpu_s: CPU seconds of its commands.
        calls: tool calls.
        usage: tokens and cost.
        damage: what could not be read, if anything; the rest is what could.
    """

    id: str
    folder: str = ""
    task: str = ""
    preset: str = ""
    method: str = UNKNOWN
    seed: int = 0
    sweep: str = ""
    number: str = ""
    purpose: str = ""
    metric: str = ""
    higher_is_better: bool = True
    points: tuple[Point, ...] = ()
    best: float | None = None
    submitted: float | None = None
    se: float | None = None
    baseline: float | None = None
    outcome: str = "live"
    code: str = ""
    reason: str = ""
    started: float = 0.0
    seconds: float = 0.0
    cpu_s: float | None = None
    calls: int = 0
    usage: Usage = field(default_factory=Usage)
    damage: str = ""

    @property
    def best_validation(self) -> float | None:
        """The best score on the validation split."""
        return best_of((p.value for p in self.points if p.kind == "validate"), self.higher_is_better)

    @property
    def gap(self) -> float | None:
        """How much better the best validation was than the submission: positive if validation promised too much."""
        if self.submitted is None or (validation := self.best_validation) is None:
            return None
        gap = validation - self.submitted
        return gap if self.higher_is_better else -gap

    @property
    def cause(self) -> str:
        """Why there is no score, in a word or two; empty if there is one."""
        if self.submitted is not None:
            return ""
        return f"{self.outcome} ({self.code})" if self.code else self.outcome


def best_of(values: Iterable[float | None], higher_is_better: bool) -> float | None:
    """Return the best of some scores; missing ones, NaN and infinities never win."""
    usable = [value for value in values if value is not None and math.isfinite(value)]
    return (max if higher_is_better else min)(usable, default=None)


def to_record(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as plain JSON values."""
    record = {name: getattr(attempt, name) for name in Attempt.__slots__}
    record["points"] = [[p.seconds, p.kind, p.value, p.se] for p in attempt.points]
    record["usage"] = {name: getattr(attempt.usage, name) for name in Usage.__slots__}
    return record


def from_record(record: Mapping[str, Any]) -> Attempt:
    """Return the attempt of :func:`to_record`.

    Raises:
        TypeError: it is not the record of an attempt of this version.
    """
    fields = dict(record)
    fields["points"] = tuple(Point(*point) for point in fields["points"])
    fields["usage"] = Usage(**fields["usage"])
    return Attempt(**fields)


def plain_name(value: Any, limit: int = _LONGEST_NAME) -> str:
    """Return what a stranger wrote as one short printable line: names go to terminals, pages and pictures."""
    if value is None or isinstance(value, dict | list):
        return ""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)[: 4 * limit]).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain_reason(value: Any) -> str:
    """Return a sentence of a journal as one printable line."""
    return plain_name(value, _LONGEST_REASON)


def finite(value: Any) -> float | None:
    """Return a finite number, or ``None`` for whatever else a journal may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: Any) -> int | None:
    """Return a whole number of a size that a database holds, or ``None``."""
    number = finite(value)
    return int(number) if number is not None and abs(number) < 2**63 else None
