"""Pictures of a report, drawn with matplotlib (extra ``report``): PNG and SVG.

Text in pictures comes from episodes, so it is drawn as it is: no mathematics, no missing glyph that stops a report.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlgym_mcp.records.attempts import Attempt, Point
from mlgym_mcp.records.leaderboard import Board
from mlgym_mcp.records.profiles import BASELINE, VARIANTS, Profiles
from mlgym_mcp.records.report import Report, Standing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Format = Literal["png", "svg"]
Dashes = tuple[float, Sequence[float]]

INK, MUTED, GRID, PAPER = "#1c1f23", "#656d76", "#e3e6ea", "#ffffff"
SERIES = ("#2563a8", "#c8590b", "#2a7f4f", "#a8327a", "#6d4fb3", "#0f7c86", "#8a6d00", "#b3262e")
_DASHES: tuple[Dashes, ...] = ((0, ()), (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = ("o", "s", "^", "v")
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.dpi": 130,
    "svg.fonttype": "none",
    "svg.hashsalt": "mlgym",
}
_WIDTH = 8.6
_LONGEST_LABEL = 30
_OUTLIER = 4.0
_MANY = 24

Colours = dict[str, int]
"""The place of each method in the palette, the same in all pictures of a report."""


class MissingExtraError(LookupError):
    """What draws is not installed."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is not installed, which reports need for pictures and pages: pip install 'mlgym-mcp[report]'"
        )


def pictures(report: Report) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield the pictures that a report has, each with its name and what draws it (inside of :func:`style`)."""
    names = [s.method for s in report.standings]
    colours = palette([*names, BASELINE])
    if report.profiles.tasks:
        yield "profiles", lambda: draw_profiles(report.profiles, colours)
        yield "aup", lambda: draw_aup(report.profiles)
    if any(s.interquartile for s in report.standings):
        yield "normalised", lambda: draw_intervals(report.standings, colours)
        yield "cost", lambda: draw_cost(report.standings, colours)
    for board in report.boards:
        if any(a.points for a in board.attempts):
            yield scores_name(board), lambda board=board: draw_scores(board, colours)  # type: ignore[misc]
    if report.published is not None:
        paper = report.published
        theirs = palette([*(s.method for s in paper.standings), BASELINE])
        yield "paper-profiles", lambda: draw_profiles(paper.profiles, theirs)
        yield "paper-aup", lambda: draw_aup(paper.profiles)
        yield "paper-normalised", lambda: draw_intervals(paper.standings, theirs)


def palette(methods: Sequence[str]) -> Colours:
    """Return the places of methods in the palette."""
    return {method: i for i, method in enumerate(dict.fromkeys(methods))}


def scores_name(board: Board) -> str:
    """Return the name of the picture of a board's scores, as a file is called."""
    return "scores-" + (re.sub(r"[^A-Za-z0-9_.-]+", "-", board.label).strip(".-") or "task")


@contextmanager
def style() -> Iterator[None]:
    """Draw and save within this: the house's colours, and no complaint about glyphs that a font lacks.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as exc:
        raise MissingExtraError("matplotlib") from exc
    with mpl.rc_context(_STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support")
        yield


def rendered(figure: Figure, kind: Format) -> bytes:
    """Return a figure as a file's content; the same figure gives the same bytes."""
    out = io.BytesIO()
    metadata: dict[str, str | None] = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(out, format=kind, metadata=metadata)
    return out.getvalue()


# ---------------------------------------------------------------------- over time


def draw_scores(board: Board, colours: Colours) -> Figure:
    """Draw the scores of each attempt over time, the baseline and the reference as lines."""
    figure, axes = _canvas(3.6, right=0.76)
    drawn = [a for a in board.attempts if a.points]
    unit, name = _time_unit([p.seconds for a in drawn for p in a.points])
    low, high, outside = _range(board, drawn)
    faint = len(drawn) > _MANY
    for method in dict.fromkeys(a.method for a in drawn):
        colour, dashes, _ = _look(method, colours)
        own = [a for a in drawn if a.method == method]
        lines = _places([[*a.points, None] for a in own], unit)
        tries = _places([[p for p in a.points if p.kind == "validate"] for a in own], unit)
        ends = _places([[p for p in a.points if p.kind != "validate"] for a in own], unit)
        axes.plot(*lines, color=colour, linestyle=dashes, linewidth=0.7 if faint else 1.3, alpha=0.35 if faint else 0.8)
        axes.plot(*tries, "o", color=colour, markersize=2 if faint else 3.5, alpha=0.5 if faint else 0.8, mew=0)
        axes.plot(*ends, "D", color=colour, markersize=4 if faint else 6, markeredgecolor=PAPER, mew=0.7)
    handles = [_swatch(row.method, colours) for row in board.rows]
    labels = [_short(row.method) for row in board.rows]
    for value, words, dashes in (
        (board.baseline, "baseline", (0, (6, 3))),
        (board.reference if board.reference_is == "reference solution" else None, "reference", (0, (1.5, 2))),
    ):
        if value is not None and low <= value <= high:
            line = axes.axhline(value, color=INK, linewidth=1.3, linestyle=dashes, zorder=1.5)
            handles.append(line)
            labels.append(f"{words} {value:.4g}")
    axes.set_ylim(low, high)
    axes.set_xlim(left=0)
    better = "higher" if board.higher_is_better else "lower"
    axes.set_title(f"{board.label}: {board.metric}, {better} is better")
    note = f"; {outside} scores are off the scale" if outside else ""
    axes.set_xlabel(f"{name} (dots: validations, diamonds: submissions{note})")
    axes.set_ylabel(board.metric)
    axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.02), labelspacing=0.35)
    return figure


def _places(many: Sequence[Sequence[Point | None]], unit: float) -> tuple[list[float], list[float]]:
    """Return all points as one line, which is broken where a point is ``None``: thousands of lines draw slowly."""
    points = [point for each in many for point in each]
    x = [math.nan if p is None else p.seconds / unit for p in points]
    return x, [math.nan if p is None else p.value for p in points]


def _range(board: Board, drawn: Sequence[Attempt]) -> tuple[float, float, int]:
    """The range of scores worth showing and how many are outside: one wild score must not flatten all others."""
    values = sorted(p.value for a in drawn for p in a.points)
    marks = [board.baseline] if board.baseline is not None else []
    if board.reference is not None:
        marks.append(board.reference)
    inner = [*values[len(values) // 10 : len(values) - len(values) // 10], *marks]
    low, high = min(inner), max(inner)
    reach = _OUTLIER * (high - low) or abs(high) or 1.0
    shown = [v for v in (*values, *marks) if low - reach <= v <= high + reach]
    low, high = min(shown), max(shown)
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    outside = sum(not low <= v <= high for v in values)
    return low - pad, high + pad, outside


def _time_unit(seconds: Sequence[float]) -> tuple[float, str]:
    longest = max(seconds, default=0.0)
    if longest < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if longest < 4 * 3600 else (3600.0, "hours")


# ---------------------------------------------------------------------- methods


def draw_profiles(profiles: Profiles, colours: Colours) -> Figure:
    """Draw the performance profiles of both variants, side by side."""
    figure = _figure(4.0)
    order = sorted(profiles.aup["last"], key=lambda m: -profiles.aup["last"][m])
    for i, variant in enumerate(VARIANTS):
        axes = figure.add_axes((0.065 + i * 0.36, 0.13, 0.325, 0.76))
        for method in reversed(order):
            colour, dashes, _ = _look(method, colours)
            axes.step(
                profiles.grid,
                profiles.curves[variant][method],
                where="post",
                color=colour,
                linestyle=dashes,
                linewidth=1.6,
            )
        axes.set_ylim(-0.02, 1.04)
        axes.set_xlim(0, profiles.grid[-1])
        axes.set_title("best attempt" if variant == "best" else "best submission")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.set_xlabel("tau: log10 of the ratio to the best")
        if i == 0:
            axes.set_ylabel(f"share of {len(profiles.tasks)} tasks")
        else:
            axes.tick_params(labelleft=False)
    handles = [_swatch(m, colours, marked=False) for m in order]
    labels = [f"{profiles.aup['last'][m]:.3f}  {_short(m, 24)}" for m in order]
    figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(0.755, 0.94), title="AUP of submissions", alignment="left"
    )
    return figure


def draw_aup(profiles: Profiles) -> Figure:
    """Draw the AUP of each method as bars, best attempt above best submission."""
    order = sorted(profiles.aup["last"], key=lambda m: profiles.aup["last"][m])
    figure, axes = _canvas(0.9 + 0.36 * len(order), left=0.24, right=0.97, inches=(0.5, 0.35))
    for variant, offset, colour in (("best", 0.2, SERIES[1]), ("last", -0.2, SERIES[0])):
        values = [profiles.aup[variant][m] for m in order]  # type: ignore[index]
        places = [i + offset for i in range(len(order))]
        axes.barh(
            places, values, height=0.36, color=colour, label="best attempt" if variant == "best" else "best submission"
        )
        for place, value in zip(places, values, strict=True):
            inside = value > profiles.highest / 4
            axes.annotate(
                f"{value:.3f}",
                (value, place),
                (-4 if inside else 4, -0.5),
                textcoords="offset points",
                ha="right" if inside else "left",
                va="center",
                fontsize=7.5,
                color=PAPER if inside else INK,
            )
    axes.set_yticks(range(len(order)), [_short(m) for m in order], color=INK)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlim(0, profiles.highest * 1.02 or 1.0)
    axes.grid(visible=False, axis="y")
    axes.axvline(profiles.highest, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_title("AUP (dotted: the highest possible)")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderpad=0, handlelength=1.2)
    return figure


def draw_intervals(standings: Sequence[Standing], colours: Colours) -> Figure:
    """Draw each method's interquartile mean with its interval."""
    known = [s for s in reversed(standings) if s.interquartile is not None]
    figure, axes = _canvas(0.95 + 0.27 * len(known), left=0.24, right=0.97, inches=(0.55, 0.35))
    for place, standing in enumerate(known):
        value = standing.interquartile
        assert value is not None
        colour, _, marker = _look(standing.method, colours)
        if value.low is not None and value.high is not None:
            axes.plot(
                [value.low, value.high], [place, place], color=colour, linewidth=2.5, alpha=0.55, solid_capstyle="butt"
            )
        axes.plot([value.value], [place], marker, color=colour, markersize=7)
    axes.set_yticks(range(len(known)), [_short(s.method) for s in known], color=INK)
    axes.set_ylim(-0.6, len(known) - 0.4)
    axes.axvline(0, color=INK, linewidth=1.2, linestyle=(0, (6, 3)))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("0: the baseline; 1: the reference. Failed attempts count as 0.")
    axes.set_title("Interquartile mean of normalised scores, with 95 % bootstrap intervals")
    return figure


def draw_cost(standings: Sequence[Standing], colours: Colours) -> Figure:
    """Draw the normalised score of methods against what an attempt costs; against wall time where no cost is known."""
    figure, axes = _canvas(3.8, right=0.76)
    priced = any(s.cost for s in standings)
    points = []
    for standing in standings:
        x = (standing.cost or 0.0) / standing.attempts if priced else (standing.seconds or 0.0) / 60
        if standing.interquartile is not None and (x > 0 or standing.cost == 0):
            points.append((x, standing.interquartile, standing.method))
    for x, value, method in points:
        colour, _, marker = _look(method, colours)
        if value.low is not None and value.high is not None:
            axes.plot([x, x], [value.low, value.high], color=colour, linewidth=2, alpha=0.5, solid_capstyle="butt")
        axes.plot([x], [value.value], marker, color=colour, markersize=8)
    positive = [x for x, _, _ in points if x > 0]
    if len(positive) == len(points) > 1 and max(positive) > 10 * min(positive):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    else:
        axes.set_xlim(left=0)
    axes.axhline(0, color=INK, linewidth=1.2, linestyle=(0, (6, 3)))
    what = "US dollars per attempt" if priced else "minutes per attempt (no cost is known)"
    axes.set_title("Score against cost" if priced else "Score against time")
    axes.set_xlabel(what)
    axes.set_ylabel("interquartile mean")
    handles = [_swatch(method, colours) for _, _, method in points]
    labels = [_short(method) for _, _, method in points]
    axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.02), labelspacing=0.35)
    return figure


# ---------------------------------------------------------------------- how


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height))


def _canvas(
    height: float, *, left: float = 0.085, right: float = 0.97, inches: tuple[float, float] = (0.5, 0.35)
) -> tuple[Figure, Axes]:
    """A figure with one field; ``inches`` is the room below and above it."""
    figure = _figure(height)
    bottom, top = inches[0] / height, 1 - inches[1] / height
    return figure, figure.add_axes((left, bottom, right - left, top - bottom))


def _look(method: str, colours: Colours) -> tuple[str, Dashes, str]:
    """Colour, dashes and marker of a method: when the colours are used up, dashes and markers change."""
    if method == BASELINE:
        return INK, (0, (6, 3)), "x"
    place = colours.get(method, 0)
    turn = place // len(SERIES) % len(_DASHES)
    return SERIES[place % len(SERIES)], _DASHES[turn], _MARKERS[turn]


def _swatch(method: str, colours: Colours, *, marked: bool = True) -> Line2D:
    from matplotlib.lines import Line2D

    colour, dashes, marker = _look(method, colours)
    return Line2D([], [], color=colour, linestyle=dashes, marker=marker if marked else "", markersize=4, linewidth=1.6)


def _short(name: str, limit: int = _LONGEST_LABEL) -> str:
    """A name for a picture. Matplotlib leaves labels out of legends that begin with an underscore."""
    text = name if len(name) <= limit else name[: limit - 1] + "…"
    return f"\u200a{text}" if text.startswith("_") else text


def write_pictures(report: Report, folder: Path) -> list[Path]:
    """Write all pictures of a report into a folder, which is made if missing, and return the files.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    kinds: tuple[Format, Format] = ("png", "svg")
    with style():
        for name, draw in pictures(report):
            figure = draw()
            for kind in kinds:
                path = folder / f"{name}.{kind}"
                path.write_bytes(rendered(figure, kind))
                files.append(path)
    return files
