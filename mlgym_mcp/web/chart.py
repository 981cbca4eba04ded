"""An episode's scores over time as a picture for a page: SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from markupsafe import Markup, escape

from mlgym_mcp.records.attempts import Attempt

_WIDTH, _HEIGHT = 760, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 130, 14, 38
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_MOST = 2000
_WILD = 1e300
"""Scores beyond it are not drawn: differences would not be finite."""


def score_chart(attempt: Attempt, reference: float | None = None) -> Markup:
    """Return the chart of an attempt's scores with the baseline; empty if there is no score."""
    points = [p for p in attempt.points[-_MOST:] if abs(p.value) < _WILD]
    if not points:
        return Markup("")
    marks = [("baseline", attempt.baseline), ("reference", reference)]
    lines = [(name, value) for name, value in marks if value is not None and abs(value) < _WILD]
    values = [p.value for p in points] + [value for _, value in lines]
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - pad, high + pad
    longest = max(attempt.seconds, *(p.seconds for p in points)) or 1.0
    unit, word = (1.0, "s") if longest < 180 else (60.0, "min") if longest < 4 * 3600 else (3600.0, "h")

    def x(seconds: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / longest

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    out = [_title(attempt)]
    for tick in _ticks(low, high):
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        out.append(f'<text class="tick" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(0.0, longest / unit):
        place = x(tick * unit)
        out.append(f'<text class="tick" x="{place:.1f}" y="{_HEIGHT - 20}" text-anchor="middle">{tick:g}</text>')
    out.append(
        f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">time, {word}'
        " (dots: validations, diamonds: submissions)</text>"
    )
    for (name, value), place in zip(lines, _apart([y(v) for _, v in lines]), strict=True):
        out.append(
            f'<line class="{name}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text class="mark" x="{_WIDTH - _RIGHT + 8}" y="{place + 4:.1f}">{name} {value:.4g}</text>'
        )
    path = " ".join(f"{x(p.seconds):.1f},{y(p.value):.1f}" for p in points)
    out.append(f'<polyline class="run" points="{path}"/>')
    for p in points:
        told = f"<title>{escape(p.kind)} {p.value:.6g} after {p.seconds:.1f} s</title>"
        if p.kind == "validate":
            out.append(
                f'<circle class="validation" cx="{x(p.seconds):.1f}" cy="{y(p.value):.1f}" r="4">{told}</circle>'
            )
        else:
            cx, cy = x(p.seconds), y(p.value)
            corners = f"{cx:.1f},{cy - 7:.1f} {cx + 7:.1f},{cy:.1f} {cx:.1f},{cy + 7:.1f} {cx - 7:.1f},{cy:.1f}"
            out.append(f'<polygon class="submission" points="{corners}">{told}</polygon>')
    view = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return Markup(f'<svg class="chart" {view} role="img">{"".join(out)}</svg>')  # noqa: S704 - texts are escaped above


def _title(attempt: Attempt) -> str:
    better = "higher" if attempt.higher_is_better else "lower"
    return f"<title>{escape(attempt.metric)} over time, {better} is better</title>"


def _ticks(low: float, high: float) -> Iterator[float]:
    """Round figures in a range, four to eight of them."""
    rough = (high - low) / 5
    if not rough > 0 or not math.isfinite(rough):
        return
    power = 10.0 ** math.floor(math.log10(rough))
    if not power > 0:
        return
    step = next(s * power for s in _STEPS if s * power >= rough * 0.999)
    first = math.ceil(low / step)
    for i in range(12):
        if (first + i) * step > high + step * 1e-9:
            return
        yield round((first + i) * step, 12) if abs(first * step) < 1e6 else (first + i) * step


def _apart(places: list[float], room: float = 15.0) -> list[float]:
    """Move labels apart that would cover each other."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + room)
    return moved
