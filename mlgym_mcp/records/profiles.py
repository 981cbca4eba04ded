"""Performance profiles and AUP (area under the profile), exactly as MLGym-Bench (arXiv 2502.14499) defines them.

For each task every method has a ratio to the best one, 1 or more. A method that has no score, a negative one or
one worse than the baseline is infeasible there and gets 1.05 times the worst feasible ratio. The profile of a
method at tau is the share of tasks with ``log10(ratio) <= tau``; AUP is the area under it.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlgym_mcp.records.attempts import Attempt, best_of

Variant = Literal["best", "last"]
VARIANTS: tuple[Variant, Variant] = ("best", "last")

BASELINE = "the baseline"
"""The method that hands in the given solution as it is. (An agent may well be called "baseline".)"""
STEPS = 500
_PENALTY = 1.05
_LARGEST_RATIO = 1e6
"""The paper has none; scores that touch zero would make the range infinite."""


@dataclass(frozen=True, slots=True)
class TaskScores:
    """What methods reached at one task.

    Attributes:
        task: which.
        higher_is_better: the direction.
        baseline: the baseline's score, if there is one.
        scores: per variant, the score of each method over its runs, ``None`` if it has none.
    """

    task: str
    higher_is_better: bool
    baseline: float | None
    scores: Mapping[Variant, Mapping[str, float | None]]


@dataclass(frozen=True, slots=True)
class Profiles:
    """Performance profiles of a set of methods.

    Attributes:
        tasks: which tasks they are over; tasks that nobody solved feasibly are left out.
        grid: the values of tau.
        curves: per variant and method, the share of tasks at each tau.
        aup: per variant and method, the area; not rounded.
        infeasible: per variant and method, the tasks at which it is infeasible.
    """

    tasks: tuple[str, ...]
    grid: tuple[float, ...]
    curves: Mapping[Variant, Mapping[str, tuple[float, ...]]]
    aup: Mapping[Variant, Mapping[str, float]]
    infeasible: Mapping[Variant, Mapping[str, tuple[str, ...]]]

    @property
    def highest(self) -> float:
        """The AUP of a method that is the best at every task."""
        return self.grid[-1] - self.grid[0] if self.grid else 0.0


def task_scores(attempts: Iterable[Attempt], *, label: Mapping[tuple[str, str], str] | None = None) -> list[TaskScores]:
    """Return what each method reached at each task: over its runs the best of the best, and of the last scores.

    Runs without a score are left out, not counted as zero. ``label`` names tasks by (task, preset); default: the task.
    """
    by_task: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        key = (attempt.task, attempt.preset)
        by_task[attempt.task if label is None else label[key]].append(attempt)
    rows = []
    for task, own in by_task.items():
        known = [a for a in own if a.metric]
        higher = known[0].higher_is_better if known else True
        baselines = [a.baseline for a in known if a.baseline is not None]
        methods = dict.fromkeys(a.method for a in own)
        scores: dict[Variant, dict[str, float | None]] = {
            "best": {m: best_of((a.best for a in own if a.method == m), higher) for m in methods},
            "last": {m: best_of((a.submitted for a in own if a.method == m), higher) for m in methods},
        }
        rows.append(TaskScores(task, higher, baselines[-1] if baselines else None, scores))
    return rows


def performance_profiles(rows: Sequence[TaskScores]) -> Profiles:
    """Return the profiles of all methods that any of the tasks has, the baseline among them.

    Both variants share one grid, as in the paper, so their areas can be compared.
    """
    methods = list(dict.fromkeys(m for row in rows for v in VARIANTS for m in row.scores[v] if m != BASELINE))
    methods.append(BASELINE)
    tables: dict[Variant, dict[str, dict[str, float]]] = {v: {} for v in VARIANTS}
    infeasible: dict[Variant, dict[str, list[str]]] = {v: {m: [] for m in methods} for v in VARIANTS}
    cap = 1.0
    for row in rows:
        ratios = {v: _ratios(row, v, methods) for v in VARIANTS}
        if any(not each[0] for each in ratios.values()):
            continue
        for variant, (feasible, worst) in ratios.items():
            penalty = _PENALTY * worst
            tables[variant][row.task] = {m: feasible.get(m, penalty) for m in methods}
            for m in methods:
                if m not in feasible:
                    infeasible[variant][m].append(row.task)
            cap = max(cap, math.ceil(penalty))
    tasks = tuple(tables["best"])
    if not tasks:
        return Profiles((), (), {v: {} for v in VARIANTS}, {v: {} for v in VARIANTS}, {v: {} for v in VARIANTS})
    end = math.ceil(10 * math.log10(cap)) / 10
    grid = (*(i * (end / (STEPS - 1)) for i in range(STEPS - 1)), end)
    curves = {v: {m: _curve([tables[v][t][m] for t in tasks], grid) for m in methods} for v in VARIANTS}
    aup = {v: {m: _area(curve, grid) for m, curve in curves[v].items()} for v in VARIANTS}
    marks = {v: {m: tuple(names) for m, names in infeasible[v].items()} for v in VARIANTS}
    return Profiles(tasks, grid, curves, aup, marks)


def _ratios(row: TaskScores, variant: Variant, methods: Sequence[str]) -> tuple[dict[str, float], float]:
    """The ratios of the methods that are feasible, and the worst of them."""
    scores = {m: row.scores[variant].get(m) for m in methods if m != BASELINE} | {BASELINE: row.baseline}
    feasible = {m: s for m, s in scores.items() if s is not None and _is_feasible(s, row)}
    best = best_of(feasible.values(), row.higher_is_better)
    if best is None:
        return {}, 1.0
    ratios = {m: _ratio(best, s) if row.higher_is_better else _ratio(s, best) for m, s in feasible.items()}
    return ratios, max(ratios.values())


def _is_feasible(score: float, row: TaskScores) -> bool:
    if not math.isfinite(score) or score < 0:
        return False
    if row.baseline is None:
        return True
    return score >= row.baseline if row.higher_is_better else score <= row.baseline


def _ratio(larger: float, smaller: float) -> float:
    if larger == smaller:
        return 1.0
    return min(larger / smaller, _LARGEST_RATIO) if smaller > 0 else _LARGEST_RATIO


def _curve(ratios: Sequence[float], grid: Sequence[float]) -> tuple[float, ...]:
    logs = sorted(math.log10(ratio) for ratio in ratios)
    return tuple(bisect_right(logs, tau) / len(logs) for tau in grid)


def _area(curve: Sequence[float], grid: Sequence[float]) -> float:
    return math.fsum(y * (b - a) for y, a, b in zip(curve, grid, grid[1:], strict=False))
