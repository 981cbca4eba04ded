"""The journal of one episode: an append-only file of JSON lines, the only truth about what happened.

A line is ``{"seq": 7, "t": 1763719200.123456, "type": "call", ..., "sum": "9f3b21c4"}``. ``seq`` counts from
0 without a gap, ``t`` is Unix time in seconds, ``sum`` is the CRC-32 of the line as it would stand without it,
chained with the sum of the line before, so that a line changed, removed or torn by a crash is noticed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread

FILE_NAME = "events.jsonl"


class JournalError(Exception):
    """The journal cannot be written (disk full, folder gone) or is damaged before its last line."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a journal."""

    seq: int
    t: float
    type: str
    fields: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.fields[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return one field, or the default."""
        return self.fields.get(key, default)


_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=str)


def _encode(event: dict[str, Any], previous: int) -> tuple[bytes, int]:
    body = _JSON.encode(event)
    checksum = zlib.crc32(body.encode(), previous)
    return f'{body[:-1]},"sum":"{checksum:08x}"}}\n'.encode(), checksum


class Journal:
    """Appends events to one file. A line is with the operating system before ``append`` returns.

    So it survives the death of this process at any moment; ``durable=True`` also survives a power cut.
    Writes are whole lines through one descriptor, made on the event loop: they take microseconds.
    """

    def __init__(self, folder: Path) -> None:
        """Open the journal of an episode folder, or start it.

        Raises:
            JournalError: it cannot be opened, or what is there is damaged.
        """
        self.path = folder / FILE_NAME
        self._seq = 0
        self._sum = 0
        self.last_t = 0.0
        self.watchers: list[Callable[[Event], None]] = []
        """Told of each event right after it was written. They must neither raise nor block."""
        try:
            if self.path.exists():
                whole = 0
                for event, checksum, end in _scan(self.path):
                    self._seq, self._sum, whole, self.last_t = event.seq + 1, checksum, end, event.t
                if whole < self.path.stat().st_size:  # a line torn by a crash was never acknowledged
                    os.truncate(self.path, whole)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self.size = os.fstat(self._fd).st_size
            """Bytes written so far."""
        except OSError as exc:
            raise JournalError(f"the journal {self.path} cannot be opened: {exc.strerror}") from exc

    @property
    def next_seq(self) -> int:
        """The sequence number that the next event gets."""
        return self._seq

    def append(self, type: str, /, **fields: Any) -> Event:  # noqa: A002 - the field's name on disk
        """Write one event and return it.

        Raises:
            JournalError: it could not be written; nothing of it is left in the file.
        """
        event: dict[str, Any] = {"seq": self._seq, "t": round(time.time(), 6), "type": type, **fields}
        line, checksum = _encode(event, self._sum)
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(28, "no space left on device")
        except OSError as exc:
            # A half-written line would hide all later ones from a reader.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
            raise JournalError(f"the journal cannot be written: {exc.strerror}; free disk space") from exc
        self._seq += 1
        self._sum = checksum
        self.size += len(line)
        self.last_t = event["t"]
        written_event = Event(event["seq"], event["t"], type, fields)
        for watcher in list(self.watchers):
            watcher(written_event)
        return written_event

    async def append_durable(self, type: str, /, **fields: Any) -> Event:  # noqa: A002
        """Write one event and wait until the disk holds it: for scores and ends.

        Raises:
            JournalError: as ``append``.
        """
        event = self.append(type, **fields)
        try:
            await anyio.to_thread.run_sync(os.fsync, self._fd)
        except OSError as exc:
            raise JournalError(f"the journal cannot be synced: {exc.strerror}") from exc
        return event

    def close(self) -> None:
        """Close the file; the journal can be opened again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _scan(path: Path) -> Iterator[tuple[Event, int, int]]:
    """Yield each good event with its checksum and the file offset after it; stop at a torn last line."""
    previous = 0
    expected = 0
    end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # torn by a crash: it was never acknowledged
            end += len(line)
            try:
                text = line.decode("ascii").rstrip("\n")
                body, _, tail = text.rpartition(',"sum":"')
                checksum = int(tail.removesuffix('"}'), 16)
                if zlib.crc32((body + "}").encode(), previous) != checksum:
                    raise ValueError("checksum")
                fields = json.loads(body + "}")
                event = Event(fields.pop("seq"), fields.pop("t"), fields.pop("type"), fields)
                if event.seq != expected:
                    raise ValueError("sequence")
            except (ValueError, KeyError, AttributeError) as exc:
                raise JournalError(
                    f"{path} is damaged at event {expected} ({exc}); events before it are whole"
                ) from exc
            previous = checksum
            expected += 1
            yield event, checksum, end


def read_journal(folder: Path) -> Iterator[Event]:
    """Yield the events of an episode folder in order, checking each one; a torn last line is left out.

    Raises:
        JournalError: a line before the last was changed or removed.
        FileNotFoundError: the folder holds no journal.
    """
    for event, _, _ in _scan(folder / FILE_NAME):
        yield event
