"""The table of clients in docs/frameworks.md: a test that plays with a client says what it saw, and must find it there.

``python -m tests.frameworks.matrix`` writes into the table what the tests have seen since.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.frameworks.environments import cache_folder

DOCUMENT = Path(__file__).parents[2] / "docs" / "frameworks.md"
BEGIN, END = "<!-- matrix: written by python -m tests.frameworks.matrix -->", "<!-- end of matrix -->"


class Row(NamedTuple):
    """What one client did over one transport."""

    client: str
    version: str
    transport: str
    era: str
    result: str

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"


def record(client: str, transport: str, era: str, result: str, *, version: str = "") -> None:
    """Note what was seen.

    Args:
        client: its name.
        transport: ``HTTP`` or ``stdio``.
        era: the protocol's version that it spoke, as the journal has it.
        result: what came of it, in a few words.
        version: the client's.

    Raises:
        AssertionError: docs/frameworks.md does not say so.
    """
    row = Row(client, version, transport, era, result)
    assert not any("|" in cell or "\n" in cell for cell in row), row
    note = json.dumps(row)
    seen = _seen_folder() / (re.sub(r"\W+", "-", f"{client} {transport}".lower()) + ".json")
    part = seen.with_suffix(f".{os.getpid()}")
    part.write_text(note)
    part.replace(seen)
    assert row in documented(), f"{row} is not in docs/frameworks.md: python -m tests.frameworks.matrix"


def documented() -> list[Row]:
    """The table's rows."""
    return list(_rows(DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0].splitlines()[3:]))


def write() -> None:
    """Put what was seen last into the table; what was not seen again stays."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = {(row.client, row.transport): row for row in documented()}
    for file in _seen_folder().glob("*.json"):
        row = Row(*json.loads(file.read_text()))
        rows[row.client, row.transport] = row
    head = ["", "| client | version | transport | protocol | result |", "|---|---|---|---|---|"]
    table = "\n".join([*head, *(str(rows[key]) for key in sorted(rows, key=lambda key: (key[0].lower(), key[1])))])
    DOCUMENT.write_text(f"{before}{BEGIN}{table}\n{END}{after}")


def _rows(lines: Iterable[str]) -> Iterator[Row]:
    for line in lines:
        yield Row(*(cell.strip() for cell in line.strip().strip("|").split("|")))


def _seen_folder() -> Path:
    folder = cache_folder() / "seen"
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    write()
