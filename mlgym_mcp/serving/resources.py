"""What of a session can be read as a resource: the task, its status, scores and calls so far."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio.to_thread

from mlgym_mcp.session.journal import read_journal
from mlgym_mcp.session.session import Session
from mlgym_mcp.tools.reply import Call
from mlgym_mcp.tools.task import get_task, status
from mlgym_mcp.tools.views import score_view

_SHOWN = 500
"""Of so many calls, the last ones, the log tells."""


@dataclass(frozen=True, slots=True)
class Content:
    """One resource of a session.

    Attributes:
        name: the last part of its URI.
        title: what it is, for people.
        mime_type: of its text.
        read: returns its text now.
    """

    name: str
    title: str
    mime_type: str
    read: Callable[[Session], Awaitable[str]]


async def _instruction(session: Session) -> str:
    return (await get_task(Call(session))).text


async def _status(session: Session) -> str:
    return json.dumps((await status(Call(session))).data, indent=1)


async def _scores(session: Session) -> str:
    views = [score_view(score, session).model_dump(mode="json") for score in session.scoring.scores]
    return json.dumps(views, indent=1)


async def _log(session: Session) -> str:
    return await anyio.to_thread.run_sync(_public_log, session)


def _public_log(session: Session) -> str:
    """Return the last calls of the episode as the agent may see them: no scores' private parts, no server facts."""
    lines = [
        f"{event.seq:5}  {event['tool']}  {json.dumps(event['arguments'])[:200]}"
        for event in read_journal(session.episode.folder)
        if event.type == "call"
    ]
    return "\n".join(lines[-_SHOWN:])


CONTENTS: tuple[Content, ...] = (
    Content("instruction", "The task: what to do and how to submit", "text/markdown", _instruction),
    Content("status", "Budget left, running jobs, best score", "application/json", _status),
    Content("scores", "All scores of this episode so far", "application/json", _scores),
    Content("log", "The tool calls of this episode so far", "text/plain", _log),
)
