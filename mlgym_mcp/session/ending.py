"""How an episode can end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlgym_mcp.session.scoring import Score

Outcome = Literal["scored", "invalid_submission", "budget_exhausted", "abandoned", "infrastructure_error"]


@dataclass(frozen=True, slots=True)
class End:
    """How an episode ended: exactly one outcome, and the sentence that says why."""

    outcome: Outcome
    reason: str
    score: Score | None = None

    def text(self) -> str:
        """Say that and why the episode is over, with the score if there is one."""
        score = f" Final score: {self.score.line()}." if self.score and self.score.valid else ""
        return f"The episode is over ({self.outcome}): {self.reason}.{score} No tool can be used any more."
