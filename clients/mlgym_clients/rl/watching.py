"""This process's reaper: told of every session that is made here, so that none outlives its owner."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import Any

from mlgym_clients.rl.servers import Address

_AWAY_S = 60.0
"""So long the reaper waits for a server that is away and may go on with its sessions. An own one ends with us."""


class _Here:
    """What this process has of it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.reaper: subprocess.Popen[bytes] | None = None

    def leave_to_parent(self) -> None:
        """A forked process has a reaper of its own; as long as it held its parent's pipe, that would see no end."""
        if self.reaper is not None and self.reaper.stdin is not None:
            with contextlib.suppress(OSError):
                self.reaper.stdin.close()
            self.reaper.returncode = 0  # nobody's child here
        self.lock, self.reaper = threading.RLock(), None


_here = _Here()
os.register_at_fork(after_in_child=_here.leave_to_parent)


def watch(where: Address, session: str) -> None:
    """See to it that a session of a server is ended when this process is gone."""
    order = {"watch": session, "url": where.url, "token": where.token, "away_s": 0 if where.own else _AWAY_S}
    with _here.lock:
        if not _told(order):
            command = [sys.executable, "-m", "mlgym_clients.rl.reaper"]
            quiet = subprocess.DEVNULL
            _here.reaper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True
            )
            _told(order)


def forget(session: str) -> None:
    """Say that a session has ended."""
    _told({"forget": session})


def end(session: str) -> None:
    """Have a session ended, without waiting for it; fit for finalizers."""
    _told({"end": session})


def _told(order: dict[str, Any]) -> bool:
    reaper = _here.reaper
    if reaper is None or reaper.stdin is None:
        return False
    try:  # a line is shorter than what a pipe takes in one piece: no lock is needed
        os.write(reaper.stdin.fileno(), f"{json.dumps(order)}\n".encode())
    except (OSError, ValueError):
        return False
    return True
