"""All sessions of one server: made, found, ended, and cleaned up after a crash."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
import anyio.to_thread

from mlgym_mcp.catalog import Catalog
from mlgym_mcp.session.about import about
from mlgym_mcp.session.backends import Backends
from mlgym_mcp.session.ended import EndedSessions
from mlgym_mcp.session.episode import Episode
from mlgym_mcp.session.forking import Parent
from mlgym_mcp.session.leases import WAIT_S as GPU_WAIT_S
from mlgym_mcp.session.leases import GpuDesk
from mlgym_mcp.session.leftovers import owner_labels, remove_for_good, remove_orphans
from mlgym_mcp.session.markers import Marker
from mlgym_mcp.session.owning import owned_tasks
from mlgym_mcp.session.revival import REVIVAL_ERRORS, revive
from mlgym_mcp.session.session import Session, SessionConfig
from mlgym_mcp.session.succession import Succession
from mlgym_mcp.session.tracing import failed, span
from mlgym_mcp.session.wanted import Wanted, budget_of
from mlgym_sandbox.backends.base import Backend
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.home import home
from mlgym_sandbox.pool import WarmPool

OnStop = Literal["end", "detach"]

_KEPT_S = 900.0
"""An ended session still answers (with its end) for so long after it was last used."""


logger = logging.getLogger(__name__)


class SessionRegistry:
    """Makes and finds sessions; ``run()`` owns their tasks.

    Args:
        catalog: where tasks come from.
        sandbox: which backend (``docker``, ``bubblewrap``, ``process``, or ``auto``).
        unsafe: allow ``process``, which isolates nothing.
        wait_s: how long one tool call may wait.
        root: where episodes are kept.
        warm: how many sandboxes are kept ready, of each of the kinds asked for last.
        gpu_wait_s: how long a session waits for GPUs before it ends.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        sandbox: str = "auto",
        unsafe: bool = False,
        wait_s: float = 45.0,
        root: Path | None = None,
        warm: int = 0,
        gpu_wait_s: float = GPU_WAIT_S,
    ) -> None:
        self.catalog = catalog
        self.default_sandbox = sandbox
        self.wait_s = wait_s
        self.root = root or home("episodes")
        self.pool = WarmPool(warm, labels=owner_labels)
        self.backends = Backends(self.pool, unsafe=unsafe)
        self.gpu_desk = GpuDesk(self.backends.made, wait_s=gpu_wait_s)
        self.ended = EndedSessions()
        self._succession = Succession()
        self._sessions: dict[str, Session] = {}
        self._by_key: dict[str, str] = {}
        self._keyed = anyio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._stopping = False
        self.address: str | None = None
        self.on_stop: OnStop = "end"

    @asynccontextmanager
    async def run(self, *, address: str | None = None, on_stop: OnStop = "end") -> AsyncIterator[None]:
        """Own the sessions' tasks, and begin with the sessions that a dead server with the same address left.

        Those are in ``sessions()`` when the block is entered: give them their endpoints before the first request.

        Args:
            address: where the sessions' clients come in, in words that are the same when the server is started again
                (the address on the command line, or "socket"): the next server with this address takes the sessions
                over if this one dies. ``None``, for sessions that only this process can use: takes over nothing and
                leaves nothing to take over.
            on_stop: what becomes of live sessions when the block is left (see ``stop``); may be changed until then
                by setting ``on_stop``, so that SIGTERM can mean "detach" and a stop that a person asks for "end".
        """
        self.address, self.on_stop = address, on_stop
        async with owned_tasks() as tasks:
            self._tasks = tasks
            await self.clean_up_after_crash()
            tasks.start_soon(self._forget)
            tasks.start_soon(self.pool.run)
            tasks.start_soon(self._succession.beat, self.sessions)
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    await self.stop()
                self._tasks = None

    async def stop(self) -> None:
        """End all live sessions, or leave them to the next server, as ``on_stop`` says. Doing it twice is once.

        ``"end"`` removes the sandboxes; ``"detach"`` leaves them, with their jobs running, and the markers by which
        the next server with the same address finds them. Without an address there is no next one, so they end.
        """
        self._stopping = True
        if self.on_stop == "detach" and self.address is not None:
            await self.detach_all()
        else:
            await self.end_all("the server was stopped")

    async def backend(
        self, name: str | None = None, *, unsafe: bool = False, engine: Mapping[str, str] | None = None
    ) -> Backend:
        """Return a backend as ``Backends.get`` does; default: the registry's own."""
        return await self.backends.get(name or self.default_sandbox, unsafe=unsafe, engine=engine)

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
        parent: Parent | None = None,
    ) -> Session:
        """Make a session; returns at once, while data and sandbox are being prepared behind it.

        With a ``key``, the session made before with the same key is returned instead. ``engine`` is where
        ``DOCKER_HOST`` is read; default: the process's environment. With a ``parent`` it begins with a snapshot of
        that in place of the task's starter files.

        Raises:
            TaskError: no such task or preset.
            BackendUnavailableError: the sandbox backend cannot be used here.
            MisuseError: a budget that makes no sense.
            NoSuchSnapshotError, InfrastructureError: the parent has no such snapshot, or it is damaged.
        """
        wanted = Wanted(task_id, preset, seed, budget or {}, sandbox, unsafe, metadata or {}, key, engine, parent)
        if key is None:
            return await self._create(wanted)
        async with self._keyed:  # of two requests with one key that come at once, the second finds the first's
            if (known := self.find_by_key(key)) is not None:
                return known
            session = await self._create(wanted)
            self._by_key[key] = session.id
            return session

    async def _create(self, wanted: Wanted) -> Session:
        assert self._tasks is not None, "use the registry inside its run()"
        task = self.catalog.get(wanted.task)
        limits = budget_of(task, wanted.preset, wanted.budget)
        backend = await self.backend(wanted.sandbox, unsafe=wanted.unsafe, engine=wanted.engine)
        await self.gpu_desk.check(backend, task.preset(wanted.preset))
        session_id = secrets.token_hex(16)
        config = SessionConfig(task, wanted.preset, wanted.seed, limits, self.wait_s, dict(wanted.metadata))
        episode = Episode.create(self.root, task.id, session_id)
        parent = wanted.parent
        if parent is not None:
            try:
                await parent.hand_over(episode.folder)
            except BaseException:
                episode.remove()
                raise
        session = Session(session_id, secrets.token_urlsafe(24), config, backend, episode)
        session.engine = engine = None if wanted.engine is None else dict(wanted.engine)
        session.parent = None if parent is None else parent.name
        self._succession.mark(session, key=wanted.key, engine=engine, address=self.address)
        session.created = episode.journal.append("session", **wanted.first_event(session)).t
        self._sessions[session_id] = session
        with about(session_id):
            logger.info("session %s began: %s/%s in %s", episode.id, task.id, wanted.preset, backend.name)
        await self._tasks.start(self._live, session)
        return session

    async def _live(self, session: Session, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Run one session; whatever goes wrong in it must not touch the others."""
        assert self._tasks is not None
        self._tasks.start_soon(self._succession.note_sandbox, session)
        session.gpu_desk = self.gpu_desk
        with about(session.id), span("session", session) as made:
            try:
                await session.run(task_status=task_status)
            except Exception:
                logger.exception("session %s failed", session.episode.id)
            finally:
                self._let_go(session)
                self.gpu_desk.release(session)
                if (over := session.over) is not None:
                    logger.info("session %s ended: %s, %s", session.episode.id, over.outcome, over.reason)
                made.set_attribute("mlgym.outcome", "left to the next server" if over is None else over.outcome)
                if over is not None and over.outcome == "infrastructure_error":
                    failed(made, over.outcome)

    def _let_go(self, session: Session) -> None:
        """Forget a session's marker, but not before its sandbox is surely gone: an engine may be away just now.

        Should this server end first, the next one finds the marker and removes what is left.
        """
        over, name = session.over, self._succession.sandbox_of(session)
        half_made = name is None and over is not None and over.outcome == "infrastructure_error"
        if session.leaving or (session.cleared and not half_made) or (half_made and self._stopping):
            self._succession.forget(session)
        elif self._tasks is not None and not self._stopping:
            self._tasks.start_soon(self._clear_away, session, name)

    async def _clear_away(self, session: Session, name: str | None) -> None:
        await remove_for_good(session.backend, session.id, name)
        self._succession.forget(session)

    def get(self, session_id: str) -> Session | None:
        """Return a session by id; ended ones answer for a while."""
        return self._sessions.get(session_id)

    def find_by_key(self, key: str | None) -> Session | None:
        """Return the session that was made with a key, if it is still known."""
        return None if key is None else self._sessions.get(self._by_key.get(key, ""))

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

    async def detach_all(self) -> None:
        """Leave every live session to the next server; returns when their journals are synced."""
        async with anyio.create_task_group() as tasks:
            for session in self.sessions():
                if not session.closed:
                    tasks.start_soon(session.detach)

    async def _forget(self) -> None:
        while True:
            await anyio.sleep(30)
            now = time.monotonic()
            for session in self.sessions():
                if session.closed and now - session.last_used > _KEPT_S:
                    del self._sessions[session.id]
                    self._by_key = {k: v for k, v in self._by_key.items() if v != session.id}

    # ------------------------------------------------------------------ from server to server

    async def clean_up_after_crash(self) -> list[str]:
        """Take over the sessions of dead servers that had this address, and end those that nobody will take over.

        A session is never taken over from a living server, and of several new servers one gets it. Taken over, it
        has its id, token and key, its budget as far as spent, its scores, notes and calls; its sandbox is reached
        again behind it, and ends it with the reason if it is gone. What ends here is what was made without an address,
        what nobody looked after for longer than a sandbox lives alone, and what cannot be read. Its journal is
        whole: everything that was acknowledged is there, and an end with its reason is added.

        Returns:
            the names of the ended episodes.
        """
        mine, lost = await self._succession.claim(self.address)
        reasons = [(each.marker, "the server died while the episode was live") for each in lost]
        for each in mine:
            try:
                session = await revive(each, self.catalog, self.backends)
            except REVIVAL_ERRORS as e:
                logger.warning("the session in %s cannot be taken over: %s", each.marker.episode, e)
                reasons.append((each.marker, f"the server died and the next one could not go on ({e})"))
            else:
                await self._go_on(each.marker, session)
        ended = []
        for marker, reason in reasons:
            if await self._succession.bury(marker, f"{reason}; what it had recorded is whole"):
                ended.append(Path(marker.episode).name)
        if self._tasks is not None and self.address is not None:
            self._tasks.start_soon(self.sweep, [each.marker for each in mine + lost])
        return ended

    async def _go_on(self, marker: Marker, session: Session) -> None:
        """Take a session in. Its endpoint can be served at once; its sandbox is reached behind it."""
        assert self._tasks is not None
        self._succession.keep(marker)
        self._sessions[session.id] = session
        if marker.key is not None:
            self._by_key[marker.key] = session.id
        with about(session.id):
            logger.info("session %s goes on in this server", session.episode.id)
        await self._tasks.start(self._live, session)

    async def sweep(self, markers: Sequence[Marker]) -> None:
        """Remove what dead servers left in the backends that they used, and in those of this machine."""
        backends = {("bubblewrap", None), *((m.backend, json.dumps(m.engine) if m.engine else None) for m in markers)}
        if self.default_sandbox == "docker":
            backends.add(("docker", None))
        for name, engine in sorted(backends, key=str):
            try:
                backend = await self.backend(name, unsafe=True, engine=None if engine is None else json.loads(engine))
            except (SandboxError, ValueError):
                continue
            claimed = [held for s in self._sessions.values() if (held := s.sandbox_name) is not None]
            await remove_orphans(backend, self._succession.markers, claimed)
