"""A journal followed while it is written: by its file, whoever writes it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.to_thread

from mlgym_mcp.records.salvage import LONGEST_LINE, Line
from mlgym_mcp.session.journal import FILE_NAME
from mlgym_mcp.web.timeline import Entry, Reader

LOOK_S = 0.4
"""How often a file is looked at, in seconds."""
_PING_S = 15.0
_BATCH_BYTES = 1 << 20


class Tail:
    """Reads the lines of a journal that have come since it was last asked.

    Checksums are not looked at: this is what is being written now, and the page of what was written does that.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._at = 0

    def more(self) -> list[Line]:
        """Return the next whole lines, at most about 1 MiB of them.

        Raises:
            OSError: the journal cannot be read.
        """
        found: list[Line] = []
        with self._path.open("rb") as file:
            file.seek(self._at)
            begin = self._at
            while self._at - begin < _BATCH_BYTES:
                raw = file.readline(LONGEST_LINE)
                if not raw.endswith(b"\n"):
                    if len(raw) == LONGEST_LINE:
                        self._at += len(raw)  # no line of ours: go on behind it
                        continue
                    break
                self._at += len(raw)
                if (line := _line(raw)) is not None:
                    found.append(line)
        return found


async def follow(
    folder: Path, after: int, stopping: Callable[[], bool], look_s: float = LOOK_S
) -> AsyncIterator[tuple[Line, Entry] | None]:
    """Yield each entry that is new or changed after an event, until the end of the episode or ``stopping``.

    ``None`` is yielded from time to time while nothing happens. A journal that is taken away ends it, too.
    """
    tail, reader = Tail(folder), Reader()
    quiet = 0.0
    while not stopping():
        try:
            lines = await anyio.to_thread.run_sync(tail.more)
        except OSError:
            return
        for line in lines:
            entry = reader.take(line)
            if line.seq > after and entry is not None:
                yield line, entry
            if line.type == "end":
                return
        if lines:
            quiet = 0.0
            continue
        await anyio.sleep(look_s)
        quiet += look_s
        if quiet >= _PING_S:
            quiet = 0.0
            yield None


def _line(raw: bytes) -> Line | None:
    try:
        fields = json.loads(raw)
        return Line(int(fields["seq"]), float(fields["t"]), str(fields["type"])[:40], fields)
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
        return None
