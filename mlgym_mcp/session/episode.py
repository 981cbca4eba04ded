"""The folder of one episode on disk: journal, snapshots, large arguments."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlgym_mcp.session.journal import Journal

_INLINE = 8192
"""Longer text (in characters) goes to a file named by its SHA-256; the journal then names the file."""


class Episode:
    """One episode's folder ``<root>/<id>``; owns its journal."""

    def __init__(self, folder: Path) -> None:
        """Open an episode folder, making it (mode 0700) if missing.

        Raises:
            JournalError: its journal cannot be opened.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.id = folder.name
        self.journal = Journal(folder)

    @classmethod
    def create(cls, root: Path, task: str, session_id: str) -> Episode:
        """Make a new episode folder, named so that a listing sorts by time and tells the task."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        return cls(root / f"{stamp}-{task}-{session_id[:8]}")

    def shrink(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return tool arguments as the journal keeps them: long text is moved to ``blobs/<sha256>``.

        Raises:
            OSError: the blob could not be written.
        """
        return {name: self._shrink(value) for name, value in arguments.items()}

    def _shrink(self, value: Any) -> Any:
        if not isinstance(value, str) or len(value) <= _INLINE:
            return value
        data = value.encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(data).hexdigest()
        folder = self.folder / "blobs"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / digest
        if not path.exists():
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_bytes(data)
            part.rename(path)
        return {"$blob": digest, "chars": len(value)}

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()
