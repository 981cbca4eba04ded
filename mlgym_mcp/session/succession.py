"""What one server leaves to the next: markers of its live sessions, and the clearing of what nobody goes on with."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import anyio

from mlgym_mcp.session.journal import JournalError
from mlgym_mcp.session.markers import Marker, Markers
from mlgym_mcp.session.recovery import end_dead
from mlgym_mcp.session.session import Session
from mlgym_mcp.session.setup import TTL_S
from mlgym_sandbox import get_backend
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.locking import locked
from mlgym_sandbox.processes import process_started

logger = logging.getLogger(__name__)

_BEAT_S = 1.0
_BURY_S = 30.0


@dataclass(frozen=True, slots=True)
class Bequest:
    """A dead server's session.

    Attributes:
        marker: its marker, now this process's.
        served: Unix time at which it was last known to be served.
    """

    marker: Marker
    served: float


class Succession:
    """Keeps the markers of one server's sessions, and finds those of dead ones."""

    def __init__(self) -> None:
        self.markers = Markers()
        self._own: dict[str, Marker] = {}

    # ------------------------------------------------------------------ what this server leaves

    def mark(self, session: Session, *, key: str | None, engine: dict[str, str] | None, address: str | None) -> None:
        """Note on disk that a session lives and whose it is, before anything of it exists.

        Raises:
            OSError: it could not be written.
        """
        config = session.config
        marker = Marker(
            session=session.id,
            token=session.token,
            episode=str(session.episode.folder),
            task=session.task.id,
            preset=config.preset,
            seed=config.seed,
            budget=asdict(config.budget),
            metadata=config.metadata,
            wait_s=config.wait_s,
            key=key,
            backend=session.backend.name,
            engine=engine,
            address=address,
            pid=os.getpid(),
            started=process_started(os.getpid()),
        )
        self.markers.write(marker)
        self._own[session.id] = marker

    async def note_sandbox(self, session: Session) -> None:
        """Write the sandbox's name into the marker as soon as there is one: it may have come from a pool."""
        await session.wait_ready()
        name, marker = session.sandbox_name, self._own.get(session.id)
        if marker is None or name is None or session.over is not None or marker.sandbox == name:
            return
        self._own[session.id] = replace(marker, sandbox=name)
        try:
            self.markers.write(self._own[session.id])
        except OSError as exc:
            logger.warning("the marker of %s could not be written: %s", session.episode.id, exc)

    def sandbox_of(self, session: Session) -> str | None:
        """Return the name of a session's sandbox, if it came to have one, also after its end."""
        marker = self._own.get(session.id)
        return None if marker is None else marker.sandbox

    def forget(self, session: Session) -> None:
        """Take the marker away; one of a session that was left to the next server stays, owned by nobody."""
        marker = self._own.pop(session.id, None)
        if not session.leaving:
            self.markers.remove(session.id)
        elif marker is not None:
            try:
                self.markers.write(marker.given_up())
            except OSError as exc:  # this process will not live for long either
                logger.warning("the marker of %s could not be written: %s", session.episode.id, exc)

    async def beat(self, sessions: Callable[[], Iterable[Session]]) -> None:
        """Note every few seconds that the sessions are looked after, so that the next server knows until when."""
        while True:
            for session in sessions():
                if session.ready and not session.closed:
                    self.markers.beat(session.id)
            await anyio.sleep(_BEAT_S)

    # ------------------------------------------------------------------ what dead servers left

    async def claim(self, address: str | None) -> tuple[list[Bequest], list[Bequest]]:
        """Make the sessions of dead servers this process's; of several new servers one gets each.

        Returns:
            those to go on with: their clients came in at this address; and those to end: made without an address,
            or not looked after for longer than a sandbox lives by itself. The rest waits for its own server.
        """
        mine: list[Bequest] = []
        lost: list[Bequest] = []
        async with locked(self.markers.lock):
            for found in list(self.markers.every()):
                if found.owned:
                    continue
                bequest = Bequest(found.taken_over(), self.markers.last_beat(found.session))
                if address is not None and found.address == address:
                    mine.append(bequest)
                elif found.address is None or time.time() - bequest.served > TTL_S:
                    lost.append(bequest)
                else:
                    continue
                self.markers.write(bequest.marker, served=bequest.served)
        return mine, lost

    def keep(self, marker: Marker) -> None:
        """Note that the session of this claimed marker goes on here."""
        self._own[marker.session] = marker

    async def bury(self, marker: Marker, reason: str) -> bool:
        """End an episode that nobody goes on with and remove its sandboxes; whether it had not ended before."""
        try:
            with anyio.fail_after(_BURY_S):
                backend = get_backend(marker.backend, unsafe=True, environ=marker.engine)
                for found in await backend.find({"mlgym.session": marker.session}):
                    await backend.remove(found.name)
        except (SandboxError, OSError, TimeoutError, ValueError):
            pass  # it ends itself when its time to live is over
        try:
            return await end_dead(Path(marker.episode), reason)
        except (OSError, JournalError):
            return False  # a damaged journal must not keep the server from starting
        finally:
            self.markers.remove(marker.session)
