"""Notes the agent keeps for itself: one file of JSON lines in the episode's folder."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from mlgym_mcp.session.episode import Episode
from mlgym_mcp.session.errors import MisuseError

_FILE = "notes.jsonl"
_MAX_NOTES = 1000
_MAX_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class Note:
    """One note: its number, Unix time, text and tags."""

    id: int
    t: float
    text: str
    tags: tuple[str, ...] = ()


class Notes:
    """The notes of one episode, oldest first; they survive the server."""

    def __init__(self, episode: Episode) -> None:
        self._path = episode.folder / _FILE
        self._notes: list[Note] = []
        if self._path.exists():
            whole = 0
            for line in self._path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    os.truncate(self._path, whole)  # torn by a crash: the next note must not follow on it
                    break
                raw = json.loads(line)
                self._notes.append(Note(raw["id"], raw["t"], raw["text"], tuple(raw["tags"])))
                whole += len(line)

    def write(self, text: str, tags: tuple[str, ...]) -> Note:
        """Keep a note.

        Raises:
            MisuseError: it is empty, too long, or there are too many.
            OSError: it could not be written.
        """
        if not text.strip():
            raise MisuseError("The note is empty: pass the text to remember.")
        if len(text) > _MAX_CHARS:
            raise MisuseError(f"The note has {len(text)} characters, at most {_MAX_CHARS} are kept: shorten it.")
        if len(self._notes) >= _MAX_NOTES:
            raise MisuseError(f"There are {_MAX_NOTES} notes already, which is the limit.")
        note = Note(len(self._notes) + 1, round(time.time(), 3), text, tags)
        with self._path.open("a", encoding="utf-8") as file:
            line = {"id": note.id, "t": note.t, "text": text, "tags": list(tags)}
            file.write(json.dumps(line, ensure_ascii=True) + "\n")
        self._notes.append(note)
        return note

    def search(self, query: str, limit: int) -> list[Note]:
        """Return the notes that share most words with the query, best first; all, newest first, for no query."""
        if not query.strip():
            return list(reversed(self._notes))[:limit]
        words = set(query.lower().split())

        def rank(note: Note) -> tuple[int, int]:
            text = f"{note.text} {' '.join(note.tags)}".lower()
            return sum(word in text for word in words), note.id

        hits = [note for note in self._notes if rank(note)[0]]
        return sorted(hits, key=rank, reverse=True)[:limit]

    def __len__(self) -> int:
        return len(self._notes)


def copy_notes(source: Path, target: Path, count: int) -> None:
    """Let a new episode begin with the first notes of another.

    Raises:
        OSError: they cannot be read or written.
    """
    if count and (source / _FILE).exists():
        lines = (source / _FILE).read_bytes().splitlines(keepends=True)[:count]
        (target / _FILE).write_bytes(b"".join(line for line in lines if line.endswith(b"\n")))
