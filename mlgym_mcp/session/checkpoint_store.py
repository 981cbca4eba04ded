"""The snapshots of one episode on disk: what each workspace held, and every content once.

``checkpoints/<id>.json`` is two lines: the facts, and the tree as it differs from the snapshot that it is based on.
``checkpoints/<name>.pack`` is the contents that were new with one snapshot, one after another. A snapshot is there
from the moment its first file is in place, which is the last thing that is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mlgym_mcp.session.checkpoint_pack import Pack, Place, need_room
from mlgym_sandbox.trees import Entry, Tree

FOLDER = "checkpoints"
FIRST = "s0"
"""What a fork begins with."""
_WHOLE_EVERY = 32
"""So many snapshots are written as differences before one is written as a whole again."""
_PIECE = 256 * 1024


class StoreError(Exception):
    """A snapshot is damaged."""


class NoSuchSnapshotError(StoreError):
    """There is no such snapshot; the message names those that there are."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The facts of a snapshot.

    Attributes:
        id: its name in the session, ``s1`` and so on.
        t: Unix time at which it was taken.
        base: the snapshot that its tree is written as a difference to; ``None``: it is written as a whole.
        depth: how many snapshots are below it until one that is written as a whole.
        files: entries of the workspace.
        size: of its files, in bytes.
        new_files: entries that were not as in the base.
        new_bytes: bytes of contents that no earlier snapshot holds.
        notes: how many notes there were.
        calls: how many tool calls had been made.
        left_out: paths that could not be kept and why, at most 100.
        left_out_files: how many there were.
        shell: where the shell was left, its bytes as Latin-1.
        origin: episode and snapshot that it was forked from.
        check: SHA-256 of the second line.
    """

    id: str
    t: float
    base: str | None
    depth: int
    files: int
    size: int
    new_files: int
    new_bytes: int
    notes: int
    calls: int
    left_out: Mapping[str, str]
    left_out_files: int
    shell: str = ""
    origin: tuple[str, str] | None = None
    check: str = ""

    @property
    def number(self) -> int:
        """The number in its id."""
        return int(self.id[1:])


@dataclass(slots=True)
class _Change:
    """The second line of a snapshot's file."""

    entries: Tree = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)

    def line(self) -> bytes:
        value = {
            "entries": {path: _packed(entry) for path, entry in self.entries.items()},
            "states": self.states,
            "gone": self.gone,
            "places": {digest: [place.pack, place.at, place.size] for digest, place in self.places.items()},
        }
        return json.dumps(value, separators=(",", ":")).encode()

    @classmethod
    def of(cls, line: bytes) -> _Change:
        value = json.loads(line)
        return cls(
            {path: _unpacked(packed) for path, packed in value["entries"].items()},
            value["states"],
            value["gone"],
            {digest: Place(*place) for digest, place in value["places"].items()},
        )


class Store:
    """The snapshots of one episode; all methods block, and are called by one at a time.

    Args:
        episode: its folder; nothing is made in it before there is something to keep.
    """

    def __init__(self, episode: Path) -> None:
        self.folder = episode / FOLDER
        self.checkpoints: dict[str, Checkpoint] = {}
        self.places: dict[str, Place] = {}
        self._read = False

    @property
    def is_fork(self) -> bool:
        """Whether the episode begins with a snapshot of another."""
        return (self.folder / f"{FIRST}.json").exists()

    @property
    def stored_bytes(self) -> int:
        """Bytes of contents on disk."""
        return sum(checkpoint.new_bytes for checkpoint in self.checkpoints.values())

    def open(self) -> None:
        """Learn what is there.

        Raises:
            StoreError: something of it cannot be read.
        """
        if self._read or not self.folder.is_dir():
            return
        found: dict[str, Checkpoint] = {}
        for path in self.folder.iterdir():
            if path.suffix == ".json":
                facts, change = self._change(path.stem)
                found[facts.id] = facts
                self.places |= change.places
        self.checkpoints = dict(sorted(found.items(), key=lambda item: item[1].number))
        self._read = True

    def tidy(self) -> None:
        """Remove what a server that died had half written; for the one that writes."""
        for path in self.folder.glob("*.part"):
            path.unlink(missing_ok=True)

    def begin(self) -> Pack:
        """Begin a snapshot's contents.

        Raises:
            OSError: no space left.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        need_room(self.folder)
        self._read = True
        return Pack(self.folder, self.places)

    def keep(
        self, facts: Checkpoint, base: Tree, tree: Tree, states: Mapping[str, str], pack: Pack | None
    ) -> Checkpoint:
        """Write a snapshot; once this returns, it is there for good.

        Args:
            facts: its facts; a base that makes no short way is replaced.
            base: the tree of its base.
            tree: its own.
            states: of its files, as far as they tell something.
            pack: its new contents.

        Raises:
            OSError: no space left.
        """
        depth = 0 if facts.base is None else self.checkpoints[facts.base].depth + 1
        if depth >= _WHOLE_EVERY:
            depth, base, facts = 0, {}, replace(facts, base=None)
        change = _Change(
            {path: entry for path, entry in tree.items() if base.get(path) != entry},
            {path: state for path, state in states.items() if base.get(path) != tree[path]},
            [path for path in base if path not in tree],
            {} if pack is None else pack.places,
        )
        if pack is not None:
            pack.keep()
        line = change.line()
        facts = replace(facts, depth=depth, check=hashlib.sha256(line).hexdigest())
        self._put(facts, line)
        self.checkpoints[facts.id] = facts
        self.places |= change.places
        return facts

    def _put(self, facts: Checkpoint, line: bytes) -> None:
        part = self.folder / f"{facts.id}.part"
        with part.open("wb") as file:
            file.write(json.dumps(asdict(facts)).encode() + b"\n" + line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.folder / f"{facts.id}.json")
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def get(self, checkpoint_id: str) -> Checkpoint:
        """Return a snapshot's facts.

        Raises:
            NoSuchSnapshotError: there is none.
        """
        found = self.checkpoints.get(checkpoint_id)
        if found is None:
            known = ", ".join(list(self.checkpoints)[-5:]) or "none"
            raise NoSuchSnapshotError(f"there is no snapshot {checkpoint_id[:40]!r}; the newest are: {known}")
        return found

    def tree(self, checkpoint_id: str) -> tuple[Tree, dict[str, str]]:
        """Return what the workspace held, and the states of its files as far as they told something.

        Raises:
            StoreError: it is not there, or it or one that it is based on is damaged.
        """
        way: list[_Change] = []
        name: str | None = self.get(checkpoint_id).id
        while name is not None:
            facts, change = self._change(name)
            way.append(change)
            name = facts.base
        tree: Tree = {}
        states: dict[str, str] = {}
        for change in reversed(way):
            for path in change.gone:
                tree.pop(path, None)
                states.pop(path, None)
            tree |= change.entries
            states = {path: state for path, state in states.items() if path not in change.entries} | change.states
        return tree, states

    def _change(self, checkpoint_id: str) -> tuple[Checkpoint, _Change]:
        try:
            head, line, rest = (self.folder / f"{checkpoint_id}.json").read_bytes().split(b"\n")
            facts = Checkpoint(**json.loads(head))
            if rest or facts.id != checkpoint_id or hashlib.sha256(line).hexdigest() != facts.check:
                raise ValueError("its sum is not right")
            origin = None if facts.origin is None else (facts.origin[0], facts.origin[1])
            return replace(facts, origin=origin), _Change.of(line)
        except (OSError, ValueError, TypeError, KeyError) as exc:
            raise StoreError(f"the snapshot {checkpoint_id} is damaged: {exc}") from exc

    def read(self, digest: str) -> Iterator[bytes]:
        """Yield a content in pieces.

        Raises:
            StoreError: it is damaged.
        """
        place = self.places.get(digest)
        if place is None:
            raise StoreError("a content of the snapshot is missing")
        check = hashlib.sha256()
        try:
            with (self.folder / f"{place.pack}.pack").open("rb") as file:
                file.seek(place.at)
                left = place.size
                while left and (data := file.read(min(left, _PIECE))):
                    check.update(data)
                    left -= len(data)
                    yield data
        except OSError as exc:
            raise StoreError(f"a content of the snapshot cannot be read: {exc.strerror}") from exc
        if check.hexdigest() != digest:
            raise StoreError("a content of the snapshot is damaged")

    def give(self, checkpoint_id: str, child: Path) -> Checkpoint:
        """Let another episode begin with a snapshot of this one: contents are linked, so that each stands alone.

        Raises:
            StoreError: it is not there, or damaged.
            OSError: no space left.
        """
        facts = self.get(checkpoint_id)
        tree, _ = self.tree(checkpoint_id)
        other = Store(child)
        other.folder.mkdir(mode=0o700)
        change = _Change(dict(tree))
        for entry in tree.values():
            if entry.stored and entry.digest not in change.places:
                if entry.digest not in self.places:
                    raise StoreError("a content of the snapshot is missing")
                change.places[entry.digest] = self.places[entry.digest]
        for name in {place.pack for place in change.places.values()}:
            source, target = self.folder / f"{name}.pack", other.folder / f"{name}.pack"
            try:
                target.hardlink_to(source)
            except FileNotFoundError as exc:
                raise StoreError("a content of the snapshot is missing") from exc
            except OSError:
                shutil.copyfile(source, target)  # another disk, or too many links
        line = change.line()
        given = replace(
            facts,
            id=FIRST,
            base=None,
            depth=0,
            new_files=facts.files,
            new_bytes=0,
            calls=0,
            origin=(self.folder.parent.name, checkpoint_id),
            check=hashlib.sha256(line).hexdigest(),
        )
        other._put(given, line)
        return given


def _packed(entry: Entry) -> list[Any]:
    match entry.kind:
        case "dir":
            return ["d", entry.mode, entry.mtime]
        case "link":
            return ["l", entry.target, entry.mtime]
        case _:
            return ["f", entry.mode, entry.mtime, entry.size, entry.spans, entry.digest, entry.stored]


def _unpacked(packed: list[Any]) -> Entry:
    match packed[0]:
        case "d":
            return Entry("dir", packed[1], packed[2])
        case "l":
            return Entry("link", 0, packed[2], packed[1])
        case _:
            spans = None if packed[4] is None else tuple((at, size) for at, size in packed[4])
            return Entry("file", packed[1], packed[2], "", packed[3], spans, packed[5], packed[6])
