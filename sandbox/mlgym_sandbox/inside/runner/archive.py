"""Tar archives: out of the workspace and into it."""

from __future__ import annotations

import os
import re
import stat
import tarfile
from functools import partial

from mlgym_sandbox.inside.runner.files import Files, need_regular, write_all
from mlgym_sandbox.inside.runner.globs import glob_expression
from mlgym_sandbox.inside.runner.names import plain
from mlgym_sandbox.inside.runner.refusals import Refusal, file_refusal
from mlgym_sandbox.inside.runner.wire import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mlgym_sandbox.inside.runner.errands import Work
    from mlgym_sandbox.inside.runner.wire import Header


class TarSelection:
    """The regular files and folders that globs name; anything else that they name is refused."""

    def __init__(self, root: str, max_bytes: int, max_files: int) -> None:
        self.root, self.max_bytes, self.max_files = root, max_bytes, max_files
        self.chosen: dict[str, os.stat_result] = {}
        self.total = 0

    def add(self, pattern: str) -> None:
        pieces = [piece for piece in pattern.split("/") if piece not in ("", ".")]
        if pattern.startswith("/") or ".." in pieces or not pieces:
            raise Refusal("misuse", "%r is no path or glob relative to the workspace" % pattern)
        self.expand("", pieces)

    def expand(self, folder: str, pieces: list[str]) -> None:
        piece, rest = pieces[0], pieces[1:]
        if piece == "**":
            if rest:
                self.expand(folder, rest)
            for name in self.names(folder):
                info = self.look(name)
                if info is None:
                    continue
                if not rest:
                    self.take(name, info)
                elif stat.S_ISDIR(info.st_mode):
                    self.expand(name, pieces)
            return
        plain_name = not any(mark in piece for mark in "*?[")
        wanted = re.compile(glob_expression(piece))
        names = [os.path.join(folder, piece)] if plain_name else self.names(folder)
        for name in names:
            info = self.look(name) if plain_name or wanted.fullmatch(os.path.basename(name)) else None
            if info is None:
                continue
            if not rest:
                self.take(name, info)
            elif stat.S_ISDIR(info.st_mode):
                self.expand(name, rest)
            elif stat.S_ISLNK(info.st_mode):
                self.refuse(name, info)

    def names(self, folder: str) -> list[str]:
        names = sorted(os.listdir(os.path.join(self.root, folder)))
        return [os.path.join(folder, name) for name in names]

    def look(self, name: str) -> os.stat_result | None:
        try:
            return os.lstat(os.path.join(self.root, name))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def take(self, name: str, info: os.stat_result) -> None:
        if name in self.chosen:
            return
        if plain(name) != name:
            raise Refusal("tar", "the name of %s is not UTF-8; rename it" % plain(name))
        if len(self.chosen) >= self.max_files:
            raise Refusal(
                "tar", "more than %d files and directories are to be copied, from %s on" % (self.max_files, name)
            )
        if stat.S_ISDIR(info.st_mode):
            self.chosen[name] = info
            for inner in self.names(name):
                found = self.look(inner)
                if found is not None:
                    self.take(inner, found)
            return
        if not stat.S_ISREG(info.st_mode):
            self.refuse(name, info)
        self.chosen[name] = info
        self.total += info.st_size
        if self.total > self.max_bytes:
            raise Refusal("tar", "more than %d bytes are to be copied, with %s" % (self.max_bytes, name))

    @staticmethod
    def refuse(name: str, info: os.stat_result) -> None:
        what = "a symbolic link" if stat.S_ISLNK(info.st_mode) else "a pipe, socket or device"
        raise Refusal("tar", "%s is %s; only regular files and directories can be copied" % (plain(name), what))


class Trickle:
    """The file object that tarfile wants, over a descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, data: bytes) -> int:
        write_all(self.fd, data)
        return len(data)

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0:
            part = os.read(self.fd, min(size, CHUNK))
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Exactly:
    """A file read as exactly so many bytes, whatever happens to it meanwhile."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd, self.left = fd, size

    def read(self, size: int) -> bytes:
        size = min(size, self.left)
        data = os.read(self.fd, size)
        self.left -= size
        while len(data) < size:
            more = os.read(self.fd, size - len(data))
            data += more or bytes(size - len(data))
        return data


def tar_work(files: Files, header: Header) -> Work:
    def work(_: int, out_fd: int) -> Header:
        selection = TarSelection(files.real(files.workspace), header["max_bytes"], header["max_files"])
        for pattern in header["patterns"]:
            selection.add(pattern)
        sink: Any = Trickle(out_fd)
        with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for name in sorted(selection.chosen):
                info = selection.chosen[name]
                member = tarfile.TarInfo(name)
                member.mode, member.mtime = stat.S_IMODE(info.st_mode) & 0o777, int(info.st_mtime)
                if stat.S_ISDIR(info.st_mode):
                    member.type = tarfile.DIRTYPE
                    archive.addfile(member)
                    continue
                try:
                    fd = os.open(
                        os.path.join(selection.root, name),
                        os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC,
                    )
                except OSError as error:
                    raise file_refusal(error, name) from None
                try:
                    now = os.fstat(fd)
                    if not stat.S_ISREG(now.st_mode):
                        selection.refuse(name, now)
                    member.size = info.st_size
                    content: Any = Exactly(fd, info.st_size)
                    archive.addfile(member, content)
                finally:
                    os.close(fd)
        return {"files": len(selection.chosen), "bytes": selection.total}

    return work


def untar_work(files: Files, header: Header) -> Work:
    def work(in_fd: int, _: int) -> Header:
        os.umask(0o022)
        path = header["path"]
        root = files.real(path)
        for folder in files.read_only:
            if root == folder or root.startswith(folder + "/"):
                raise Refusal("file", "%s is read-only" % path)
        origin: Any = Trickle(in_fd)
        try:
            archive = tarfile.open(fileobj=origin, mode="r|")
            for member in archive:
                pieces = [piece for piece in member.name.split("/") if piece not in ("", ".")]
                if member.name.startswith("/") or ".." in pieces:
                    raise Refusal("tar", "%r is a name outside the directory to unpack in" % member.name)
                target = os.path.join(root, *pieces)
                if member.isdir():
                    os.makedirs(target, exist_ok=True)
                elif not member.isreg():
                    raise Refusal("tar", "%r is a link or a device; only files and directories are taken" % member.name)
                else:
                    os.makedirs(os.path.dirname(target), exist_ok=True)
                    content: Any = archive.extractfile(member)
                    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                    fd = os.open(target, flags, 0o644)
                    try:
                        need_regular(os.fstat(fd).st_mode, member.name)
                        for data in iter(partial(content.read, CHUNK), b""):
                            write_all(fd, data)
                        os.fchmod(fd, member.mode & 0o777 | 0o600)
                    finally:
                        os.close(fd)
        except tarfile.TarError as error:
            raise Refusal("tar", "what was to be unpacked is no sound tar archive: %s" % error) from None
        while os.read(in_fd, CHUNK):
            pass  # the padding after the end
        return {}

    return work
