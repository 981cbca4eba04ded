"""The notes that say which sessions live and whose they are: what a server finds when the one before it has died."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlgym_sandbox.home import home
from mlgym_sandbox.processes import lives, process_started


@dataclass(frozen=True, slots=True)
class Marker:
    """What a later server must know of a live session that its journal does not say. Holds its token: owner only.

    Attributes:
        session: its id.
        token: its bearer token.
        episode: its folder.
        task: the task's id.
        preset: the task's size.
        seed: the session's seed.
        budget: what it may spend.
        metadata: the caller's words.
        wait_s: how long one call may wait.
        key: the idempotency key it was made with.
        backend: the sandbox backend's name.
        engine: where its engine is, if the caller said so.
        sandbox: the sandbox's name, once there is one.
        address: where its clients come in, as its server called it: only a server with the same takes it over.
        pid: its server's process.
        started: when that process started, in clock ticks since boot.
    """

    session: str
    token: str
    episode: str
    task: str
    preset: str
    seed: int
    budget: Mapping[str, Any]
    metadata: Mapping[str, Any]
    wait_s: float
    key: str | None
    backend: str
    engine: Mapping[str, str] | None
    address: str | None
    pid: int
    started: int | None
    sandbox: str | None = None

    @property
    def owned(self) -> bool:
        """Whether the server that wrote it lives."""
        return lives(self.pid, self.started)

    def taken_over(self) -> Marker:
        """Return it as this process's."""
        return replace(self, pid=os.getpid(), started=process_started(os.getpid()))

    def given_up(self) -> Marker:
        """Return it as nobody's."""
        return replace(self, pid=0, started=None)


class Markers:
    """The folder ``run/sessions``: one file a live session, mode 0600, replaced as a whole.

    A file's time of change is when its session was last known to be served: ``beat`` sets it every few seconds,
    so that a later server knows how long nobody was there.
    """

    def __init__(self) -> None:
        self.folder = home("run", "sessions")

    @property
    def lock(self) -> Path:
        """Held while markers change hands, so that of two new servers one takes over a dead one's session."""
        return self.folder / ".lock"

    def write(self, marker: Marker, *, served: float | None = None) -> None:
        """Keep a marker in place of the session's earlier one.

        Args:
            marker: what to keep.
            served: Unix time at which the session was last served; default: now.

        Raises:
            OSError: it could not be written.
        """
        part = self.folder / f"{marker.session}.{os.getpid()}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(marker), file, default=str)
        if served is not None:
            os.utime(part, (served, served))
        part.rename(self._path(marker.session))

    def beat(self, session_id: str) -> None:
        """Note that the session is being served now."""
        try:
            os.utime(self._path(session_id))
        except OSError:
            pass  # the next one will do

    def last_beat(self, session_id: str) -> float:
        """Return the Unix time at which the session was last known to be served; 0 if that is not known."""
        try:
            return self._path(session_id).stat().st_mtime
        except OSError:
            return 0.0

    def remove(self, session_id: str) -> None:
        """Forget a session; no error if it is not known."""
        self._path(session_id).unlink(missing_ok=True)

    def every(self) -> Iterator[Marker]:
        """Yield the markers of all servers; throws away what cannot be read: nobody could do anything with it."""
        for path in sorted(self.folder.iterdir()):
            if path.suffix == ".part" and time.time() - path.stat().st_mtime > 60:
                path.unlink(missing_ok=True)  # a server died while it wrote it
            if path.suffix != ".json":
                continue
            try:
                marker = Marker(**json.loads(path.read_text()))
                if marker.session != path.stem or not isinstance(marker.pid, int):
                    raise ValueError("not this session's")
            except FileNotFoundError:
                continue
            except (OSError, ValueError, TypeError):
                path.unlink(missing_ok=True)
                continue
            yield marker

    def _path(self, session_id: str) -> Path:
        return self.folder / f"{session_id}.json"
