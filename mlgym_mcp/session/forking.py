"""What a fork is made from: a snapshot of a session that lives here, or of one of which only the episode is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from mlgym_mcp.session.budget import Budget, Spent
from mlgym_mcp.session.checkpoint_store import Checkpoint, Store, StoreError
from mlgym_mcp.session.errors import InfrastructureError, RefusedError
from mlgym_mcp.session.journal import JournalError, read_journal
from mlgym_mcp.session.notes import copy_notes
from mlgym_mcp.session.recovery import read_past

if TYPE_CHECKING:
    from mlgym_mcp.catalog import Catalog
    from mlgym_mcp.session.session import Session

_LEAST = {"wall_s": 0.1, "calls": 1, "cpu_s": 0.1}
"""Of a limit of which less is left nothing is left."""
_WORDS = {"wall_s": "wall time", "calls": "tool calls", "cpu_s": "CPU time"}


@dataclass(frozen=True, slots=True)
class Parent:
    """A session at one of its snapshots.

    Attributes:
        folder: its episode's.
        snapshot: which snapshot.
        task: what it attempts, at which preset, with which seed.
        budget: what it may or might spend.
        spent: what it has spent.
        metadata: its maker's words.
        sandbox: its backend's name.
        engine: where that one's engine is, if its maker said so.
        session: itself, if it is held here.
    """

    folder: Path
    snapshot: str
    task: str
    preset: str
    seed: int
    budget: Budget
    spent: Spent
    metadata: Mapping[str, Any]
    sandbox: str
    engine: Mapping[str, str] | None = None
    session: Session | None = None

    @property
    def name(self) -> tuple[str, str]:
        """Its episode and snapshot, as the child's journal names them."""
        return self.folder.name, self.snapshot

    def options(
        self,
        budget: str | Mapping[str, Any] = "remaining",
        seed: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return what ``SessionRegistry.create`` is to make a child with; what is not given is as the parent has it.

        Args:
            budget: ``remaining``: what its parent has left now; ``fresh``: what its parent had at the beginning; or
                limits in place of the preset's own.
            seed: the child's.
            metadata: its maker's words.

        Raises:
            RefusedError: nothing is left of what remains.
        """
        return {
            "preset": self.preset,
            "seed": self.seed if seed is None else seed,
            "budget": budget if isinstance(budget, Mapping) else self._limits(left=budget == "remaining"),
            "sandbox": self.sandbox,
            "unsafe": self.session is not None,  # what it was allowed, its child is
            "metadata": self.metadata if metadata is None else metadata,
            "engine": self.engine,
            "parent": self,
        }

    def _limits(self, *, left: bool) -> dict[str, Any]:
        own = asdict(self.budget)
        for name, spent in asdict(self.spent).items() if left else ():
            if own[name] is None:
                continue
            own[name] = max(0, own[name] - spent)
            if own[name] < _LEAST.get(name, 0):
                raise RefusedError(f"The parent has no {_WORDS[name]} left: fork it with a budget of its own.")
        return own

    async def hand_over(self, child: Path) -> None:
        """Put into a new episode's folder what the child begins with: the snapshot, and the notes as they were.

        Raises:
            NoSuchSnapshotError: there is none of that name.
            InfrastructureError: it is damaged, or the disk is full.
        """
        try:
            if self.session is not None:
                facts = await self.session.checkpoints.give(self.snapshot, child)
            else:
                facts = await anyio.to_thread.run_sync(self._give, child)
            await anyio.to_thread.run_sync(copy_notes, self.folder, child, facts.notes)
        except OSError as exc:
            raise InfrastructureError(f"The snapshot cannot be handed over: {exc.strerror or exc}.") from exc

    def _give(self, child: Path) -> Checkpoint:
        store = Store(self.folder)
        store.open()
        return store.give(self.snapshot, child)


def parent_of(session: Session, snapshot: str) -> Parent:
    """Return a session that is held here as a parent."""
    config = session.config
    return Parent(
        folder=session.episode.folder,
        snapshot=snapshot,
        task=session.task.id,
        preset=config.preset,
        seed=config.seed,
        budget=config.budget,
        spent=session.meter.spent,
        metadata=config.metadata,
        sandbox=session.backend.name,
        engine=session.engine,
        session=session,
    )


def parent_from(folder: Path, snapshot: str, catalog: Catalog) -> Parent:
    """Return a session of which only the episode is left as a parent; blocks.

    Raises:
        InfrastructureError: the episode cannot be read.
        mlgym_mcp.catalog.TaskError: its task is gone.
    """
    try:
        events = list(read_journal(folder))
        first, last = events[0], events[-1]
        past = read_past(events, catalog.get(first["task"]).spec.of(first["preset"]))
        spent = last.get("spent") if last.type == "end" else None
        return Parent(
            folder=folder,
            snapshot=snapshot,
            task=first["task"],
            preset=first["preset"],
            seed=first["seed"],
            budget=Budget(**first["budget"]),
            spent=Spent(round(past.wall_s, 3), past.counted, past.validations) if spent is None else Spent(**spent),
            metadata=first["metadata"],
            sandbox=first["sandbox"],
        )
    except (JournalError, OSError, LookupError, TypeError, ValueError) as exc:
        raise InfrastructureError(f"The episode {folder.name} cannot be read: {exc}.") from exc


def stored(folder: Path) -> list[Checkpoint]:
    """Return the snapshots of an episode that nobody here holds, oldest first; blocks.

    Raises:
        InfrastructureError: they cannot be read.
    """
    store = Store(folder)
    try:
        store.open()
    except (StoreError, OSError) as exc:
        raise InfrastructureError(f"The snapshots cannot be read: {exc}.") from exc
    return list(store.checkpoints.values())
