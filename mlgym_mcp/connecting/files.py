"""Changing somebody else's file: a backup beside it, one atomic step, and no step when nothing would change."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_LARGEST = 64 << 20
_ATTEMPTS = 5
_BOM = "\ufeff"


class UnchangeableFileError(OSError):
    """The file cannot be changed, and was not; the message is one sentence with its path."""


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to a file."""

    path: Path
    changed: bool
    backup: Path | None = None


def read_text(path: Path) -> str | None:
    """Return a file's text, or ``None`` if there is none.

    Raises:
        UnchangeableFileError: it is no file, not UTF-8, too large, or cannot be read.
    """
    data = _read(path)
    return None if data is None else _text(path, data)[1]


def change(path: Path, edit: Callable[[str], str], *, mode: int = 0o600) -> Change:
    """Replace a file's text by what ``edit`` makes of it, keeping its mode, its links and a copy of what it was.

    What another program writes meanwhile is edited again, not overwritten.

    Args:
        path: the file, or a link to it; it is made, with its folder, if missing.
        edit: given the text ("" of a missing file); what it raises leaves everything as it was.
        mode: of a file that is made.

    Raises:
        UnchangeableFileError: it cannot be changed.
    """
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as exc:
        raise UnchangeableFileError(f"{path} is a link that leads nowhere: {exc}") from None
    for _ in range(_ATTEMPTS):
        old = _read(real)
        mark, text = _text(real, old or b"")
        new = (mark + edit(text)).encode()
        if new == old:
            return Change(path, changed=False)
        if old is not None and not real.stat().st_mode & 0o222:
            raise UnchangeableFileError(f"{real} is read-only: it was left as it is")
        try:
            backup = None if old is None else _backed_up(real, old)
            if _put(real, new, old, mode):
                return Change(path, changed=True, backup=backup)
            if backup is not None:
                backup.unlink()
        except OSError as exc:
            raise UnchangeableFileError(f"{real} cannot be changed ({exc.strerror or exc}): it is as it was") from exc
    raise UnchangeableFileError(f"{real} is being written by another program all the time: close it and try again")


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise UnchangeableFileError(f"{path} cannot be read: {exc.strerror}") from exc
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise UnchangeableFileError(f"{path} is not a file")
        if facts.st_size > _LARGEST:
            raise UnchangeableFileError(f"{path} is larger than {_LARGEST >> 20} MiB: that is no configuration")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _text(path: Path, data: bytes) -> tuple[str, str]:
    """Return the byte order mark, if there is one, and the text."""
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise UnchangeableFileError(f"{path} is not UTF-8 text (byte {exc.start}): it was left as it is") from None
    return (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)


def _backed_up(path: Path, data: bytes) -> Path:
    """Keep a copy beside the file, of the same mode, under a name that nothing has."""
    mode = stat.S_IMODE(path.stat().st_mode)
    number = 1
    while True:
        backup = path.with_name(f"{path.name}.before-mlgym" + ("" if number == 1 else f".{number}"))
        try:
            descriptor = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            number += 1
            continue
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
        return backup


def _put(path: Path, new: bytes, old: bytes | None, mode: int) -> bool:
    """Replace the file unless it is not ``old`` any more; says whether it did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    made = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(new)
            file.flush()
            os.fsync(descriptor)
            if old is None:
                os.fchmod(descriptor, mode)
            else:
                facts = path.stat()
                os.fchmod(descriptor, stat.S_IMODE(facts.st_mode))
                if (facts.st_uid, facts.st_gid) != (os.geteuid(), os.getegid()):
                    with contextlib.suppress(OSError):
                        os.fchown(descriptor, facts.st_uid, facts.st_gid)
        if _read(path) != old:
            return False
        made.replace(path)
        return True
    finally:
        made.unlink(missing_ok=True)
