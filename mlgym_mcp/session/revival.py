"""A dead server's session, made alive again from its marker and its journal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from mlgym_mcp.catalog import Catalog, TaskError
from mlgym_mcp.session.budget import Budget
from mlgym_mcp.session.episode import Episode
from mlgym_mcp.session.errors import SessionError
from mlgym_mcp.session.journal import JournalError, read_journal
from mlgym_mcp.session.recovery import read_past
from mlgym_mcp.session.session import Session, SessionConfig
from mlgym_sandbox.errors import SandboxError

if TYPE_CHECKING:
    from mlgym_mcp.session.backends import Backends
    from mlgym_mcp.session.succession import Bequest

REVIVAL_ERRORS: Final = (
    TaskError,
    SandboxError,
    SessionError,
    JournalError,
    OSError,
    LookupError,
    TypeError,
    ValueError,
)
"""Whatever a marker, a journal or a task of another version may lack."""


async def revive(bequest: Bequest, catalog: Catalog, backends: Backends) -> Session:
    """Return a session that goes on when it is run: with its id, token, budget as far as spent, scores and calls.

    Raises:
        REVIVAL_ERRORS: it cannot go on.
    """
    marker = bequest.marker
    task = catalog.get(marker.task)
    task.preset(marker.preset)
    folder = Path(marker.episode)
    past = await anyio.to_thread.run_sync(lambda: read_past(read_journal(folder), task.spec.of(marker.preset)))
    if past.ended or past.began == 0.0:
        raise ValueError("it was over" if past.ended else "it had not begun")
    past.last_served = bequest.served if past.sandbox is not None else 0.0
    limits = Budget(**marker.budget)
    config = SessionConfig(task, marker.preset, marker.seed, limits, marker.wait_s, dict(marker.metadata))
    backend = await backends.get(marker.backend, unsafe=True, engine=marker.engine)
    episode = Episode(folder)
    try:
        session = Session(marker.session, marker.token, config, backend, episode, past)
        session.engine = marker.engine
        return session
    except BaseException:
        episode.close()
        raise
