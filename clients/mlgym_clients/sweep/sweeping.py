"""A sweep from its file, or from its folder, to its summary: checked first, then begun or taken up, then run."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from mlgym_clients.agents.agent import Agent
from mlgym_clients.sweep.attempt import Attempt, Needs
from mlgym_clients.sweep.board import Board, Watcher
from mlgym_clients.sweep.engine import Engine
from mlgym_clients.sweep.facts import hardware, versions
from mlgym_clients.sweep.folder import Manifest, SweepFolder, check_free, new_id, read_manifest, remove_unbegun
from mlgym_clients.sweep.running import Summary, Sweep
from mlgym_clients.sweep.spec import SweepError, SweepSpec
from mlgym_mcp.api import TaskSummary

MakeEngine = Callable[[SweepSpec, Mapping[str, Agent], str], Engine]
"""Returns the engine for a sweep, its agents and its id."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a sweep needs to know of where it runs.

    Attributes:
        make_engine: where attempts are played.
        digests: of tasks' folders, for those that are known here.
        needs: what an attempt takes of a machine.
        watcher: who looks on.
        show: shows the board while the block runs.
        pause_s: before a lost attempt is tried again; it doubles.
    """

    make_engine: MakeEngine
    watcher: Watcher
    show: Callable[[Board], AbstractContextManager[None]]
    digests: Callable[[Iterable[str]], Mapping[str, str]] = lambda _: {}
    needs: Callable[[Attempt], Needs] = lambda _: Needs()
    pause_s: float = 1.0


async def begin_sweep(path: Path, spec: SweepSpec, around: Surroundings) -> Summary:
    """Begin a sweep in a folder of its own, and run it.

    Raises:
        SweepError: it cannot be run as it is; nothing was begun.
        EngineError: there is nothing to play on; nothing was begun.
        OSError: the folder cannot be written.
    """
    agents = spec.make_agents()
    check_free(path)
    sweep = new_id(spec)
    engine = around.make_engine(spec, agents, sweep)
    try:
        with _in_a_sentence(path):
            async with engine.run():
                return await _begin(path, spec, sweep, engine, agents, around)
    finally:
        remove_unbegun(path)


async def _begin(
    path: Path, spec: SweepSpec, sweep: str, engine: Engine, agents: Mapping[str, Agent], around: Surroundings
) -> Summary:
    tasks = await engine.tasks()
    attempts = list(spec.attempts(tasks))
    chosen = sorted({attempt.task for attempt in attempts})
    digests = around.digests(chosen)
    facts = {
        "versions": versions(),
        "hardware": hardware(),
        **engine.facts(),
        "agents": {name: {"name": agent.name, **agent.describe()} for name, agent in agents.items()},
        "tasks": {t.id: _described(t, digests) for t in tasks if t.id in chosen},
        "attempts": len(attempts),
    }
    with SweepFolder.begin(path, spec, sweep, facts) as folder:
        return await _run(folder, engine, attempts, tasks, around)


async def resume_sweep(path: Path, around: Surroundings, *, max_sessions: int | None = None) -> Summary:
    """Go on with the sweep of a folder.

    Args:
        path: the folder.
        around: where it runs now.
        max_sessions: attempts at a time, if not as the sweep was begun with.

    Raises:
        SweepError: it is none, or cannot go on as it was begun.
        EngineError: there is nothing to play on.
        OSError: the folder cannot be read or written.
    """
    manifest = read_manifest(path)
    agents = manifest.spec.make_agents()
    with _in_a_sentence(path), SweepFolder.take_up(path) as folder:
        if max_sessions is not None:
            spec = manifest.spec.model_copy(update={"max_sessions": max_sessions})
            folder.manifest = Manifest(manifest.id, spec, manifest.facts)
        _compare_versions(manifest, around.watcher)
        engine = around.make_engine(folder.manifest.spec, agents, manifest.id)
        async with engine.run():
            tasks = await engine.tasks()
            begun = manifest.facts.get("tasks")
            wanted = [task for task in tasks if not isinstance(begun, dict) or task.id in begun]
            _compare_tasks(manifest, wanted, around.digests([task.id for task in wanted]))
            attempts = list(manifest.spec.attempts(wanted))
            return await _run(folder, engine, attempts, tasks, around)


@contextmanager
def _in_a_sentence(path: Path) -> Iterator[None]:
    """Raise what ended a sweep as itself, not in a group of task groups; the ledger's errors as the system's."""
    try:
        yield
    except sqlite3.Error as exc:
        raise OSError(f"{path}: the ledger cannot be written: {exc}") from exc
    except ExceptionGroup as group:
        leaf: Exception = group
        while isinstance(leaf, ExceptionGroup):
            leaf = leaf.exceptions[0]
        if isinstance(leaf, sqlite3.Error):
            raise OSError(f"{path}: the ledger cannot be written: {leaf}") from group
        raise leaf from group


async def _run(
    folder: SweepFolder, engine: Engine, attempts: list[Attempt], tasks: Iterable[TaskSummary], around: Surroundings
) -> Summary:
    board = Board(attempts, {task.id: task.direction == "max" for task in tasks})
    sweep = Sweep(folder, engine, attempts, board, around.watcher, needs=around.needs, pause_s=around.pause_s)
    if folder.orphaned:
        around.watcher.said(f"{folder.orphaned} attempts were going on when whoever ran the sweep before died.")
    async with anyio.create_task_group() as group:
        group.start_soon(_obey_signals, sweep, around.watcher)
        with around.show(board):
            summary = await sweep.run()
        group.cancel_scope.cancel()
    return summary


async def _obey_signals(sweep: Sweep, watcher: Watcher) -> None:
    """Drain at the first Ctrl-C; stop at the second, or when told to end."""
    asked = False
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async for number in received:
            if asked or number == signal.SIGTERM:
                watcher.said("Stopping: what is played now ends without a result.")
                sweep.stop()
                return
            asked = True
            watcher.said("Draining: nothing more begins, what is played goes on. Ctrl-C again stops it.")
            sweep.drain()


def _described(task: TaskSummary, digests: Mapping[str, str]) -> dict[str, Any]:
    facts: dict[str, Any] = {"version": task.version, "metric": task.metric, "direction": task.direction}
    return facts | ({"digest": digests[task.id]} if task.id in digests else {})


def _compare_tasks(manifest: Manifest, tasks: Iterable[TaskSummary], digests: Mapping[str, str]) -> None:
    """Refuse to mix results of different tasks.

    Raises:
        SweepError: a task is not what it was, or not there any more.
    """
    begun = manifest.facts.get("tasks")
    if not isinstance(begun, dict):
        return
    there = {task.id: task for task in tasks}
    for name, was in begun.items():
        if name not in there:
            raise SweepError(f"the task {name} of the sweep is not there any more")
        if not isinstance(was, dict):
            continue
        now = _described(there[name], digests)
        for fact in ("version", "digest"):
            if fact in was and fact in now and was[fact] != now[fact]:
                raise SweepError(
                    f"the task {name} has changed since the sweep began ({fact} {str(was[fact])[:12]}, now "
                    f"{str(now[fact])[:12]}): its scores could not be compared; begin a new sweep"
                )


def _compare_versions(manifest: Manifest, watcher: Watcher) -> None:
    was, now = manifest.facts.get("versions"), versions()
    if not isinstance(was, dict):
        return
    changed = [f"{name} {was[name]}, now {now.get(name, 'none')}" for name in was if was[name] != now.get(name)]
    if changed:
        watcher.said(f"Not as when the sweep began: {'; '.join(changed)}.")
