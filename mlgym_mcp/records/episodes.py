"""Episodes read back from disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlgym_mcp.session.journal import FILE_NAME, Event, JournalError, read_journal
from mlgym_sandbox.home import home


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """What a journal says of its episode, in short.

    Attributes:
        id: the folder's name.
        folder: where it is.
        task: which task, at which preset and with which seed.
        started: Unix time, seconds.
        seconds: from the first to the last event.
        calls: tool calls made.
        validations: valid validation scores, oldest first.
        outcome: how it ended; ``live`` while it has not.
        score: the final score's record, if it has one.
        baseline: the baseline's value of the metric.
        damage: what is wrong with the journal, if anything; the rest is what could be read.
    """

    id: str
    folder: Path
    task: str = "?"
    preset: str = "?"
    seed: int = 0
    started: float = 0.0
    seconds: float = 0.0
    calls: int = 0
    validations: tuple[float, ...] = ()
    outcome: str = "live"
    reason: str = ""
    score: dict[str, Any] | None = None
    baseline: float | None = None
    damage: str | None = None
    sandbox: str = "?"
    budget: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """The final score's primary metric."""
        if self.score is None or not self.score.get("valid"):
            return None
        value = self.score["metrics"][self.score["primary"]]
        return float(value)


def episode_folders(root: Path | None = None) -> list[Path]:
    """Return all episode folders, oldest first."""
    root = root or home("episodes")
    return sorted(folder for folder in root.iterdir() if (folder / FILE_NAME).is_file())


def find_episode(name: str, root: Path | None = None) -> Path:
    """Return an episode's folder by its name, a unique beginning of it, or ``last``; a path is taken as it is.

    Raises:
        LookupError: none or several match; the message says what there is.
    """
    if (Path(name) / FILE_NAME).is_file():
        return Path(name)
    folders = episode_folders(root)
    if name == "last" and folders:
        return folders[-1]
    matches = [f for f in folders if f.name == name] or [f for f in folders if f.name.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise LookupError(f"{len(matches)} episodes begin with {name!r}: {', '.join(f.name for f in matches[:5])}")
    raise LookupError(f"there is no episode {name!r} (there are {len(folders)}; 'mlgym-mcp episodes list' shows them)")


def events(folder: Path) -> Iterator[Event]:
    """Yield an episode's events.

    Raises:
        JournalError: the journal is damaged from that event on.
    """
    return read_journal(folder)


def summarize(folder: Path) -> EpisodeSummary:
    """Read a whole journal and return what matters of it; a damaged journal is told in ``damage``."""
    facts: dict[str, Any] = {"id": folder.name, "folder": folder}
    validations: list[float] = []
    calls = 0
    first = last = None
    try:
        for event in read_journal(folder):
            first = event.t if first is None else first
            last = event.t
            if event.type == "session":
                facts |= {k: event[k] for k in ("task", "preset", "seed", "sandbox", "budget", "metadata")}
            elif event.type == "call":
                calls += 1
            elif event.type == "score":
                facts["baseline"] = event["baseline"]
                if event["valid"] and event["kind"] == "validate":
                    validations.append(event["metrics"][event["primary"]])
            elif event.type == "end":
                facts |= {"outcome": event["outcome"], "reason": event["reason"], "score": event["score"]}
    except (JournalError, OSError, KeyError) as exc:
        facts["damage"] = str(exc)
    if first is not None and last is not None:
        facts |= {"started": first, "seconds": last - first}
    return EpisodeSummary(**facts, calls=calls, validations=tuple(validations))
