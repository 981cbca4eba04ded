"""Which process it is: an id alone can come to mean another one, with its start time it cannot."""

from __future__ import annotations

from pathlib import Path


def process_started(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot (proc(5)); ``None`` when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def lives(pid: int, started: int | None) -> bool:
    """Whether a process of that id which started then still runs; an id that another process has now does not count."""
    return pid > 0 and (now := process_started(pid)) is not None and now == started
