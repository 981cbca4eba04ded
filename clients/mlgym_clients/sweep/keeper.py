"""A server of the sweep's own, kept: started again when it dies, ended when whoever asked for it is gone.

``python -m mlgym_clients.sweep.keeper LOCK -- SERVE-ARGUMENTS`` with the admin token in ``$MLGYM_ADMIN_TOKEN``
prints the port, once the server is there, and goes on until its standard input ends. As that happens when its
parent is killed, too, no server is left behind. A server that dies is started again at the same address, where it
goes on with the sessions. The lock file, held by keeper and server, keeps a second server from starting before
the first has written down how its sessions ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

_ADMIN = "MLGYM_ADMIN_TOKEN"
_LOOK_S = 0.05
_LOCK_S = 90.0
_START_S = 60.0
_END_S = 60.0
_MOST_DEATHS = 5
_PR_SET_PDEATHSIG = 1
_WITHIN_S = 60.0


class KeptServer:
    """The server process and its address.

    Args:
        lock: the open lock file, inherited by the server.
        port: where it listens.
        arguments: of ``mlgym-mcp serve``, besides the address.
    """

    def __init__(self, lock: int, port: int, arguments: list[str]) -> None:
        self.port = port
        self._lock = lock
        command = ["serve", "--http", f"127.0.0.1:{port}", *arguments]
        self._command = [sys.executable, "-m", "mlgym_mcp.cli.entry", *command]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it prints goes to standard error."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            pass_fds=(self._lock,),
            start_new_session=True,
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - there is no other thread
        )
        note = json.dumps({"port": self.port, "pid": self._process.pid})
        os.pwrite(self._lock, note.encode(), 0)
        os.ftruncate(self._lock, len(note))

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def answers(self) -> bool:
        """Whether it answers requests."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health", timeout=10) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError, ValueError):
            return False

    def stop(self) -> None:
        """End it and its sessions; kill it if that takes too long."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
            return
        self._process.kill()
        self._process.wait()


def _end_with_parent() -> Callable[[], None]:
    """Return what makes a new process end with this one, should this one be killed (as Ray kills all children)."""
    keeper, prctl = os.getpid(), ctypes.CDLL(None, use_errno=True).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != keeper:  # too late to be told
            os._exit(1)

    return in_child


def keep(server: KeptServer, owner: int) -> int:
    """Keep a server until its owner's pipe ends; returns the exit status.

    Args:
        server: to be started.
        owner: descriptor that ends with the owner.
    """
    deaths: list[float] = []
    server.start()
    try:
        deadline = time.monotonic() + _START_S
        while not server.answers():
            if not server.alive or _ended(owner, _LOOK_S) or time.monotonic() > deadline:
                return 1
        print(server.port, flush=True)  # noqa: T201 - what the owner waits for
        while not _ended(owner, _LOOK_S):
            if server.alive:
                continue
            now = time.monotonic()
            deaths = [then for then in deaths if now - then < _WITHIN_S] + [now]
            if len(deaths) > _MOST_DEATHS:
                return 1
            server.start()
    finally:
        server.stop()
    return 0


def _ended(descriptor: int, seconds: float) -> bool:
    """Wait so long for the end of a pipe."""
    ready, _, _ = select.select([descriptor], [], [], seconds)
    return bool(ready) and not os.read(descriptor, 1024)


def take_lock(path: Path) -> int:
    """Take the lock file, waiting for an earlier server to end.

    Raises:
        OSError: it does not end, or the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                there = os.pread(descriptor, 200, 0).decode(errors="replace")
                os.close(descriptor)
                raise OSError(f"a server of an earlier run is still there: {there}") from None
            time.sleep(_LOOK_S)
        else:
            return descriptor


def choose_port(lock: int) -> int:
    """Return the port of the server before, so that this one goes on with its sessions; else a free one."""
    wanted = 0
    with contextlib.suppress(ValueError, LookupError, TypeError):
        wanted = int(json.loads(os.pread(lock, 200, 0))["port"])
    for port in (wanted, 0):
        with contextlib.suppress(OSError, OverflowError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise OSError("there is no free port")


def main(arguments: list[str]) -> int:
    """Run the keeper; returns its exit status."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray's threads block signals, and so would the server
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the terminal's: the owner says when to end
    path, _, *rest = arguments
    try:
        lock = take_lock(Path(path))
        port = choose_port(lock)
    except OSError as exc:
        print(f"mlgym-mcp: {exc}", file=sys.stderr)  # noqa: T201 - to whoever reads the log
        return 1
    return keep(KeptServer(lock, port, rest), sys.stdin.fileno())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
