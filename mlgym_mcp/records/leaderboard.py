"""One task's leaderboard: what each method reached, beside the baseline, the reference and the paper's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlgym_mcp.catalog import Catalog, TaskError
from mlgym_mcp.records.aggregate import Mean, failures, mean_over_seeds, median, normalised, total
from mlgym_mcp.records.attempts import Attempt, best_of


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """What a task's file records of one preset.

    Attributes:
        reference: what our reference solution reaches.
        paper_baseline: the paper's baseline.
        paper_best: the best of the paper's models.
        comparable: whether the paper's figures may be compared with scores of this preset.
    """

    reference: float | None = None
    paper_baseline: float | None = None
    paper_best: float | None = None
    comparable: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one task.

    Attributes:
        method: which.
        attempts: how many count.
        scored: how many of them have a score on the test split.
        best_attempt: the best score of any kind (as the paper counts it).
        best_submission: the best score of what was submitted.
        mean: of the submitted scores, over seeds; failures are not in it.
        normalised: each counted attempt's normalised score, 0 where it failed or was below the baseline.
        normalised_mean: of these, over seeds.
        gap: mean of how much better the best validation was than the submission.
        failures: attempts without a score by cause.
        seconds: median wall time of an attempt.
        calls: median number of tool calls.
        tokens: of all its attempts, in and out.
        cost: of all its attempts, US dollars.
    """

    method: str
    attempts: int
    scored: int
    best_attempt: float | None
    best_submission: float | None
    mean: Mean | None
    normalised: tuple[float, ...]
    normalised_mean: Mean | None
    gap: float | None
    failures: dict[str, int]
    seconds: float | None
    calls: float | None
    tokens: float | None
    cost: float | None


@dataclass(frozen=True, slots=True)
class Board:
    """One task's leaderboard, the best method first.

    Attributes:
        label: how the task is called in the report.
        reference: what normalised scores take as 1.
        reference_is: where that is from: ``reference solution``, ``best submission here``, or empty if there is none.
    """

    label: str
    task: str
    preset: str
    metric: str
    higher_is_better: bool
    baseline: float | None
    reference: float | None
    reference_is: str
    figures: TaskFigures
    rows: tuple[Row, ...]
    attempts: tuple[Attempt, ...]


def figures_of(catalog: Catalog | None, task: str, preset: str) -> TaskFigures:
    """Return what the catalog records of a preset; nothing of a task that it does not have."""
    if catalog is None:
        return TaskFigures()
    try:
        found = catalog.get(task)
        size = found.preset(preset)
    except TaskError:
        return TaskFigures()
    reference = size.solution.value(found.spec.primary_metric.name)
    paper = size.reference
    if paper is None:
        return TaskFigures(reference)
    return TaskFigures(reference, paper.paper_baseline, paper.paper_best, paper.comparable)


def leaderboards(attempts: Iterable[Attempt], catalog: Catalog | None) -> tuple[Board, ...]:
    """Return a board for each task and preset. All attempts given count: leave out before what does not."""
    groups: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        groups[attempt.task, attempt.preset].append(attempt)
    presets = {preset for _, preset in groups}
    boards = []
    for (task, preset), own in sorted(groups.items()):
        label = task if len(presets) == 1 else f"{task}/{preset}"
        boards.append(_board(label, own, figures_of(catalog, task, preset)))
    return tuple(boards)


def _board(label: str, own: Sequence[Attempt], figures: TaskFigures) -> Board:
    graded = [a for a in own if a.metric]
    example = graded[-1] if graded else own[-1]
    higher = example.higher_is_better
    baseline = next((a.baseline for a in reversed(graded) if a.baseline is not None), None)
    reference, origin = _reference(own, baseline, higher, figures)
    by_method: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in own:
        by_method[attempt.method].append(attempt)
    rows = [_row(method, theirs, higher, baseline, reference) for method, theirs in by_method.items()]
    rows.sort(key=lambda row: _rank(row, higher))
    return Board(
        label,
        own[0].task,
        own[0].preset,
        example.metric,
        higher,
        baseline,
        reference,
        origin,
        figures,
        tuple(rows),
        tuple(own),
    )


def _reference(
    own: Sequence[Attempt], baseline: float | None, higher: bool, figures: TaskFigures
) -> tuple[float | None, str]:
    """What counts as 1: the task's reference solution if it beats the baseline, else the best submission that does."""
    best = best_of((a.submitted for a in own), higher)
    for value, origin in ((figures.reference, "reference solution"), (best, "best submission here")):
        if value is not None and baseline is not None and (value > baseline if higher else value < baseline):
            return value, origin
    return None, ""


def _row(method: str, own: Sequence[Attempt], higher: bool, baseline: float | None, reference: float | None) -> Row:
    scored = [a for a in own if a.submitted is not None]
    each = [(a.seed, counted_score(a, baseline, reference)) for a in own]
    counted = [(seed, score) for seed, score in each if score is not None]
    gaps = [a.gap for a in own if a.gap is not None]
    return Row(
        method=method,
        attempts=len(own),
        scored=len(scored),
        best_attempt=best_of((a.best for a in own), higher),
        best_submission=best_of((a.submitted for a in own), higher),
        mean=mean_over_seeds((a.seed, a.submitted) for a in scored if a.submitted is not None),
        normalised=tuple(score for _, score in counted),
        normalised_mean=mean_over_seeds(counted),
        gap=sum(gaps) / len(gaps) if gaps else None,
        failures=failures(own),
        seconds=median(a.seconds or None for a in own),
        calls=median(a.calls or None for a in own),
        tokens=total(t for a in own for t in (a.usage.tokens_in, a.usage.tokens_out)),
        cost=total(a.usage.cost for a in own),
    )


def counted_score(attempt: Attempt, baseline: float | None, reference: float | None) -> float | None:
    """Return an attempt's normalised score as means count it: 0 without a score, and where it is below the baseline.

    ``None`` where there is a score but no baseline to measure it by. Without a reference nobody beat the baseline.
    """
    if attempt.submitted is None:
        return 0.0
    if reference is None:
        return None if baseline is None else 0.0
    return max(0.0, normalised(attempt.submitted, baseline, reference) or 0.0)


def _rank(row: Row, higher: bool) -> tuple[float, float, str]:
    mean = -row.normalised_mean.value if row.normalised_mean else 0.0
    best = row.best_submission
    return (mean, float("inf") if best is None else (-best if higher else best), row.method)
