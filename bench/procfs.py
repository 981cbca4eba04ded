"""What the kernel tells of a process: its CPU seconds, memory, files and children."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One process, its threads included.

    Attributes:
        parent: its parent's id.
        state: the kernel's letter; ``Z`` for one that only waits for its parent to hear of its end.
        cpu_s: user and system time.
        resident: bytes.
    """

    parent: int
    state: str
    cpu_s: float
    resident: int


def look(pid: int) -> Process:
    """Return the figures of a process.

    Raises:
        OSError: there is none.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) * _TICK_S
    return Process(int(fields[1]), fields[0], cpu_s, int(fields[21]) * _PAGE)


def open_files(pid: int) -> dict[int, str]:
    """Return what the descriptors of a process lead to."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except OSError:
            continue
    return found


def pids() -> list[int]:
    """Return all processes that can be seen."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def children(parent: int) -> list[int]:
    """Return the children of a process, zombies included."""
    found = []
    for pid in pids():
        try:
            if look(pid).parent == parent:
                found.append(pid)
        except OSError:
            continue
    return found
