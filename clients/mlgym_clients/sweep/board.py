"""Where a sweep stands: what is played, what is done, how well; for people who look on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mlgym_clients.sweep.attempt import Attempt, Lost, News, Opened

_RECENT = 5


@dataclass
class Playing:
    """A try that is being played."""

    attempt: Attempt
    number: int
    since: float
    calls: int = 0
    tool: str = ""
    episode: str = ""


@dataclass
class Row:
    """The attempts of one agent at one task.

    Attributes:
        total: how many there are.
        done: those with a result.
        scores: of those with one.
        higher: whether more is better.
    """

    total: int = 0
    done: int = 0
    scores: list[float] = field(default_factory=list)
    higher: bool = True

    @property
    def best(self) -> float | None:
        """The best score."""
        return (max if self.higher else min)(self.scores, default=None)

    @property
    def mean(self) -> float | None:
        """The mean score."""
        return sum(self.scores) / len(self.scores) if self.scores else None


class Watcher(Protocol):
    """Looks on; must neither raise nor block."""

    def finished(self, board: Board, line: Mapping[str, Any]) -> None:
        """An attempt has its result."""
        ...

    def lost(self, board: Board, attempt: Attempt, number: int, lost: Lost, again: bool) -> None:
        """A try gave none; ``again``: there will be another."""
        ...

    def said(self, text: str) -> None:
        """Something that concerns the whole sweep."""
        ...


class Board:
    """The state of a sweep.

    Args:
        attempts: all of them.
        directions: whether more is better, by task.
    """

    def __init__(self, attempts: Iterable[Attempt], directions: Mapping[str, bool]) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.playing: dict[str, Playing] = {}
        self.recent: list[str] = []
        self.total = self.done = self.losses = self.given_up = self.calls = 0
        self.cost = 0.0
        self.cost_known = True
        self.draining = False
        self.began = time.monotonic()
        for attempt in attempts:
            row = self.rows.setdefault((attempt.task, attempt.agent), Row(higher=directions.get(attempt.task, True)))
            row.total += 1
            self.total += 1

    def begun(self, attempt: Attempt, number: int) -> None:
        """Note that a try begins."""
        self.playing[attempt.id] = Playing(attempt, number, time.monotonic())

    def news(self, attempt: Attempt, news: News) -> None:
        """Note what a try has come to."""
        if (playing := self.playing.get(attempt.id)) is None:
            return
        if isinstance(news, Opened):
            playing.episode = news.episode
            return
        self.calls += 1
        playing.calls, playing.tool = news.calls, news.tool

    def over(self, attempt: Attempt) -> None:
        """Note that a try is not played any more."""
        self.playing.pop(attempt.id, None)

    def count(self, line: Mapping[str, Any]) -> None:
        """Count a result: one of now, or one that was there."""
        row = self.rows.get((str(line.get("task")), str(line.get("agent"))))
        if row is None:
            return
        self.done += 1
        row.done += 1
        if isinstance(score := line.get("score"), int | float):
            row.scores.append(float(score))
        cost = line.get("cost_usd")
        self.cost_known &= cost is not None
        self.cost += cost if isinstance(cost, int | float) else 0.0

    def tell(self, text: str) -> None:
        """Remember a sentence for those who look on."""
        self.recent = [*self.recent, text][-_RECENT:]
