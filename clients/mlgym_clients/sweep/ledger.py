"""A sweep's ledger: which attempts have a result, and every try. The first result of an attempt counts, for good.

SQLite with a synced write-ahead log: what has been committed outlives the process and the machine.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlgym_clients.sweep.attempt import Attempt
from mlgym_clients.sweep.spec import SweepError

_VERSION = 1
_TABLES = """
CREATE TABLE result (attempt TEXT PRIMARY KEY, number INTEGER NOT NULL, line TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE try (
    attempt TEXT NOT NULL, number INTEGER NOT NULL, started REAL NOT NULL, ended REAL, session TEXT, episode TEXT,
    node TEXT, state TEXT NOT NULL, detail TEXT NOT NULL DEFAULT '', PRIMARY KEY (attempt, number)
) WITHOUT ROWID;
"""

Loss = Literal["lost", "stopped", "refused"]
"""How a try ends that gives no result: something else than the agent failed; it was stopped; it cannot be had."""


@dataclass(frozen=True, slots=True)
class Past:
    """What became of an attempt until now.

    Attributes:
        tries: how many there were.
        session: of the last one that had a session: it may have finished after all.
        losses: tries that something else than the agent ended.
    """

    tries: int = 0
    session: str | None = None
    losses: int = 0


class Ledger:
    """The ledger of one sweep, used by one process at a time.

    Args:
        path: its file, made if it is missing.

    Raises:
        SweepError: it is damaged, or of another version.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._base = sqlite3.connect(path, isolation_level=None)
        try:
            self._set_up(path)
        except sqlite3.DatabaseError as exc:
            self._base.close()
            raise SweepError(
                f"{path} is damaged ({exc}): move it away, and it is made again from attempts.jsonl"
            ) from exc
        except BaseException:
            self._base.close()
            raise

    def _set_up(self, path: Path) -> None:
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=FULL")
        (version,) = self._base.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._base.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise SweepError(f"{path} is of version {version}, this program writes version {_VERSION}")
        else:
            self._base.execute("SELECT attempt, number, state FROM try LIMIT 1")

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def take_up(self) -> int:
        """Note that whoever ran the sweep before is dead; returns how many tries were going on then."""
        lost = self._base.execute(
            "UPDATE try SET state='orphaned', detail='whoever ran the sweep was gone', ended=? WHERE state='running'",
            (time.time(),),
        )
        return lost.rowcount

    def finished(self) -> set[str]:
        """Return the ids of the attempts that have a result."""
        return {attempt for (attempt,) in self._base.execute("SELECT attempt FROM result")}

    def has(self, attempt: Attempt) -> bool:
        """Whether an attempt has a result."""
        return self._base.execute("SELECT 1 FROM result WHERE attempt=?", (attempt.id,)).fetchone() is not None

    def lines(self) -> list[dict[str, Any]]:
        """Return all results, oldest first."""
        return [json.loads(line) for (line,) in self._base.execute("SELECT line FROM result ORDER BY rowid")]

    def past(self, attempt: Attempt) -> Past:
        """Return what became of an attempt until now."""
        tries = self._base.execute(
            "SELECT number, session, state FROM try WHERE attempt=? ORDER BY number", (attempt.id,)
        ).fetchall()
        sessions = [session for _, session, _ in tries if session is not None]
        losses = sum(state == "lost" for _, _, state in tries)
        last = tries[-1][0] if tries else 0
        if tries and tries[-1][1] is None and tries[-1][2] in ("orphaned", "stopped"):
            last -= 1  # it may have a session that nobody heard of: the same key finds it again
        return Past(last, sessions[-1] if sessions else None, losses)

    def begin(self, attempt: Attempt, number: int) -> None:
        """Note that a try begins; one of which nothing came may begin again."""
        self._base.execute(
            "INSERT OR REPLACE INTO try (attempt, number, started, state) VALUES (?, ?, ?, 'running')",
            (attempt.id, number, time.time()),
        )

    def opened(self, attempt: Attempt, number: int, session: str, episode: str, node: str) -> None:
        """Note which session a try has, before it is played."""
        self._base.execute(
            "UPDATE try SET session=?, episode=?, node=? WHERE attempt=? AND number=?",
            (session, episode, node, attempt.id, number),
        )

    def end(self, attempt: Attempt, number: int, state: Loss, detail: str) -> None:
        """Note that a try ended without a result."""
        self._ended(attempt.id, number, state, detail)

    def commit(self, attempt: Attempt, number: int, line: Mapping[str, Any]) -> bool:
        """Note an attempt's result; returns whether it is the first, which counts. On disk when this returns."""
        self._base.execute("BEGIN IMMEDIATE")
        try:
            done = self._base.execute(
                "INSERT OR IGNORE INTO result VALUES (?, ?, ?, ?)",
                (attempt.id, number, json.dumps(line, allow_nan=False), time.time()),
            )
            first = done.rowcount == 1
            self._ended(attempt.id, number, "committed" if first else "duplicate", "")
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")
        return first

    def restore(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take results from elsewhere for attempts that have none."""
        self._base.execute("BEGIN IMMEDIATE")
        for line in lines:
            self._base.execute(
                "INSERT OR IGNORE INTO result VALUES (?, ?, ?, ?)",
                (line["attempt"], int(line.get("try", 1)), json.dumps(line), time.time()),
            )
        self._base.execute("COMMIT")

    def losses(self) -> int:
        """Return how many tries something else than the agent ended, or whoever ran the sweep did by dying."""
        (count,) = self._base.execute("SELECT count(*) FROM try WHERE state IN ('lost', 'orphaned')").fetchone()
        return int(count)

    def _ended(self, attempt: str, number: int, state: str, detail: str) -> None:
        self._base.execute(
            "UPDATE try SET state=?, detail=?, ended=? WHERE attempt=? AND number=?",
            (state, detail[:2000], time.time(), attempt, number),
        )
