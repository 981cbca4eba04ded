"""Which session the work at hand belongs to: logs name it, whoever writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SHOWN = 8
"""Of an id so many letters are shown: all of it would open the session."""
_session: ContextVar[str | None] = ContextVar("mlgym_session", default=None)


@contextmanager
def about(session_id: str | None) -> Iterator[None]:
    """Let what is done inside, and in tasks begun inside, belong to a session; ``None``: to none."""
    token = _session.set(None if session_id is None else session_id[:SHOWN])
    try:
        yield
    finally:
        _session.reset(token)


def current() -> str | None:
    """Return the first letters of the id of the session that the work at hand belongs to, if it does to any."""
    return _session.get()
