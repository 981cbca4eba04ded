"""The fenced blocks of the documents, and the command lines in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(r"<!-- not run: (?P<reason>[^\n]+?) -->\s*\Z")
SHELL = ("", "sh", "bash", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        reason: why it is only looked at, where the document says so in a comment before it.
    """

    document: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"

    def commands(self) -> list[str]:
        """Return the command lines, without prompts, comments and the words behind them."""
        joined = re.sub(r"\s*\\\n\s*", " ", self.text)
        lines = (re.sub(r"\s+#\s.*|\s{3,}\S.*", "", line.strip()).removeprefix("$ ") for line in joined.splitlines())
        return [re.sub(r"\s+", " ", line) for line in lines if line and not line.startswith("#")]


def blocks() -> list[Block]:
    """Return all blocks of all documents."""
    return [block for document in DOCUMENTS for block in _of(document)]


def _of(document: Path) -> Iterator[Block]:
    text = document.read_text()
    for found in _FENCE.finditer(text):
        mark = _MARK.search(text, 0, found.start())
        line = text.count("\n", 0, found.start()) + 1
        reason = None if mark is None else mark["reason"]
        yield Block(document, line, found["language"].strip(), dedent(found["text"]), reason)
