"""How an episode can end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anyio

from mlgym_mcp.session.errors import InfrastructureError
from mlgym_mcp.session.scoring import Score

if TYPE_CHECKING:
    from mlgym_mcp.session.session import Session

_GRACE_S = 60.0
"""For what has to be done around two gradings."""

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


async def with_what_was_left(session: Session, over: End) -> End:
    """Return the end of an episode whose agent never submitted: its work is graded as it is, if the task allows it.

    Args:
        session: its sandbox is still there.
        over: how it ended otherwise.
    """
    try:
        with anyio.fail_after(2 * session.scoring.timeout_s + _GRACE_S):
            await session.checkpoints.settled()
            score = await session.scoring.autosubmit()
    except (InfrastructureError, TimeoutError) as exc:
        failed = str(exc) or "grading took too long"
        return End("infrastructure_error", f"{over.reason}; what was left was not graded: {failed}")
    if score is not None and score.valid:
        how = "the work was submitted" if score.kind == "submit" else "the workspace was submitted as it stood"
        return End("scored", f"{over.reason}; {how}", score)
    if score is not None and score.code != "missing":
        return End("invalid_submission", f"{over.reason}; what was left is not valid: {score.reason}")
    return over
