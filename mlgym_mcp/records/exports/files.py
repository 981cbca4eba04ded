"""Files of exports: there whole or not at all, and named after episodes without meeting each other."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_ODD = re.compile(r"[^A-Za-z0-9._-]+")


@contextmanager
def written(path: Path, mode: str = "w") -> Iterator[IO[str]]:
    """Lend a text file that takes its place when the block is left well; its folder is made if missing.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open(mode, encoding="utf-8", newline="") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class Names:
    """File names that are plain and taken once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, name: str) -> str:
        """Return a file name for a name of whatever letters."""
        plain = _ODD.sub("_", name).lstrip(".")[:120] or "episode"
        chosen, number = plain, 1
        while chosen.lower() in self._taken:
            number += 1
            chosen = f"{plain}-{number}"
        self._taken.add(chosen.lower())
        return chosen
