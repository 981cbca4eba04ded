"""Journals read for reports: quickly, and also where they are damaged.

:func:`mlgym_mcp.session.journal.read_journal` stops at the first line that is not whole, as it must for a server that
goes on writing. A report wants what is left: here a damaged line is told and left out, and the lines after it are
used if they are whole. Of a line that follows a missing one that cannot be known, so it is left out with it.
"""

from __future__ import annotations

import json
import re
import stat
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlgym_mcp.session.journal import FILE_NAME

LONGEST_LINE = 16 << 20
"""Bytes; a longer line is damage."""
_HEAD = re.compile(rb'\{"seq":(\d{1,12}),"t":(\d{1,12}(?:\.\d{1,9})?),"type":"(\w{1,40})"')
_TAIL = re.compile(rb',"sum":"([0-9a-f]{8})"\}\n')
_TAIL_BYTES = len(b',"sum":"00000000"}\n')


@dataclass(slots=True)
class Damage:
    """What was wrong with a journal.

    Attributes:
        lines: the numbers of the lines left out, from 1.
        torn: whether the last line is without its end: a crash did that, and nobody was told of that event.
    """

    lines: list[int] = field(default_factory=list)
    torn: bool = False

    def __str__(self) -> str:
        told = []
        if count := len(self.lines):
            shown = ", ".join(map(str, self.lines[:5])) + (", ..." if count > 5 else "")
            told.append(f"{count} damaged line{'s'[: count > 1]} left out ({shown})")
        if self.torn:
            told.append("the last line is torn and left out")
        return "; ".join(told)


@dataclass(frozen=True, slots=True)
class Line:
    """One whole line. ``fields`` is empty unless its type was asked for."""

    seq: int
    t: float
    type: str
    fields: dict[str, Any]


def salvage(folder: Path, wanted: Collection[str], damage: Damage) -> Iterator[Line]:
    """Yield the whole lines of an episode's journal in order, with the fields of the wanted types.

    Args:
        folder: the episode.
        wanted: types of events whose fields are read; the others are only checked, which is five times as fast.
        damage: told what was left out.

    Raises:
        OSError: the journal is no file, or cannot be read.
    """
    path = folder / FILE_NAME
    previous, expected = 0, 0
    with path.open("rb") as file:
        for number, raw in enumerate(_lines(file), 1):
            if raw is not None and not raw.endswith(b"\n"):
                damage.torn = True
                return
            line, checksum = (None, 0) if raw is None else _line(raw, previous, wanted)
            if line is None or line.seq < expected:
                damage.lines.append(number)
            else:
                expected = line.seq + 1
                yield line
            previous = checksum


def _lines(file: Any) -> Iterator[bytes | None]:
    """Yield the lines of a file; ``None`` in place of one that is too long."""
    while raw := file.readline(LONGEST_LINE):
        if len(raw) == LONGEST_LINE and not raw.endswith(b"\n"):
            while (more := file.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                pass
            yield None
        else:
            yield raw


def _line(raw: bytes, previous: int, wanted: Collection[str]) -> tuple[Line | None, int]:
    """Return a line if it is whole, and the checksum that it says it has: the next line's is made with it."""
    tail = _TAIL.fullmatch(raw, max(len(raw) - _TAIL_BYTES, 0))
    if tail is None:
        return None, 0
    checksum = int(tail[1], 16)
    body = raw[:-_TAIL_BYTES] + b"}"
    head = _HEAD.match(body)
    if head is None or zlib.crc32(body, previous) != checksum:
        return None, checksum
    name = head[3].decode()
    fields: Any = {}
    if name in wanted:
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            return None, checksum
    return Line(int(head[1]), float(head[2]), name, fields), checksum


def is_journal(path: Path) -> bool:
    """Whether there is a regular file of that name: a pipe would never end."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
