"""Strict readers of what agents wrote: predictions as CSV or JSON lines. Standard library only.

A file is read whole under a size cap that follows from what is expected, byte for byte: no type inference,
no quoting, no locale, no Unicode digits. Whatever is not exactly as asked is refused in one sentence that
names the line, what was found there (shortened) and what was expected. A reader returns the honest reading or
raises; it never guesses.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from mlgym_mcp.grading.errors import InvalidSubmission

_WHOLE: Final = re.compile(rb"0|[1-9][0-9]{0,17}")
_SIGNED: Final = re.compile(rb"0|-?[1-9][0-9]{0,17}")
_DECIMAL: Final = re.compile(rb"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")
_LINE_BYTES: Final = 128
"""The longest line of a predictions CSV, its end included."""
_SHOWN: Final = 40

Value = TypeVar("Value", int, float)


def is_plain_name(name: str) -> bool:
    """Whether ``name`` is a relative path of plain components: no ``..``, no empty one, no NUL."""
    return bool(name) and "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


def require_file(folder: Path, name: str) -> None:
    """Check that the submission has a regular file of that name.

    Raises:
        InvalidSubmission: ``missing`` or ``forbidden``.
    """
    os.close(_open(folder, name))


def read_bytes(folder: Path, name: str, *, max_bytes: int) -> bytes:
    """The content of one regular file of a submission; follows no link anywhere on the way.

    Raises:
        InvalidSubmission: ``missing``, ``forbidden`` (not a regular file) or ``too_large``.
    """
    with os.fdopen(_open(folder, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(max_bytes + 1) if size <= max_bytes else b""
    if size > max_bytes or len(data) > max_bytes:
        found = max(size, len(data))
        raise InvalidSubmission("too_large", f"{name} has {found} bytes, at most {max_bytes} are expected")
    return data


def read_classes(folder: Path, name: str, *, header: tuple[str, str], ids: Sequence[int], classes: int) -> list[int]:
    """Labels from a CSV ``id,label``, in the order of ``ids``.

    Raises:
        InvalidSubmission: ``missing``, ``forbidden``, ``too_large``, ``format`` or ``range``.
    """
    wanted = f"a whole number from 0 to {classes - 1} in the digits 0-9"

    def value(cell: bytes) -> int:
        if not _WHOLE.fullmatch(cell):
            raise _WrongFormatError
        label = int(cell)
        if label >= classes:
            raise _OutOfRangeError
        return label

    return _read_pairs(folder, name, header, ids, value, wanted)


def read_numbers(
    folder: Path, name: str, *, header: tuple[str, str], ids: Sequence[int], low: float, high: float
) -> list[float]:
    """Numbers from a CSV ``id,value``, in the order of ``ids``: finite decimals in ``[low, high]``.

    Raises:
        InvalidSubmission: ``missing``, ``forbidden``, ``too_large``, ``format`` or ``range``.
    """
    wanted = f"a decimal number from {low:g} to {high:g}"

    def value(cell: bytes) -> float:
        if not _DECIMAL.fullmatch(cell):
            raise _WrongFormatError
        number = float(cell)
        if not (low <= number <= high and math.isfinite(number)):
            raise _OutOfRangeError
        return number

    return _read_pairs(folder, name, header, ids, value, wanted)


def read_texts(folder: Path, name: str, *, ids: Sequence[int], max_chars: int = 512, max_words: int = 64) -> list[str]:
    """Texts from JSON lines ``{"id": int, "text": str}``, in the order of ``ids``.

    A text is printable, NFC-normalised Unicode of at most ``max_chars`` characters and ``max_words`` words.

    Raises:
        InvalidSubmission: ``missing``, ``forbidden``, ``too_large``, ``format`` or ``range``.
    """
    line_bytes = 64 + 12 * max_chars  # every character as two escaped surrogates, at the worst
    lines = _lines(folder, name, len(ids), head=0, line_bytes=line_bytes)
    known = _unique(ids)
    found: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        key, text = _json_pair(name, number, line)
        _note_id(name, number, key, known, found)
        words = len(text.split())
        if len(text) > max_chars or words > max_words:
            raise InvalidSubmission(
                "range",
                f"{name} line {number}: the text has {len(text)} characters and {words} words, "
                f"at most {max_chars} and {max_words} are allowed",
            )
        if not text.isprintable() or unicodedata.normalize("NFC", text) != text:
            raise InvalidSubmission(
                "format",
                f"{name} line {number}: the text {text[:_SHOWN]!r} must be printable and in Unicode form NFC",
            )
        found[key] = text
    return [found[key] for key in ids]


class _WrongFormatError(Exception):
    """The cell is not written as a value must be."""


class _OutOfRangeError(Exception):
    """The cell is a number, but not one that is allowed."""


def read_weights(folder: Path, name: str, *, shape: Sequence[int], low: float, high: float) -> list[Any]:
    """Nested lists of numbers from a JSON file: of exactly this shape, finite, in ``[low, high]``.

    Raises:
        InvalidSubmission: ``missing``, ``forbidden``, ``too_large``, ``format`` or ``range``.
    """
    data = read_bytes(folder, name, max_bytes=math.prod(shape) * _LINE_BYTES + 1024)
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_refuse, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise InvalidSubmission(
            "format", f"{name} is not JSON ({_first_line(error)}), expected {_shape_words(shape)}"
        ) from None
    numbers: list[Any] = _numbers(name, found, tuple(shape), low, high, "")
    return numbers


def _numbers(name: str, found: object, shape: tuple[int, ...], low: float, high: float, where: str) -> Any:
    """``found`` if it is a list of that shape, or a number where the shape is empty."""
    if not shape:
        if type(found) is not float:
            raise InvalidSubmission("format", f"{name}: found {_short(found)} at {where}, expected a number")
        if not (math.isfinite(found) and low <= found <= high):
            raise InvalidSubmission(
                "range", f"{name}: found {found:g} at {where}, expected a number from {low:g} to {high:g}"
            )
        return found
    if not isinstance(found, list) or len(found) != shape[0]:
        size = f"a list of {len(found)}" if isinstance(found, list) else _short(found)
        place = f" at {where}" if where else ""
        raise InvalidSubmission("format", f"{name}: found {size}{place}, expected {_shape_words(shape)}")
    return [_numbers(name, item, shape[1:], low, high, f"{where}[{i}]") for i, item in enumerate(found)]


def _shape_words(shape: Sequence[int]) -> str:
    return "a list of " + " lists of ".join(str(size) for size in shape) + " numbers"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:80]


def _read_pairs(
    folder: Path,
    name: str,
    header: tuple[str, str],
    ids: Sequence[int],
    value: Callable[[bytes], Value],
    wanted: str,
) -> list[Value]:
    lines = _lines(folder, name, len(ids), head=1, line_bytes=_LINE_BYTES)
    head = ",".join(header)
    if lines[0] != head.encode():
        raise InvalidSubmission("format", f"{name} line 1: found {_show(lines[0])}, expected the header {head!r}")
    known = _unique(ids)
    found: dict[int, Value] = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(b",")
        if len(cells) != 2:
            raise InvalidSubmission(
                "format",
                f"{name} line {number}: found {_show(line)}, expected two columns {head!r}",
            )
        if not _SIGNED.fullmatch(cells[0]):
            raise InvalidSubmission(
                "format",
                f"{name} line {number}: found the {header[0]} {_show(cells[0])}, "
                "expected a whole number in the digits 0-9",
            )
        key = int(cells[0])
        _note_id(name, number, key, known, found)
        try:
            found[key] = value(cells[1])
        except _WrongFormatError:
            code = "format"
        except _OutOfRangeError:
            code = "range"
        else:
            continue
        raise InvalidSubmission(
            code, f"{name} line {number}: found the {header[1]} {_show(cells[1])}, expected {wanted}"
        )
    return [found[key] for key in ids]


def _unique(ids: Sequence[int]) -> set[int]:
    known = set(ids)
    if len(known) != len(ids):
        raise ValueError("the grader asked for the same id twice")
    return known


def _note_id(name: str, number: int, key: int, known: set[int], found: dict[int, Any]) -> None:
    """Refuse an id that was not asked for, or came before; with the right row count that proves equality."""
    if key not in known:
        raise InvalidSubmission(
            "format",
            f"{name} line {number}: found the id {key}, expected only the {len(known)} ids to predict",
        )
    if key in found:
        raise InvalidSubmission("format", f"{name} line {number}: the id {key} occurs twice, expected each once")


def _lines(folder: Path, name: str, rows: int, *, head: int, line_bytes: int) -> list[bytes]:
    """The lines of a text file without their ends, exactly ``head + rows`` of them, none too long."""
    data = read_bytes(folder, name, max_bytes=(rows + head) * line_bytes + 1024)
    if b"\0" in data:
        raise InvalidSubmission("format", f"{name} holds a NUL byte, expected a plain text file")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise InvalidSubmission("format", f"{name} begins with a byte-order mark, expected plain UTF-8 without one")
    end = 0 if data.endswith(b"\n") or not data else 1
    count = data.count(b"\n") + end
    if count != rows + head:
        header = "a header and " if head else ""
        raise InvalidSubmission("format", f"{name} has {count} lines, expected {header}{rows} rows")
    lines = data.split(b"\n")
    if not end:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if len(line) >= line_bytes:
            raise InvalidSubmission(
                "format", f"{name} line {number}: found {len(line)} bytes, expected less than {line_bytes}"
            )
    return [line[:-1] if line.endswith(b"\r") else line for line in lines]


def _json_pair(name: str, number: int, line: bytes) -> tuple[int, str]:
    expected = 'expected {"id": int, "text": str}'
    try:
        pairs = json.loads(line.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        raise InvalidSubmission("format", f"{name} line {number}: found {_show(line)}, {expected}") from None
    if not isinstance(pairs, _Pairs) or sorted(key for key, _ in pairs) != ["id", "text"]:
        raise InvalidSubmission("format", f"{name} line {number}: found {_show(line)}, {expected}")
    record = dict(pairs)
    if type(record["id"]) is not int or type(record["text"]) is not str:
        raise InvalidSubmission("format", f"{name} line {number}: found {_show(line)}, {expected}")
    return record["id"], record["text"]


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as written: a plain list is a JSON array."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _show(raw: bytes) -> str:
    text = raw.decode("utf-8", errors="backslashreplace")
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _open(folder: Path, name: str) -> int:
    """A file descriptor of a regular file below ``folder``; no link is followed, no FIFO is waited for."""
    if not is_plain_name(name):
        raise InvalidSubmission("forbidden", f"{name[:_SHOWN]!r} is not a relative path without '..'")
    *parents, last = name.split("/")
    where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parents:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where)
            os.close(where)
            where = below
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        file = os.open(last, flags, dir_fd=where)
    except FileNotFoundError:
        raise InvalidSubmission("missing", f"{name} is not in the submission, it was expected there") from None
    except OSError as error:
        raise InvalidSubmission("forbidden", f"{name} is not a regular file ({error.strerror})") from None
    finally:
        os.close(where)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InvalidSubmission("forbidden", f"{name} is not a regular file")
    return file
