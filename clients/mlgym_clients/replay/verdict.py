"""How an episode came out when it was played again."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from mlgym_clients.replay.comparing import Comparison, Level, compare_scores, worst
from mlgym_clients.replay.recording import Recording, Scored
from mlgym_clients.replay.replayer import Compared

_UNSUBMITTED = frozenset({"budget_exhausted", "abandoned"})
_INFRASTRUCTURE = "infrastructure_error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One replay.

    Attributes:
        recording: what was played.
        episode: the record of the replay.
        compared: its calls, in order.
        outcome: how the two ends compare.
        score: how the two final scores compare.
        seconds: how long the replay took.
        notes: what may explain differences.
    """

    recording: Recording
    episode: str
    compared: tuple[Compared, ...]
    outcome: Comparison
    score: Comparison
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def level(self) -> Level:
        """How all of it compares."""
        return worst([self.outcome.level, self.score.level, *(each.comparison.level for each in self.compared)])

    @property
    def outputs(self) -> Level:
        """How the answers of the calls compare."""
        return worst([each.comparison.level for each in self.compared])

    @property
    def reproduced(self) -> bool:
        """Whether the episode ended the same way, with the same scores within noise."""
        graded = [each.comparison.level for each in self.compared if each.step.score is not None]
        levels = [self.outcome.level, self.score.level, *graded]
        return "different" not in levels and self.outcome.level != "skipped"

    @property
    def first(self) -> Compared | None:
        """The first call that came out different."""
        return next((each for each in self.compared if each.comparison.level == "different"), None)

    def counts(self) -> Counter[Level]:
        """Return how many calls came out how."""
        return Counter(each.comparison.level for each in self.compared)

    def why_not(self) -> str:
        """Say in a few words why it is not reproduced; empty if it is."""
        if self.reproduced:
            return ""
        if self.outcome.level in ("different", "skipped"):
            return f"outcome: {self.outcome.reason}"
        if self.score.level == "different":
            return f"final score: {self.score.reason}"
        graded = next(c for c in self.compared if c.step.score is not None and c.comparison.level == "different")
        return f"{graded.step.tool}: {graded.comparison.reason}"

    def as_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON."""
        return {
            "episode": self.recording.folder.name,
            "replay": self.episode,
            "task": self.recording.task,
            "preset": self.recording.preset,
            "seed": self.recording.seed,
            "level": self.level,
            "reproduced": self.reproduced,
            "outcome": asdict(self.outcome),
            "score": asdict(self.score),
            "counts": dict(self.counts()),
            "first_difference": None if self.first is None else self.first.step.seq,
            "calls": [
                {"seq": each.step.seq, "tool": each.step.tool, **asdict(each.comparison)} for each in self.compared
            ],
            "seconds": round(self.seconds, 3),
            "notes": list(self.notes),
        }


def compare_outcomes(old: str | None, new: str | None) -> Comparison:
    """Compare how two episodes ended; one that nobody submitted is ended by the replay."""
    if old is None:
        return Comparison("skipped", "the recorded episode has not ended")
    if old == _INFRASTRUCTURE:
        return Comparison("skipped", "the recorded episode was ended by an infrastructure error")
    if old == new:
        return Comparison("exact")
    if old in _UNSUBMITTED and new in _UNSUBMITTED:
        return Comparison("exact", "ended without a submission")
    return Comparison("different", f"it was {old}, and is {new}")


def compare_finals(old: Scored | None, new: Scored | None) -> Comparison:
    """Compare two final scores, either of which may be missing."""
    if old is None and new is None:
        return Comparison("exact", "neither has one")
    if old is None or new is None:
        there = new if old is None else old
        assert there is not None
        shown = "none" if there.value is None else f"{there.value:.6g}"
        words = f"there was none, and is {shown} now" if old is None else f"it was {shown}, and there is none now"
        return Comparison("different", words)
    return compare_scores(old, new)
