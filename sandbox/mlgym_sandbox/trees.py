"""What a workspace holds, path by path, and how a runner tells of it and is told to make it so again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mlgym_sandbox.errors import SandboxError

Kind = Literal["file", "dir", "link"]
PIECE = 256 * 1024
"""Steps are sent in pieces of at least so many bytes, but for the last."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One path.

    Attributes:
        kind: what it is.
        mode: its permission bits; a link has none.
        mtime: time of last modification, Unix nanoseconds.
        target: where a link leads.
        size: of a file, holes included.
        spans: offset and length of what is no hole; ``None`` where a file has none.
        digest: SHA-256 of the bytes that are no hole; empty if it is not known.
        stored: how many bytes those are.
    """

    kind: Kind
    mode: int = 0
    mtime: int = 0
    target: str = ""
    size: int = 0
    spans: tuple[tuple[int, int], ...] | None = None
    digest: str = ""
    stored: int = 0

    def state(self, of_file: str = "") -> str:
        """Return how a runner calls this entry's state; a regular file's is not told by what it holds."""
        match self.kind:
            case "dir":
                return f"d.{self.mode}.{self.mtime}"
            case "link":
                return f"l.{self.mtime}.{self.target}"
            case _:
                return of_file


Tree = dict[str, Entry]
"""Entries by their path relative to the workspace, which may hold bytes that are not UTF-8 as lone surrogates."""


class Contents(Protocol):
    """Where the contents of files go, one after another."""

    def write(self, data: bytes) -> None:
        """Take a piece of the present file's content."""

    def finish(self) -> str:
        """End the present file; returns its digest."""


class NoContents:
    """For surveys without contents."""

    def write(self, data: bytes) -> None:
        """Take nothing."""

    def finish(self) -> str:
        """Know nothing."""
        return ""


@dataclass(slots=True)
class Survey:
    """What a survey has told so far; fed with the bytes that a runner sends.

    Attributes:
        contents: where the files go.
        changed: entries that are not as they were known.
        states: of the files among them, by path; without those whose state tells nothing.
        gone: known paths that are not there.
        left_out: paths that cannot be kept, and why.
        files: how many entries the workspace has.
        size: of all its files, in bytes.
    """

    contents: Contents = field(default_factory=NoContents)
    changed: Tree = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    files: int = 0
    size: int = 0
    _buffer: bytearray = field(default_factory=bytearray)
    _open: tuple[str, Entry, str] | None = None
    _left: int = 0

    def feed(self, data: bytes) -> None:
        """Take some more bytes.

        Raises:
            SandboxError: they make no sense.
            OSError: the contents could not be written.
        """
        at = 0
        while True:
            if self._open is not None:
                piece = data[at : at + self._left]
                if piece:
                    self.contents.write(piece)
                    self._left -= len(piece)
                    at += len(piece)
                if self._left:
                    return
                self._close(*self._open)
            end = data.find(b"\n", at)
            self._buffer += data[at:] if end < 0 else data[at:end]
            if len(self._buffer) > PIECE:
                raise SandboxError("the sandbox told of a file with a name without end")
            if end < 0:
                return
            line, self._buffer, at = bytes(self._buffer), bytearray(), end + 1
            try:
                self._line(json.loads(line))
            except (ValueError, TypeError, IndexError) as exc:
                raise SandboxError(f"the sandbox told of its files what makes no sense: {exc}") from exc

    def over(self, tree: Tree) -> Tree:
        """Return what the workspace holds, where it was known to hold a tree."""
        without = {*self.gone, *self.left_out}
        return {path: entry for path, entry in {**tree, **self.changed}.items() if path not in without}

    def end(self, header: Mapping[str, Any]) -> None:
        """Take the runner's last word."""
        if self._open is not None or self._buffer:
            raise SandboxError("the sandbox broke off while it told of its files")
        self.files, self.size = int(header["files"]), int(header["bytes"])
        self.states = trusted(self.states.items(), int(header["fresh_from"]))

    def _line(self, line: list[Any]) -> None:
        kind, path = line[0], checked_path(line[1])
        match kind:
            case "-":
                self.gone.append(path)
            case "x":
                self.left_out[path] = str(line[2])
            case "d":
                self.changed[path] = Entry("dir", int(line[2]), int(line[3]))
            case "l":
                self.changed[path] = Entry("link", 0, int(line[3]), str(line[2]))
            case "f":
                spans = None if line[6] is None else tuple((int(at), int(length)) for at, length in line[6])
                entry = Entry("file", int(line[2]), int(line[3]), size=int(line[5]), spans=spans, stored=int(line[7]))
                if entry.stored < 0 or (spans is not None and sum(length for _, length in spans) != entry.stored):
                    raise ValueError("lengths")
                self._open, self._left = (path, entry, str(line[4])), entry.stored
            case _:
                raise ValueError("kind")

    def _close(self, path: str, entry: Entry, state: str) -> None:
        digest = self.contents.finish()
        self.changed[path] = Entry("file", entry.mode, entry.mtime, "", entry.size, entry.spans, digest, entry.stored)
        if state:
            self.states[path] = state
        self._open = None


def checked_path(path: object) -> str:
    """Return a path that a runner named.

    Raises:
        ValueError: it is none below the workspace.
    """
    if not isinstance(path, str) or "\0" in path or any(part in ("", "..") for part in path.split("/")):
        raise ValueError("path")
    return path


def trusted(states: Iterable[tuple[str, str]], fresh_from: int) -> dict[str, str]:
    """Return the states that a later change cannot repeat: of files last changed before ``fresh_from``."""
    return {path: state for path, state in states if state and int(state.rpartition(".")[2]) < fresh_from}


def known_states(tree: Tree, states: Mapping[str, str]) -> bytes:
    """Return what a survey is told that is known."""
    return json.dumps({path: entry.state(states.get(path, "")) for path, entry in tree.items()}).encode()


class Plan:
    """What is to be done so that a workspace is what is wanted.

    Args:
        now: what it holds; a file without a digest is written anew.
        others: paths in it that are in no tree.
        wanted: what it is to hold.

    Attributes:
        removed: paths that go, each with all below it.
        written: paths that are made or made over, folders above what changes included.
    """

    def __init__(self, now: Tree, others: Iterable[str], wanted: Tree) -> None:
        self._wanted = wanted
        away = set(others)
        away |= {path for path, entry in now.items() if path not in wanted or wanted[path].kind != entry.kind}
        written = {path for path, entry in wanted.items() if path in away or now.get(path) != entry}
        for path in [*away, *written]:
            written.update(above for above in folders_of(path) if above in wanted)  # their times and rights change
        self.removed = sorted(path for path in away if not any(above in away for above in folders_of(path)))
        self.written = sorted(written)

    def steps(self, read: Callable[[str], Iterator[bytes]]) -> Iterator[bytes]:
        """Yield the steps for a runner, in pieces to be sent.

        Args:
            read: gives the stored bytes of a digest.
        """
        buffer = bytearray()
        for path in self.removed:
            buffer += _step("-", path)
        for path in self.written:
            entry = self._wanted[path]
            match entry.kind:
                case "dir":
                    buffer += _step("d", path, entry.mode, entry.mtime)
                case "link":
                    buffer += _step("l", path, entry.target, entry.mtime)
                case _:
                    buffer += _step("f", path, entry.mode, entry.mtime, entry.size, entry.spans, entry.stored)
                    for data in read(entry.digest) if entry.stored else ():
                        buffer += data
                        if len(buffer) >= PIECE:
                            yield bytes(buffer)
                            buffer.clear()
            if len(buffer) >= PIECE:
                yield bytes(buffer)
                buffer.clear()
        yield bytes(buffer + _step("."))


def folders_of(path: str) -> Iterator[str]:
    """Yield the folders above a path, the innermost first."""
    while path := path.rpartition("/")[0]:
        yield path


def _step(*line: object) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"
