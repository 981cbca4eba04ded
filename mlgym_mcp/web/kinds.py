"""What a file is, told by its content alone: its name is its author's."""

from __future__ import annotations

import codecs

BINARY = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
_PICTURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
_LOOKED_AT = 64 << 10
_CONTROL = frozenset(range(0x20)) - frozenset(b"\t\n\r\f\x1b\b")


def kind_of(data: bytes) -> str:
    """Return the content type to serve bytes with: a picture that only draws, plain text, or just bytes.

    SVG and HTML are text: as what they are, they could run scripts.
    """
    for start, kind in _PICTURES.items():
        if data.startswith(start):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    head = data[:_LOOKED_AT]
    if not _CONTROL.isdisjoint(head):
        return BINARY
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return BINARY
    return TEXT


def text_of(data: bytes, most: int = 400_000) -> str:
    """Return bytes as text; what is too much is told."""
    text = data[:most].decode("utf-8", "replace")
    return text if len(data) <= most else f"{text}\n[{len(data) - most:,} more bytes are not shown]"
