"""The few system calls that Python (3.11) does not offer, and the numbers that go with them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_AUTOCLEAR = 4
_LOOP_MAJOR = 7
_LOOP_TRIES = 50

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the namespaces named by ``flags`` for new ones.

    Raises:
        OSError: the kernel refused.
    """
    _checked(_libc.unshare(flags), "unshare")


def join_user_namespace(descriptor: int) -> None:
    """Enter a user namespace; all capabilities in it come with that.

    Raises:
        OSError: the kernel refused.
    """
    _checked(_libc.setns(descriptor, CLONE_NEWUSER), "setns")


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    """Mount, in this process's mount namespace.

    Raises:
        OSError: the kernel refused; the message names the target.
    """
    code = _libc.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() if options else None,
    )
    _checked(code, f"mount {kind or 'bind'} on {target}")


def private_mounts() -> None:
    """Get a mount namespace of one's own, from which nothing spreads to the machine."""
    unshare(CLONE_NEWNS)
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def mount_image(image: str, target: str, nodes: str) -> None:
    """Mount the ext4 file system in a file. Its loop device frees itself with the last mount.

    Args:
        image: the file.
        target: an existing folder.
        nodes: a folder in which a device node may be made where the machine has too few.

    Raises:
        OSError: no loop device, or a damaged image.
    """
    file = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_LOOP_TRIES):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            node = _loop_node(number, nodes)
            device = os.open(node, os.O_RDWR | os.O_CLOEXEC)
            try:
                # struct loop_config { u32 fd, block_size; struct loop_info64 info; u64 reserved[8]; }
                info = struct.pack("=QQQQQIIII64s64s32sQQ", 0, 0, 0, 0, 0, 0, 0, 0, _LO_FLAGS_AUTOCLEAR,
                                   b"mlgym", b"", b"", 0, 0)  # fmt: skip
                fcntl.ioctl(device, _LOOP_CONFIGURE, struct.pack("=II", file, 0) + info + bytes(64))
                mount(node, target, "ext4", MS_NOSUID | MS_NODEV)
            except OSError as error:
                if error.errno != errno.EBUSY:  # else: another process took the device between the two calls
                    raise
            else:
                return
            finally:
                os.close(device)
        raise OSError(errno.EBUSY, "no loop device could be had")
    finally:
        os.close(control)
        os.close(file)


def _loop_node(number: int, nodes: str) -> str:
    node = f"/dev/loop{number}"
    if not os.path.exists(node):  # noqa: PTH110 - pathlib costs this program's start several milliseconds
        node = f"{nodes}/loop{number}"
        if not os.path.exists(node):  # noqa: PTH110
            os.mknod(node, 0o600 | 0o060000, os.makedev(_LOOP_MAJOR, number))
    return node


def _checked(code: int, what: str) -> None:
    if code < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
