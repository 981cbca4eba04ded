"""The folder of one episode on disk: journal, snapshots, large arguments."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlgym_mcp.session.journal import Journal

_INLINE = 8192
"""Longer text (in characters) goes to a file named by its SHA-256; the journal then names the file."""
_SHORT = 200
_MANY = 64
_ROOM = 64 << 20
"""Bytes of blobs, and of the journal: beyond them only what is short is recorded in full."""


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
        self._blob_bytes: int | None = None

    @classmethod
    def create(cls, root: Path, task: str, session_id: str) -> Episode:
        """Make a new episode folder, named so that a listing sorts by time and tells the task."""
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        return cls(root / f"{stamp}-{task}-{session_id[:8]}")

    def shrink(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return tool arguments as the journal keeps them, whatever a client sends: strict JSON of bounded size.

        Long values go to ``blobs/<sha256>``; beyond ``_ROOM`` only their digest is kept. So an agent cannot fill
        the server's disk with calls that cost it nothing.

        Raises:
            OSError: the blob could not be written.
        """
        if len(arguments) > _MANY or any(len(name) > _SHORT for name in arguments):
            return {"$all": self._keep(_json(arguments), "json")}
        return {name: self._shrink(value) for name, value in arguments.items()}

    def trim(self, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the journal keeps of a result: all of it, until there is too much of everything."""
        if self.journal.size < _ROOM:
            return dict(outcome)
        return {k: f"{v[:_SHORT]} [cut]" if isinstance(v, str) and len(v) > _SHORT else v for k, v in outcome.items()}

    def _shrink(self, value: Any) -> Any:
        text, kind = (value, "text") if isinstance(value, str) else (_json(value), "json")
        limit = _INLINE if self.journal.size < _ROOM else _SHORT
        if len(text) > limit:
            return self._keep(text, kind)
        if kind == "text" or _is_strict(value):
            return value
        return {"$json": text}

    def _keep(self, text: str, kind: str) -> dict[str, Any]:
        data = text.encode("utf-8", "surrogatepass")
        digest = hashlib.sha256(data).hexdigest()
        known = {"$blob": digest, "chars": len(text)} | ({"kind": kind} if kind != "text" else {})
        folder = self.folder / "blobs"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / digest
        if path.exists():
            return known
        if self._blob_bytes is None:
            self._blob_bytes = sum(blob.stat().st_size for blob in folder.iterdir())
        if self._blob_bytes + len(data) > _ROOM:
            return known | {"dropped": True}
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(data)
        part.rename(path)
        self._blob_bytes += len(data)
        return known

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    def remove(self) -> None:
        """Close it and remove the folder: for one that never began."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _json(value: Any) -> str:
    """Return a value as JSON text, NaN and infinities included: clients do send them."""
    try:
        return json.dumps(value, ensure_ascii=True)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or nested without end
        return f"what JSON cannot hold: {type(value).__name__}"


def _is_strict(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True
