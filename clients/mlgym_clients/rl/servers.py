"""Where sessions are made: at a server that is given, or at one of this process's own."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlgym_clients.sweep.own_server import ServerStartError, keeper_command

SERVER = "MLGYM_SERVER"
ADMIN_TOKEN = "MLGYM_ADMIN_TOKEN"
_END_S = 90.0
_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server answers, the admin token of its control API, and whether it ends with this process."""

    url: str
    token: str = ""
    own: bool = False


class OwnServer:
    """A server on a loopback port that ends with whoever started it, killed or not.

    :mod:`mlgym_clients.sweep.keeper` sees to that. Nothing of it is left but the episodes of its sessions: its log and
    its lock are files without names.

    Args:
        arguments: of ``mlgym-mcp serve``.

    Raises:
        ServerStartError: it did not come up.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        token = secrets.token_urlsafe(24)
        self._log, lock = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        with lock:
            self._keeper = subprocess.Popen(
                keeper_command(f"/proc/self/fd/{lock.fileno()}", arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, ADMIN_TOKEN: token},
                pass_fds=(lock.fileno(),),
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        with self._keeper.stdout as said:
            port = said.readline().strip()
        if not port:
            words = self._last_words()
            self.stop()
            raise ServerStartError(f"the server could not be started: {words or 'it said nothing'}")
        self.address = Address(f"http://127.0.0.1:{int(port)}", token, own=True)
        self.leases = 0
        self._disowned = False

    @property
    def kept(self) -> bool:
        """Whether it runs, or will be started again. A forked process cannot tell."""
        return self._disowned or self._keeper.poll() is None

    def stop(self) -> None:
        """End the server and its sessions, and wait until it has ended."""
        self.let_go()
        try:
            self._keeper.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        self._log.close()

    def let_go(self) -> None:
        """Have the server end, without waiting for it."""
        if self._keeper.stdin is not None:
            with contextlib.suppress(OSError):
                self._keeper.stdin.close()

    def disown(self) -> None:
        """Be nobody's child: the process was forked."""
        self.let_go()
        self._disowned = True
        self._keeper.returncode = 0

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", "replace")[-_TAIL:].strip()


class _Here:
    """What this process has: its own servers with their leases, and those that were let go, for which nobody waited."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.own: dict[tuple[str, ...], OwnServer] = {}
        self.leaving: list[OwnServer] = []

    def leave_to_parent(self) -> None:
        """A forked process has no servers; as long as it held their pipes, they would not end with its parent."""
        for there in [*self.own.values(), *self.leaving]:
            there.disown()
        self.__init__()  # type: ignore[misc]


_here = _Here()
os.register_at_fork(after_in_child=_here.leave_to_parent)


class Lease:
    """A place to make sessions at: the server that is given, or else one that all leases of this process share.

    Args:
        server: its URL; default: ``$MLGYM_SERVER``, else, as for an empty one, a server of this process's own.
        token: its admin token, or the file that holds it; default: ``$MLGYM_ADMIN_TOKEN``.
        serve: arguments of ``mlgym-mcp serve`` for an own server.

    Raises:
        ServerStartError: the own server did not come up.
    """

    def __init__(self, server: str | None = None, token: str | Path | None = None, serve: Sequence[str] = ()) -> None:
        self._own: OwnServer | None = None
        self._serve = tuple(serve)
        self.address = given(server, token)
        if not self.address.url:
            self._take()

    def _take(self) -> None:
        with _here.lock:
            there = _here.own.get(self._serve)
            if there is None or not there.kept:
                if there is not None:
                    there.stop()  # it has ended: nothing to wait for
                there = _here.own[self._serve] = OwnServer(self._serve)
            there.leases += 1
            self._own, self.address = there, there.address

    @property
    def gone(self) -> bool:
        """Whether an own server has ended for good."""
        return self._own is not None and not self._own.kept

    def renewed(self) -> Address:
        """Return the address: another one, if an own server has ended for good. A given one may come back.

        Raises:
            ServerStartError: it did not come up.
        """
        with _here.lock:
            before = self._own
            if before is not None and self.gone:
                self._take()
                before.leases -= 1
            return self.address

    def close(self) -> None:
        """Give it back; the last one to do so ends an own server and waits until it has ended."""
        if (last := self._last()) is not None:
            last.stop()

    def drop(self) -> None:
        """Give it back without waiting; fit for finalizers."""
        if (last := self._last()) is not None:
            _here.leaving.append(last)
            last.let_go()

    def _last(self) -> OwnServer | None:
        own, self._own = self._own, None
        if own is None:
            return None
        with _here.lock:
            own.leases -= 1
            if own.leases or _here.own.get(self._serve) is not own:  # others have it, or it is a parent's, or replaced
                return None
            return _here.own.pop(self._serve)


def given(server: str | None = None, token: str | Path | None = None) -> Address:
    """Return the address that arguments and environment name; its URL is empty when they name none."""
    url = os.environ.get(SERVER, "") if server is None else server
    if isinstance(token, Path):
        token = token.read_text().strip()
    return Address(url.rstrip("/"), token or os.environ.get(ADMIN_TOKEN, "")) if url else Address("")


@contextmanager
def running_server(*serve: str) -> Iterator[Address]:
    """Run a server of one's own for several environments or processes; its sessions end with it.

    Args:
        serve: arguments of ``mlgym-mcp serve``, for example ``"--sandbox", "docker"``.

    Raises:
        ServerStartError: it did not come up.
    """
    own = OwnServer(serve)
    try:
        yield own.address
    finally:
        own.stop()
