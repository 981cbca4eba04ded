"""A report's tables as a person reads them: the same on a terminal and on a page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mlgym_mcp.records.aggregate import Interval, Mean, failures
from mlgym_mcp.records.attempts import Attempt
from mlgym_mcp.records.leaderboard import Board, Row
from mlgym_mcp.records.profiles import BASELINE, VARIANTS, Profiles
from mlgym_mcp.records.report import LeftOut, Published, Report

NONE = "-"
_LARGE = 1e6
_FINEST = 6

DEFINITIONS = {
    "best attempt": "the best of all scores of all attempts, validations among them (as the paper counts it); "
    "validations are on another split than submissions",
    "submission": "the best score of what was submitted, on the hidden test split",
    "mean": "of the submitted scores over seeds, with its standard error; failed attempts are not in it",
    "normalised": "(score - baseline) / (reference - baseline): 0 is the given baseline, 1 the task's reference "
    "solution, or the best submission here where there is no reference or it does not beat the baseline. Failed "
    "attempts and scores below the baseline count as 0",
    "interquartile mean": "the mean of the middle half of all normalised scores, with a 95 % interval from 2,000 "
    "bootstrap resamples within tasks. Only tasks that the method played are in it",
    "gap": "how much better the best validation was than the submission: positive if it promised too much",
    "AUP": "the area under the performance profile, as the paper defines it, over all tasks here; tasks that a method "
    "did not play count as failed. It changes with the methods compared",
    "left out": "attempts that an infrastructure error ended, that have not ended, or that the sweep tried again; "
    "never zeros",
}

_LEFT_OUT = {
    "infrastructure": "ended by an infrastructure error",
    "unfinished": "not finished",
    "repeated": "tried again later in the same sweep",
    "proofs": "made by 'tasks check' or 'replay'",
    "unreadable": "unreadable",
}


@dataclass(frozen=True, slots=True)
class Table:
    """Words and figures in rows; the first column is a name."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def standings_table(report: Report | Published) -> Table:
    """Return the methods over all tasks."""
    profiles = report.profiles
    tasks = len(report.boards)
    rows = tuple(
        (
            s.method,
            f"{s.tasks}/{tasks}",
            f"{s.scored}/{s.attempts}",
            interval(s.interquartile),
            *(figure(profiles.aup[v].get(s.method), 3, fixed=True) for v in VARIANTS),
            str(sum(s.failures.values())),
            str(s.left_out),
            duration(s.seconds),
            count(s.tokens),
            money(s.cost),
        )
        for s in report.standings
    )
    columns = (
        "method",
        "tasks",
        "scored",
        "interquartile mean",
        "AUP best",
        "AUP submitted",
        "failed",
        "infra.",
        "time",
        "tokens",
        "cost",
    )
    note = ""
    if profiles.tasks:
        own = " and ".join(f"{profiles.aup[v][BASELINE]:.3f}" for v in VARIANTS)
        note = f"AUP of the given baseline: {own}; the highest possible is {profiles.highest:.3f}"
    return Table("All tasks", columns, rows, note)


def board_table(board: Board) -> Table:
    """Return one task's leaderboard."""
    columns = (
        "method",
        "scored",
        "best attempt",
        "submission",
        "mean",
        "normalised",
        "gap",
        "failed",
        "time",
        "calls",
        "tokens",
        "cost",
    )
    return Table(board.label, columns, tuple(_board_row(row) for row in board.rows), board_note(board))


def board_note(board: Board) -> str:
    """Return what a leaderboard is measured by, in a line."""
    better = "higher" if board.higher_is_better else "lower"
    parts = [f"{board.metric}, {better} is better" if board.metric else "nothing was graded"]
    parts.append(f"baseline {figure(board.baseline)}")
    if board.reference_is:
        parts.append(f"{board.reference_is} {figure(board.reference)}")
    paper = board.figures
    if paper.paper_baseline is not None or paper.paper_best is not None:
        verdict = "" if paper.comparable else ", not comparable"
        parts.append(f"paper: baseline {figure(paper.paper_baseline)}, best {figure(paper.paper_best)}{verdict}")
    return "; ".join(parts)


def _board_row(row: Row) -> tuple[str, ...]:
    return (
        row.method,
        f"{row.scored}/{row.attempts}",
        figure(row.best_attempt),
        figure(row.best_submission),
        mean(row.mean),
        mean(row.normalised_mean),
        figure(row.gap, 2),
        str(sum(row.failures.values())),
        duration(row.seconds),
        count(row.calls),
        count(row.tokens),
        money(row.cost),
    )


def aup_table(profiles: Profiles) -> Table:
    """Return both areas of each method, and where it is infeasible."""
    order = sorted(profiles.aup["last"], key=lambda m: (-profiles.aup["last"][m], m))
    rows = tuple(
        (
            method,
            *(f"{profiles.aup[v][method]:.3f}" for v in VARIANTS),
            *(str(len(profiles.infeasible[v][method])) for v in VARIANTS),
        )
        for method in order
    )
    columns = ("method", "AUP best", "AUP submitted", "infeasible, best", "infeasible, submitted")
    note = f"over {len(profiles.tasks)} tasks; the highest possible is {profiles.highest:.3f}" if profiles.tasks else ""
    return Table("Performance profiles", columns, rows, note)


def reproduction(paper: Published) -> str:
    """Return whether the published AUP table is reproduced, in a sentence."""
    if paper.differences:
        return f"{paper.differences} values of the printed AUP table are not reproduced to three decimals."
    return "All values of the printed AUP table are reproduced to three decimals."


def failures_table(attempts: Iterable[Attempt]) -> Table:
    """Return the causes of failures by method."""
    by_method: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_method.setdefault(attempt.method, []).append(attempt)
    rows = [
        (method, cause, str(number))
        for method, own in sorted(by_method.items())
        for cause, number in failures(own).items()
    ]
    return Table("Failures by cause", ("method", "cause", "attempts"), tuple(rows))


def left_out_lines(left_out: LeftOut) -> list[str]:
    """Return what does not count, a line for each kind."""
    return [f"{number} {_LEFT_OUT[name]}" for name, number in left_out.counts().items()]


def figure(value: float | None, digits: int = 4, *, fixed: bool = False) -> str:
    """Return a figure, or a dash."""
    if value is None:
        return NONE
    return f"{value:.{digits}f}" if fixed else f"{value:.{digits}g}"


def mean(value: Mean | None) -> str:
    """Return a mean with its standard error: ``0.812 ± 0.0043``."""
    if value is None:
        return NONE
    if not value.se or abs(value.value) >= _LARGE:
        return f"{value.value:.4g}" + ("" if value.se is None else f" ± {value.se:.2g}")
    digits = max(0, 1 - math.floor(math.log10(value.se)))  # two of the error's
    return f"{value.value:.{min(digits, _FINEST)}f} ± {value.se:.2g}"


def interval(value: Interval | None) -> str:
    """Return an interquartile mean with its interval."""
    if value is None:
        return NONE
    ends = "" if value.low is None or value.high is None else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.value:.3f}{ends}"


def duration(seconds: float | None) -> str:
    """Return a time in the unit that suits it."""
    if seconds is None:
        return NONE
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5999 else f"{seconds / 3600:.1f} h"


def count(value: float | None) -> str:
    """Return a number of things: 1,234, or 1.2 M."""
    if value is None:
        return NONE
    return f"{value / 1e6:,.1f} M" if value >= 1e6 else f"{value:,.0f}"


def money(value: float | None) -> str:
    """Return US dollars."""
    if value is None:
        return NONE
    return f"${value:,.2f}" if value >= 0.1 or value == 0 else f"${value:.2g}"
