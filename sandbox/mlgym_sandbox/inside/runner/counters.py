"""What the sandbox has used so far."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlgym_sandbox.inside.runner.processes import Processes
    from mlgym_sandbox.inside.runner.wire import Header


class Counters:
    """The kernel's counters of the sandbox's control group, and our own where there is none."""

    def __init__(self, config: Header, processes: Processes) -> None:
        self.config, self.processes = config, processes
        self.cpu_s = 0.0
        """Of the children that have ended."""

    def usage(self) -> Header:
        table = self.processes.table()
        memory = self.cgroup_number("memory.current", "memory/memory.usage_in_bytes")
        cpu_s = self.cpu_s + sum(process.cpu_s for process in table.values())
        # The kernel also counts those whose parents do not want to know of their end.
        counted = self.cgroup_number("cpu.stat", "cpuacct/cpuacct.usage", "cpu,cpuacct/cpuacct.usage")
        if counted is not None:
            cpu_s = max(cpu_s, counted / 1e9)
        return {
            "cpu_s": cpu_s,
            "memory_bytes": sum(process.resident for process in table.values()) if memory is None else memory,
            "processes": len(table),
            "oom_kills": self.oom_kills(),
        }

    def cgroup_number(self, *names: str) -> int | None:
        for name in names if self.config["cgroup_dir"] else ():
            try:
                words = read_file(os.path.join(self.config["cgroup_dir"], name)).split()
                return int(words[1]) * 1000 if words[0] == b"usage_usec" else int(words[0])
            except (OSError, ValueError, IndexError):
                continue
        return None

    def oom_kills(self) -> int:
        """The kernel's count of processes that it killed here for want of memory."""
        for name in ("memory.events", "memory/memory.oom_control"):
            try:
                if self.config["oom_fd"] is not None:
                    text = os.pread(self.config["oom_fd"], 4096, 0)
                elif self.config["cgroup_dir"]:
                    text = read_file(os.path.join(self.config["cgroup_dir"], name))
                else:
                    return 0
                for line in text.splitlines():
                    if line.startswith(b"oom_kill "):
                        return int(line.split()[1])
            except (OSError, ValueError, IndexError):
                continue
        return 0


def read_file(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)
