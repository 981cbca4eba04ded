"""The process table of the sandbox, and signals to it."""

from __future__ import annotations

import os
import time

from mlgym_sandbox.inside.runner.native import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mlgym_sandbox.inside.runner.identity import Identity

MARKER = "MLGYM_JOB"
"""In the environment of every process of a job: the job's name."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Process:
    """One line of the process table."""

    __slots__ = ("cpu_s", "group", "parent", "pid", "resident", "session", "state")

    def __init__(self, pid: int, fields: list[bytes]) -> None:
        self.pid = pid
        self.state = fields[0]
        self.parent, self.group, self.session = int(fields[1]), int(fields[2]), int(fields[3])
        # With the time of its own ended children; those that ended under it are nowhere else yet.
        self.cpu_s = sum(map(int, fields[11:15])) / CLOCK_TICKS
        self.resident = int(fields[21]) * PAGE


CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Processes:
    """Everything the agent runs: seen through /proc, signalled with the agent's rights."""

    def __init__(self, identity: Identity, everyone: bool) -> None:
        self.identity = identity
        self.everyone = everyone
        self.own = os.getpid()
        self.errands: set[int] = set()
        """Forked children of the runner itself: never counted nor killed as the agent's."""
        self.reap: Callable[[], None] = lambda: None
        """Deal with children that have ended: until then they count against the limit of processes."""

    def table(self) -> dict[int, Process]:
        """All living processes of the agent (no zombies), by pid."""
        found: dict[int, Process] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            pid = int(name)
            if pid == self.own or pid in self.errands:
                continue
            try:
                with open("/proc/%d/stat" % pid, "rb") as file:
                    line = file.read()
                process = Process(pid, line[line.rindex(b")") + 2 :].split())
            except (OSError, ValueError, IndexError):
                continue  # gone meanwhile
            if process.state not in b"ZX":
                found[pid] = process
        if self.everyone:
            return found
        mine = self.descendants(found, {self.own})
        return {pid: process for pid, process in found.items() if pid in mine}

    @staticmethod
    def descendants(table: dict[int, Process], roots: set[int]) -> set[int]:
        children: dict[int, list[int]] = {}
        for process in table.values():
            children.setdefault(process.parent, []).append(process.pid)
        reached: set[int] = set()
        todo = list(roots)
        while todo:
            for child in children.get(todo.pop(), ()):
                if child not in reached:
                    reached.add(child)
                    todo.append(child)
        return reached

    def tree(self, job_id: str, leader: int | None) -> set[int]:
        """The processes of one job: its session and group, what carries its mark, and what they started.

        ``leader`` is ``None`` once the first process was reaped: its number may belong to another by now.
        """
        table = self.table()
        mark = ("%s=%s" % (MARKER, job_id)).encode()
        roots: set[int] = set()
        with self.identity:
            for pid, process in table.items():
                if leader is not None and leader in (pid, process.group, process.session):
                    roots.add(pid)
                elif self.marked(pid, mark):
                    roots.add(pid)
        return roots | self.descendants(table, roots)

    @staticmethod
    def marked(pid: int, mark: bytes) -> bool:
        try:
            with open("/proc/%d/environ" % pid, "rb") as file:
                return mark in file.read().split(b"\0")
        except OSError:
            return False

    def signal(self, pids: set[int], number: int) -> None:
        with self.identity:
            for pid in pids:
                try:
                    os.kill(pid, number)
                except OSError:
                    pass  # gone meanwhile

    def signal_all(self, number: int) -> None:
        """Send a signal to everything of the agent, in one stroke where the kernel can do that."""
        if self.everyone and not self.errands and self.own == 1:
            # From PID 1 this reaches all processes of the namespace but PID 1. No fork: a fork bomb that holds
            # every process the sandbox may have cannot prevent it.
            with self.identity:
                try:
                    os.kill(-1, number)
                except OSError:
                    pass  # there is nobody
            return
        end = time.monotonic() + 2.0
        seen: set[int] = set()
        while True:
            found = set(self.table())
            if not found - seen or time.monotonic() > end:
                return
            self.signal(found, number)
            if number != signal.SIGKILL:
                seen |= found  # killed ones vanish, others are signalled once
