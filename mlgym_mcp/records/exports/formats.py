"""The formats by name, and the episodes that go into them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlgym_mcp.records.exports.atif import write_atif
from mlgym_mcp.records.exports.chat import write_chat
from mlgym_mcp.records.exports.inspect_logs import write_inspect
from mlgym_mcp.records.exports.messages import messages_of
from mlgym_mcp.records.exports.otel import write_otel
from mlgym_mcp.records.exports.reading import read_trajectory
from mlgym_mcp.records.exports.redaction import Redactor
from mlgym_mcp.records.exports.tables import write_tables
from mlgym_mcp.records.exports.trajectory import Trajectory

Write = Callable[[Iterable[Trajectory], Path], list[Path]]

FORMATS: Mapping[str, Write] = {
    "inspect": write_inspect,
    "openai": write_chat,
    "atif": write_atif,
    "otel": write_otel,
    "csv": write_tables,
}
"""What writes each format; ``openai`` and ``otel`` are one file, the others a folder."""


@dataclass(frozen=True, slots=True)
class Curated:
    """What a replay of an episode leaves of it.

    Attributes:
        dropped: why nothing of it is kept; empty if something is.
        before: the number of the first call that is not kept; ``None`` if all are.
    """

    dropped: str = ""
    before: int | None = None


@dataclass(slots=True)
class Tally:
    """What was exported and what was not.

    Attributes:
        exported: the episodes' names.
        cut: how many of them only in part.
        dropped: how many were left out, by why.
        problems: what could not be read, in sentences.
        redacted: how many secrets were taken out.
    """

    exported: list[str] = field(default_factory=list)
    cut: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    redacted: int = 0


def trajectories(
    folders: Iterable[Path],
    tally: Tally,
    redactor: Redactor,
    *,
    messages: Mapping[str, Path] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    curated: Mapping[Path, Curated] | None = None,
) -> Iterator[Trajectory]:
    """Yield episodes, one at a time, and tell what becomes of each.

    Args:
        folders: the episodes.
        tally: is told.
        redactor: takes out secrets.
        messages: where agents' own messages are kept, by the episode's name.
        tools: definitions for episodes without messages.
        curated: what to keep of each; without it, all of all.
    """
    for folder in folders:
        kept = Curated() if curated is None else curated.get(folder, Curated("it was not replayed"))
        if kept.dropped:
            tally.dropped[kept.dropped] += 1
            continue
        try:
            path = messages_of(folder, messages or {})
            trajectory = read_trajectory(folder, redactor, messages=path, tools=tools)
        except (OSError, ValueError) as exc:
            tally.dropped["it cannot be read"] += 1
            tally.problems.append(f"{folder}: {exc}")
            continue
        if kept.before is not None:
            trajectory = trajectory.before(kept.before)
            if not any(True for _ in trajectory.calls):
                tally.dropped["nothing is left of it"] += 1
                continue
            tally.cut += trajectory.cut
        tally.exported.append(trajectory.episode)
        tally.redacted += trajectory.redacted
        if trajectory.damage:
            tally.problems.append(f"{folder}: {trajectory.damage}")
        yield trajectory
