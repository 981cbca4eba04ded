"""Files, seen and changed with the agent's rights."""

from __future__ import annotations

import errno
import os
import stat

from mlgym_sandbox.inside.runner.refusals import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mlgym_sandbox.inside.runner.identity import Identity
    from mlgym_sandbox.inside.runner.peer import Peer
    from mlgym_sandbox.inside.runner.wire import Header


def kind_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "dir"
    return "link" if stat.S_ISLNK(mode) else "other"


def need_regular(mode: int, shown: str) -> None:
    if stat.S_ISREG(mode):
        return
    names = (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    what = next((name for test, name in names if test(mode)), "something else")
    raise Refusal("file", "%s is %s, not a regular file" % (shown, what))


class Upload:
    """A file being written in several pieces, under a temporary name until the last."""

    def __init__(self, fd: int, temporary: str, target: str, peer: Peer) -> None:
        self.fd, self.temporary, self.target, self.peer = fd, temporary, target, peer


class Files:
    """Files as the agent may see and change them."""

    def __init__(self, config: Header, identity: Identity) -> None:
        self.identity = identity
        self.workspace: str = config["workspace"]
        self.map: dict[str, str] = config["path_map"]
        self.read_only = [self.mapped(path) for path in config["read_only"]]
        self.proc = os.stat("/proc").st_dev
        self.uploads: dict[str, Upload] = {}
        self.room: Callable[[int], None] = lambda size: None

    def mapped(self, path: Any) -> str:
        """The real path of what the agent calls ``path``; relative ones are below the workspace."""
        if not isinstance(path, str) or not path or "\0" in path:
            raise Refusal("file", "%r is no path" % (path,))
        whole: str = os.path.join(self.workspace, path)
        if self.map:
            whole = os.path.normpath(whole)
            for prefix, folder in self.map.items():
                if whole == prefix or whole.startswith(prefix + "/"):
                    return folder + whole[len(prefix) :]
        return whole

    def real(self, path: str) -> str:
        """Follow all links, and refuse what leads through /proc: its links reach into the runner itself."""
        todo = [part for part in self.mapped(path).split("/") if part not in ("", ".")][::-1]
        done, links = "/", 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = os.path.dirname(done)
                continue
            step = os.path.join(done, part)
            try:
                info = os.lstat(step)
            except FileNotFoundError:
                return os.path.join(step, *todo[::-1])
            if info.st_dev == self.proc:
                raise Refusal("file", "%s leads into /proc, which is not for file operations; use a command" % path)
            if stat.S_ISLNK(info.st_mode):
                links += 1
                if links > 40:
                    raise OSError(errno.ELOOP, "too many symbolic links")
                target = os.readlink(step)
                if target.startswith("/"):
                    done = "/"
                todo += [piece for piece in target.split("/") if piece not in ("", ".")][::-1]
            else:
                done = step
        return done

    def read(self, path: str, offset: int, limit: int) -> tuple[int, bytes]:
        with self.identity:
            real = self.real(path)
            need_regular(os.lstat(real).st_mode, path)
            fd = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            info = os.fstat(fd)
            need_regular(info.st_mode, path)
            return info.st_size, os.pread(fd, limit, offset)
        finally:
            os.close(fd)

    def describe(self, path: str) -> list[Any]:
        with self.identity:
            info = os.lstat(self.real(path))
        return [path, kind_of(info.st_mode), info.st_size, info.st_mtime]

    def write(self, header: Header, data: bytes, peer: Peer) -> None:
        """Write a whole file or one piece of it."""
        path: str = header["path"]
        part: str = header.get("part", "")
        last = bool(header.get("last", True))
        self.room(len(data))
        with self.identity:
            upload = self.uploads.pop(part, None) if part else None
            if upload is None:
                upload = self.begin(path, header["append"], peer)
            try:
                write_all(upload.fd, data)
                if last and upload.temporary:
                    os.rename(upload.temporary, upload.target)
                    upload.temporary = ""
            except BaseException:
                self.discard(upload)
                raise
            if last or not part:
                self.discard(upload)
            else:
                self.uploads[part] = upload

    def begin(self, path: str, append: bool, peer: Peer) -> Upload:
        real = self.real(path)
        for folder in self.read_only:
            if real == folder or real.startswith(folder + "/"):
                raise Refusal("file", "%s is read-only; write below %s instead" % (path, self.workspace))
        if path.endswith("/"):
            raise Refusal("file", "%s names a directory, not a file" % path)
        mode = None
        try:
            info = os.lstat(real)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(real), exist_ok=True)
        else:
            need_regular(info.st_mode, path)
            mode = stat.S_IMODE(info.st_mode)
            try:
                os.close(os.open(real, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
            except OSError as error:
                if error.errno != errno.ETXTBSY:  # a running program may be replaced, not changed
                    raise
        flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        if append:
            return Upload(os.open(real, flags | os.O_APPEND, 0o644), "", real, peer)
        temporary = os.path.join(os.path.dirname(real), ".%s.part" % os.urandom(8).hex())
        fd = os.open(temporary, flags | os.O_EXCL, 0o644)
        if mode is not None:
            os.fchmod(fd, mode)
        return Upload(fd, temporary, real, peer)

    def discard(self, upload: Upload) -> None:
        os.close(upload.fd)
        if upload.temporary:
            with self.identity:
                try:
                    os.unlink(upload.temporary)
                except OSError:
                    pass

    def abandon(self, part: str | None = None, peer: Peer | None = None) -> None:
        """Forget unfinished uploads: one by name, or all of a server that has gone."""
        for name, upload in list(self.uploads.items()):
            if name == part or upload.peer is peer:
                self.discard(self.uploads.pop(name))


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
