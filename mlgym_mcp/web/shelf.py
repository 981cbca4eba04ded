"""The episodes below some folders, found quickly: an index that is brought up to date as it is asked."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mlgym_mcp.records.attempts import Attempt
from mlgym_mcp.records.index import EpisodeIndex, Found
from mlgym_mcp.records.ledger import read_ledger, with_usage

T = TypeVar("T")

FILTERS = ("task", "method", "outcome", "sweep")
_REST = 10.0
_QUICK_S = 0.1
"""After a refresh that took longer, ``_REST`` times as long as it took is spent on other things."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the episodes: the newest first.

    Attributes:
        attempts: those on this page.
        count: how many match.
        everything: how many there are.
        choices: the values to filter by, each with how many episodes have it.
        problems: what could not be read, in sentences.
    """

    attempts: tuple[Attempt, ...]
    count: int
    everything: int
    choices: dict[str, list[tuple[str, int]]]
    problems: tuple[str, ...]


def key_of(folder: str | Path) -> str:
    """Return the name of an episode in addresses: its folder's, and a digest as folders of one name may be several."""
    path = Path(folder)
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in path.name)[:80]
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{name}~{digest}"


class Shelf:
    """Knows the episodes below some folders. All reading is done in a thread of its own, one thing at a time.

    Args:
        roots: the folders.
        store: the index's file; default: the one in the program's home.
    """

    def __init__(self, roots: Sequence[Path], store: Path | None = None) -> None:
        self.roots = tuple(roots)
        self._store = store
        self._thread = ThreadPoolExecutor(1, "shelf")
        self._index: EpisodeIndex | None = None
        self._found = Found((), ())
        self._folders: dict[str, Path] = {}
        self._problems: tuple[str, ...] = ()
        self._next = 0.0
        self._changes = 0

    async def refresh(self) -> None:
        """Look at the disk now.

        Raises:
            FileNotFoundError: one of the folders is not there.
        """
        await self._do(self._refreshed)

    async def page(self, wanted: dict[str, str], text: str, limit: int, offset: int) -> Page:
        """Return the episodes that match some filters (of ``FILTERS``; ``text`` is a piece of the folder's path)."""
        return await self._do(lambda: self._page(wanted, text, limit, offset))

    async def folder(self, key: str) -> Path | None:
        """Return the folder of an episode by its name in addresses."""
        return await self._do(lambda: self._folder(key))

    async def attempts(self, wanted: dict[str, str]) -> tuple[list[Attempt], list[str]]:
        """Return the attempts that match some filters, oldest first, with what sweeps know of their cost; problems."""
        return await self._do(lambda: self._attempts(wanted))

    async def stamp(self) -> tuple[object, ...]:
        """Return something that is another as soon as an episode, or what a sweep knows of its cost, has changed."""
        return await self._do(self._stamp)

    def close(self) -> None:
        """Let go of the index."""
        index = self._index
        if index is not None:
            self._thread.submit(index.close)
        self._thread.shutdown(wait=True)

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _refreshed(self) -> EpisodeIndex:
        if self._index is None:
            self._index = EpisodeIndex(self._store)
        begin = time.monotonic()
        self._found, done = self._index.refresh(self.roots)
        self._folders = {key_of(folder): folder for folder, _, _ in self._found.journals}
        self._problems = (*self._found.problems, *done.problems)
        end = time.monotonic()
        self._next = end + _REST * (end - begin) if end - begin > _QUICK_S else end
        if done.read or done.gone:
            self._changes += 1
        return self._index

    def _current(self) -> EpisodeIndex:
        """The index, as fresh as it can be without all time going into it."""
        if self._index is None or time.monotonic() >= self._next:
            try:
                return self._refreshed()
            except FileNotFoundError as exc:  # the folder was taken away under our hands
                self._problems = (f"{exc}",)
                if self._index is None:
                    raise
        return self._index

    def _page(self, wanted: dict[str, str], text: str, limit: int, offset: int) -> Page:
        index = self._current()
        filters = {name: wanted.get(name) or None for name in FILTERS}
        attempts, count = index.page(**filters, text=text or None, here=True, limit=limit, offset=offset)
        choices = {name: index.choices(name, here=True) for name in FILTERS}
        return Page(tuple(attempts), count, len(self._found.journals), choices, self._problems)

    def _folder(self, key: str) -> Path | None:
        if key not in self._folders:
            self._current()
        return self._folders.get(key)

    def _stamp(self) -> tuple[object, ...]:
        self._current()
        return (self._changes, self._problems, *((path, _changed(path)) for path in self._found.ledgers))

    def _attempts(self, wanted: dict[str, str]) -> tuple[list[Attempt], list[str]]:
        index = self._current()
        attempts: Iterable[Attempt] = index.attempts(self._found)
        filters = {name: value for name in FILTERS if (value := wanted.get(name))}
        chosen = [a for a in attempts if all(getattr(a, name) == value for name, value in filters.items())]
        problems = list(self._problems)
        for path in self._found.ledgers:
            try:
                usages, broken = read_ledger(path)
            except OSError as exc:
                usages, broken = {}, f"{path}: cannot be read ({exc.strerror})"
            chosen = with_usage(chosen, usages)
            problems += [broken] if broken else []
        return chosen, problems


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
