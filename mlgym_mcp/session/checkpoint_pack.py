"""The contents that are new with one snapshot, one after another in one file."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_SPARE_BYTES = 64 << 20
"""Of the server's disk: kept free, for journals."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a content is: in which pack, from where on, how long."""

    pack: str
    at: int
    size: int


class Pack:
    """The contents that are new with one snapshot, being written. Contents that are there already are dropped again.

    Args:
        folder: where it is to be.
        known: digests of the contents that are there already.
    """

    def __init__(self, folder: Path, known: Container[str]) -> None:
        self._folder = folder
        self._known = known
        self._name = secrets.token_hex(8)
        self._path = folder / f"{self._name}.part"
        self._file: IO[bytes] | None = None
        self._begun = 0
        self._end = 0
        self._hash = hashlib.sha256()
        self.places: dict[str, Place] = {}

    @property
    def size(self) -> int:
        """Bytes of new contents."""
        return self._begun

    def write(self, data: bytes) -> None:
        """Take a piece of the present file.

        Raises:
            OSError: no space left.
        """
        self._hash.update(data)
        if self._file is None:
            self._file = self._path.open("xb")
        if self._end // _SPARE_BYTES != (self._end + len(data)) // _SPARE_BYTES:
            need_room(self._folder)
        self._file.write(data)
        self._end += len(data)

    def finish(self) -> str:
        """End the present file; returns its digest."""
        digest, self._hash = self._hash.hexdigest(), hashlib.sha256()
        size = self._end - self._begun
        if size and (digest in self.places or digest in self._known):
            assert self._file is not None
            self._file.seek(self._begun)
            self._file.truncate()
            self._end = self._begun
        elif size:
            self.places[digest] = Place(self._name, self._begun, size)
            self._begun = self._end
        return digest

    def keep(self) -> None:
        """Put the pack in its place, on the disk for good."""
        if self._file is None:
            return
        self._file.truncate(self._begun)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self.places:
            self._path.rename(self._folder / f"{self._name}.pack")
        else:
            self._path.unlink()
        self._file = None

    def drop(self) -> None:
        """Leave nothing, unless it was kept."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


def need_room(folder: Path) -> None:
    """Look at the disk.

    Raises:
        OSError: there is too little left.
    """
    facts = os.statvfs(folder)
    if facts.f_bavail * facts.f_frsize < _SPARE_BYTES:
        raise OSError(errno.ENOSPC, "the server's disk is full")
