"""Prepared data on disk: the public folder, the vault, and the manifest of both."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mlgym_mcp.catalog.catalog import Task
from mlgym_mcp.catalog.errors import DataError
from mlgym_mcp.catalog.worlds import find_world, fingerprint, make_world
from mlgym_sandbox.home import home

State = Literal["ready", "missing", "broken"]

MANIFEST: Final = "manifest.json"
RECIPE_VERSION: Final = 1
"""Bumped when a change of this package makes other data of the same recipe."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Size and SHA-256 of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a preparation made: every file of both folders, by relative name, and from what."""

    task: str
    version: str
    preset: str
    recipe: str
    sources: Mapping[str, str]
    public: Mapping[str, FileFacts]
    private: Mapping[str, FileFacts]

    def as_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        parts = {
            name: {file: [facts.bytes, facts.sha256] for file, facts in sorted(files.items())}
            for name, files in (("public", self.public), ("private", self.private))
        }
        words = {"task": self.task, "version": self.version, "preset": self.preset, "recipe": self.recipe}
        return {**words, "sources": dict(sorted(self.sources.items())), **parts}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Manifest:
        """Read what :meth:`as_json` wrote; raises KeyError, TypeError or ValueError for anything else."""
        files = {
            part: {str(name): FileFacts(int(size), str(digest)) for name, (size, digest) in raw[part].items()}
            for part in ("public", "private")
        }
        return cls(
            task=str(raw["task"]),
            version=str(raw["version"]),
            preset=str(raw["preset"]),
            recipe=str(raw["recipe"]),
            sources=dict(raw["sources"]),
            public=files["public"],
            private=files["private"],
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A preset's data, whole.

    Attributes:
        task: the task's id.
        preset: which preset.
        public: what a sandbox sees as ``/data``.
        private: the vault: for the referee only.
        manifest: every file of both.
        digest: SHA-256 over the manifest's files: equal data, equal digest.
    """

    task: str
    preset: str
    public: Path
    private: Path
    manifest: Manifest
    digest: str

    def public_files(self) -> list[str]:
        """Return the names of the public files, sorted."""
        return sorted(self.manifest.public)

    def world(self) -> bytes:
        """Return the task's secret, for the referee.

        Raises:
            DataError: it was removed since.
        """
        secret = find_world(self.task)
        if secret is None:
            raise DataError(f"the secret world of {self.task} was removed; prepare the task's data again")
        return secret

    def verify(self) -> list[str]:
        """Read every file again; one sentence for each that is not as the manifest says. Slow: reads all."""
        problems = []
        for folder, files in ((self.public, self.manifest.public), (self.private, self.manifest.private)):
            try:
                found = survey(folder)
            except (OSError, DataError) as error:
                problems.append(str(error))
                continue
            problems += [
                f"{folder / name}: is not what was prepared" for name in files if found.get(name) != files[name]
            ]
            problems += [f"{folder / name}: was not there when prepared" for name in found if name not in files]
        return problems


@dataclass(frozen=True, slots=True)
class Places:
    """Where a preset's data is, or would be."""

    public: Path
    vault: Path
    recipe: str

    @property
    def private(self) -> Path:
        """The private data within the vault."""
        return self.vault / "private"

    @classmethod
    def of(cls, task: Task, preset: str, secret: bytes) -> Places:
        """Return the places for a task's recipe as it is now, in this world."""
        recipe = recipe_digest(task, preset, secret)
        name = f"{preset}-{recipe[:16]}"
        return cls(private_home("data", task.id) / name, private_home("vault", task.id) / name, recipe)


def private_home(*parts: str) -> Path:
    """As ``home``, but every folder on the way is made with mode 0700."""
    home()
    for count in range(1, len(parts) + 1):
        path = home(*parts[:count])
    return path


def recipe_digest(task: Task, preset: str, secret: bytes) -> str:
    """Return what decides a preset's data: its parameters, its code, its sources and the secret world."""
    chosen = task.preset(preset)
    grader = task.spec.grader.entrypoint.partition(":")[0]
    lock = task.lock
    recipe = {
        "version": RECIPE_VERSION,
        "task": task.id,
        "preset": preset,
        "params": chosen.params,
        "data": chosen.data.model_dump(mode="json", exclude={"timeout_s", "about"}),
        "sources": {name: lock.source(name).pin for name in chosen.data.sources},
        "code": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(task.folder.glob("*.py"))
            if path.stem != grader
        },
        "world": fingerprint(secret),
    }
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def state(task: Task, preset: str) -> State:
    """Return whether a preset's data is there: cheap, looks at names and sizes only.

    Raises:
        TaskError: no such preset.
    """
    return _look(task, preset)[0]


def find_prepared(task: Task, preset: str) -> Prepared | None:
    """Return a preset's data if it is there and whole by names and sizes; cheap.

    Raises:
        TaskError: no such preset.
    """
    return _look(task, preset)[1]


def _look(task: Task, preset: str) -> tuple[State, Prepared | None]:
    task.preset(preset)
    secret = find_world(task.id)
    if secret is None:
        return "missing", None
    places = Places.of(task, preset, secret)
    if not places.public.exists():  # it appears last
        return "missing", None
    try:
        manifest = Manifest.from_json(json.loads((places.vault / MANIFEST).read_bytes()))
        for folder, files in ((places.public, manifest.public), (places.private, manifest.private)):
            found = {name: path.lstat().st_size for name, path in walk(folder)}
            if found != {name: facts.bytes for name, facts in files.items()}:
                return "broken", None
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return "broken", None
    return "ready", prepared(task, preset, places, manifest)


def prepared(task: Task, preset: str, places: Places, manifest: Manifest) -> Prepared:
    """Return the value for data that is known to be there."""
    files = {part: manifest.as_json()[part] for part in ("public", "private")}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return Prepared(task.id, preset, places.public, places.private, manifest, digest)


def ensure_world(task: Task) -> bytes:
    """Return the task's secret, drawn now if it was not before."""
    private_home("worlds")
    return make_world(task.id)


def walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield all files below a folder by relative name.

    Raises:
        DataError: something that is neither a regular file nor a folder.
        OSError: it cannot be read.
    """
    for entry in sorted(os.scandir(folder), key=lambda found: found.name):
        path = Path(entry.path)
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            for name, below in walk(path):
                yield f"{entry.name}/{name}", below
        elif stat.S_ISREG(mode):
            yield entry.name, path
        else:
            raise DataError(f"{path}: is neither a regular file nor a folder, expected only these in prepared data")


def survey(folder: Path) -> dict[str, FileFacts]:
    """Return size and checksum of every file below a folder; raises as :func:`walk`."""
    facts = {}
    for name, path in walk(folder):
        with path.open("rb") as file:
            facts[name] = FileFacts(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    return facts
