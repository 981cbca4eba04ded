"""Snapshots: the server's own copies of submissions, stored by content and never changed.

What comes out of a sandbox is bytes that the agent had a hand in, whoever packed them. So the tar is read here by
a reader that knows plain files and folders and nothing else (:mod:`mlgym_mcp.grading.tar_reader`), names are
checked again, and every file is written anew, read-only, under a folder named by the digest of its contents:
``snapshots/<digest>/files/...`` beside ``snapshots/<digest>/manifest.json``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Final, TypeVar

from anyio import CapacityLimiter, to_thread

from mlgym_mcp.grading.errors import InvalidSubmission
from mlgym_mcp.grading.tar_reader import TarEntry, read_tar

_MAX_FOLDERS: Final = 1024
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_LIMITER: Final = CapacityLimiter(4)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """One file of a snapshot: relative ``path``, ``size`` in bytes, hexadecimal ``sha256``."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stored submission.

    Attributes:
        digest: SHA-256 over the names, sizes and digests of the files: equal content, equal digest.
        path: the folder that holds the files.
        files: what is in it, sorted by path.
    """

    digest: str
    path: Path
    files: tuple[SnapshotFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


async def store_snapshot(tar: bytes | IO[bytes], episode: Path, *, max_bytes: int, max_files: int) -> Snapshot:
    """Check a tar and store its files under ``episode/snapshots``; the same content is stored once.

    Args:
        tar: an uncompressed tar of untrusted content, read once from its start.
        episode: the episode's folder.
        max_bytes: most bytes of all files together.
        max_files: most files.

    Raises:
        InvalidSubmission: ``missing`` (nothing in it), ``forbidden`` (anything but plain files and folders with
            plain names), ``too_large`` or ``format`` (not a whole tar); nothing is left behind.
    """
    source = io.BytesIO(tar) if isinstance(tar, bytes) else tar
    return await _in_thread(partial(_store, source, episode, max_bytes, max_files))


async def load_snapshot(episode: Path, digest: str) -> Snapshot:
    """A snapshot stored earlier.

    Raises:
        FileNotFoundError: there is none of that digest.
    """
    return await _in_thread(partial(_load, episode / "snapshots", digest))


async def pack_snapshot(snapshot: Snapshot) -> bytes:
    """A tar of the snapshot's files, for a player's sandbox; the same content gives the same bytes."""
    return await _in_thread(partial(_pack, snapshot))


async def _in_thread(call: Callable[[], T]) -> T:
    return await to_thread.run_sync(call, limiter=_LIMITER, abandon_on_cancel=True)


def _store(source: IO[bytes], episode: Path, max_bytes: int, max_files: int) -> Snapshot:
    shelf = episode / "snapshots"
    shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
    incoming = shelf / f".incoming-{secrets.token_hex(8)}"
    incoming.mkdir(mode=0o700)
    try:
        files = _unpack(source, incoming / "files", max_bytes, max_files)
        digest = _digest(files)
        manifest = {"digest": digest, "files": [asdict(file) for file in files]}
        with (incoming / "manifest.json").open("x", encoding="utf-8") as out:
            json.dump(manifest, out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        try:
            incoming.rename(shelf / digest)
        except OSError:
            if not (shelf / digest).is_dir():
                raise
            return _load(shelf, digest)  # the same content was stored before
        _sync(shelf)
        return Snapshot(digest=digest, path=shelf / digest / "files", files=files)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _unpack(source: IO[bytes], target: Path, max_bytes: int, max_files: int) -> tuple[SnapshotFile, ...]:
    target.mkdir(mode=0o700)
    files: dict[str, SnapshotFile] = {}
    folders: set[str] = set()
    left = max_bytes
    for entry, content in read_tar(source, max_entries=max_files + _MAX_FOLDERS):
        _refuse_clash(entry, files, folders)
        if entry.is_folder:
            folders.add(entry.name)
            continue
        if len(files) == max_files:
            raise InvalidSubmission("too_large", f"the submission has more than the {max_files} files allowed")
        if entry.size > left:
            raise InvalidSubmission(
                "too_large",
                f"the submission has more than the {max_bytes} bytes allowed, counting {entry.name!r} "
                f"({entry.size} bytes)",
            )
        left -= entry.size
        files[entry.name] = _write(target, entry, content)
    if not files:
        raise InvalidSubmission("missing", "the submission is empty: none of the files that belong to it is there")
    return tuple(sorted(files.values(), key=lambda file: file.path))


def _refuse_clash(entry: TarEntry, files: dict[str, SnapshotFile], folders: set[str]) -> None:
    """One name, one thing; and notes the folders on the way."""
    parts = entry.name.split("/")
    above = {"/".join(parts[:end]) for end in range(1, len(parts))}
    twice = entry.name in files or (not entry.is_folder and entry.name in folders)
    if twice or not above.isdisjoint(files):
        raise InvalidSubmission("forbidden", f"the submission holds the name {entry.name!r} twice, expected once")
    folders |= above


def _write(target: Path, entry: TarEntry, content: Iterator[bytes]) -> SnapshotFile:
    path = target / entry.name
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
    except FileExistsError:
        raise InvalidSubmission(
            "forbidden", f"the submission's name {entry.name!r} cannot be told from another one on this system"
        ) from None
    with os.fdopen(descriptor, "wb") as out:
        for piece in content:
            digest.update(piece)
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    return SnapshotFile(path=entry.name, size=entry.size, sha256=digest.hexdigest())


def _digest(files: Sequence[SnapshotFile]) -> str:
    lines = json.dumps([[file.path, file.size, file.sha256] for file in files], ensure_ascii=True)
    return hashlib.sha256(lines.encode()).hexdigest()


def _load(shelf: Path, digest: str) -> Snapshot:
    if not _DIGEST.fullmatch(digest):
        raise FileNotFoundError(f"{digest!r} is not a snapshot's digest, expected 64 hexadecimal digits")
    manifest = json.loads((shelf / digest / "manifest.json").read_text(encoding="utf-8"))
    files = tuple(SnapshotFile(**file) for file in manifest["files"])
    return Snapshot(digest=digest, path=shelf / digest / "files", files=files)


def _pack(snapshot: Snapshot) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folders = {parent.as_posix() for file in snapshot.files for parent in PurePosixPath(file.path).parents}
        for name in sorted(folders - {"."}):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for file in snapshot.files:
            info = tarfile.TarInfo(file.path)
            info.size, info.mode = file.size, 0o644
            with (snapshot.path / file.path).open("rb") as content:
                tar.addfile(info, content)
    return out.getvalue()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
