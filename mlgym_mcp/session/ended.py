"""Sessions that no server holds any more, found by their ids among the episodes.

An episode does not name its session: the id is what opens it. Its first event has the digests of id and token, by
which whoever knows them is recognised, and nobody else learns anything.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlgym_mcp.session.journal import FILE_NAME, JournalError, read_journal


def digest_of(secret: str) -> str:
    """Return what an episode keeps of a session's id or token. Both are random: they cannot be guessed from it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Ended:
    """An episode whose session is known by its id.

    Attributes:
        folder: the episode's.
        token: digest of the session's bearer token.
    """

    folder: Path
    token: str

    def opened_by(self, token: bytes | None) -> bool:
        """Whether this is the session's token; how long it takes tells nothing."""
        given = hashlib.sha256(token or b"").hexdigest()
        return hmac.compare_digest(given, self.token) and token is not None


_TICK_NS = 1_000_000_000
"""A folder that changed no longer ago may change again without showing it."""
NOBODY: Final = Ended(Path(), hashlib.sha256(secrets.token_bytes(32)).hexdigest())
"""What stands in place of an unknown one, so that it is not told apart by what is left out."""


class EndedSessions:
    """The episodes in a folder by their sessions' ids. Blocking; several threads may use it.

    Whether an id is known takes equally long to find out either way, however much of it is right.
    """

    def __init__(self) -> None:
        self._root: Path | None = None
        self._changed = -1
        self._seen: set[str] = set()
        self._by_id: dict[str, Ended] = {}
        self._lock = threading.Lock()

    def find(self, root: Path, session_id: str) -> Ended | None:
        """Return the episode of a session, over or not.

        Args:
            root: where the episodes are. What was seen there is remembered until new ones come.
            session_id: any text.
        """
        with self._lock:
            self._look(root)
            return self._by_id.get(digest_of(session_id))

    def _look(self, root: Path) -> None:
        """Read the first events of the episodes that are new."""
        if root != self._root:
            self._root, self._changed = root, -1
            self._seen.clear()
            self._by_id.clear()
        try:
            changed = root.stat().st_mtime_ns
            if changed == self._changed:
                return
            names = {folder.name for folder in root.iterdir()}
        except OSError:
            return
        lately = time.time_ns() - changed < _TICK_NS
        self._changed = -1 if lately else changed
        for name in names - self._seen:
            try:
                first = next(read_journal(root / name))
                digests = first["digests"]
                self._by_id[str(digests["session"])] = Ended(root / name, str(digests["token"]))
            except (StopIteration, FileNotFoundError, NotADirectoryError):
                if (root / name / FILE_NAME).exists() or (root / name).is_dir():
                    self._changed = -1  # it is being made
                continue
            except (JournalError, OSError, KeyError, TypeError):
                pass  # damaged, or of a version that did not tell
            self._seen.add(name)
