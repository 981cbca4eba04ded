"""An index over folders of episodes: each journal is read once, and again only when it has changed.

The index is a SQLite file in the program's home, never among the episodes. It is a cache: removed, damaged or of
another version it is made again.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mlgym_mcp.records.attempts import Attempt, from_record, to_record
from mlgym_mcp.records.ledger import LEDGER
from mlgym_mcp.records.reading import read_attempt
from mlgym_mcp.records.salvage import is_journal
from mlgym_mcp.session.journal import FILE_NAME
from mlgym_sandbox.home import home

_VERSION = 1
"""Of the tables and of what is read from journals: an index of another version is made again."""
_DEEPEST = 8
_AT_A_TIME = 200
_COLUMNS = ("task", "preset", "method", "sweep", "outcome", "started", "submitted")
_TABLES = f"""
CREATE TABLE episodes (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime INTEGER NOT NULL, record TEXT NOT NULL, {", ".join(_COLUMNS)}
) WITHOUT ROWID;
CREATE INDEX by_time ON episodes (started);
CREATE INDEX by_task ON episodes (task, preset);
"""
_PUT = f"INSERT OR REPLACE INTO episodes VALUES ({', '.join('?' * (4 + len(_COLUMNS)))})"  # noqa: S608 - only marks


_HERE_TABLE = "CREATE TEMP TABLE here (path TEXT PRIMARY KEY) WITHOUT ROWID"
_HERE = "path IN (SELECT path FROM here)"


@dataclass(frozen=True, slots=True)
class Found:
    """What there is below some folders.

    Attributes:
        journals: (episode folder, size, time of change in ns); links are followed to the episode, each counts once.
        ledgers: files of sweeps, see :mod:`mlgym_mcp.records.ledger`.
        problems: folders that could not be looked into, in sentences.
    """

    journals: tuple[tuple[Path, int, int], ...]
    ledgers: tuple[Path, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh did: journals read, taken as they were, and gone; and what could not be read, in sentences."""

    read: int
    kept: int
    gone: int
    problems: tuple[str, ...]


def find(roots: Sequence[Path]) -> Found:
    """Look for episodes and ledgers in folders and below; what is inside of an episode is left alone.

    Raises:
        FileNotFoundError: one of the folders is not there; the message says which.
    """
    journals: dict[Path, tuple[int, int]] = {}
    ledgers: dict[Path, None] = {}
    problems: list[str] = []
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}")
        for folder in _walk(root.resolve(), _DEEPEST, problems):
            journal = folder / FILE_NAME
            if is_journal(journal):
                about = journal.stat()
                journals[folder] = (about.st_size, about.st_mtime_ns)
            elif is_journal(folder / LEDGER):
                ledgers[folder / LEDGER] = None
    return Found(tuple((folder, *about) for folder, about in sorted(journals.items())), tuple(ledgers), tuple(problems))


def _walk(folder: Path, deep: int, problems: list[str]) -> Iterator[Path]:
    """Yield a folder and those below it; below episodes nothing, and links only where they lead to an episode."""
    yield folder
    if deep == 0 or (folder / FILE_NAME).is_file():
        return
    try:
        with os.scandir(folder) as entries:
            inside = sorted((e.name, e.is_symlink()) for e in entries if e.is_dir())
    except OSError as exc:
        problems.append(f"{folder}: cannot be looked into ({exc.strerror})")
        return
    for name, linked in inside:
        if not name.isprintable():
            problems.append(f"{folder}: a folder with an unprintable name, {name!a}, is left out")
        elif not linked:
            yield from _walk(folder / name, deep - 1, problems)
        elif (folder / name / FILE_NAME).is_file():
            yield (folder / name).resolve()


class EpisodeIndex:
    """The index of this user's home. Use it as a context manager, or close it.

    Args:
        store: the file; default: in the program's home. If it cannot be written, the index is kept in memory.
    """

    def __init__(self, store: Path | None = None) -> None:
        self._base = _opened(store)
        self._here: list[tuple[str]] = []

    def refresh(
        self, roots: Sequence[Path], progress: Callable[[int, int], None] | None = None
    ) -> tuple[Found, Refreshed]:
        """Bring the index up to date with what is below some folders.

        ``progress`` is told how many of how many changed journals have been read.

        Raises:
            FileNotFoundError: one of the folders is not there.
        """
        found = find(roots)
        try:
            return found, self._refresh(found, roots, progress)
        except sqlite3.Error:  # no room, or damaged under our hands: it is only a cache
            self._base.close()
            self._base, self._here = _in_memory(), []
            return found, self._refresh(found, roots, progress)

    def _refresh(self, found: Found, roots: Sequence[Path], progress: Callable[[int, int], None] | None) -> Refreshed:
        rows = self._base.execute("SELECT path, size, mtime FROM episodes")
        known = {path: (size, mtime) for path, size, mtime in rows}
        changed = [each for each in found.journals if known.get(str(each[0])) != each[1:]]
        problems: list[str] = []
        for begin in range(0, len(changed), _AT_A_TIME):
            self._put(changed[begin : begin + _AT_A_TIME], problems)
            if progress is not None:
                progress(min(begin + _AT_A_TIME, len(changed)), len(changed))
        there = {str(folder) for folder, _, _ in found.journals}
        tops = [str(root.resolve()) for root in roots]
        gone = [(p,) for p in known if p not in there and any(_is_below(p, top) for top in tops)]
        with self._base:
            self._base.executemany("DELETE FROM episodes WHERE path = ?", gone)
        self._note_here(found)
        return Refreshed(len(changed), len(found.journals) - len(changed), len(gone), tuple(problems))

    def _put(self, journals: Sequence[tuple[Path, int, int]], problems: list[str]) -> None:
        rows, unread = [], []
        for folder, size, mtime in journals:
            try:
                attempt = read_attempt(folder)
            except OSError as exc:
                problems.append(f"{folder}: its journal cannot be read ({exc.strerror or exc})")
                unread.append((str(folder),))
            else:
                columns = [getattr(attempt, name) for name in _COLUMNS]
                rows.append((str(folder), size, mtime, json.dumps(to_record(attempt)), *columns))
        with self._base:  # other programs wait while this is written, not while journals are read
            self._base.executemany(_PUT, rows)
            self._base.executemany("DELETE FROM episodes WHERE path = ?", unread)

    def _note_here(self, found: Found) -> None:
        """Keep which were found: sweeps hold links to episodes, so that the folder's path alone does not tell."""
        paths = [(str(folder),) for folder, _, _ in found.journals]
        if paths == self._here:
            return
        self._here = []
        with self._base:
            self._base.execute("DELETE FROM here")
            self._base.executemany("INSERT INTO here VALUES (?)", paths)
        self._here = paths

    def attempts(self, found: Found) -> list[Attempt]:
        """Return the attempts of the episodes that were found, oldest first."""
        wanted = {str(folder) for folder, _, _ in found.journals}
        rows = self._base.execute("SELECT path, record FROM episodes ORDER BY started, path")
        return [from_record(json.loads(record)) for path, record in rows if path in wanted]

    def page(
        self,
        *,
        task: str | None = None,
        method: str | None = None,
        outcome: str | None = None,
        sweep: str | None = None,
        text: str | None = None,
        here: bool = False,
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[list[Attempt], int]:
        """Return some of all indexed attempts, the newest first, and how many match.

        ``text`` is a piece of the folder's path; ``here``: only those that the last refresh found, and not those of
        other folders that were looked at with this index before.
        """
        given = {"task": task, "method": method, "outcome": outcome, "sweep": sweep}
        filters = {name: value for name, value in given.items() if value is not None}
        where = " AND ".join([_HERE if here else "1", *(f"{name} = ?" for name in filters)])
        values: list[str | int] = list(filters.values())
        if text:
            where += " AND instr(lower(path), ?)"
            values.append(text.lower())
        count = self._base.execute(f"SELECT count(*) FROM episodes WHERE {where}", values).fetchone()[0]  # noqa: S608
        rows = self._base.execute(
            f"SELECT record FROM episodes WHERE {where} ORDER BY started DESC, path LIMIT ? OFFSET ?",  # noqa: S608
            (*values, limit, offset),
        )
        return [from_record(json.loads(record)) for (record,) in rows], count

    def choices(self, column: str, *, here: bool = False) -> list[tuple[str, int]]:
        """Return the values of ``task``, ``method``, ``outcome`` or ``sweep`` that there are, and how many of each."""
        if column not in _COLUMNS:
            raise ValueError(f"episodes have no column {column!r}")
        where = _HERE if here else "1"
        rows = self._base.execute(
            f"SELECT {column}, count(*) FROM episodes WHERE {where} GROUP BY {column} ORDER BY {column}"  # noqa: S608
        )
        return [(value, count) for value, count in rows if value]

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _opened(store: Path | None) -> sqlite3.Connection:
    """Open the index, making it again if it is not one of this version."""
    try:
        path = home("index") / "episodes.sqlite" if store is None else store
        for _ in range(2):
            base = sqlite3.connect(path, timeout=30)
            try:
                if _is_current(base):
                    return base
            except sqlite3.OperationalError:
                base.close()
                raise
            except sqlite3.DatabaseError:
                pass  # no database, or a damaged one
            base.close()
            for name in (path, Path(f"{path}-journal")):
                name.unlink(missing_ok=True)
    except (OSError, sqlite3.OperationalError):
        pass  # a home that cannot be written
    return _in_memory()


def _in_memory() -> sqlite3.Connection:
    base = sqlite3.connect(":memory:")
    _is_current(base)
    return base


def _is_current(base: sqlite3.Connection) -> bool:
    """Whether the tables are those of this version; made if there are none, as is the connection's own."""
    version = base.execute("PRAGMA user_version").fetchone()[0]
    with closing(base.execute("SELECT count(*) FROM sqlite_master")) as tables:
        empty = tables.fetchone()[0] == 0
    if version == 0 and empty:
        base.execute("PRAGMA synchronous = OFF")  # a cache
        base.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {_VERSION}; COMMIT;")
        version = _VERSION
    if version != _VERSION:
        return False
    base.execute(_HERE_TABLE)
    return bool(base.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
