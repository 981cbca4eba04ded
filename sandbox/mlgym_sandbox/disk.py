"""Workspaces with a hard size: an ext4 file system in a sparse file, mounted only inside its sandbox.

Making one is a copy of a template (a few hundred kilobytes of real data, whatever its size), so it costs a
few milliseconds instead of mkfs. The launcher mounts it in the sandbox's own mount namespace: it is never
visible on the machine, and gone when the sandbox is gone, however that ends.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import subprocess
from pathlib import Path

from mlgym_sandbox.errors import SandboxError

_MKFS_TIMEOUT_S = 60.0
_OVERHEAD_MB = 4
"""What the file system itself needs, beyond what it was asked to hold."""


def possible() -> str | None:
    """Return why sized workspaces cannot be had here, or ``None`` when they can (as far as one sees)."""
    if os.geteuid() != 0:
        return "needs root"
    if mkfs() is None:
        return "mkfs.ext4 is missing"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    if "\text4" not in Path("/proc/filesystems").read_text():
        return "the kernel knows no ext4"
    return None


def mkfs() -> str | None:
    """Return the path of ``mkfs.ext4``; it is often outside an ordinary search path."""
    return shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")


def create(image: Path, size_mb: int, templates: Path) -> None:
    """Make a file system of ``size_mb`` MiB in a new sparse file. Blocks; call it on a thread.

    Args:
        image: the file to make.
        size_mb: what it shall hold.
        templates: a folder to keep one empty file system per size in.

    Raises:
        SandboxError: it could not be made (disk full, no mkfs); nothing is left.
    """
    try:
        _copy_sparse(_template(size_mb, templates), image)
    except (OSError, subprocess.SubprocessError) as error:
        image.unlink(missing_ok=True)
        raise SandboxError(f"the workspace file {image} could not be made: {error}") from error


def _template(size_mb: int, templates: Path) -> Path:
    ready = templates / f"ext4-{size_mb}"
    if ready.exists():
        return ready
    program = mkfs()
    if program is None:
        raise SandboxError("mkfs.ext4 is missing; install it: sudo apt install e2fsprogs")
    making = ready.with_name(f".{ready.name}.{secrets.token_hex(4)}")
    try:
        with making.open("wb") as file:
            file.truncate((size_mb + _OVERHEAD_MB) << 20)
        # No journal and nothing reserved: a workspace is thrown away, never repaired. One inode per 8 KiB.
        subprocess.run(
            [program, "-q", "-F", "-m", "0", "-i", "8192", "-O", "^has_journal",
             "-E", "lazy_itable_init=1,nodiscard", str(making)],
            check=True, capture_output=True, timeout=_MKFS_TIMEOUT_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        making.rename(ready)
    finally:
        making.unlink(missing_ok=True)
    return ready


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy only what is not a hole."""
    with source.open("rb") as src, target.open("xb") as dst:
        size = os.fstat(src.fileno()).st_size
        dst.truncate(size)
        at = 0
        while at < size:
            try:
                start = os.lseek(src.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break  # only a hole is left
                raise
            at = os.lseek(src.fileno(), start, os.SEEK_HOLE)
            while start < at:
                data = os.pread(src.fileno(), min(at - start, 1 << 20), start)
                if not data:
                    break
                start += os.pwrite(dst.fileno(), data, start)
