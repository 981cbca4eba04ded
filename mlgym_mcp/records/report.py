"""A report over attempts: what counts, leaderboards, standings over all tasks, profiles, failures."""

from __future__ import annotations

import importlib.util
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.records.aggregate import (
    Interval,
    failures,
    interquartile_interval,
    interquartile_mean,
    median,
    total,
)
from mlgym_mcp.records.attempts import Attempt
from mlgym_mcp.records.leaderboard import Board, leaderboards
from mlgym_mcp.records.profiles import Profiles, performance_profiles, task_scores
from mlgym_mcp.records.published import AUP_CAVEATS, KNOWN_WRONG, aup_as_printed, published_attempts

NOBODYS = ("tasks check", "replay")
"""The purposes of sessions that are nobody's attempts: the server proves its tasks, an episode is played again."""
_ENDLESS = "live"
_INFRASTRUCTURE = "infrastructure_error"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Episodes that do not count, each with why.

    Attributes:
        infrastructure: ended by an infrastructure error: says nothing of the agent.
        unfinished: not ended, or its end is lost.
        repeated: an earlier try of the same attempt of a sweep; only the last one counts.
        proofs: made by ``tasks check`` or ``replay``.
        unreadable: what they are could not be read.
    """

    infrastructure: tuple[Attempt, ...] = ()
    unfinished: tuple[Attempt, ...] = ()
    repeated: tuple[Attempt, ...] = ()
    proofs: tuple[Attempt, ...] = ()
    unreadable: tuple[Attempt, ...] = ()

    def counts(self) -> dict[str, int]:
        """Return how many there are of each kind that there is any of."""
        return {name: len(own) for name in self.__slots__ if (own := getattr(self, name))}


@dataclass(frozen=True, slots=True)
class Standing:
    """One method over all tasks.

    Attributes:
        tasks: how many tasks it played.
        interquartile: the interquartile mean of its normalised scores; failures are zeros in it.
        left_out: attempts that an infrastructure error ended.
    """

    method: str
    tasks: int
    attempts: int
    scored: int
    interquartile: Interval | None
    failures: dict[str, int]
    left_out: int
    seconds: float | None
    tokens: float | None
    cost: float | None


@dataclass(frozen=True, slots=True)
class Published:
    """The paper's methods, from its published runs. Their tasks, budgets and graders are not the ones here."""

    boards: tuple[Board, ...]
    standings: tuple[Standing, ...]
    profiles: Profiles
    differences: int
    """Values of the printed AUP table that this computation does not reproduce to three decimals."""
    known_wrong: tuple[str, ...] = KNOWN_WRONG


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that tables, files, plots and pages show."""

    made: float
    sources: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    left_out: LeftOut
    boards: tuple[Board, ...]
    standings: tuple[Standing, ...]
    profiles: Profiles
    problems: tuple[str, ...]
    published: Published | None = None
    caveats: tuple[str, ...] = field(default=AUP_CAVEATS)


def sort_out(attempts: Iterable[Attempt]) -> tuple[list[Attempt], LeftOut]:
    """Return the attempts that count, and those that do not."""
    counted: list[Attempt] = []
    others: dict[str, list[Attempt]] = {name: [] for name in LeftOut.__slots__}
    latest: dict[tuple[object, ...], Attempt] = {}
    for attempt in attempts:
        if not attempt.task:
            others["unreadable"].append(attempt)
        elif attempt.purpose in NOBODYS:
            others["proofs"].append(attempt)
        elif attempt.outcome == _INFRASTRUCTURE:
            others["infrastructure"].append(attempt)
        elif attempt.outcome == _ENDLESS and attempt.submitted is None:
            others["unfinished"].append(attempt)
        else:
            counted.append(attempt)
            if attempt.sweep and attempt.number:
                known = latest.setdefault(_key(attempt), attempt)
                if attempt.started >= known.started:
                    latest[_key(attempt)] = attempt
    for attempt in counted:
        if latest.get(_key(attempt), attempt) is not attempt:
            others["repeated"].append(attempt)
    repeated = {id(attempt) for attempt in others["repeated"]}
    kept = [attempt for attempt in counted if id(attempt) not in repeated]
    return kept, LeftOut(**{name: tuple(own) for name, own in others.items()})


def _key(attempt: Attempt) -> tuple[object, ...]:
    return (attempt.sweep, attempt.number, attempt.task, attempt.preset, attempt.method, attempt.seed)


def make_report(
    attempts: Iterable[Attempt],
    catalog: Catalog | None,
    *,
    sources: Sequence[str] = (),
    problems: Sequence[str] = (),
    published: bool = False,
) -> Report:
    """Make a report of all attempts, those that do not count among them."""
    counted, left_out = sort_out(attempts)
    boards = leaderboards(counted, catalog)
    told = [*problems, *_damage((*counted, *left_out.unreadable, *left_out.unfinished))]
    if importlib.util.find_spec("numpy") is None:
        told.append("Intervals are missing: numpy is not installed (pip install 'mlgym-mcp[report]').")
    return Report(
        made=time.time(),
        sources=tuple(sources),
        attempts=tuple(counted),
        left_out=left_out,
        boards=boards,
        standings=_standings(boards, left_out),
        profiles=_profiles(boards),
        problems=tuple(told),
        published=_published() if published else None,
    )


def _damage(attempts: Iterable[Attempt]) -> list[str]:
    return [f"{a.folder or a.id}: {a.damage}" for a in attempts if a.damage]


def _profiles(boards: Sequence[Board]) -> Profiles:
    labels = {(board.task, board.preset): board.label for board in boards}
    return performance_profiles(task_scores((a for board in boards for a in board.attempts), label=labels))


def _standings(boards: Sequence[Board], left_out: LeftOut | None = None) -> tuple[Standing, ...]:
    by_method: dict[str, list[Attempt]] = defaultdict(list)
    strata: dict[str, dict[str, tuple[float, ...]]] = defaultdict(dict)
    for board in boards:
        for attempt in board.attempts:
            by_method[attempt.method].append(attempt)
        for row in board.rows:
            strata[row.method][board.label] = row.normalised
    lost = [a.method for a in left_out.infrastructure] if left_out is not None else []
    by_method |= {method: [] for method in lost if method not in by_method}  # shown also if none of its attempts counts
    standings = [
        Standing(
            method=method,
            tasks=len({(a.task, a.preset) for a in own}),
            attempts=len(own),
            scored=sum(a.submitted is not None for a in own),
            interquartile=_interquartile(strata[method]),
            failures=failures(own),
            left_out=lost.count(method),
            seconds=median(a.seconds or None for a in own),
            tokens=total(t for a in own for t in (a.usage.tokens_in, a.usage.tokens_out)),
            cost=total(a.usage.cost for a in own),
        )
        for method, own in by_method.items()
    ]
    standings.sort(key=lambda s: (-s.interquartile.value if s.interquartile else 1.0, s.method))
    return tuple(standings)


def _interquartile(strata: dict[str, tuple[float, ...]]) -> Interval | None:
    try:
        return interquartile_interval(strata)
    except ImportError:
        centre = interquartile_mean([score for own in strata.values() for score in own])
        return None if centre is None else Interval(centre, None, None)


def _published() -> Published:
    attempts = published_attempts()
    boards = leaderboards(attempts, None)
    profiles = _profiles(boards)
    printed = aup_as_printed()
    differences = sum(
        round(profiles.aup[variant][method], 3) != value
        for variant in profiles.aup
        for method, value in printed[variant].items()
    )
    return Published(boards, _standings(boards), profiles, differences)
