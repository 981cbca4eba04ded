"""The jobs of an episode, as far as its agent looked at them: what the journal has of their output."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlgym_mcp.records.attempts import finite, whole
from mlgym_mcp.records.salvage import Damage
from mlgym_mcp.web.text import one_line, visible
from mlgym_mcp.web.timeline import Entry, entries

_MOST_JOBS = 2000
_MOST_PIECES = 400


@dataclass(slots=True)
class Job:
    """One command that ran in the sandbox.

    Attributes:
        id: its name in the session.
        seq: of the call that started it.
        command: what ran; empty if its start is not in the journal.
        at: seconds since the episode began.
        state: as it was last seen.
        exit_code: if it has ended.
        seconds: how long it had run when it was last seen.
        pieces: the calls that looked at it, oldest first.
    """

    id: str
    seq: int = 0
    command: str = ""
    at: float = 0.0
    state: str = "?"
    exit_code: int | None = None
    seconds: float | None = None
    pieces: list[Entry] = field(default_factory=list)


def read_jobs(folder: Path, only: str | None = None) -> list[Job]:
    """Return an episode's jobs; of ``only`` one, with what was seen of its output.

    Raises:
        OSError: the journal cannot be read.
    """
    jobs: dict[str, Job] = {}
    commands: dict[int, str] = {}
    for line, entry in entries(folder, Damage()):
        if line.type == "call" and line.fields.get("tool") == "shell":
            arguments = line.fields.get("arguments")
            command = arguments.get("command") if isinstance(arguments, dict) else None
            commands[line.seq] = command if isinstance(command, str) else "(a long one)"
        if line.type != "result" or entry is None:
            continue
        command = commands.pop(entry.seq, None)
        meta = line.fields.get("meta")
        if not entry.job or not isinstance(meta, dict) or (only is not None and entry.job != only):
            continue
        job = jobs.get(entry.job)
        if job is None:
            if len(jobs) >= _MOST_JOBS:
                continue
            job = jobs[entry.job] = Job(entry.job, entry.seq, at=entry.at)
        if command is not None:
            job.command = visible(command[:4000])
        _look(job, meta)
        if only is not None and len(job.pieces) < _MOST_PIECES:
            job.pieces.append(entry)
    return list(jobs.values())


def _look(job: Job, meta: dict[str, Any]) -> None:
    job.state = one_line(meta.get("state") or "?", 40)
    job.exit_code = whole(meta.get("exit_code"))
    job.seconds = finite(meta.get("seconds"))
