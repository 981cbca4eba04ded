"""A sweep's folder: its manifest, its ledger, a line for each finished attempt, and the way to its episodes.

```
manifest.json    what is swept, with every version, digest and hardware fact
ledger.sqlite    which attempts have a result; the truth
attempts.jsonl   one line for each of them, for reports and people
episodes/        links to the episodes, or copies of journals from other machines
messages/        what agents kept
server.log       of the sweep's own server
```
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

from mlgym_clients.sweep.attempt import Attempt, Finished
from mlgym_clients.sweep.ledger import Ledger
from mlgym_clients.sweep.spec import SweepError, SweepSpec, make_sweep
from mlgym_mcp.records.ledger import LEDGER

VERSION = 1
MANIFEST = "manifest.json"
_DATABASE = "ledger.sqlite"
_ID = re.compile(r"[A-Za-z0-9_-]{1,60}")
_OF_SERVER = ("server.log", "server.lock", "sweep.lock")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a sweep is, as it was begun.

    Attributes:
        id: unlike that of any other sweep.
        spec: what is swept.
        facts: versions, digests, hardware, the engine: plain JSON.
    """

    id: str
    spec: SweepSpec
    facts: Mapping[str, Any]


class SweepFolder:
    """An opened folder of a sweep; nobody else can open it meanwhile. Use ``begin`` or ``take_up``."""

    def __init__(self, path: Path, manifest: Manifest, ledger: Ledger, lock: int) -> None:
        self.path = path
        self.manifest = manifest
        self.ledger = ledger
        self._lock = lock
        self._lines = path / LEDGER
        self.orphaned = 0
        """Tries that were going on when whoever ran the sweep before died."""

    @classmethod
    def begin(cls, path: Path, spec: SweepSpec, sweep: str, facts: Mapping[str, Any]) -> Self:
        """Make the folder of a new sweep.

        Args:
            path: where.
            spec: what is swept.
            sweep: its id.
            facts: for the manifest.

        Raises:
            SweepError: there is something else, or a sweep.
            OSError: it cannot be made.
        """
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(sweep, spec, facts)
        plain = {
            "sweep_folder": VERSION,
            "id": manifest.id,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "sweep": spec.model_dump(mode="json", exclude_none=True),
            **facts,
        }
        lock = _locked(path)
        try:
            _write(path / MANIFEST, json.dumps(plain, indent=1, default=str) + "\n")
            return cls(path, manifest, Ledger(path / _DATABASE), lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def take_up(cls, path: Path) -> Self:
        """Open the folder of a sweep that was begun.

        Raises:
            SweepError: it is none, half-written, of another version, or another process is at it.
            OSError: it cannot be read.
        """
        manifest = read_manifest(path)
        lock = _locked(path)
        try:
            fresh = not (path / _DATABASE).exists()
            folder = cls(path, manifest, Ledger(path / _DATABASE), lock)
            if fresh:
                folder.ledger.restore(_lines_of(path / LEDGER))
            folder.orphaned = folder.ledger.take_up()
            folder._mend()
        except BaseException:
            os.close(lock)
            raise
        return folder

    def close(self) -> None:
        """Let others open it."""
        self.ledger.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def commit(self, attempt: Attempt, number: int, result: Finished, losses: int) -> dict[str, Any] | None:
        """Note an attempt's result, and return its line; ``None`` if it has one already."""
        line = {
            "attempt": attempt.id,
            "task": attempt.task,
            "preset": attempt.preset,
            "agent": attempt.agent,
            "seed": attempt.seed,
            "episode": result.episode,
            "try": number,
            "infrastructure_failures": losses,
            **{name: _plain(value) for name, value in result.facts.items()},
        }
        if not self.ledger.has(attempt):  # links first: what is in the ledger must be reachable
            self._keep(attempt, number, result, line)
        if not self.ledger.commit(attempt, number, line):
            return None
        self._append(line)
        return line

    def messages(self, attempt: Attempt, number: int) -> Path:
        """Return where an agent may leave files; made by whoever writes."""
        return self.path / "messages" / f"{attempt.id}.{number}"

    def _keep(self, attempt: Attempt, number: int, result: Finished, line: dict[str, Any]) -> None:
        """Make the episode reachable from here: reports read what is in this folder."""
        name = PurePosixPath(result.episode).name
        if not name or name in (".", ".."):
            return
        episodes = self.path / "episodes"
        for file, content in result.files.items():
            if file == "messages.jsonl":
                place = self.messages(attempt, number)
                line["messages"] = str((place / file).relative_to(self.path))
            else:
                place = episodes / name
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(place / PurePosixPath(file).name, content)
        there = _episodes() / name
        if not result.files and there.is_dir():
            episodes.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                (episodes / name).symlink_to(there.absolute())
        if isinstance(said := line.get("messages"), str) and said.startswith(str(self.path)):
            line["messages"] = str(Path(said).relative_to(self.path))

    def _append(self, line: Mapping[str, Any]) -> None:
        descriptor = os.open(self._lines, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, _as_line(line))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _mend(self) -> None:
        """Make the lines what the ledger says: whoever ran the sweep may have died between the two."""
        wanted = b"".join(_as_line(line) for line in self.ledger.lines())
        if not self._lines.exists() or self._lines.read_bytes() != wanted:
            _write(self._lines, wanted)


def new_id(spec: SweepSpec) -> str:
    """Return an id for a new sweep: its name, and what no other sweep has."""
    return f"{spec.name}-{secrets.token_hex(3)}"


def check_free(path: Path) -> None:
    """Refuse a place that holds something already; what a server of the sweep's own leaves there is nothing.

    Raises:
        SweepError: it does.
        OSError: it is no folder.
    """
    if not path.exists():
        return
    if (path / MANIFEST).exists():
        raise SweepError(f"{path} holds a sweep: go on with it (--resume {path}), or choose another folder")
    if {entry.name for entry in path.iterdir()} - set(_OF_SERVER):
        raise SweepError(f"{path} is not empty: choose another folder")


def remove_unbegun(path: Path) -> None:
    """Remove what is left of a sweep that was not begun after all."""
    if (path / MANIFEST).exists():
        return
    for name in _OF_SERVER:
        (path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()


def read_manifest(path: Path) -> Manifest:
    """Read a sweep's manifest.

    Raises:
        SweepError: there is none, or it is damaged or of another version.
        OSError: it cannot be read.
    """
    file = path / MANIFEST
    if not path.is_dir():
        raise SweepError(f"there is no folder {path}")
    try:
        plain = json.loads(file.read_bytes())
        version = plain["sweep_folder"]
    except FileNotFoundError:
        raise SweepError(
            f"{path} holds no {MANIFEST}: it is no sweep's folder, or nothing of the sweep was begun; start it again"
        ) from None
    except (ValueError, LookupError, TypeError, RecursionError) as exc:
        raise SweepError(f"{file} is damaged: {exc}") from exc
    if version != VERSION:
        raise SweepError(f"{path} was written by another version (folder {version}, this program's is {VERSION})")
    try:
        if not _ID.fullmatch(plain["id"]):
            raise SweepError(f"{file} is damaged: {plain['id']!r:.80} is no sweep's id")
        return Manifest(plain["id"], make_sweep(plain["sweep"], str(file)), plain)
    except (LookupError, TypeError) as exc:
        raise SweepError(f"{file} is damaged: {exc!r}") from exc


def _episodes() -> Path:
    """Return where a server of this user's keeps its episodes."""
    from mlgym_sandbox.home import home

    return home("episodes")


def _lines_of(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for raw in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            line = json.loads(raw)
            if isinstance(line, dict) and isinstance(line.get("attempt"), str):
                yield line


def _plain(value: Any) -> Any:
    """Numbers that JSON has not are not known."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_line(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def _locked(path: Path) -> int:
    descriptor = os.open(path / "sweep.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        there = os.pread(descriptor, 40, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise SweepError(f"{path} is being swept by another process ({there})") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _write(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with part.open("xb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
