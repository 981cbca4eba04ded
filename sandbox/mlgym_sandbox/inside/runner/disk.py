"""Watching how much the agent stores, where no file system limits it."""

from __future__ import annotations

import os
import stat
import time

from mlgym_sandbox.inside.runner.errands import Errand
from mlgym_sandbox.inside.runner.names import sorted_entries
from mlgym_sandbox.inside.runner.refusals import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mlgym_sandbox.inside.runner.errands import Work
    from mlgym_sandbox.inside.runner.files import Files
    from mlgym_sandbox.inside.runner.jobs import Jobs
    from mlgym_sandbox.inside.runner.loop import Loop
    from mlgym_sandbox.inside.runner.processes import Processes
    from mlgym_sandbox.inside.runner.wire import Header


class Disk:
    """How much is stored, as last measured; too much of it ends everything that runs."""

    def __init__(self, loop: Loop, config: Header, processes: Processes, files: Files, jobs: Jobs) -> None:
        self.loop, self.config = loop, config
        self.processes, self.files, self.jobs = processes, files, jobs
        self.bytes = 0
        self.time = float("-inf")
        self.changed = True
        """Whether anything may have been stored since that measurement began."""
        self.watching = False

    def measure(self, done: Callable[[Header], None], seconds: float = 60.0) -> None:
        def finish(said: Header) -> None:
            if "disk_bytes" in said:
                self.bytes, self.time = said["disk_bytes"], time.monotonic()
            else:
                self.changed = True
            done(said)

        busy = bool(self.processes.errands or self.processes.table())
        work = measure_work(self.files, self.processes, self.config["disk_paths"])
        errand = Errand(seconds, work, lambda data: None, finish)
        errand.begin(self.loop, self.processes.identity, self.processes, False)
        self.changed = busy

    def known(self) -> bool:
        """Whether a measurement would find what the last one found: nothing runs, and nothing was asked for since."""
        return not self.changed and not self.processes.table()

    def need_room(self, size: int) -> None:
        """Refuse to write beyond the storage limit, as far as the last measurement tells."""
        limit = self.config["storage_bytes"]
        if limit is None:
            return
        if self.bytes + size > limit:
            raise Refusal("file", "no space is left: %d of %d bytes are used" % (self.bytes, limit))
        self.bytes += size
        self.watch()

    def watch(self) -> None:
        """Measure every second or so while anything runs, and kill all when there is too much and more of it."""
        if self.config["storage_bytes"] is None or self.watching:
            return
        self.watching = True
        self.loop.after(1.0, self.look)

    def look(self) -> None:
        begun, before = time.monotonic(), self.bytes

        def done(said: Header) -> None:
            if self.bytes > self.config["storage_bytes"] and self.bytes > before:
                self.jobs.end_everything("disk")
            if self.jobs.running() or self.processes.table():
                self.loop.after(max(1.0, 5 * (time.monotonic() - begun)), self.look)
            else:
                self.watching = False

        try:
            self.measure(done)
        except Refusal:
            self.loop.after(1.0, self.look)


def measure_work(files: Files, processes: Processes, paths: list[str]) -> Work:
    """Bytes on disk below some folders, with deleted files that a process still holds open."""

    def work(_: int, __: int) -> Header:
        total = 0
        seen: set[tuple[int, int]] = set()
        devices: set[int] = set()
        opened: list[tuple[str, int]] = []

        def add(info: os.stat_result) -> None:
            nonlocal total
            if info.st_nlink != 1:
                key = (info.st_dev, info.st_ino)
                if key in seen:
                    return
                seen.add(key)
            total += info.st_blocks * 512

        todo = [files.mapped(path) for path in paths]
        for path in todo:
            try:
                devices.add(os.stat(path).st_dev)
            except OSError:
                pass
        while todo:
            folder = todo.pop()
            try:
                entries = sorted_entries(folder)
            except PermissionError:
                try:  # the agent's own: what it has hidden counts as well
                    opened.append((folder, stat.S_IMODE(os.lstat(folder).st_mode)))
                    os.chmod(folder, 0o700)
                    entries = sorted_entries(folder)
                except OSError:
                    continue
            except OSError:
                continue
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                add(info)
                if stat.S_ISDIR(info.st_mode) and info.st_dev in devices:
                    todo.append(entry.path)
        for folder, mode in reversed(opened):
            try:
                os.chmod(folder, mode)
            except OSError:
                pass
        for pid in processes.table():
            try:
                held = os.listdir("/proc/%d/fd" % pid)
            except OSError:
                continue
            for fd in held:
                try:
                    info = os.stat("/proc/%d/fd/%s" % (pid, fd))
                except OSError:
                    continue
                if info.st_nlink == 0 and info.st_dev in devices and stat.S_ISREG(info.st_mode):
                    add(info)
        return {"disk_bytes": total}

    return work
