"""A runner on this machine as a detached process: its folder, its socket, what is remembered of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mlgym_sandbox.errors import SandboxError, SandboxLostError
from mlgym_sandbox.home import home
from mlgym_sandbox.processes import lives, process_started
from mlgym_sandbox.sockets import ConnectedSocket

_RECORD = "state.json"
_SOCKET = "socket"
LOG = "runner.log"


@dataclass(frozen=True, slots=True)
class Record:
    """What a later server must know. Holds the secret: the file is for its owner only.

    Attributes:
        name: the sandbox's.
        magic: its secret, hexadecimal.
        labels: to be found by.
        pid: the runner's; 0 while it is being started.
        started: start time of that process, clock ticks since boot: with the pid, its identity.
    """

    name: str
    magic: str
    labels: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0
    started: int = 0

    @property
    def alive(self) -> bool:
        """Whether the runner lives."""
        return lives(self.pid, self.started)


class LocalFolder:
    """All sandboxes of one kind below ``run/<kind>``, one folder each. Blocking, all of it small."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def path(self, name: str) -> Path:
        """Return the folder of a sandbox, there or not."""
        return home("run", self._kind) / name

    def make(self, record: Record) -> Path:
        """Make the folder of a new sandbox, with its record in it.

        Raises:
            SandboxError: the name is taken.
        """
        folder = self.path(record.name)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            raise SandboxError(f"there is a sandbox named {record.name!r} already; choose another name") from None
        self.save(record)
        return folder

    def save(self, record: Record) -> None:
        """Write the record, whole or not at all."""
        path = self.path(record.name) / _RECORD
        temporary = path.with_suffix(".part")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, not a path
            json.dump(asdict(record), file)
        temporary.replace(path)

    def started(self, record: Record, pid: int) -> Record:
        """Remember the runner's process."""
        record = replace(record, pid=pid, started=process_started(pid) or 0)
        self.save(record)
        return record

    def load(self, name: str) -> Record | None:
        """Return what is remembered; ``None`` when there is no such sandbox or nothing legible."""
        try:
            return Record(**json.loads((self.path(name) / _RECORD).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def all(self) -> Iterator[Record]:
        """Yield every sandbox remembered, dead or alive."""
        for folder in sorted(home("run", self._kind).iterdir()):
            record = self.load(folder.name)
            if record is not None:
                yield record

    def log(self, name: str) -> str:
        """Return the end of what the runner had to complain about."""
        try:
            return (self.path(name) / LOG).read_text(encoding="utf-8", errors="replace")[-2000:].strip()
        except OSError:
            return ""

    def delete(self, name: str) -> None:
        """Delete the folder, whatever modes the commands have left in it and however deep it is."""
        folder = self.path(name)
        for program in (("rm", "-rf"), ("chmod", "-R", "u+rwX"), ("rm", "-rf")):
            if not folder.exists():
                return
            subprocess.run([*program, "--", str(folder)], capture_output=True, timeout=120, check=False)
        if not folder.exists():
            return
        raise SandboxError(f"the folder {folder} could not be deleted; delete it by hand")

    def listen(self, name: str) -> socket.socket:
        """Return a listening socket in the folder, for the runner to inherit."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with _short(self.path(name)) as place:
                listener.bind(f"{place}/{_SOCKET}")
            listener.listen(16)
        except BaseException:
            listener.close()
            raise
        return listener

    async def connect(self, name: str) -> ConnectedSocket:
        """Return a connection to the runner.

        Raises:
            SandboxLostError: nobody listens.
        """
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            link.setblocking(False)  # a unix socket connects at once, or not at all
            with _short(self.path(name)) as place:
                link.connect(f"{place}/{_SOCKET}")
            return ConnectedSocket(link)
        except OSError as error:
            link.close()
            raise SandboxLostError(f"the sandbox {name} cannot be reached: {error.strerror or error}") from error
        except BaseException:
            link.close()
            raise


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path of few characters for a folder: the kernel takes no socket name above 107."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
