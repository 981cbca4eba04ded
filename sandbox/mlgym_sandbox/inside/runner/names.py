"""File names: in order, and as text."""

from __future__ import annotations

import os


def sorted_entries(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def plain(name: str) -> str:
    """A file name as text that can go into JSON and UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
