"""Whether nothing changes any more, and from when on a file's time of change tells that something did."""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlgym_sandbox.inside.runner.processes import Processes

STILL_S = 2.0
"""How long a stopped process may take until it stands still: a large write is not broken off."""
TICK_S = 0.05
"""More than the grain of a file's times on any ordinary file system."""
COARSE_CLOCK = 5
"""CLOCK_REALTIME_COARSE: what the kernel writes into a file's times, or a little less."""
SECOND_NS = 10**9


def stand_still(processes: Processes) -> bool:
    """Wait until every thread of the agent is stopped; whether they all are."""
    end = time.monotonic() + STILL_S
    while not all(stopped(pid) for pid in processes.table() if pid != os.getpid()):
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def stopped(pid: int) -> bool:
    folder = "/proc/%d/task" % pid
    try:
        for thread in os.listdir(folder):
            with open("%s/%s/stat" % (folder, thread), "rb") as file:
                line = file.read()
            if line[line.rindex(b")") + 2 :][:1] not in b"TtZX":
                return False
    except (OSError, ValueError):
        return not os.path.exists(folder)  # gone meanwhile
    return True


def mapped_files(processes: Processes) -> set[int]:
    """The inode numbers of files that a process can change through its memory: their times then tell nothing."""
    found = set()
    for pid in processes.table():
        try:
            with open("/proc/%d/maps" % pid, "rb") as file:
                for line in file:
                    fields = line.split(None, 5)
                    if fields[1][1:2] == b"w" and fields[1][3:4] == b"s":
                        found.add(int(fields[4]))
        except (OSError, ValueError, IndexError):
            continue  # gone meanwhile
    return found


def fresh_from(latest: int) -> int:
    """Wait until the clock is past a time of change, nanoseconds; from which on a time tells nothing.

    A file that is changed after this has a later time than any seen before. Where the clock was set back there are
    times in the future, and those are not waited for.
    """
    end = time.monotonic() + TICK_S
    while True:
        now = time.clock_gettime_ns(COARSE_CLOCK)
        if now > latest or time.monotonic() > end:
            return now
        time.sleep(0.001)


def state_of(info: os.stat_result) -> str:
    """What changes whenever a regular file does: an agent can set neither the time of change nor the inode number."""
    coarse = info.st_ctime_ns % SECOND_NS == 0 and info.st_ctime_ns + 2 * SECOND_NS > time.time_ns()
    if coarse:
        return ""  # a file system that counts in seconds
    facts = (info.st_ino, info.st_size, info.st_mode, info.st_mtime_ns, info.st_ctime_ns)
    return ".".join(map(str, facts))
