"""A user namespace with two users in it: 0, who runs the runner, and 1000, who runs the commands."""

from __future__ import annotations

import os

from mlgym_sandbox.launching import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:  # these imports would slow the launcher down
    from collections.abc import Sequence

    Map = Sequence[tuple[int, int, int]]
    """Lines of a uid or gid map: first inside, first outside, how many."""


def make(uids: Map, gids: Map, newuidmap: str | None, newgidmap: str | None) -> int:
    """Make a user namespace and return a descriptor of it; it lives as long as that or a process in it.

    Nothing inside can make further user namespaces.

    Args:
        uids: the uid map.
        gids: the gid map.
        newuidmap: the setuid program that writes the map for an ordinary user; ``None`` as root.
        newgidmap: the same for groups.

    Raises:
        OSError: the kernel or one of the programs refused.
    """
    said, say = os.pipe()
    heard, tell = os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            os.close(said)
            os.close(tell)  # so that the maker's end, or its death, is seen as the end of the pipe
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(say, b"u")
            os.read(heard, 1)
            _forbid_more()
            os.write(say, b"m")
            os.read(heard, 1)
        except OSError as error:
            os.write(say, f"!{error.errno} {error.strerror}".encode())
        finally:
            os._exit(0)
    try:
        _expect(said, b"u")
        _write(holder, "uid", uids, newuidmap)
        _write(holder, "gid", gids, newgidmap)
        os.write(tell, b"1")
        _expect(said, b"m")
        return os.open(f"/proc/{holder}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for descriptor in (tell, heard, said, say):
            os.close(descriptor)
        os.waitpid(holder, 0)


def _expect(said: int, word: bytes) -> None:
    got = os.read(said, 512)
    if got != word:
        number, _, text = got[1:].decode(errors="replace").partition(" ")
        raise OSError(int(number or "5"), f"making a user namespace: {text or 'it ended'}")


def _write(pid: int, kind: str, lines: Map, program: str | None) -> None:
    if program is None:
        descriptor = os.open(f"/proc/{pid}/{kind}_map", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, "".join(f"{a} {b} {c}\n" for a, b, c in lines).encode())
        finally:
            os.close(descriptor)
        return
    import subprocess  # here, since it takes longer to import than all the rest together

    numbers = [str(number) for line in lines for number in line]
    done = subprocess.run([program, str(pid), *numbers], capture_output=True, timeout=10, check=False)
    if done.returncode:
        raise OSError(1, f"{program}: {done.stderr.decode(errors='replace').strip()}")


def _forbid_more() -> None:
    """No more user namespaces below this one: one kernel interface less for whoever is inside."""
    try:
        descriptor = os.open("/proc/sys/user/max_user_namespaces", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # a read-only /proc/sys; the system-call filter refuses them all the same
    try:
        os.write(descriptor, b"0")
    except OSError:
        pass
    finally:
        os.close(descriptor)
