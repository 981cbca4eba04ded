"""Long calls that an earlier server began, as the journal has them: their clients may ask for them again.

A client sends a call again whose answer it never got, or asks for a task by the handle it was given. What the call
began may still run (a command's job lives in the sandbox), may be done (a score is in the journal), or may be lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlgym_mcp.session.journal import Event, read_journal
from mlgym_mcp.session.recovery import score_of
from mlgym_mcp.session.scoring import Score
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.toolbox import BY_NAME

LONG = frozenset({"shell", "validate", "submit"})
_SHOWN = 499
"""The runner keeps so many characters of a command."""
_CLOCKS_S = 2.0


@dataclass(eq=False, slots=True)
class Earlier:
    """A call of a long tool, made before this server was there.

    Attributes:
        seq: its number in the journal.
        tool: its name.
        arguments: as the journal keeps them.
        key: the request's own name for the call, if it had one.
        handle: the id of the task that it was or would have been handed out as, if its client takes tasks.
        begun: Unix time.
        last: whether nothing was changed after it.
        answered: Unix time of its result; ``None`` if it has none, or one that only puts off.
        job: the job that it began, if its result tells.
        others: jobs that belong to other calls.
        score: what was graded for it.
    """

    seq: int
    tool: str
    arguments: Mapping[str, Any]
    key: str | None
    handle: str | None
    begun: float
    last: bool = False
    answered: float | None = None
    job: str | None = None
    others: set[str] = field(default_factory=set)
    score: Score | None = None

    async def find_job(self, session: Session, command: str | None = None) -> str | None:
        """Return the job that the call began, if it came to that.

        Args:
            session: whose sandbox it runs in.
            command: the whole command, where the journal has only its digest.

        Raises:
            SessionError: the sandbox is not there.
        """
        if self.job is not None:
            return self.job
        command = self.arguments.get("command") if command is None else command
        if not isinstance(command, str):
            return None
        async with session.working() as sandbox:
            jobs = await sandbox.jobs()
        for job in reversed(jobs):
            same = job.command == command or (len(command) > _SHOWN and job.command[:_SHOWN] == command[:_SHOWN])
            if same and job.id not in self.others and job.started >= self.begun - _CLOCKS_S:
                return job.id
        return None


def read_earlier(session: Session, kept_s: float, task_s: float) -> list[Earlier]:
    """Return the calls that may be asked for again, newest first. Reads the whole journal.

    Those are what was never answered, and what was answered lately, if it has a name of its own: the answer may never
    have arrived.

    Args:
        session: whose.
        kept_s: how long before the journal's end a call with a key may have been answered, in seconds.
        task_s: the same for a call with a handle.

    Raises:
        JournalError, OSError: it cannot be read.
        KeyError, TypeError: an event lacks what it must have.
    """
    calls: dict[int, Earlier] = {}
    answers: dict[int, Earlier] = {}
    """The same, by whichever call has their answer."""
    waiting: dict[str, list[Earlier]] = {"validate": [], "submit": []}
    jobs: set[str] = set()
    changed = last_t = 0.0
    for event in read_journal(session.episode.folder):
        last_t = event.t
        if event.type == "call":
            spec = BY_NAME.get(event["tool"])
            if event.get("follows") is None and spec is not None and not spec.read_only:
                changed = event.t
            if event["tool"] in LONG and event.get("follows") is None:
                made = Earlier(
                    event.seq, event["tool"], event["arguments"], event.get("key"), event.get("handle"), event.t
                )
                calls[event.seq] = answers[event.seq] = made
                if made.tool in waiting:
                    waiting[made.tool].append(made)
            elif (of := event.get("of")) in calls:  # a server in between has answered for it
                answers[event.seq] = calls[of]
        elif event.type == "result":
            if (call := answers.get(event["call"])) is not None and _tells(event):
                job = (event.get("meta") or {}).get("job_id")
                call.answered, call.job = event.t, None if job is None else str(job)
                jobs |= set() if call.job is None else {call.job}
        elif event.type == "score" and event["kind"] in waiting:  # all that waited for one wait for the same
            for call in waiting[event["kind"]]:
                call.score = score_of(event, session.spec)
            waiting[event["kind"]].clear()
    found = []
    for call in reversed(calls.values()):
        call.last = call.begun == changed
        call.others = jobs if call.job is None else jobs - {call.job}
        known_s = max(kept_s if call.key is not None else 0.0, task_s if call.handle is not None else 0.0)
        if call.answered is None or last_t - call.answered < known_s:
            found.append(call)
    return found


def _tells(result: Event) -> bool:
    """Whether a result is the call's answer: not a refusal, after which the same call is made again."""
    put_off = result.get("refused") or result.get("cancelled") or (result.get("meta") or {}).get("refused")
    return not put_off
