"""What counts in a report, and how leaderboards and standings are made of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.catalog.catalog import shipped_tasks
from mlgym_mcp.records.aggregate import Mean
from mlgym_mcp.records.attempts import Usage
from mlgym_mcp.records.flat import as_json, csv_tables, write_csv
from mlgym_mcp.records.leaderboard import figures_of, leaderboards
from mlgym_mcp.records.report import make_report, sort_out
from mlgym_mcp.records.tables import aup_table, board_table, duration, figure, mean, money, standings_table
from tests.records.written import attempt


def test_infrastructure_errors_are_left_out_and_counted_never_zeros() -> None:
    lost = attempt("a", None, seed=1, outcome="infrastructure_error")
    report = make_report([attempt("a", 0.9), lost], None)
    (row,) = report.boards[0].rows
    assert (row.attempts, row.scored, row.normalised, row.failures) == (1, 1, (1.0,), {})
    (standing,) = report.standings
    assert (standing.attempts, standing.left_out) == (1, 1)
    assert report.left_out.counts() == {"infrastructure": 1}
    only = make_report([attempt("a"), attempt("b", None, outcome="infrastructure_error")], None)
    assert [(s.method, s.attempts, s.left_out, s.interquartile) for s in only.standings][1] == ("b", 0, 1, None)


def test_proofs_and_what_has_not_ended_do_not_count() -> None:
    live = attempt("a", None, outcome="live")
    scored_but_torn = attempt("a", 0.8, outcome="live")
    proof = attempt("unknown", 1.0, purpose="tasks check")
    lost = attempt("unknown", None, task="", damage="its first line, which says what it is, is lost")
    report = make_report([live, scored_but_torn, proof, lost], None)
    assert [a.submitted for a in report.attempts] == [0.8]
    assert report.left_out.counts() == {"unfinished": 1, "proofs": 1, "unreadable": 1}
    assert any("its first line" in problem for problem in report.problems)


def test_an_attempt_that_a_sweep_made_twice_counts_once() -> None:
    def made(n: str, submitted: float | None, started: float, **more: object) -> object:
        return attempt("a", submitted, sweep="s", number=n, started=started, id=f"{n}-{started}", **more)  # type: ignore[arg-type]

    attempts = [
        made("1", 0.6, 20.0),
        made("1", 0.9, 10.0),
        made("1", None, 30.0, outcome="infrastructure_error"),
        made("2", 0.7, 5.0),
    ]
    counted, left_out = sort_out(attempts)  # type: ignore[arg-type]
    assert sorted(a.id for a in counted) == ["1-20.0", "2-5.0"]
    assert [a.id for a in left_out.repeated] == ["1-10.0"]
    assert sort_out(attempts[::-1])[1].counts() == left_out.counts()  # type: ignore[arg-type]
    loose = [attempt("a", 0.5, seed=0), attempt("a", 0.6, seed=0)]  # of no sweep
    assert len(sort_out(loose)[0]) == 2


def test_a_leaderboard_follows_the_tasks_direction() -> None:
    runs = [attempt("slow", 9.0, higher=False, baseline=10.0), attempt("fast", 4.0, higher=False, baseline=10.0)]
    (board,) = leaderboards(runs, None)
    assert [row.method for row in board.rows] == ["fast", "slow"]
    assert (board.reference, board.reference_is) == (4.0, "best submission here")
    assert [row.normalised for row in board.rows] == [(1.0,), (pytest.approx(1 / 6),)]
    validated = attempt("v", 5.0, higher=False, validations=(4.0, 6.0))
    assert validated.gap == pytest.approx(1.0)


def test_failed_attempts_come_last_and_still_show() -> None:
    runs = [attempt("fails", None, metric="", baseline=None), attempt("tries", 0.51)]
    (board,) = leaderboards(runs, None)
    assert [(row.method, row.normalised) for row in board.rows] == [("tries", (1.0,)), ("fails", (0.0,))]
    (alone,) = leaderboards([attempt("fails", None, metric="", baseline=None)], None)
    assert alone.rows[0].normalised == (0.0,)
    assert "nothing was graded" in board_table(alone).note


def test_presets_are_tasks_of_their_own() -> None:
    boards = leaderboards([attempt("a"), attempt("a", preset="full")], None)
    assert [b.label for b in boards] == ["toy/full", "toy/mini"]
    assert make_report([attempt("a"), attempt("a", preset="full")], None).profiles.tasks == ("toy/full", "toy/mini")


def test_the_catalog_gives_references_and_the_papers_figures() -> None:
    catalog = Catalog([shipped_tasks()])
    found = figures_of(catalog, "house_price", "mini")
    assert found.reference == catalog.get("house_price").preset("mini").solution.value("r2")
    assert (found.paper_baseline, found.paper_best, found.comparable) == (0.88, 0.931, False)
    assert figures_of(catalog, "cifar10", "full").comparable
    assert figures_of(catalog, "house_price", "of_yesterday").reference is None
    assert figures_of(catalog, "no_task", "mini").reference is None
    (board,) = leaderboards([attempt("a", 0.8, task="house_price", baseline=0.6)], catalog)
    assert board.reference_is == "reference solution"
    assert "paper: baseline 0.88, best 0.931, not comparable" in board_table(board).note


def test_a_reference_that_does_not_beat_the_baseline_is_not_the_scale() -> None:
    catalog = Catalog([shipped_tasks()])
    (board,) = leaderboards([attempt("a", 0.9999, task="house_price", baseline=0.999)], catalog)
    assert board.reference_is == "best submission here"


def test_methods_stand_in_the_order_of_their_interquartile_means() -> None:
    runs = [attempt(m, v, seed=s) for m, v in (("good", 0.9), ("fair", 0.6), ("none", None)) for s in range(4)]
    report = make_report(runs, None)
    assert [s.method for s in report.standings] == ["good", "fair", "none"]
    assert report.standings[0].interquartile is not None
    assert report.standings[0].interquartile.low == 1.0
    assert report.standings[2].failures == {"budget_exhausted": 4}


def test_costs_are_sums_and_not_known_is_not_zero() -> None:
    runs = [attempt("a", usage=Usage(10, 5, 0.5)), attempt("a", seed=1), attempt("b", seed=1)]
    a, b = make_report(runs, None).standings
    assert (a.cost, a.tokens) == (0.5, 15)
    assert (b.cost, b.tokens) == (None, None)
    assert standings_table(make_report(runs, None)).rows[1][-1] == "-"


def test_the_papers_methods_stand_apart() -> None:
    report = make_report([attempt("a")], None, published=True)
    assert {s.method for s in report.standings} == {"a"}
    assert report.published is not None
    assert len(report.published.standings) == 12
    assert report.published.differences == 0
    assert len(aup_table(report.published.profiles).rows) == 13


def test_the_json_is_strict_and_complete() -> None:
    report = make_report([attempt("a"), attempt("b", None, seed=1)], None, published=True, problems=["odd"])
    value = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert value["leaderboards"][0]["rows"][0]["method"] == "a"
    assert value["methods"][0]["interquartile"]["value"] == 1.0
    assert value["published"]["aup_values_not_as_printed"] == 0
    assert value["published"]["known_wrong"]
    assert len(value["attempts"]) == 2
    assert value["problems"] == ["odd"]


def test_csv_files_are_whole_and_no_spreadsheet_runs_them(tmp_path: Path) -> None:
    evil = '=HYPERLINK("http://x","y")'
    runs = [attempt(evil, 0.123456789012345), attempt("a,\nb", None, outcome="infrastructure_error")]
    files = {path.name: path for path in write_csv(csv_tables(make_report(runs, None, published=True)), tmp_path)}
    rows = list(csv.DictReader(files["attempts.csv"].read_text().splitlines()))
    assert [row["counted"] for row in rows] == ["true", "false"]
    assert rows[0]["method"] == f"'{evil}"
    assert float(rows[0]["submitted"]) == 0.123456789012345
    assert {"scores.csv", "leaderboard.csv", "methods.csv", "profiles.csv", "paper-methods.csv"} <= set(files)
    for path in files.values():
        with path.open(newline="") as file:
            assert len({len(row) for row in csv.reader(file)}) == 1


def test_figures_are_written_in_the_unit_that_suits_them() -> None:
    assert [duration(s) for s in (None, 3.0, 100.0, 7200.0)] == ["-", "3.0 s", "1.7 min", "2.0 h"]
    assert [money(v) for v in (None, 0.0, 0.00123, 1234.5)] == ["-", "$0.00", "$0.0012", "$1,234.50"]
    assert figure(1.0, 3, fixed=True) == "1.000"
    means = [
        Mean(0.81234, 0.0123, 4),
        Mean(0.81234, None, 1),
        Mean(512.3, 45.6, 4),
        Mean(0.5, 0.0, 2),
        Mean(-3e13, 1e13, 2),
    ]
    assert [mean(m) for m in means] == ["0.812 ± 0.012", "0.8123", "512 ± 46", "0.5 ± 0", "-3e+13 ± 1e+13"]
