"""Commands over which a server died, found again when the client sends the call to the next server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlgym_mcp.session.journal import read_journal
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.toolbox import BY_NAME

_SHOWN = 499
"""The runner keeps so many characters of a command."""
_CLOCKS_S = 2.0


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A ``shell`` call that has no result in the journal.

    Attributes:
        arguments: as the journal keeps them.
        key: the request's own name for the call, if it had one.
        begun: Unix time.
        last: whether nothing was changed after it.
        answered: jobs that belong to other calls.
    """

    arguments: Mapping[str, Any]
    key: str | None
    begun: float
    last: bool
    answered: frozenset[str]

    async def job(self, session: Session, command: str) -> str | None:
        """Return the job that the call began, if it came to that.

        Raises:
            SessionError: the sandbox is not there.
        """
        async with session.working() as sandbox:
            jobs = await sandbox.jobs()
        for job in reversed(jobs):
            same = job.command == command or (len(command) > _SHOWN and job.command[:_SHOWN] == command[:_SHOWN])
            if same and job.id not in self.answered and job.started >= self.begun - _CLOCKS_S:
                return job.id
        return None


def read_unanswered(session: Session) -> list[Unanswered]:
    """Return the commands that an earlier server began and never answered, newest first. Reads the whole journal.

    Raises:
        JournalError: it cannot be read.
    """
    calls: dict[int, Any] = {}
    answered = set()
    changes = []
    for event in read_journal(session.episode.folder):
        if event.type == "call":
            spec = BY_NAME.get(event["tool"])
            if spec is not None and not spec.read_only:
                changes.append(event.seq)
            if event["tool"] == "shell":
                calls[event.seq] = event
        elif event.type == "result":
            calls.pop(event["call"], None)
            if (job_id := (event.get("meta") or {}).get("job_id")) is not None:
                answered.add(str(job_id))
    return [
        Unanswered(event["arguments"], event.get("key"), event.t, seq == changes[-1], frozenset(answered))
        for seq, event in reversed(calls.items())
    ]
