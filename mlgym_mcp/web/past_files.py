"""Files as they were: what was scored (``snapshots/``), and the snapshots of the workspace (``checkpoints/``).

An episode's folder may come from anywhere. Nothing of it is opened through a link, and no path of a request or of a
manifest reaches the file system but as names of one folder after another.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlgym_mcp.records.attempts import whole
from mlgym_mcp.session.checkpoint_store import FOLDER as CHECKPOINTS
from mlgym_mcp.session.checkpoint_store import Store, StoreError

SNAPSHOTS = "snapshots"
BLOBS = "blobs"
MOST_BYTES = 8 << 20
"""Of one file that is given out."""
_MOST_FILES = 20_000
_MOST_SNAPSHOTS = 2_000
_MOST_MANIFEST = 32 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHECKPOINT = re.compile(r"s[0-9]{1,6}")


class MissingFileError(LookupError):
    """There is no such snapshot or file, or it is none that is shown; the message says which."""


@dataclass(frozen=True, slots=True)
class PastFile:
    """One path of a snapshot.

    Attributes:
        number: its place in the snapshot.
        path: relative to the workspace.
        kind: ``file``, ``dir`` or ``link``.
        size: bytes.
        digest: SHA-256 of its content, if it is known.
        target: where a link leads.
    """

    number: int
    path: str
    kind: str
    size: int
    digest: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class PastFiles:
    """One snapshot.

    Attributes:
        name: the digest of what was scored, or the snapshot's name in the session.
        what: ``scored`` or ``snapshot``.
        count: how many paths.
        size: bytes of all files.
        when: Unix time, if it is known.
    """

    name: str
    what: str
    count: int
    size: int
    when: float | None = None


def snapshots_of(folder: Path) -> tuple[list[PastFiles], list[str]]:
    """Return an episode's snapshots, those of the workspace first, and what could not be read.

    Raises:
        OSError: the episode's folder cannot be read.
    """
    found: list[PastFiles] = []
    problems: list[str] = []
    if _is_folder(folder / CHECKPOINTS):
        try:
            store = _store(folder)
            found += [PastFiles(c.id, "snapshot", c.files, c.size, c.t) for c in store.checkpoints.values()]
        except (StoreError, OSError) as exc:
            problems.append(f"the snapshots of the workspace cannot be read: {exc}")
    if _is_folder(folder / SNAPSHOTS):
        with os.scandir(folder / SNAPSHOTS) as inside:
            names = sorted(e.name for e in inside if _DIGEST.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
        for name in names[:_MOST_SNAPSHOTS]:
            try:
                files = _manifest(folder, name)
            except MissingFileError as exc:
                problems.append(str(exc))
            else:
                found.append(PastFiles(name, "scored", len(files), sum(f.size for f in files)))
    return found, problems


def files_of(folder: Path, name: str) -> list[PastFile]:
    """Return what a snapshot holds, sorted by path.

    Raises:
        MissingFileError: there is no such snapshot, or it is damaged.
    """
    if _DIGEST.fullmatch(name):
        return _manifest(folder, name)
    if not _CHECKPOINT.fullmatch(name) or not _is_folder(folder / CHECKPOINTS):
        raise MissingFileError("there is no such snapshot")
    return _checkpoint(_store_or_missing(folder), name)


def content_of(folder: Path, name: str, number: int) -> tuple[PastFile, bytes]:
    """Return a file of a snapshot with its content.

    Raises:
        MissingFileError: there is no such file, it is damaged, or larger than ``MOST_BYTES``.
    """
    files = files_of(folder, name)
    if not 0 <= number < len(files):
        raise MissingFileError("there is no such file")
    file = files[number]
    if file.kind != "file":
        raise MissingFileError(f"this is a {file.kind}, not a file")
    if file.size > MOST_BYTES:
        raise MissingFileError(f"it is larger than the {MOST_BYTES >> 20} MiB that are shown")
    if _DIGEST.fullmatch(name):
        return file, read_plain(folder, (SNAPSHOTS, name, "files", *file.path.split("/")), MOST_BYTES)
    store = _store_or_missing(folder)
    return file, _restored(store, name, file)


def blob_of(folder: Path, digest: str) -> bytes:
    """Return a long argument that the journal names.

    Raises:
        MissingFileError: it is not there.
    """
    if not _DIGEST.fullmatch(digest):
        raise MissingFileError("there is no such text")
    return read_plain(folder, (BLOBS, digest), MOST_BYTES)


def read_plain(folder: Path, parts: Sequence[str], most: int) -> bytes:
    """Return a regular file below a folder, going down name by name and through no link.

    Raises:
        MissingFileError: it is not there, is no regular file, or has more bytes than ``most``.
    """
    if any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts):
        raise MissingFileError("that is no path in a snapshot")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                below = os.open(part, flags | os.O_DIRECTORY, dir_fd=here)
                os.close(here)
                here = below
            descriptor = os.open(parts[-1], flags | os.O_NONBLOCK, dir_fd=here)
        finally:
            os.close(here)
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size > most:
            os.close(descriptor)
            plain = stat.S_ISREG(about.st_mode)
            raise MissingFileError("it is too large to be shown" if plain else "it is not a plain file")
        with os.fdopen(descriptor, "rb") as file:
            return file.read(most)
    except (OSError, ValueError) as exc:
        raise MissingFileError(f"it cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc


def _manifest(folder: Path, digest: str) -> list[PastFile]:
    shown = digest[:12]
    raw = read_plain(folder, (SNAPSHOTS, digest, "manifest.json"), _MOST_MANIFEST)
    try:
        files = [_listed(each) for each in json.loads(raw)["files"][:_MOST_FILES]]
    except (ValueError, LookupError, TypeError, RecursionError) as exc:
        raise MissingFileError(f"the list of files of {shown} is damaged") from exc
    files.sort()
    return [PastFile(i, path, "file", size, check) for i, (path, size, check) in enumerate(files)]


def _listed(value: Any) -> tuple[str, int, str]:
    path, size, digest = value["path"], whole(value["size"]), value["sha256"]
    if not isinstance(path, str) or size is None or not isinstance(digest, str):
        raise TypeError("no file")
    return path, size, digest


def _checkpoint(store: Store, name: str) -> list[PastFile]:
    try:
        tree, _ = store.tree(name)
    except (StoreError, ValueError, TypeError, LookupError) as exc:
        raise MissingFileError(str(exc)) from exc
    paths = sorted(tree)[:_MOST_FILES]
    return [PastFile(i, p, tree[p].kind, tree[p].size, tree[p].digest, tree[p].target) for i, p in enumerate(paths)]


def _restored(store: Store, name: str, file: PastFile) -> bytes:
    """The content of a file of a checkpoint, its holes filled."""
    try:
        tree, _ = store.tree(name)
        entry = tree[file.path]
        if not entry.stored:
            return bytes(entry.size)
        if entry.stored > MOST_BYTES or not store.places[entry.digest].pack.isalnum():
            raise StoreError("a content of the snapshot is damaged")
        pack = store.folder / f"{store.places[entry.digest].pack}.pack"
        if pack.is_symlink() or not pack.is_file():
            raise StoreError("a content of the snapshot is missing")
        data = b"".join(store.read(entry.digest))
        if entry.spans is None:
            return data
        whole_file, at = bytearray(entry.size), 0
        for offset, length in entry.spans:
            whole_file[offset : offset + length] = data[at : at + length]
            at += length
        return bytes(whole_file[:MOST_BYTES])
    except (StoreError, OSError, ValueError, TypeError, LookupError) as exc:
        raise MissingFileError(str(exc)) from exc


def _store(folder: Path) -> Store:
    for path in (folder / CHECKPOINTS).glob("*.json"):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_MANIFEST:
            raise StoreError(f"{path.name!a} is not a plain file of a usual size")
        if not _CHECKPOINT.fullmatch(path.stem):
            raise StoreError(f"{path.name!a} is not the name of a snapshot")
    store = Store(folder)
    try:
        store.open()
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise StoreError(f"a snapshot is damaged: {exc}") from exc
    return store


def _store_or_missing(folder: Path) -> Store:
    try:
        return _store(folder)
    except (StoreError, OSError) as exc:
        raise MissingFileError(str(exc)) from exc


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False
