"""What strangers wrote, made fit to be seen: no terminal codes, no invisible letters, nothing that turns text round."""

from __future__ import annotations

import re
import time
import unicodedata
from dataclasses import dataclass

_COLOURS = re.compile(r"\x1b\[[0-9;:]{0,64}m")
_LINES = re.compile(r"\r\n|[\x0b\x0c\x85\u2028\u2029]")
_FINE = "\n\t"
HEAD_LINES = 12
HEAD_CHARS = 1500


@dataclass(frozen=True, slots=True)
class Shown:
    """A text to be seen.

    Attributes:
        head: the beginning of it, or all of it.
        whole: all of it, if that is more.
        lines: how many lines that is.
        chars: how many characters.
    """

    head: str
    whole: str = ""
    lines: int = 0
    chars: int = 0


def visible(text: str) -> str:
    """Return a text in which every letter shows: colours are dropped, other control codes become pictures of them."""
    text = _LINES.sub("\n", _COLOURS.sub("", text))
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in _FINE or c.isprintable() else _picture(c) for c in text)


def one_line(value: object, limit: int = 200) -> str:
    """Return the beginning of a value as one visible line."""
    text = " ".join(visible(str(value)[: 4 * limit]).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def folded(text: str, lines: int = HEAD_LINES, chars: int = HEAD_CHARS) -> Shown:
    """Return a text with the beginning that shows before it is unfolded."""
    text = visible(text)
    every = text.split("\n")
    count = len(every) - (every[-1] == "")
    if count <= lines + 2 and len(text) <= chars + chars // 4:
        return Shown(text, "", count, len(text))
    head = "\n".join(every[:lines])[:chars]
    return Shown(head, text, count, len(text))


def size(count: float) -> str:
    """Return a number of bytes: ``1.5 KiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def moment(unix: float) -> str:
    """Return a time as ``2026-11-26 15:04:05`` UTC."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix))
    except (OverflowError, ValueError, OSError):
        return "?"


def _picture(letter: str) -> str:
    code = ord(letter)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    category = unicodedata.category(letter)
    if category == "Zs":
        return " "
    if category in ("Cs", "Cn"):
        return "\N{REPLACEMENT CHARACTER}"
    return f"\u27e8U+{code:04X}\u27e9"
