"""The system-call filter of bubblewrap sandboxes, assembled here: classic BPF, no library.

A deny-list: what an ordinary program needs stays allowed. It closes kernel surface that namespaces leave
open (keyrings, bpf, perf, io_uring, userfaultfd), all ways to new namespaces and mounts, and every view into
another process. Refused calls fail with an error that programs know how to live with; a call of a foreign
architecture kills the process, since its numbers mean something else.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LD_W_ABS = 0x20
_JEQ_K = 0x15
_JGE_K = 0x35
_JSET_K = 0x45
_RET_K = 0x06

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000

# struct seccomp_data { int nr; u32 arch; u64 instruction_pointer; u64 args[6]; }, little endian on both
_NUMBER = 0
_ARCH = 4
_ARGS = 16

_NEW_NAMESPACE = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_SOCKET_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_AF_NETLINK = 16
_NETLINK_ROUTE = 0
_IOCTLS = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX: typing into a terminal
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)  # the ones that switch off no protection

_X86_64: Mapping[str, int] = {
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440, "kcmp": 312,
    "pidfd_getfd": 438, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "open_tree_attr": 467, "statmount": 457, "listmount": 458, "unshare": 272,
    "setns": 308, "open_by_handle_at": 304, "name_to_handle_at": 303, "bpf": 321, "perf_event_open": 298,
    "keyctl": 250, "add_key": 248, "request_key": 249, "kexec_load": 246, "kexec_file_load": 320,
    "init_module": 175, "finit_module": 313, "delete_module": 176, "create_module": 174,
    "query_module": 178, "get_kernel_syms": 177, "userfaultfd": 323, "io_uring_setup": 425,
    "io_uring_enter": 426, "io_uring_register": 427, "quotactl": 179, "quotactl_fd": 443, "reboot": 169,
    "swapon": 167, "swapoff": 168, "settimeofday": 164, "clock_settime": 227, "adjtimex": 159,
    "clock_adjtime": 305, "acct": 163, "sethostname": 170, "setdomainname": 171, "iopl": 172,
    "ioperm": 173, "modify_ldt": 154, "vhangup": 153, "syslog": 103, "lookup_dcookie": 212, "uselib": 134,
    "ustat": 136, "sysfs": 139, "_sysctl": 156, "nfsservctl": 180, "fanotify_init": 300,
    "fanotify_mark": 301, "migrate_pages": 256, "move_pages": 279, "memfd_secret": 447,
    "lsm_set_self_attr": 460, "clone": 56, "clone3": 435, "socket": 41, "ioctl": 16, "personality": 135,
}  # fmt: skip
_AARCH64: Mapping[str, int] = {
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "process_madvise": 440, "kcmp": 272,
    "pidfd_getfd": 438, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "open_tree_attr": 467, "statmount": 457, "listmount": 458, "unshare": 97,
    "setns": 268, "open_by_handle_at": 265, "name_to_handle_at": 264, "bpf": 280, "perf_event_open": 241,
    "keyctl": 219, "add_key": 217, "request_key": 218, "kexec_load": 104, "kexec_file_load": 294,
    "init_module": 105, "finit_module": 273, "delete_module": 106, "userfaultfd": 282,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "quotactl": 60,
    "quotactl_fd": 443, "reboot": 142, "swapon": 224, "swapoff": 225, "settimeofday": 170,
    "clock_settime": 112, "adjtimex": 171, "clock_adjtime": 266, "acct": 89, "sethostname": 161,
    "setdomainname": 162, "vhangup": 58, "syslog": 116, "lookup_dcookie": 18, "nfsservctl": 42,
    "fanotify_init": 262, "fanotify_mark": 263, "migrate_pages": 238, "move_pages": 239,
    "memfd_secret": 447, "lsm_set_self_attr": 460, "clone": 220, "clone3": 435, "socket": 198,
    "ioctl": 29, "personality": 92,
}  # fmt: skip
_BY_ARGUMENT = frozenset({"clone", "clone3", "socket", "ioctl", "personality"})
_ABSENT = frozenset({"clone3", "statmount", "listmount", "memfd_secret", "io_uring_setup", "userfaultfd"})
"""Answered as by a kernel that lacks them, so that programs take the older way."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor architecture: its audit number and the numbers of the calls that the filter names."""

    name: str
    audit: int
    calls: Mapping[str, int]
    x32: bool = False


_MACHINES = {
    "x86_64": Machine("x86_64", 0xC000003E, _X86_64, x32=True),
    "aarch64": Machine("aarch64", 0xC00000B7, _AARCH64),
}


def machine(name: str | None = None) -> Machine | None:
    """Return what is known of an architecture (default: this one), ``None`` if there is no filter for it."""
    asked = name or platform.machine()
    return _MACHINES.get({"amd64": "x86_64", "arm64": "aarch64"}.get(asked, asked))


def program(name: str | None = None) -> bytes | None:
    """Return the filter as an array of ``struct sock_filter``, as the kernel and bubblewrap take it.

    Args:
        name: the architecture; default: this machine's.

    Returns:
        The program, or ``None`` where there is none for this architecture.
    """
    found = machine(name)
    return None if found is None else _assemble(_instructions(found))


@dataclass(frozen=True, slots=True)
class _Op:
    code: int
    k: int
    if_true: int = 0
    if_false: int = 0


def _assemble(ops: Sequence[_Op]) -> bytes:
    assert len(ops) <= 4096, "longer than the kernel takes"
    return b"".join(struct.pack("=HBBI", op.code, op.if_true, op.if_false, op.k) for op in ops)


def _refuse(number: int) -> _Op:
    return _Op(_RET_K, _ERRNO | number)


def _argument(index: int) -> _Op:
    """Load the low half of an argument: the kernel itself looks at no more of those checked here."""
    return _Op(_LD_W_ABS, _ARGS + 8 * index)


def _only(call: int, body: Sequence[_Op]) -> list[_Op]:
    """Run ``body``, which always returns, when the accumulator holds this call's number; else skip it."""
    return [_Op(_JEQ_K, call, 0, len(body)), *body]


def _one_of(values: Sequence[int], otherwise: int) -> list[_Op]:
    """Allow when the accumulator is one of ``values``."""
    last = len(values)
    tests = [_Op(_JEQ_K, value, last - i, 0) for i, value in enumerate(values)]
    return [*tests, _refuse(otherwise), _Op(_RET_K, _ALLOW)]


def _instructions(machine: Machine) -> list[_Op]:
    calls = machine.calls
    ops = [
        _Op(_LD_W_ABS, _ARCH),
        _Op(_JEQ_K, machine.audit, 1, 0),
        _Op(_RET_K, _KILL_PROCESS),
        _Op(_LD_W_ABS, _NUMBER),
    ]
    if machine.x32:
        ops += [_Op(_JGE_K, 0x40000000, 0, 1), _Op(_RET_K, _KILL_PROCESS)]
    ops += _only(calls["clone3"], [_refuse(errno.ENOSYS)])  # its flags lie in memory, out of a filter's sight
    ops += _only(
        calls["clone"],
        [_argument(0), _Op(_JSET_K, _NEW_NAMESPACE, 0, 1), _refuse(errno.EPERM), _Op(_RET_K, _ALLOW)],
    )
    families = _one_of(_SOCKET_FAMILIES, errno.EAFNOSUPPORT)
    netlink = [_argument(2), *_one_of((_NETLINK_ROUTE,), errno.EPROTONOSUPPORT)]
    ops += _only(calls["socket"], [_argument(0), _Op(_JEQ_K, _AF_NETLINK, 0, len(netlink)), *netlink, *families])
    bad = [_Op(_JEQ_K, request, len(_IOCTLS) - i, 0) for i, request in enumerate(_IOCTLS)]
    ops += _only(calls["ioctl"], [_argument(1), *bad, _Op(_RET_K, _ALLOW), _refuse(errno.EPERM)])
    ops += _only(calls["personality"], [_argument(0), *_one_of(_PERSONALITIES, errno.EPERM)])
    for name, number in calls.items():
        if name not in _BY_ARGUMENT:
            absent = name in _ABSENT or name.startswith("io_uring")
            ops += _only(number, [_refuse(errno.ENOSYS if absent else errno.EPERM)])
    return [*ops, _Op(_RET_K, _ALLOW)]
