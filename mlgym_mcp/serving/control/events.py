"""Following a session: its journal from any sequence number on, then live, as server-sent events."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from mlgym_mcp.serving.control.views import event_text
from mlgym_mcp.session.journal import Event, JournalError, read_journal
from mlgym_mcp.session.session import Session

_PING_S = 15.0
_BATCH = 200
_BATCH_BYTES = 256 << 10
"""So much of a journal is in memory for one reader, who may never read it."""
_WAITING = 100
"""Live events kept for one slow reader; beyond them it is served from the disk again."""


class Fresh:
    """The newest events of one journal, as they are written."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_WAITING)
        self._news = anyio.Event()

    def add(self, event: Event) -> None:
        """Take one more event."""
        self._events.append(event)
        self._news.set()

    def take(self, after: int) -> list[Event] | None:
        """Return what came after a sequence number; ``None`` if some of it is no longer here."""
        while self._events and self._events[0].seq <= after:
            self._events.popleft()
        if self._events and self._events[0].seq != after + 1:
            return None
        found = list(self._events)
        self._events.clear()
        self._news = anyio.Event()
        return found

    async def wait(self, stopping: anyio.Event, seconds: float) -> None:
        """Return when there is news, when the server stops, or after some seconds."""
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as tasks:

                async def either(event: anyio.Event) -> None:
                    await event.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(either, self._news)
                tasks.start_soon(either, stopping)


@contextmanager
def watched(session: Session) -> Iterator[Fresh]:
    """Lend the live events of a session."""
    fresh = Fresh()
    journal = session.episode.journal
    journal.watchers.append(fresh.add)
    try:
        yield fresh
    finally:
        journal.watchers.remove(fresh.add)


async def follow(session: Session, after: int, stopping: anyio.Event, ping_s: float = _PING_S) -> AsyncIterator[str]:
    """Yield a session's events with a greater sequence number than ``after``, until its end or the server's.

    A line of comment every ``ping_s`` seconds keeps proxies from closing a quiet stream. A damaged journal ends
    the stream with an event ``problem``.
    """
    with watched(session) as fresh:
        yield "retry: 1000\n\n"
        while True:
            events = fresh.take(after)
            if events is None or (not events and after < session.episode.journal.next_seq - 1):
                try:
                    events = await anyio.to_thread.run_sync(_read, read_journal(session.episode.folder), after)
                except (JournalError, OSError):
                    yield 'event: problem\ndata: {"error":"the journal is damaged from here on"}\n\n'
                    return
            for event in events:
                after = event.seq
                yield event_text(event)
                if event.type == "end":
                    return
            if stopping.is_set() or (session.closed and not events):
                return
            if not events:
                before = session.episode.journal.next_seq
                await fresh.wait(stopping, ping_s)
                if session.episode.journal.next_seq == before:
                    yield ": ping\n\n"


async def replay(folder: Path, after: int) -> AsyncIterator[str]:
    """Yield an ended episode's events with a greater sequence number than ``after``; damage is told, too."""
    yield "retry: 1000\n\n"
    journal = read_journal(folder)
    try:
        while events := await anyio.to_thread.run_sync(_read, journal, after):
            for event in events:
                yield event_text(event)
    except (JournalError, OSError):
        yield 'event: problem\ndata: {"error":"the journal is damaged from here on"}\n\n'


def _read(journal: Iterator[Event], after: int) -> list[Event]:
    """Return the next events of a journal, as many as one reader may have in memory."""
    found: list[Event] = []
    size = 0
    for event in journal:
        if event.seq > after:
            found.append(event)
            size += len(event_text(event))
            if len(found) >= _BATCH or size >= _BATCH_BYTES:
                break
    return found
