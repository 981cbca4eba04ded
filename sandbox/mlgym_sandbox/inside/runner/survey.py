"""Surveys of the workspace: what in it differs from what a server knows, with the contents of that.

The answer is lines of JSON, each a list, a file's content right behind its line:

- ``["d", path, mode, mtime]``, ``["l", path, target, mtime]``
- ``["f", path, mode, mtime, state, size, spans, bytes]``; ``spans`` are the offset and length of what is no hole in
  the file, or null where it has none
- ``["x", path, why]``: left out
- ``["-", path]``: known, and not there
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from mlgym_sandbox.inside.runner.files import write_all
from mlgym_sandbox.inside.runner.names import plain
from mlgym_sandbox.inside.runner.native import dumps, loads
from mlgym_sandbox.inside.runner.refusals import Refusal, file_refusal
from mlgym_sandbox.inside.runner.stillness import fresh_from, mapped_files, stand_still, state_of
from mlgym_sandbox.inside.runner.wire import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mlgym_sandbox.inside.runner.errands import Work
    from mlgym_sandbox.inside.runner.files import Files
    from mlgym_sandbox.inside.runner.processes import Processes
    from mlgym_sandbox.inside.runner.wire import Header

SPANS = 256
"""Pieces of a file with holes that are told apart; later holes are copied as zeros."""
LINES_BYTES = 32 << 20
SET_PIPE_SIZE = 1031


class Survey:
    """One walk through the workspace, the current directory.

    Args:
        known: the state of each path as the server knows it.
        mapped: inode numbers of files whose times tell nothing.
        header: ``max_bytes`` of contents and ``max_files`` to send at most; ``contents`` to send any; ``force``: what
            differs will be written over, so open folders that are closed to their owner, and leave out whole what is
            not known.
    """

    def __init__(self, known: dict[str, str], mapped: set[int], header: Header, out_fd: int) -> None:
        self.known, self.mapped, self.out_fd = known, mapped, out_fd
        self.contents, self.force = bool(header["contents"]), bool(header["force"])
        self.max_bytes, self.max_files = header["max_bytes"], header["max_files"]
        self.seen: set[str] = set()
        self.waiting: list[bytes] = []
        self.waiting_bytes = self.lines_bytes = 0
        self.entries = self.bytes = self.sent = self.latest = 0

    def walk(self) -> None:
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                entries = self.entries_of(folder)
            except OSError as error:
                if not folder:
                    raise
                self.leave_out(folder, error)
                continue
            for entry in entries:
                path = os.path.join(folder, entry.name)
                try:
                    info = entry.stat(follow_symlinks=False)
                    if self.look(path, info):
                        folders.append(path)
                except OSError as error:
                    self.leave_out(path, error)
        for path in self.known:
            if path not in self.seen:
                self.say(["-", path])
        self.flush()

    def entries_of(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder or ".") as entries:
                found = list(entries)
            if found and self.force:
                os.lstat(found[0].path)  # a folder that may be read and not entered
            return found
        except PermissionError:
            if not self.force:
                raise
        os.chmod(folder or ".", 0o700)
        if folder:
            self.look(folder, os.lstat(folder), again=True)
        with os.scandir(folder or ".") as entries:
            return list(entries)

    def look(self, path: str, info: os.stat_result, *, again: bool = False) -> bool:
        """Tell of one entry, if there is anything to tell; whether it is a folder."""
        self.seen.add(path)
        self.entries += not again
        if self.force and path not in self.known:
            self.say(["x", path, ""])
            return False
        if self.entries > self.max_files and not self.force:
            raise Refusal("tar", "the workspace has more than %d files and directories" % self.max_files)
        mode, mtime = stat.S_IMODE(info.st_mode), info.st_mtime_ns
        if stat.S_ISDIR(info.st_mode):
            if self.known.get(path) != "d.%d.%d" % (mode, mtime):
                self.say(["d", path, mode, mtime])
            return True
        if stat.S_ISLNK(info.st_mode):
            target = os.readlink(path)
            if self.known.get(path) != "l.%d.%s" % (mtime, target):
                self.say(["l", path, target, mtime])
        elif stat.S_ISREG(info.st_mode):
            self.bytes += info.st_size
            state = "" if info.st_ino in self.mapped else state_of(info)
            self.latest = max(self.latest, info.st_ctime_ns)
            if not state or self.known.get(path) != state:
                self.tell_file(path, info)
        else:
            self.say(["x", path, "it is a pipe, socket or device"])
        return False

    def tell_file(self, path: str, info: os.stat_result) -> None:
        if not self.contents:
            self.say(["f", path, stat.S_IMODE(info.st_mode), info.st_mtime_ns, "", info.st_size, None, 0])
            return
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            now = os.fstat(fd)
            if not stat.S_ISREG(now.st_mode):
                raise OSError(errno.EAGAIN, "it changed meanwhile")
            self.latest = max(self.latest, now.st_ctime_ns)
            spans = spans_of(fd, now)
            size = now.st_size if spans is None else sum(length for _, length in spans)
            self.sent += size
            if self.sent > self.max_bytes:
                raise Refusal(
                    "tar",
                    "what is new is more than the %d bytes that are left, with %s" % (self.max_bytes, plain(path)),
                )
            state = "" if now.st_ino in self.mapped else state_of(now)
            self.say(["f", path, stat.S_IMODE(now.st_mode), now.st_mtime_ns, state, now.st_size, spans, size])
            for at, length in [(0, size)] if spans is None else spans:
                self.copy(fd, at, length)
        finally:
            os.close(fd)

    def copy(self, fd: int, at: int, length: int) -> None:
        while length > 0:
            data = os.pread(fd, min(length, CHUNK), at)
            data = data or bytes(min(length, CHUNK))  # it was cut meanwhile: as long as was said
            self.put(data)
            at, length = at + len(data), length - len(data)

    def leave_out(self, path: str, error: OSError) -> None:
        self.say(["x", path, str(file_refusal(error, "it"))])

    def say(self, line: list[Any]) -> None:
        text = dumps(line).encode() + b"\n"
        self.lines_bytes += len(text)
        if self.lines_bytes > LINES_BYTES * (4 if self.force else 1):
            raise Refusal("tar", "the names of the files take more than %d bytes" % LINES_BYTES)
        self.put(text)

    def put(self, data: bytes) -> None:
        self.waiting.append(data)
        self.waiting_bytes += len(data)
        if self.waiting_bytes >= CHUNK:
            self.flush()

    def flush(self) -> None:
        write_all(self.out_fd, b"".join(self.waiting))
        self.waiting, self.waiting_bytes = [], 0


def spans_of(fd: int, info: os.stat_result) -> list[tuple[int, int]] | None:
    """Where a file has data; ``None`` if it has no holes."""
    size = info.st_size
    if info.st_blocks * 512 >= size:
        return None
    spans: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # nothing but a hole from here on
            return None
        at = os.lseek(fd, begin, os.SEEK_HOLE) if len(spans) < SPANS - 1 else size
        spans.append((begin, min(at, size) - begin))
    return spans


def widen(fd: int) -> None:
    """Let a pipe hold more, where that is allowed: fewer switches between its two ends."""
    try:
        fcntl.fcntl(fd, SET_PIPE_SIZE, 1 << 20)
    except OSError:
        pass


def survey_work(files: Files, processes: Processes, header: Header) -> Work:
    def work(in_fd: int, out_fd: int) -> Header:
        known = loads(b"".join(iter(lambda: os.read(in_fd, CHUNK), b"")))
        widen(out_fd)
        still = stand_still(processes)
        os.chdir(files.real(files.workspace))
        survey = Survey(known, mapped_files(processes), header, out_fd)
        survey.walk()
        fresh = fresh_from(survey.latest) if still else 0
        return {"files": survey.entries, "bytes": survey.bytes, "fresh_from": fresh}

    return work
