"""A reader of hostile tars: plain files and folders, or a refusal. Standard library only.

Not ``tarfile``: that one understands links, sparse files, nested and overriding headers and more, which would
all have to be taken away again. This one knows POSIX and GNU headers of files and folders, and a long name given
by exactly one extended header before them. It holds one header in memory and streams the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

from mlgym_mcp.grading.errors import InvalidSubmission

BLOCK: Final = 512
MAX_EXTENDED: Final = 8192
"""Bytes of an extended header: one name and some times."""
MAX_NAME_BYTES: Final = 512
MAX_DEPTH: Final = 16
_CHUNK: Final = 1 << 20
_PADDING: Final = 1 << 20
_OCTAL: Final = re.compile(rb" *([0-7]+)[ \0]*")
_RECORD: Final = re.compile(rb"([0-9]{1,5}) ([^=\n]{1,64})=")
_HARMLESS: Final = frozenset((b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname"))
_MAGIC: Final = (b"ustar\x0000", b"ustar  \0")
_KINDS: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse file",
    b"K": "a long link name",
    b"g": "a global header",
}


@dataclass(frozen=True, slots=True)
class TarEntry:
    """A file or folder with a checked relative name; ``size`` in bytes."""

    name: str
    size: int
    is_folder: bool


def read_tar(source: IO[bytes], *, max_entries: int) -> Iterator[tuple[TarEntry, Iterator[bytes]]]:
    """Entries of an uncompressed tar with their contents, in pieces of at most 1 MiB.

    What the caller leaves of a content is skipped. Names are relative and plain, but may repeat.

    Raises:
        InvalidSubmission: ``forbidden`` for what is not a plain file or folder with a plain name, ``too_large``
            for more entries than ``max_entries``, ``format`` for what is not a whole tar.
    """
    long_name: str | None = None
    count = 0
    while True:
        header = _exactly(source, BLOCK)
        if header == bytes(BLOCK):
            _expect_end(source)
            return
        kind, size, short_name = _parse(header)
        if kind in (b"x", b"L"):
            if long_name is not None:
                raise InvalidSubmission("format", "the tar has two extended headers in a row, expected one")
            long_name = _extended(source, kind, size)
            continue
        name = _checked(long_name or short_name)
        long_name = None
        count += 1
        if count > max_entries:
            raise InvalidSubmission(
                "too_large", f"the submission has more than the {max_entries} files and folders allowed"
            )
        if kind not in (b"0", b"\0", b"5"):
            what = _KINDS.get(kind, f"an entry of the unknown kind {kind!r}")
            raise InvalidSubmission(
                "forbidden", f"the submission holds {what}, {name!r}; expected plain files and folders only"
            )
        folder = kind == b"5"
        name = name.rstrip("/") if folder else name
        if folder and size:
            raise InvalidSubmission("format", f"the tar's folder {name!r} has {size} bytes, expected none")
        content = _content(source, size)
        if name:  # "" is the folder that was packed
            yield TarEntry(name=name, size=size, is_folder=folder), content
        for _ in content:
            pass


def _content(source: IO[bytes], size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = _exactly(source, min(left, _CHUNK))
        left -= len(piece)
        yield piece
    if size % BLOCK:
        _exactly(source, BLOCK - size % BLOCK)


def _parse(header: bytes) -> tuple[bytes, int, str]:
    """Kind, size and name of a header."""
    if header[257:265] not in _MAGIC:
        raise InvalidSubmission("format", "the tar has a header of an unknown format, expected POSIX or GNU")
    total = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    if _number(header[148:156]) != total:
        raise InvalidSubmission("format", "the tar has a header with a wrong checksum")
    name = _until_nul(header[:100])
    prefix = _until_nul(header[345:500])
    if header[257:265] == _MAGIC[0] and prefix:
        name = prefix + b"/" + name
    return header[156:157], _number(header[124:136]), _decode(name)


def _number(field: bytes) -> int:
    found = _OCTAL.fullmatch(field)
    if not found:
        raise InvalidSubmission("format", f"the tar has a header with the number {field!r}, expected octal digits")
    return int(found[1], 8)


def _extended(source: IO[bytes], kind: bytes, size: int) -> str | None:
    """The long name that an extended header gives to the next entry, if it does."""
    if size > MAX_EXTENDED:
        raise InvalidSubmission("forbidden", f"the tar has an extended header of {size} bytes, expected a name")
    raw = b"".join(_content(source, size))
    if kind == b"L":
        return _decode(_until_nul(raw))
    name = None
    while raw:
        found = _RECORD.match(raw)
        length = int(found[1]) if found else 0
        if not found or not found.end() < length <= len(raw) or raw[length - 1 : length] != b"\n":
            raise InvalidSubmission("format", "the tar has a broken extended header")
        key = found[2]
        if key == b"path":
            if name is not None:
                raise InvalidSubmission("format", "the tar names an entry twice")
            name = _decode(raw[found.end() : length - 1])
        elif key not in _HARMLESS:
            shown = key.decode("ascii", "backslashreplace")
            raise InvalidSubmission(
                "forbidden", f"the tar has the extended attribute {shown!r}, expected plain files and folders only"
            )
        raw = raw[length:]
    return name


def _checked(name: str) -> str:
    """A relative name without ``./`` in front; "" for the packed folder itself."""
    while name.startswith("./"):
        name = name[2:]
    if name in ("", "."):
        return ""
    parts = name.removesuffix("/").split("/")
    shown = repr(name if len(name) <= 80 else name[:80] + "…")
    if any(part in ("", ".", "..") for part in parts):
        raise InvalidSubmission(
            "forbidden", f"the submission holds the name {shown}, expected a relative path without '..'"
        )
    if not name.isprintable():
        raise InvalidSubmission("forbidden", f"the submission holds the name {shown}, expected printable names")
    raw = [len(part.encode()) for part in parts]
    if len(parts) > MAX_DEPTH or max(raw) > 255 or sum(raw) + len(parts) > MAX_NAME_BYTES:
        raise InvalidSubmission(
            "forbidden",
            f"the submission holds the name {shown}, expected at most {MAX_DEPTH} levels, 255 bytes per part "
            f"and {MAX_NAME_BYTES} in all",
        )
    return name


def _until_nul(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidSubmission(
            "forbidden", f"the submission holds the name {raw[:80]!r}, expected names in UTF-8"
        ) from None


def _exactly(source: IO[bytes], size: int) -> bytes:
    piece = source.read(size)
    while len(piece) < size:
        more = source.read(size - len(piece))
        if not more:
            raise InvalidSubmission("format", "the tar ends in the middle, expected the whole of it")
        piece += more
    return piece


def _expect_end(source: IO[bytes]) -> None:
    rest = _exactly(source, BLOCK) + source.read(_PADDING)
    if rest.strip(b"\0") or source.read(1):
        raise InvalidSubmission("format", "the tar goes on after its end")
