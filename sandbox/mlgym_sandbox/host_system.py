"""Which parts of this machine's own system a sandbox may see: programs and libraries, never data.

Not the whole of ``/usr``: data-set packages put their labels below ``/usr/share``, and whatever else somebody
installed there is nobody's business inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

USR: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec", "include", "local/bin", "local/lib")
"""Folders below ``/usr``."""
SHARE: Final = (
    "awk",
    "file",
    "gcc",
    "git-core",
    "i18n",
    "locale",
    "misc",
    "perl",
    "perl5",
    "python3",
    "terminfo",
    "zoneinfo",
)
"""Folders below ``/usr/share``."""
TOP: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders below ``/``, or links into ``/usr``."""


def usr_parts() -> Iterator[str]:
    """Yield the paths of all parts below ``/usr``, whether or not this machine has them."""
    yield from (f"/usr/{part}" for part in USR)
    yield from (f"/usr/share/{part}" for part in SHARE)


def shows(path: str) -> bool:
    """Whether a path lies in one of the parts below ``/usr`` (not ``/usr/share``)."""
    return any(path == f"/usr/{part}" or path.startswith(f"/usr/{part}/") for part in USR)


def is_plain_folder(path: Path) -> bool:
    """Whether it is a folder itself, not a link to one."""
    return path.is_dir() and not path.is_symlink()
