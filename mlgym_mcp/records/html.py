"""A report as one HTML file: nothing is loaded from elsewhere, no script runs, dark and light."""

from __future__ import annotations

import re
import time
from importlib import resources

from mlgym_mcp.records.plots import (
    GRID,
    INK,
    MUTED,
    PAPER,
    SERIES,
    MissingExtraError,
    pictures,
    rendered,
    scores_name,
    style,
)
from mlgym_mcp.records.report import Report
from mlgym_mcp.records.tables import (
    DEFINITIONS,
    aup_table,
    board_table,
    failures_table,
    left_out_lines,
    reproduction,
    standings_table,
)

TEMPLATE = "report.html.j2"

_COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"} | {c: f"s{i}" for i, c in enumerate(SERIES)}


def render(report: Report) -> str:
    """Return a report as a page.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
        import markupsafe
    except ImportError as exc:
        raise MissingExtraError("jinja2") from exc
    with style():
        drawn = {n: markupsafe.Markup(inline(rendered(draw(), "svg").decode(), n)) for n, draw in pictures(report)}  # noqa: S704 - matplotlib escapes text
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((resources.files(__package__) / TEMPLATE).read_text(encoding="utf-8"))
    paper = report.published
    return template.render(
        report=report,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.made)),
        pictures=drawn,
        standings=standings_table(report),
        aup=aup_table(report.profiles),
        boards=[(board, board_table(board)) for board in report.boards],
        failures=failures_table(report.attempts),
        left_out=left_out_lines(report.left_out),
        names={board.label: scores_name(board) for board in report.boards},
        definitions=DEFINITIONS.items(),
        paper=paper,
        paper_standings=standings_table(paper) if paper else None,
        reproduction=reproduction(paper) if paper else "",
        paper_aup=aup_table(paper.profiles) if paper else None,
        paper_boards=[board_table(board) for board in paper.boards] if paper else [],
    )


def inline(svg: str, name: str) -> str:
    """Return a picture to stand in a page: its colours are the page's, its ids its own, its size that of its place."""
    body = svg[svg.index("<svg") :]
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", rest)
    for colour, variable in _COLOURS.items():
        rest = rest.replace(colour, f"var(--{variable})")
    return f'{head} role="img" aria-label="{name}">{rest}'
