"""``mlgym-mcp report``: what attempts reached, on the terminal, as JSON and CSV, in pictures and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.markup import escape
from rich.table import Table as RichTable

from mlgym_mcp.catalog import Catalog, TaskError
from mlgym_mcp.cli.output import FoldersArgument, JsonOption, console, errors, plain_errors, print_json
from mlgym_mcp.records.attempts import Attempt
from mlgym_mcp.records.report import Report, make_report
from mlgym_mcp.records.tables import (
    Table,
    aup_table,
    board_table,
    failures_table,
    left_out_lines,
    reproduction,
    standings_table,
)
from mlgym_sandbox.home import home

EXAMPLES = """Examples:

  mlgym-mcp report

  mlgym-mcp report sweeps/monday --html report.html

  mlgym-mcp report a b --csv tables --plots pictures --json > report.json

  mlgym-mcp report sweeps/monday --published
"""
_MANY = 20
_PAGE_ONLY = ("calls", "tokens")
"""Columns for which a terminal has no room."""


def report(
    folders: FoldersArgument = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="DIR", help="Write flat tables as CSV files.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one self-contained page.")] = None,
    plots: Annotated[Path | None, typer.Option(metavar="DIR", help="Write pictures, as PNG and SVG.")] = None,
    published: Annotated[bool, typer.Option("--published", help="Add the paper's methods, for comparison.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Report what attempts reached: leaderboards, profiles and AUP, failures, time and cost.

    Attempts that an infrastructure error ended are left out and counted as such; they are never zeros.
    """
    with plain_errors():
        roots = folders or [home("episodes")]
        made = _gathered(roots, task, published)
        files = _written(made, csv, html, plots)
        if as_json:
            from mlgym_mcp.records.flat import as_json as values

            print_json(values(made))
        else:
            _show(made)
    for path in files:
        errors.print(f"Wrote {escape(str(path))}", highlight=False)


def _gathered(roots: Sequence[Path], tasks: Sequence[str] | None, published: bool) -> Report:
    from mlgym_mcp.records.index import EpisodeIndex
    from mlgym_mcp.records.ledger import read_ledger, with_usage

    with EpisodeIndex() as index:
        if errors.is_terminal:
            with errors.status("Reading episodes...") as status:
                found, done = index.refresh(roots, lambda n, of: status.update(f"Reading episodes: {n} of {of}"))
        else:
            found, done = index.refresh(roots)
        attempts: list[Attempt] = index.attempts(found)
    problems = [*found.problems, *done.problems]
    for path in found.ledgers:
        try:
            usages, broken = read_ledger(path)
        except OSError as exc:
            usages, broken = {}, f"{path}: cannot be read ({exc.strerror})"
        attempts = with_usage(attempts, usages)
        problems += [broken] if broken else []
    if not attempts and not published:
        where = ", ".join(map(str, roots))
        raise LookupError(f"there are no episodes below {where}: name a folder with episodes (events.jsonl) below it")
    if tasks:
        played = sorted({a.task for a in attempts})
        for name in tasks:
            if name not in played:
                raise LookupError(f"nobody played {name!r}; there are: {', '.join(played) or 'none'}")
        attempts = [a for a in attempts if a.task in tasks]
    try:
        catalog = Catalog.default()
    except TaskError as exc:
        catalog = None
        problems.append(f"The reference solutions' figures are missing: {exc}")
    return make_report(attempts, catalog, sources=[str(r) for r in roots], problems=problems, published=published)


def _written(made: Report, csv: Path | None, html: Path | None, plots: Path | None) -> list[Path]:
    files: list[Path] = []
    if csv is not None:
        from mlgym_mcp.records.flat import csv_tables, write_csv

        files += write_csv(csv_tables(made), csv)
    if plots is not None:
        from mlgym_mcp.records.plots import write_pictures

        files += write_pictures(made, plots)
    if html is not None:
        from mlgym_mcp.records.html import render

        html.write_text(render(made), encoding="utf-8")
        files.append(html)
    return files


def _show(made: Report) -> None:
    console.print(f"[bold]{len(made.attempts)}[/bold] attempts count.", highlight=False)
    if lines := left_out_lines(made.left_out):
        console.print(f"Left out: {'; '.join(lines)}.", highlight=False)
    for problem in made.problems[:_MANY]:
        console.print(f"[yellow]{escape(problem)}[/yellow]", highlight=False)
    if (more := len(made.problems) - _MANY) > 0:
        console.print(f"[yellow]and {more} more problems[/yellow]", highlight=False)
    if made.boards:
        _print(standings_table(made))
        for board in made.boards:
            _print(board_table(board))
        _print(failures_table(made.attempts))
    if (paper := made.published) is not None:
        console.print(
            "\n[bold]The paper's methods[/bold] (arXiv 2502.14499), from its published runs.", highlight=False
        )
        console.print("Their tasks, budgets and graders are not the ones above. Known to be wrong in the figures:")
        for wrong in paper.known_wrong:
            console.print(f"  - {escape(wrong)}", highlight=False)
        _print(standings_table(paper))
        _print(aup_table(paper.profiles))
        console.print(reproduction(paper), highlight=False)


def _print(table: Table) -> None:
    if not table.rows:
        return
    shown = RichTable(box=box.SIMPLE_HEAD, title=escape(table.title), title_justify="left", title_style="bold")
    kept = [i for i, column in enumerate(table.columns) if column not in _PAGE_ONLY]
    for i in kept:
        shown.add_column(table.columns[i], justify="left" if i == 0 else "right", overflow="fold", no_wrap=i > 0)
    for row in table.rows:
        shown.add_row(*(escape(row[i]) for i in kept))
    if table.note:
        shown.caption, shown.caption_justify = escape(table.note), "left"
    console.print(shown)
