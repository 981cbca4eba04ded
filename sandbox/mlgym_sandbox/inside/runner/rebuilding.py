"""Making the workspace what it was: steps in, done as the agent, from within the workspace.

Steps are lines of JSON, each a list, a file's content right behind its line:

- ``["-", path]``: away with it and all below it
- ``["d", path, mode, mtime]``, ``["l", path, target, mtime]``
- ``["f", path, mode, mtime, size, spans, bytes]``, as a survey tells of it
- ``["."]``: that was all

Nothing of the agent runs meanwhile. The answer is a line ``[path, state]`` for each file written.
"""

from __future__ import annotations

import errno
import os
import stat

from mlgym_sandbox.inside.runner.files import write_all
from mlgym_sandbox.inside.runner.native import dumps, loads
from mlgym_sandbox.inside.runner.refusals import Refusal
from mlgym_sandbox.inside.runner.stillness import fresh_from, state_of
from mlgym_sandbox.inside.runner.survey import widen
from mlgym_sandbox.inside.runner.wire import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mlgym_sandbox.inside.runner.errands import Work
    from mlgym_sandbox.inside.runner.files import Files
    from mlgym_sandbox.inside.runner.wire import Header

DEEPEST = 200
"""Folders deeper than this are removed from above: each level holds a descriptor."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Steps:
    """Lines and contents, read from a pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.buffer = b""
        self.at = 0

    def line(self) -> list[Any]:
        while (end := self.buffer.find(b"\n", self.at)) < 0:
            self.more()
        found: list[Any] = loads(self.buffer[self.at : end])
        self.at = end + 1
        return found

    def take(self, most: int) -> bytes:
        if self.at == len(self.buffer):
            self.more()
        data = self.buffer[self.at : self.at + most]
        self.at += len(data)
        return data

    def more(self) -> None:
        data = os.read(self.fd, CHUNK)
        if not data:
            raise Refusal("misuse", "the steps broke off")
        self.buffer = self.buffer[self.at :] + data
        self.at = 0


class Rebuilding:
    """Carries out steps in the current directory."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.open: set[str] = set()
        self.folders: dict[str, tuple[int, int]] = {}
        self.written: list[str] = []
        self.found: list[tuple[str, os.stat_result]] = []
        self.graves = 0

    def run(self) -> None:
        while True:
            kind, *rest = self.steps.line()
            if kind == ".":
                break
            self.open_way(rest[0])
            if kind == "-":
                self.remove(rest[0])
            elif kind == "d":
                self.folder(*rest)
            elif kind == "l":
                self.link(*rest)
            else:
                self.file(*rest)
        self.found = [(path, os.lstat(path)) for path in self.written]  # while their folders are open
        for path in sorted(self.folders, reverse=True):  # the inner ones first: they change the outer ones' times
            mode, mtime = self.folders[path]
            os.utime(path, ns=(mtime, mtime))
            os.chmod(path, mode)

    def open_way(self, path: str) -> None:
        """Make the folders above a path such that something can be done in them."""
        above = os.path.dirname(path)
        if above in self.open:
            return
        if above:
            self.open_way(above)
        info = os.lstat(above or ".")
        if stat.S_ISDIR(info.st_mode) and info.st_mode & 0o700 != 0o700:
            os.chmod(above or ".", stat.S_IMODE(info.st_mode) | 0o700)
        self.open.add(above)

    def folder(self, path: str, mode: int, mtime: int) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise
        self.folders[path] = (mode, mtime)

    def link(self, path: str, target: str, mtime: int) -> None:
        temporary = beside(path)
        os.symlink(target, temporary)
        os.utime(temporary, ns=(mtime, mtime), follow_symlinks=False)
        os.rename(temporary, path)

    def file(self, path: str, mode: int, mtime: int, size: int, spans: list[list[int]] | None, left: int) -> None:
        temporary = beside(path)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for at, length in [[0, left]] if spans is None else spans:
                os.lseek(fd, at, os.SEEK_SET)
                while length > 0:
                    data = self.steps.take(min(length, CHUNK))
                    write_all(fd, data)
                    length -= len(data)
            if spans is not None:
                os.ftruncate(fd, size)
            os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime, mtime))
        finally:
            os.close(fd)
        os.rename(temporary, path)
        self.written.append(path)

    def remove(self, path: str) -> None:
        """Remove a path and what is below, however it is closed and however deep."""
        try:
            above = os.open(os.path.dirname(path) or ".", FOLDER)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                return  # gone with its folder, or only reached from above
            raise
        todo = [(above, os.path.basename(path))]
        top = os.open(".", FOLDER)
        try:
            while todo:
                fd, name = todo.pop()
                self.remove_in(fd, name, 0, top, todo)
        finally:
            os.close(above)
            os.close(top)

    def remove_in(self, above: int, name: str, depth: int, top: int, later: list[tuple[int, str]]) -> None:
        try:
            os.unlink(name, dir_fd=above)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
        if depth == DEEPEST:
            self.graves += 1
            grave = ".%s.%d.part" % (os.urandom(8).hex(), self.graves)
            os.chmod(name, 0o700, dir_fd=above)
            os.rename(name, grave, src_dir_fd=above, dst_dir_fd=top)
            later.append((top, grave))
            return
        os.chmod(name, 0o700, dir_fd=above)
        fd = os.open(name, FOLDER, dir_fd=above)
        try:
            for inner in os.listdir(fd):
                self.remove_in(fd, inner, depth + 1, top, later)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=above)


def beside(path: str) -> str:
    return os.path.join(os.path.dirname(path), ".%s.part" % os.urandom(8).hex())


def rebuild_work(files: Files, header: Header) -> Work:
    def work(in_fd: int, out_fd: int) -> Header:
        widen(in_fd)
        os.umask(0o077)
        os.chdir(files.real(files.workspace))
        rebuilding = Rebuilding(Steps(in_fd))
        rebuilding.run()
        lines = [dumps([path, state_of(info)]) + "\n" for path, info in rebuilding.found]
        fresh = fresh_from(max((info.st_ctime_ns for _, info in rebuilding.found), default=0))
        write_all(out_fd, "".join(lines).encode())
        return {"fresh_from": fresh}

    return work
