"""A session's past, read from its journal: what was spent, scored and decided before its server died."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlgym_mcp.catalog.spec import TaskSpec
from mlgym_mcp.session.journal import Event, Journal, read_journal
from mlgym_mcp.session.scoring import Score

if TYPE_CHECKING:
    from mlgym_mcp.session.ending import Outcome

_UNANSWERED = 64


@dataclass(slots=True)
class Past:
    """What an unended journal tells.

    Attributes:
        began: Unix time at which the session was made.
        made: tool calls made, refused ones included.
        counted: tool calls that count against the budget, those in flight at the crash included.
        scores: all scores, oldest first.
        sandbox: the sandbox's name; ``None`` if the session was still being prepared.
        ready_t: Unix time at which the wall clock started.
        away_s: seconds since then in which no server was there.
        last_t: Unix time of the last event.
        last_served: Unix time at which a server last looked after it, as far as its marker tells.
        unanswered: sequence numbers of the calls that have no result: their server died over them.
        restoring: the snapshot that the workspace was being restored to.
        parent: the episode and the snapshot that it was forked from.
        ending: outcome and reason of an end that was decided but not yet recorded.
        ended: whether the end is recorded.
    """

    began: float = 0.0
    made: int = 0
    counted: int = 0
    scores: list[Score] = field(default_factory=list)
    sandbox: str | None = None
    ready_t: float | None = None
    away_s: float = 0.0
    last_t: float = 0.0
    last_served: float = 0.0
    unanswered: list[int] = field(default_factory=list)
    restoring: str | None = None
    parent: tuple[str, str] | None = None
    ending: tuple[Outcome, str] | None = None
    ended: bool = False

    @property
    def validations(self) -> int:
        """How many validations were used up."""
        return sum(score.valid and score.kind == "validate" for score in self.scores)

    @property
    def final(self) -> Score | None:
        """The score that ends the episode, if it was already earned."""
        return next((score for score in self.scores if score.valid and score.kind != "validate"), None)

    @property
    def final_reason(self) -> str:
        """Why the episode ends with that score."""
        if self.final is None or self.final.kind == "submit":
            return "the work was submitted"
        why = "the episode was ending" if self.ending is None else self.ending[1]
        return f"{why}; the workspace was submitted as it stood"

    @property
    def left_t(self) -> float:
        """Unix time from which on no server was there."""
        return max(self.last_t, self.last_served)

    @property
    def wall_s(self) -> float:
        """The wall seconds spent: from ready to when it was last served, without the times nobody was there."""
        return 0.0 if self.ready_t is None else max(0.0, self.left_t - self.ready_t - self.away_s)


def read_past(events: Iterable[Event], spec: TaskSpec) -> Past:
    """Return what the events of a journal say of their session.

    Args:
        events: the whole journal.
        spec: the task's, as the session's preset has it.

    Raises:
        JournalError: the journal is damaged.
        KeyError, TypeError: an event lacks what it must have.
    """
    past = Past()
    open_calls: dict[int, None] = {}
    for event in events:
        past.last_t = event.t
        match event.type:
            case "session":
                past.began = event.t
                if (parent := event.get("parent")) is not None:
                    past.parent = (parent["episode"], parent["snapshot"])
            case "call":
                past.made += 1
                past.counted += bool(event["counted"])
                open_calls[event.seq] = None
            case "result":
                open_calls.pop(event["call"], None)
            case "score":
                past.scores.append(score_of(event, spec))
            case "sandbox" if event["state"] == "started":
                past.sandbox, past.ready_t, past.away_s = event["name"], event.t, 0.0
            case "restoring":
                past.restoring = event["snapshot"]
            case "restored" | "restore_failed":
                past.restoring = None
            case "adopted":
                past.away_s += event["away_s"]
                open_calls.clear()
            case "ending":
                past.ending = (event["outcome"], event["reason"])
            case "end":
                past.ended = True
            case _:
                pass
    past.unanswered = list(open_calls)[:_UNANSWERED]
    return past


def score_of(event: Event, spec: TaskSpec) -> Score:
    """Return the score that a ``score`` event records.

    Raises:
        TypeError: it is none.
    """
    return Score.from_record(event.fields, spec.primary_metric.digits_validate)


async def end_dead(folder: Path, reason: str) -> bool:
    """Record the end of an episode that nobody goes on with; whether there was one to end.

    An episode whose final score is recorded ends with that.

    Raises:
        JournalError: the journal is damaged or cannot be written.
        OSError: it cannot be read.
    """
    if not folder.is_dir():
        return False
    score: Event | None = None
    for event in read_journal(folder):
        if event.type == "end":
            return False
        if event.type == "score" and event["valid"] and event["kind"] != "validate":
            score = event
    journal = Journal(folder)
    try:
        outcome = "infrastructure_error" if score is None else "scored"
        kept = None if score is None else dict(score.fields)
        await journal.append_durable("end", outcome=outcome, reason=reason, score=kept, spent=None)
    finally:
        journal.close()
    return True
