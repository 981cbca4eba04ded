"""The snapshots of a live session: taken, gone back to, and what its sandbox begins with if it is a fork."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread

from mlgym_mcp.session.checkpoint_pack import Pack
from mlgym_mcp.session.checkpoint_store import FIRST, Checkpoint, Store, StoreError
from mlgym_mcp.session.errors import EpisodeOverError, InfrastructureError, RefusedError, SessionError
from mlgym_mcp.session.journal import JournalError
from mlgym_sandbox import Sandbox, workspaces
from mlgym_sandbox.errors import SandboxError, SandboxLostError
from mlgym_sandbox.trees import Plan, Survey, Tree, known_states

if TYPE_CHECKING:
    from mlgym_mcp.session.session import Session

T = TypeVar("T")

logger = logging.getLogger(__name__)

MOST: Final = 1000
"""Snapshots of one session."""
MOST_FILES: Final = 100_000
"""Entries of a workspace that is kept."""
_ROOM_MB: Final = 1024
"""MiB of contents that the snapshots of a session may take, if four workspaces are less."""
_TURN_S: Final = 60.0
_SHOWN: Final = 100
_STATE_END: Final = b"\n:\n"
_OWN: Final = ("MLGYM_SEED", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Variables that a fork's shell has from its own sandbox."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What going back to a snapshot took.

    Attributes:
        checkpoint: which snapshot.
        written: paths made or made over.
        removed: paths removed, each with all below it.
        seconds: how long it took.
    """

    checkpoint: Checkpoint
    written: int
    removed: int
    seconds: float


class Checkpoints:
    """The snapshots of one session. What is done here runs alone: no tool call is half in a snapshot.

    It knows what the workspace held last and by which states of its files that can be told, so that the work grows
    with what has changed since.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._store = Store(session.episode.folder)
        self._base: str | None = None
        self._tree: Tree = {}
        self._states: dict[str, str] = {}
        self._known = False
        self._lock = anyio.Lock()
        self._restoring: anyio.Event | None = None

    @property
    def is_fork(self) -> bool:
        """Whether the session begins with a snapshot of another."""
        return self._store.is_fork

    async def all(self) -> list[Checkpoint]:
        """Return all snapshots, oldest first.

        Raises:
            InfrastructureError: they cannot be read.
        """
        async with self._lock:
            await self._open()
        return list(self._store.checkpoints.values())

    async def take(self) -> Checkpoint:
        """Keep the workspace as it is now, the agent's processes stopped meanwhile.

        Raises:
            RefusedError: not now (the episode is over, something is being graded) or not that much.
            InfrastructureError: it could not be stored; nothing of it is left.
        """
        return await self._apart("snapshot", self._take)

    async def restore(self, checkpoint_id: str) -> Restored:
        """Kill everything that the agent runs and make the workspace what it was. Spends nothing, gives nothing back.

        Raises:
            NoSuchSnapshotError: there is none of that name.
            RefusedError: not now.
            InfrastructureError: it broke off; the workspace may be half of both. The journal says so too.
        """
        async with self._lock:
            await self._open()
        self._store.get(checkpoint_id)
        return await self._apart("restore", lambda: self._restore(checkpoint_id), whole=True)

    async def give(self, checkpoint_id: str, child: Path) -> Checkpoint:
        """Let another episode begin with a snapshot, also after the end; see ``Store.give``.

        Raises:
            StoreError, OSError: as there.
            InfrastructureError: the snapshots cannot be read.
        """
        async with self._lock:
            await self._open()
            return await anyio.to_thread.run_sync(self._store.give, checkpoint_id, child)

    async def settled(self) -> None:
        """Wait until the workspace is not being restored."""
        if self._restoring is not None:
            await self._restoring.wait()

    async def lay_out(self, sandbox: Sandbox) -> None:
        """Give a fork's new sandbox what it begins with.

        Raises:
            InfrastructureError: it cannot be read.
            SandboxError: it cannot be written.
        """
        await self._open()
        try:
            await self._rebuild(sandbox, FIRST)
        except StoreError as exc:
            raise InfrastructureError(f"the snapshot that it begins with cannot be read: {exc}") from exc

    async def redo(self, sandbox: Sandbox, checkpoint_id: str) -> None:
        """Go on with a restore over which a server died; what comes of it is journalled.

        Raises:
            SandboxLostError: the sandbox is gone.
        """
        journal = self._session.episode.journal
        begun = time.monotonic()
        try:
            await self._open()
            plan = await self._rebuild(sandbox, checkpoint_id)
        except SandboxLostError:
            raise
        except (SandboxError, StoreError, InfrastructureError, OSError) as exc:
            journal.append("restore_failed", snapshot=checkpoint_id, error=str(exc), again=True)
        else:
            seconds = round(time.monotonic() - begun, 6)
            counts = {"written": len(plan.written), "removed": len(plan.removed)}
            await journal.append_durable("restored", snapshot=checkpoint_id, **counts, seconds=seconds, again=True)

    # ------------------------------------------------------------------ alone in the session

    async def _apart(self, name: str, work: Callable[[], Awaitable[T]], *, whole: bool = False) -> T:
        """Do something in a task of the session's, so that it does not end half-way with the request that wants it."""
        session = self._session
        await session.sandbox()
        turn, done, scope = anyio.Event(), anyio.Event(), anyio.CancelScope()
        results: list[T] = []
        failures: list[Exception] = []

        async def run() -> T:
            turn.set()
            if session.scoring.grading:
                raise RefusedError(f"The work is being graded, so there is no {name} now: try again when it is done.")
            async with self._lock:
                return await work()

        async def task() -> None:
            try:
                with scope:
                    results.append(await session.calls.apart(run, whole=whole))
            except (SessionError, StoreError) as exc:
                failures.append(exc)
            except Exception:
                logger.exception("session %s: the %s failed", session.episode.id, name)
                failures.append(InfrastructureError(f"The {name} failed: an error in the server, see its log."))
            finally:
                turn.set()
                done.set()

        session.start_soon(task)
        with anyio.move_on_after(_TURN_S):
            await turn.wait()
        if not turn.is_set():
            scope.cancel()
        await done.wait()
        if results:
            return results[0]
        if failures:
            raise failures[0]
        if session.over is not None or session.leaving:
            raise EpisodeOverError(
                session.over_text() if session.over is not None else "The server is being restarted."
            )
        raise RefusedError(f"Tool calls have kept the session busy for {_TURN_S:g} seconds: try again later.")

    async def _take(self) -> Checkpoint:
        session = self._session
        await self._open()
        store = self._store
        if len(store.checkpoints) >= MOST:
            raise RefusedError(f"The session has {MOST} snapshots, which is the limit.")
        disk = session.config.budget.disk_mb or session.preset.storage_mb
        room = (max(_ROOM_MB, 4 * disk) << 20) - store.stored_bytes
        pack: Pack | None = None
        try:
            async with session.working() as sandbox:
                pack = await anyio.to_thread.run_sync(store.begin)
                survey = Survey(pack)
                known = await anyio.to_thread.run_sync(known_states, self._tree, self._states)
                await workspaces.survey(sandbox, known, survey, max_bytes=room, max_files=MOST_FILES)
                shell = await workspaces.shell_state(sandbox)
                kept = await anyio.to_thread.run_sync(self._keep, survey, pack, shell)
            await session.episode.journal.append_durable(
                "snapshot",
                snapshot=kept.id,
                files=kept.files,
                bytes=kept.size,
                new_files=kept.new_files,
                new_bytes=kept.new_bytes,
                left_out=kept.left_out_files,
            )
        except SandboxError as exc:  # a limit, or a sandbox that is full to the brim
            raise RefusedError(f"No snapshot was taken: {exc}.") from exc
        except (StoreError, JournalError, OSError) as exc:
            raise InfrastructureError(f"No snapshot was taken: {_said(exc)}.") from exc
        finally:
            if pack is not None:
                pack.drop()
        return kept

    def _keep(self, survey: Survey, pack: Pack, shell: bytes) -> Checkpoint:
        """Write a snapshot to disk; called in a worker thread."""
        session, store = self._session, self._store
        tree = survey.over(self._tree)
        number = max((known.number for known in store.checkpoints.values()), default=0) + 1
        facts = Checkpoint(
            id=f"s{number}",
            t=round(time.time(), 3),
            base=self._base,
            depth=0,
            files=len(tree),
            size=survey.size,
            new_files=len(survey.changed),
            new_bytes=pack.size,
            notes=len(session.notes),
            calls=session.calls.made,
            left_out={plain(path): why for path, why in list(survey.left_out.items())[:_SHOWN]},
            left_out_files=len(survey.left_out),
            shell=shell.decode("latin-1"),
        )
        states = {p: s for p, s in self._states.items() if p in tree and p not in survey.changed} | survey.states
        kept = store.keep(facts, self._tree, tree, states, pack)
        self._base, self._tree, self._states = kept.id, tree, states
        return kept

    async def _restore(self, checkpoint_id: str) -> Restored:
        journal = self._session.episode.journal
        begun = time.monotonic()
        self._restoring = anyio.Event()
        try:
            async with self._session.working() as sandbox:
                await journal.append_durable("restoring", snapshot=checkpoint_id)
                try:
                    plan = await self._rebuild(sandbox, checkpoint_id)
                except Exception as exc:
                    journal.append("restore_failed", snapshot=checkpoint_id, error=_said(exc))
                    raise
            seconds = round(time.monotonic() - begun, 6)
            counts = {"written": len(plan.written), "removed": len(plan.removed)}
            await journal.append_durable("restored", snapshot=checkpoint_id, **counts, seconds=seconds)
        except (SandboxError, StoreError, JournalError, OSError) as exc:
            raise InfrastructureError(
                f"The restore broke off, and the workspace may be half of both: {_said(exc)}. Restore again."
            ) from exc
        finally:
            self._restoring.set()
        return Restored(self._store.get(checkpoint_id), len(plan.written), len(plan.removed), seconds)

    async def _rebuild(self, sandbox: Sandbox, checkpoint_id: str) -> Plan:
        """Make a workspace what it was at a snapshot, whatever it holds now; everything of the agent's is killed."""
        store = self._store
        facts = store.get(checkpoint_id)
        wanted, _ = await anyio.to_thread.run_sync(store.tree, checkpoint_id)
        await sandbox.kill_all()
        survey = Survey()
        known = await anyio.to_thread.run_sync(known_states, {**wanted, **self._tree}, self._states)
        await workspaces.survey(sandbox, known, survey, max_bytes=0, max_files=MOST_FILES, contents=False)
        now = survey.over(self._tree)
        plan = Plan(now, survey.left_out, wanted)
        states = await workspaces.rebuild(sandbox, plan.steps(store.read))
        if self._session.backend.name != "process":  # there the workspace has a name of its own in every sandbox
            shell = facts.shell.encode("latin-1")
            await workspaces.set_shell_state(sandbox, moved_shell(shell) if checkpoint_id == FIRST else shell)
        same = {path: state for path, state in self._states.items() if path in wanted and now.get(path) == wanted[path]}
        self._base, self._tree, self._states = checkpoint_id, wanted, same | states
        return plan

    async def _open(self) -> None:
        """Learn what is on disk, and what the workspace held at the newest snapshot."""
        if self._known:
            return
        store = self._store
        try:
            await anyio.to_thread.run_sync(store.tidy)
            await anyio.to_thread.run_sync(store.open)
            if store.checkpoints:
                newest = list(store.checkpoints)[-1]
                self._tree, self._states = await anyio.to_thread.run_sync(store.tree, newest)
                self._base = newest
        except (StoreError, OSError) as exc:
            raise InfrastructureError(f"The snapshots cannot be read: {_said(exc)}.") from exc
        self._known = True


def moved_shell(state: bytes) -> bytes:
    """Return a shell's state for another sandbox: it keeps what is that sandbox's own."""
    if not state.endswith(_STATE_END):
        return b""
    before = "".join(f"__own_{name}=${{{name}-}}\n" for name in _OWN)
    after = "".join(f'[ -z "$__own_{name}" ] || export {name}="$__own_{name}"; unset __own_{name}\n' for name in _OWN)
    return before.encode() + state.removesuffix(_STATE_END) + b"\n" + after.encode() + _STATE_END.lstrip()


def plain(path: str) -> str:
    """Return a path as text that can go into UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _said(exc: Exception) -> str:
    return str(exc.strerror or exc) if isinstance(exc, OSError) else str(exc)
