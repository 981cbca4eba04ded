"""The system-call filter: what it answers, call by call, on both architectures, and what still works under it."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import subprocess
import sys

import pytest

from mlgym_sandbox import seccomp

ALLOW = 0x7FFF0000
KILL = 0x80000000
ERRNO = 0x00050000


def answer(machine: str, call: str | int, *args: int, audit: int | None = None) -> int:
    """Run the program as the kernel would."""
    known = seccomp.machine(machine)
    assert known is not None
    number = known.calls[call] if isinstance(call, str) else call
    padded = (*args, *(0,) * (6 - len(args)))
    data = struct.pack("<iIQ6Q", number, known.audit if audit is None else audit, 0, *padded)
    text = seccomp.program(machine)
    assert text is not None
    ops = list(struct.iter_unpack("=HBBI", text))
    at, accumulator = 0, 0
    for _ in range(len(ops) + 1):
        code, yes, no, k = ops[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x06:
            return int(k)
        else:
            hit = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += yes if hit else no
    raise AssertionError("the program does not end")


MACHINES = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


@MACHINES
@pytest.mark.parametrize(
    "call", ["mount", "ptrace", "bpf", "perf_event_open", "keyctl", "unshare", "setns", "pivot_root", "kexec_load",
             "open_by_handle_at", "process_vm_readv", "process_vm_writev", "finit_module", "quotactl", "reboot"]
)  # fmt: skip
def test_dangerous_calls_are_not_permitted(machine: str, call: str) -> None:
    assert answer(machine, call) == ERRNO | errno.EPERM


@MACHINES
@pytest.mark.parametrize("call", ["clone3", "io_uring_setup", "io_uring_enter", "userfaultfd"])
def test_some_calls_look_as_if_the_kernel_lacked_them(machine: str, call: str) -> None:
    assert answer(machine, call) == ERRNO | errno.ENOSYS


@MACHINES
def test_processes_and_threads_are_made_but_no_namespaces(machine: str) -> None:
    assert answer(machine, "clone", 17) == ALLOW  # fork
    assert answer(machine, "clone", 0x3D0F00) == ALLOW  # a thread, as glibc asks for it
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(machine, "clone", 17 | flag) == ERRNO | errno.EPERM
    assert answer(machine, "clone", 17 | 0x10000000 | 1 << 40) == ERRNO | errno.EPERM


@MACHINES
def test_only_ordinary_sockets_are_opened(machine: str) -> None:
    for family in (1, 2, 10):
        assert answer(machine, "socket", family, 1, 6) == ALLOW
    assert answer(machine, "socket", 16, 3, 0) == ALLOW
    assert answer(machine, "socket", 16, 3, 12) == ERRNO | errno.EPROTONOSUPPORT
    for family in (17, 38, 40, 31, 21):  # packet, alg, vsock, bluetooth, rds
        assert answer(machine, "socket", family, 1, 0) == ERRNO | errno.EAFNOSUPPORT


@MACHINES
def test_terminals_cannot_be_typed_into(machine: str) -> None:
    assert answer(machine, "ioctl", 1, 0x5412) == ERRNO | errno.EPERM
    assert answer(machine, "ioctl", 1, 0x541C) == ERRNO | errno.EPERM
    assert answer(machine, "ioctl", 1, 0x5401) == ALLOW
    assert answer(machine, "ioctl", 1, 0x5412 | 1 << 33) == ERRNO | errno.EPERM  # the kernel drops the high half


@MACHINES
def test_personality_switches_off_no_protection(machine: str) -> None:
    assert answer(machine, "personality", 0xFFFFFFFF) == ALLOW
    assert answer(machine, "personality", 0x0400000) == ERRNO | errno.EPERM


def test_a_foreign_architecture_is_killed() -> None:
    assert answer("x86_64", 1, audit=0x40000003) == KILL  # i386
    assert answer("aarch64", 1, audit=0xC000003E) == KILL
    assert answer("x86_64", 0x40000000 | 1) == KILL  # x32


@MACHINES
def test_everything_else_is_allowed(machine: str) -> None:
    known = seccomp.machine(machine)
    assert known is not None
    named = set(known.calls.values())
    assert all(answer(machine, number) == ALLOW for number in range(470) if number not in named)


def test_an_unknown_architecture_has_no_filter() -> None:
    assert seccomp.program("s390x") is None
    assert seccomp.machine("riscv64") is None


PROGRAM = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
text = bytes.fromhex(sys.argv[1])
buffer = ctypes.create_string_buffer(text)
class Prog(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
prog = Prog(len(text) // 8, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(prog)) == 0, ctypes.get_errno()
import multiprocessing, subprocess, threading, socket
assert subprocess.run(["bash", "-c", "echo $((6*7)) | cat"], capture_output=True).stdout == b"42\n"
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
out = []
thread = threading.Thread(target=out.append, args=(1,)); thread.start(); thread.join()
assert out == [1]
socket.socketpair(); socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
for family in (socket.AF_PACKET, 38):
    try:
        socket.socket(family, socket.SOCK_RAW)
    except OSError as error:
        assert error.errno == 97, error
    else:
        raise SystemExit("socket opened")
assert libc.unshare(0x10000000) == -1 and ctypes.get_errno() == 1
assert libc.mount(b"x", b"/mnt", b"tmpfs", 0, None) == -1 and ctypes.get_errno() == 1
assert libc.ptrace(0, 0, 0, 0) == -1 and ctypes.get_errno() == 1
status = open("/proc/self/status").read()
assert "Seccomp:\t2" in status
print("held")
"""


@pytest.mark.skipif(seccomp.program() is None, reason="no filter for this processor")
def test_the_kernel_takes_the_filter_and_programs_work_under_it() -> None:
    text = seccomp.program()
    assert text is not None
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, text.hex()], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "held\n", done.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is x86")
def test_the_old_system_call_gate_kills_the_process() -> None:
    """``int 0x80`` reaches the 32-bit table, where other numbers would slip through."""
    child = os.fork()
    if child == 0:
        try:
            text = seccomp.program()
            assert text is not None
            libc = ctypes.CDLL(None, use_errno=True)
            buffer = ctypes.create_string_buffer(text)

            class Prog(ctypes.Structure):
                _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

            libc.prctl(38, 1, 0, 0, 0)
            program = Prog(len(text) // 8, ctypes.addressof(buffer))
            libc.prctl(22, 2, ctypes.byref(program))
            import mmap

            page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
            page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
            address = ctypes.addressof(ctypes.c_char.from_buffer(page))
            ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) in (31, 11)  # SIGSYS, or SIGSEGV where the kernel lacks that gate
