"""How two answers, or two scores, compare: exactly the same, the same within noise, or different."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Literal

from mlgym_clients.replay.masks import masked
from mlgym_clients.replay.recording import Scored

Level = Literal["exact", "noise", "different", "skipped"]
"""``skipped``: it was not compared, and the reason says why."""

_CONTEXT = 2
_LONGEST_DIFF = 30
_WINDOW = 200
_LONGEST_LINE = 300
_CLOSE = 1e-9
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """How something came out.

    Attributes:
        level: how it compares.
        reason: why, in a few words; empty if it is exactly the same.
        diff: a small unified diff of what is different, masked.
    """

    level: Level
    reason: str = ""
    diff: str = ""


def compare_texts(old: str, new: str) -> Comparison:
    """Compare two outputs."""
    if old == new:
        return Comparison("exact")
    before, after = masked(old).rstrip(), masked(new).rstrip()
    if before == after:
        return Comparison("noise", "the same but for times, ids and the like")
    return Comparison("different", "the output is another", diff_of(before, after))


def compare_beginnings(old: str, new: str) -> Comparison:
    """Compare what a running job had printed: how far it was is a matter of time."""
    before, after = masked(old).rstrip(), masked(new).rstrip()
    if before == after:
        return Comparison("exact" if old == new else "noise", "" if old == new else "the same but for times")
    short, long = sorted((before, after), key=len)
    if long.startswith(short):
        return Comparison("noise", "the same output, as far as the job was")
    return Comparison("different", "the output is another", diff_of(before, after))


def compare_scores(old: Scored, new: Scored) -> Comparison:
    """Compare two scores: within two standard errors of their difference is no difference."""
    if old.valid != new.valid:
        words = f"it was {_shown(old)}, and is {_shown(new)}"
        return Comparison("different", words)
    if not old.valid:
        same = old.code == new.code
        return Comparison("exact") if same else Comparison("different", f"it was {_shown(old)}, and is {_shown(new)}")
    if old.value is None or new.value is None:
        return Comparison("skipped", "its value is not known")
    if old.value == new.value or math.isclose(old.value, new.value, rel_tol=_CLOSE):
        return Comparison("exact")
    error = math.hypot(old.se or 0.0, new.se or 0.0)
    apart = abs(old.value - new.value)
    words = f"{old.value:.6g} before, {new.value:.6g} now"
    if error > 0 and math.isfinite(error):
        words += f", {apart / error:.1f} standard errors apart"
        if apart <= _STANDARD_ERRORS * error:
            return Comparison("noise", words)
    return Comparison("different", words)


def worst(levels: list[Level]) -> Level:
    """Return the worst of some levels; what was skipped does not count, unless there is nothing else."""
    order: tuple[Level, ...] = ("different", "noise", "exact")
    return next((level for level in order if level in levels), "skipped")


def diff_of(old: str, new: str) -> str:
    """Return a small unified diff of two texts, from where they begin to differ."""
    before, after = old.splitlines(), new.splitlines()
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
    start = max(0, (min(len(before), len(after)) if same is None else same) - _CONTEXT)
    window = slice(start, start + _WINDOW)
    lines = list(difflib.unified_diff(before[window], after[window], "recorded", "replayed", lineterm="", n=_CONTEXT))
    kept: list[str] = []
    for line in lines:
        if len(kept) == _LONGEST_DIFF:
            kept.append("...")
            break
        line = f"@@ from line {start + 1} @@" if line.startswith("@@") else line
        kept.append(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}...")
    return "\n".join(kept)


def _shown(score: Scored) -> str:
    if score.valid:
        return "a score" if score.value is None else f"{score.value:.6g}"
    return f"no score ({score.code or 'invalid'})"
