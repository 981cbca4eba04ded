"""Episodes as the server shows them, each read again only when its journal has grown."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from mlgym_mcp.records.episodes import EpisodeSummary, summarize
from mlgym_mcp.session.ending import End
from mlgym_mcp.session.journal import FILE_NAME
from mlgym_mcp.session.scoring import Score

_DIGITS = 6
"""Of a validation, which is no end; a final score is shown as it is."""


def summary_of(folder: Path) -> EpisodeSummary:
    """Return what an episode's journal says in short. Blocking.

    Raises:
        OSError: there is none.
    """
    facts = (folder / FILE_NAME).stat()
    return _summary(folder, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=2000)
def _summary(folder: Path, _size: int, _changed: int) -> EpisodeSummary:
    return summarize(folder)


def end_of(summary: EpisodeSummary) -> End | None:
    """Return how an episode ended; ``None`` if it has not, as far as can be read."""
    if summary.outcome == "live":
        return None
    score = None if summary.score is None else Score.from_record(summary.score, _DIGITS)
    outcome: object = summary.outcome
    return End(outcome, summary.reason, score)  # type: ignore[arg-type]  # as the journal has it
