"""All sessions of one server: made, found, ended, and cleaned up after a crash."""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from mlgym_mcp import __version__
from mlgym_mcp.catalog import Catalog, Task
from mlgym_mcp.session.budget import Budget
from mlgym_mcp.session.episode import Episode
from mlgym_mcp.session.errors import MisuseError
from mlgym_mcp.session.journal import Journal, JournalError, read_journal
from mlgym_mcp.session.owning import owned_tasks
from mlgym_mcp.session.session import Session, SessionConfig
from mlgym_sandbox import get_backend
from mlgym_sandbox.backends.base import Backend
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.home import home

_KEPT_S = 900.0
"""An ended session still answers (with its end) for so long after it was last used."""


logger = logging.getLogger(__name__)


def budget_of(task: Task, preset: str, given: Mapping[str, Any]) -> Budget:
    """Return a preset's budget with what was given in place of its own.

    Raises:
        TaskError: the task has no such preset.
        MisuseError: a limit that is unknown or makes no sense.
    """
    chosen = task.preset(preset)
    own = Budget(
        wall_s=chosen.session_s, calls=chosen.steps, validations=task.spec.validate_.max_calls, cpu_s=chosen.cpu_s
    )
    try:
        return own.override(**given)
    except (TypeError, ValueError) as exc:
        limits = ", ".join(asdict(own))
        raise MisuseError(f"The budget {dict(given)} is not usable ({exc}): its limits are {limits}.") from exc


def process_started(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot, or ``None`` if there is none (proc(5), stat)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


async def choose_backend(engine: Mapping[str, str] | None = None) -> str:
    """Return which backend to use when nobody chose: docker if it is wholly ready, else bubblewrap.

    Args:
        engine: where ``DOCKER_HOST`` is read; default: the process's environment.
    """
    try:
        with anyio.fail_after(5):
            checks = await get_backend("docker", environ=engine).probe()
        return "docker" if checks and all(check.ok for check in checks if check.name != "gpu") else "bubblewrap"
    except (SandboxError, TimeoutError, OSError):
        return "bubblewrap"


class SessionRegistry:
    """Makes and finds sessions; ``run()`` owns their tasks.

    Args:
        catalog: where tasks come from.
        sandbox: which backend (``docker``, ``bubblewrap``, ``process``, or ``auto``).
        unsafe: allow ``process``, which isolates nothing.
        wait_s: how long one tool call may wait.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        sandbox: str = "auto",
        unsafe: bool = False,
        wait_s: float = 45.0,
        root: Path | None = None,
    ) -> None:
        self.catalog = catalog
        self.default_sandbox = sandbox
        self.unsafe = unsafe
        self.wait_s = wait_s
        self.root = root or home("episodes")
        self._markers = home("run", "sessions")
        self._backends: dict[tuple[str, str], Backend] = {}
        self._sessions: dict[str, Session] = {}
        self._by_key: dict[str, str] = {}
        self._keyed = anyio.Lock()
        self._auto: dict[str, str] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Own the sessions' tasks; on leaving, every live session is ended and its sandbox removed."""
        await self.clean_up_after_crash()
        async with owned_tasks() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._forget)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self.end_all("the server was stopped")
                self._tasks = None

    async def backend(
        self, name: str | None = None, *, unsafe: bool = False, engine: Mapping[str, str] | None = None
    ) -> Backend:
        """Return a backend by name; ``auto`` takes docker where an engine with our image answers, else bubblewrap.

        Args:
            name: which; default: the registry's.
            unsafe: allows ``process``.
            engine: where ``DOCKER_HOST`` is read; default: the process's environment.

        Raises:
            BackendUnavailableError: it cannot be used here, or is unsafe and was not allowed.
            ValueError: no such backend.
        """
        chosen = name or self.default_sandbox
        where = "" if engine is None else json.dumps(engine, sort_keys=True)
        if chosen == "auto":
            if where not in self._auto:
                self._auto[where] = await choose_backend(engine)
            chosen = self._auto[where]
        unsafe = unsafe or self.unsafe
        key = (chosen, where if chosen == "docker" else "")
        if key not in self._backends or (chosen == "process" and not unsafe):
            self._backends[key] = get_backend(chosen, unsafe=unsafe, environ=engine)
        return self._backends[key]

    async def create(
        self,
        task_id: str,
        *,
        preset: str = "mini",
        seed: int = 0,
        budget: Mapping[str, Any] | None = None,
        sandbox: str | None = None,
        unsafe: bool = False,
        metadata: Mapping[str, Any] | None = None,
        key: str | None = None,
        engine: Mapping[str, str] | None = None,
    ) -> Session:
        """Make a session; returns at once, while data and sandbox are being prepared behind it.

        With a ``key``, the session made before with the same key is returned instead. ``engine`` is where
        ``DOCKER_HOST`` is read; default: the process's environment.

        Raises:
            TaskError: no such task or preset.
            BackendUnavailableError: the sandbox backend cannot be used here.
            MisuseError: a budget that makes no sense.
        """
        if key is None:
            return await self._create(task_id, preset, seed, budget or {}, sandbox, unsafe, metadata or {}, engine)
        async with self._keyed:  # of two requests with one key that come at once, the second finds the first's
            if (known := self._sessions.get(self._by_key.get(key, ""))) is not None:
                return known
            session = await self._create(task_id, preset, seed, budget or {}, sandbox, unsafe, metadata or {}, engine)
            self._by_key[key] = session.id
            return session

    async def _create(
        self,
        task_id: str,
        preset: str,
        seed: int,
        budget: Mapping[str, Any],
        sandbox: str | None,
        unsafe: bool,
        metadata: Mapping[str, Any],
        engine: Mapping[str, str] | None,
    ) -> Session:
        assert self._tasks is not None, "use the registry inside its run()"
        task = self.catalog.get(task_id)
        limits = budget_of(task, preset, budget)
        backend = await self.backend(sandbox, unsafe=unsafe, engine=engine)
        session_id = secrets.token_hex(16)
        config = SessionConfig(task, preset, seed, limits, self.wait_s, dict(metadata))
        episode = Episode.create(self.root, task_id, session_id)
        session = Session(session_id, secrets.token_urlsafe(24), config, backend, episode)
        episode.journal.append(
            "session",
            task=task_id,
            task_version=task.spec.task.version,
            preset=preset,
            seed=seed,
            budget=asdict(limits),
            sandbox=backend.name,
            server=__version__,
            host={"pid": os.getpid(), "node": platform.node(), "python": platform.python_version()},
            metadata=config.metadata,
        )
        self._mark(session, engine)
        self._sessions[session_id] = session
        logger.info("session %s began: %s/%s in %s", episode.id, task_id, preset, backend.name)
        await self._tasks.start(self._live, session)
        return session

    async def _live(self, session: Session, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Run one session; whatever goes wrong in it must not touch the others."""
        try:
            await session.run(task_status=task_status)
        except Exception:
            logger.exception("session %s failed", session.episode.id)
        finally:
            (self._markers / f"{session.id}.json").unlink(missing_ok=True)
            if session.over is not None:
                logger.info("session %s ended: %s, %s", session.episode.id, session.over.outcome, session.over.reason)

    def get(self, session_id: str) -> Session | None:
        """Return a session by id; ended ones answer for a while."""
        return self._sessions.get(session_id)

    def sessions(self) -> list[Session]:
        """Return all sessions known, oldest first."""
        return sorted(self._sessions.values(), key=lambda s: s.created)

    @property
    def live(self) -> int:
        """How many sessions have not ended."""
        return sum(not s.closed for s in self._sessions.values())

    async def end_all(self, reason: str) -> None:
        """End every live session; returns when their sandboxes are gone."""
        async with anyio.create_task_group() as tasks:
            for session in self.sessions():
                if not session.closed:
                    await session.end("abandoned" if not session.calls.made else "infrastructure_error", reason)
                    tasks.start_soon(session.wait_ended)

    async def _forget(self) -> None:
        while True:
            await anyio.sleep(30)
            now = time.monotonic()
            for session in self.sessions():
                if session.closed and now - session.last_used > _KEPT_S:
                    del self._sessions[session.id]
                    self._by_key = {k: v for k, v in self._by_key.items() if v != session.id}

    # ------------------------------------------------------------------ crash

    def _mark(self, session: Session, engine: Mapping[str, str] | None) -> None:
        """Leave a note on disk that this session lives and whose it is, for the server after a crash."""
        marker = {
            "episode": str(session.episode.folder),
            "backend": session.backend.name,
            "engine": engine,
            "session": session.id,
            "pid": os.getpid(),
            "started": process_started(os.getpid()),
        }
        path = self._markers / f"{session.id}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(marker))
        part.rename(path)

    async def clean_up_after_crash(self) -> list[str]:
        """End the episodes of servers that died, and remove what they left; returns the episodes' names.

        Their journals are whole: everything that was acknowledged is there, and an end with its reason is added.
        """
        ended = []
        for path in sorted(self._markers.glob("*.json")):
            try:
                marker = json.loads(path.read_text())
                owner_started = process_started(int(marker["pid"]))
                if owner_started is not None and owner_started == marker["started"]:
                    continue  # a living server's
                folder = Path(marker["episode"])
                await self._remove_leftovers(marker)
                if folder.is_dir() and not any(event.type == "end" for event in read_journal(folder)):
                    journal = Journal(folder)
                    await journal.append_durable(
                        "end",
                        outcome="infrastructure_error",
                        reason="the server died while the episode was live; what it had recorded is whole",
                        score=None,
                        spent=None,
                    )
                    journal.close()
                    ended.append(folder.name)
            except (OSError, ValueError, KeyError, JournalError):
                pass  # a damaged marker or journal must not keep the server from starting
            path.unlink(missing_ok=True)
        return ended

    async def _remove_leftovers(self, marker: Mapping[str, Any]) -> None:
        try:
            with anyio.fail_after(30):
                backend = get_backend(str(marker["backend"]), unsafe=True, environ=marker.get("engine"))
                for found in await backend.find({"mlgym.session": str(marker["session"])}):
                    await backend.remove(found.name)
        except (SandboxError, OSError, TimeoutError, ValueError):
            pass  # it ends itself when its time to live is over
