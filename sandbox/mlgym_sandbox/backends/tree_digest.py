"""What a directory tree holds, as one digest and as a tar stream: how read-only data travels to an engine."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlgym_sandbox.errors import SandboxError

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A directory or regular file of a tree; ``name`` is relative, with ``/``; times in nanoseconds."""

    name: str
    path: Path
    directory: bool
    executable: bool
    size: int
    mtime_ns: int


def walk(root: Path) -> tuple[TreeFile, ...]:
    """List a tree in name order. Links to files count as what they point to.

    Raises:
        SandboxError: it is missing, or holds a link to a directory, a socket, a pipe or a device.
    """
    found: list[TreeFile] = []

    def visit(directory: Path, prefix: str) -> None:
        for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
            name, path = prefix + entry.name, Path(entry.path)
            about = path.stat()
            if stat.S_ISDIR(about.st_mode):
                if entry.is_symlink():
                    raise SandboxError(f"cannot mount {root}: {name} is a link to a directory; put the directory there")
                found.append(TreeFile(name, path, True, True, 0, 0))
                visit(path, name + "/")
            elif stat.S_ISREG(about.st_mode):
                executable = bool(about.st_mode & 0o111)
                found.append(TreeFile(name, path, False, executable, about.st_size, about.st_mtime_ns))
            else:
                raise SandboxError(f"cannot mount {root}: {name} is neither a file nor a directory")

    try:
        visit(root, "")
    except OSError as error:
        raise SandboxError(f"cannot mount {root}: {error.strerror}: {error.filename}") from error
    return tuple(found)


def digest(root: Path, files: tuple[TreeFile, ...], cache: Path) -> str:
    """Return the SHA-256 of names, modes and contents.

    ``cache`` is a directory that remembers the answer for a tree of these names, sizes and times, so that
    large data is read once.
    """
    looks = hashlib.sha256()
    looks.update(os.fsencode(root) + b"\0")
    for file in files:
        looks.update(json.dumps([file.name, file.directory, file.executable, file.size, file.mtime_ns]).encode())
    remembered = cache / looks.hexdigest()
    try:
        known = remembered.read_text("ascii")
        if len(known) == 64:
            return known
    except FileNotFoundError:
        pass
    whole = hashlib.sha256()
    for file in files:
        whole.update(json.dumps([file.name, file.directory, file.executable, file.size]).encode())
        if not file.directory:
            with file.path.open("rb") as stream:
                whole.update(hashlib.file_digest(stream, "sha256").digest())
    fresh = remembered.with_name(f"{remembered.name}.{os.getpid()}.{os.urandom(4).hex()}")
    fresh.write_text(whole.hexdigest(), "ascii")
    fresh.replace(remembered)
    return whole.hexdigest()


def tar_stream(files: tuple[TreeFile, ...], prefix: str) -> Iterator[bytes]:
    """Yield a tar of the tree below ``prefix``, owned by root and readable by all.

    Raises:
        SandboxError: a file changed while it was read.
    """
    top = tarfile.TarInfo(prefix)
    top.type, top.mode = tarfile.DIRTYPE, 0o755
    yield top.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    for file in files:
        info = tarfile.TarInfo(f"{prefix}/{file.name}")
        info.mtime = file.mtime_ns // 1_000_000_000
        info.mode = 0o755 if file.executable else 0o644
        if file.directory:
            info.type = tarfile.DIRTYPE
            yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            continue
        info.size = file.size
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        yield from _contents(file)
        yield b"\0" * (-file.size % 512)
    yield b"\0" * 1024


def _contents(file: TreeFile) -> Iterator[bytes]:
    left = file.size
    with file.path.open("rb") as stream:
        while left:
            chunk = stream.read(min(left, _CHUNK))
            if not chunk:
                break
            left -= len(chunk)
            yield chunk
        if left or stream.read(1):
            raise SandboxError(f"{file.path} changed while it was copied: leave data alone while sandboxes start")
