"""A report for programs: one JSON value, and flat tables as CSV files, all at full precision."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlgym_mcp.records.attempts import Attempt, to_record
from mlgym_mcp.records.leaderboard import Board
from mlgym_mcp.records.profiles import VARIANTS, Profiles
from mlgym_mcp.records.report import Published, Report

Rows = tuple[tuple[str, ...], Sequence[Sequence[object]]]

_FORMULA = ("=", "+", "-", "@")
_ATTEMPT = (
    "id",
    "task",
    "preset",
    "method",
    "seed",
    "sweep",
    "number",
    "metric",
    "higher_is_better",
    "baseline",
    "best",
    "best_validation",
    "submitted",
    "se",
    "gap",
    "outcome",
    "code",
    "started",
    "seconds",
    "cpu_s",
    "calls",
    "folder",
    "damage",
)


def as_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values."""
    whole: dict[str, Any] = {
        "made": report.made,
        "sources": list(report.sources),
        "problems": list(report.problems),
        "left_out": {
            f.name: [a.id for a in getattr(report.left_out, f.name)] for f in dataclasses.fields(report.left_out)
        },
        **_parts(report),
        "attempts": [to_record(a) | {"best_validation": a.best_validation, "gap": a.gap} for a in report.attempts],
    }
    if (paper := report.published) is not None:
        whole["published"] = {
            "known_wrong": list(paper.known_wrong),
            "aup_values_not_as_printed": paper.differences,
            **_parts(paper),
        }
    return whole


def _parts(report: Report | Published) -> dict[str, Any]:
    return {
        "methods": [dataclasses.asdict(s) for s in report.standings],
        "leaderboards": [_board(board) for board in report.boards],
        "aup": {v: dict(report.profiles.aup[v]) for v in VARIANTS},
        "infeasible": {v: {m: list(t) for m, t in report.profiles.infeasible[v].items()} for v in VARIANTS},
        "aup_tasks": list(report.profiles.tasks),
        "aup_highest": report.profiles.highest,
    }


def _board(board: Board) -> dict[str, Any]:
    fields = {f.name: getattr(board, f.name) for f in dataclasses.fields(board) if f.name not in ("rows", "attempts")}
    return fields | {
        "figures": dataclasses.asdict(board.figures),
        "rows": [dataclasses.asdict(row) for row in board.rows],
    }


def csv_tables(report: Report) -> dict[str, Rows]:
    """Return the flat tables by name."""
    attempts = (
        *report.attempts,
        *report.left_out.infrastructure,
        *report.left_out.unfinished,
        *report.left_out.repeated,
    )
    counted = {id(a) for a in report.attempts}
    tables: dict[str, Rows] = {
        "attempts": (
            ("counted", *_ATTEMPT, "tokens_in", "tokens_out", "cost"),
            [
                (
                    id(a) in counted,
                    *(getattr(a, n) for n in _ATTEMPT),
                    a.usage.tokens_in,
                    a.usage.tokens_out,
                    a.usage.cost,
                )
                for a in attempts
            ],
        ),
        "scores": (
            ("id", "task", "preset", "method", "seed", "seconds", "kind", "value", "se"),
            list(_points(attempts)),
        ),
        "leaderboard": _leaderboard(report.boards),
        "methods": _methods(report),
        "profiles": _curves(report.profiles),
    }
    if report.published is not None:
        tables["paper-leaderboard"] = _leaderboard(report.published.boards)
        tables["paper-methods"] = _methods(report.published)
        tables["paper-profiles"] = _curves(report.published.profiles)
    return tables


def _points(attempts: Iterable[Attempt]) -> Iterator[Sequence[object]]:
    for a in attempts:
        for p in a.points:
            yield (a.id, a.task, a.preset, a.method, a.seed, p.seconds, p.kind, p.value, p.se)


def _leaderboard(boards: Iterable[Board]) -> Rows:
    columns = (
        *("task", "preset", "metric", "higher_is_better", "baseline", "reference", "reference_is"),
        *("method", "attempts", "scored", "best_attempt", "best_submission", "mean", "mean_se", "seeds"),
        *("normalised_mean", "normalised_se", "validation_gap", "failures", "seconds", "calls", "tokens", "cost"),
    )
    rows = []
    for b in boards:
        head = (b.task, b.preset, b.metric, b.higher_is_better, b.baseline, b.reference, b.reference_is)
        for r in b.rows:
            mean = (r.mean.value, r.mean.se, r.mean.seeds) if r.mean else (None, None, 0)
            norm = (r.normalised_mean.value, r.normalised_mean.se) if r.normalised_mean else (None, None)
            row = (r.method, r.attempts, r.scored, r.best_attempt, r.best_submission, *mean, *norm, r.gap)
            rows.append((*head, *row, _causes(r.failures), r.seconds, r.calls, r.tokens, r.cost))
    return columns, rows


def _methods(report: Report | Published) -> Rows:
    columns = (
        *("method", "tasks", "attempts", "scored", "interquartile_mean", "low", "high", "aup_best", "aup_submitted"),
        *("failures", "infrastructure_errors", "seconds", "tokens", "cost"),
    )
    rows = []
    for s in report.standings:
        i = s.interquartile
        middle = (i.value, i.low, i.high) if i else (None, None, None)
        aup = tuple(report.profiles.aup[v].get(s.method) for v in VARIANTS)
        head = (s.method, s.tasks, s.attempts, s.scored, *middle, *aup)
        rows.append((*head, _causes(s.failures), s.left_out, s.seconds, s.tokens, s.cost))
    return columns, rows


def _curves(profiles: Profiles) -> Rows:
    rows = [
        (variant, method, tau, share)
        for variant in VARIANTS
        for method, curve in profiles.curves[variant].items()
        for tau, share in zip(profiles.grid, curve, strict=True)
    ]
    return ("variant", "method", "tau", "share"), rows


def _causes(causes: Mapping[str, int]) -> str:
    return "; ".join(f"{cause}: {number}" for cause, number in causes.items())


def write_csv(tables: Mapping[str, Rows], folder: Path) -> list[Path]:
    """Write tables into a folder, which is made if missing, and return the files.

    Text that a spreadsheet would take for a formula gets an apostrophe in front: names come from episodes.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, (columns, rows) in tables.items():
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in rows)
        path = folder / f"{name}.csv"
        path.write_text(text.getvalue(), encoding="utf-8", newline="")
        files.append(path)
    return files


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return str(value).lower() if isinstance(value, bool) else value
