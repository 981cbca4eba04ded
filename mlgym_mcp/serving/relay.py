"""The stdio relay: moves bytes between a client's pipes and the host's socket, and holds nothing.

Standard library only and few imports: clients start one per connection, some one per tool call, and it must be
there within tens of milliseconds. It may be killed at any moment without any loss.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mlgym_sandbox.home import home

ENGINE_VARIABLES = ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
"""Which engine is meant by ``docker``: said by whoever asks for a session, not by whoever started the host."""
_START_S = 30.0
_CHUNK = 1 << 16


def socket_path() -> Path:
    """Return where the host listens. A path too long for a socket (108 bytes) moves to a private folder in /tmp."""
    path = home("run") / "host.sock"
    if len(os.fsencode(path)) < 100:
        return path
    import hashlib

    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    folder = Path(f"/tmp/mlgym-{os.getuid()}")  # noqa: S108 - checked below to be ours alone
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise SystemExit(f"{folder} belongs to somebody else: remove it, or set MLGYM_HOME to a shorter path")
    return folder / f"{digest}.sock"


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    return connection


def connect_to_host(*, start: bool = True) -> socket.socket:
    """Return a connection to the user's host, starting one if none runs.

    Raises:
        SystemExit: it could not be started; the message says where its log is.
    """
    path = socket_path()
    connection = _connect(path)
    if connection is not None:
        return connection
    if not start:
        raise SystemExit("no host is running")
    import fcntl

    folder = home("run")
    log = folder / "host.log"
    with (folder / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several relays that come at once, one starts the host
        connection = _connect(path)
        if connection is not None:
            return connection
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "mlgym_mcp.serving"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd="/",
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            connection = _connect(path)
            if connection is not None:
                return connection
            if process.poll() not in (None, 0):
                break
            time.sleep(0.01)
    raise SystemExit(f"mlgym-mcp: the host process did not start; see {log}")


def parent_identity() -> str:
    """Return who started this process: pid and start time, so that all relays of one agent meet one session."""
    parent = os.getppid()
    try:
        stat = Path(f"/proc/{parent}/stat").read_text()
        return f"{parent}:{stat.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return str(parent)


def relay(greeting: dict[str, Any]) -> int:
    """Greet the host and move bytes until either side ends; returns the exit status.

    Args:
        greeting: the session that is wanted: task, preset, budget..., or no task: the desk; gets a key if it has none.
    """
    from mlgym_mcp import __version__

    task = greeting.get("task")
    if greeting.get("key") is None:
        what = "desk" if task is None else f"{task}:{greeting.get('preset')}"
        greeting["key"] = f"parent:{parent_identity()}:{what}"
    engine = {name: os.environ[name] for name in ENGINE_VARIABLES if os.environ.get(name)}
    connection = connect_to_host()
    connection.sendall(json.dumps({**greeting, "engine": engine, "version": __version__}).encode() + b"\n")
    answer, rest = _line(connection)
    if not answer.get("ok"):
        print(f"mlgym-mcp: {answer.get('error', 'the host closed the connection')}", file=sys.stderr)  # noqa: T201
        return 2
    _write(1, rest)
    _pump(connection)
    return 0


def ask_host(command: str) -> dict[str, Any]:
    """Send a command (``status``, ``stop``) to a running host and return its answer.

    Raises:
        SystemExit: no host is running.
    """
    with connect_to_host(start=False) as connection:
        connection.sendall(json.dumps({"command": command}).encode() + b"\n")
        return _line(connection)[0]


def _line(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    received = b""
    while b"\n" not in received:
        data = connection.recv(_CHUNK)
        if not data:
            return {}, b""
        received += data
    line, _, rest = received.partition(b"\n")
    answer: dict[str, Any] = json.loads(line)
    return answer, rest


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _pump(connection: socket.socket) -> None:
    """Move bytes both ways. After the client's end of file, what the host still answers is passed on."""
    sources = [0, connection.fileno()]
    try:
        while connection.fileno() in sources:
            readable, _, _ = select.select(sources, [], [])
            if 0 in readable:
                data = os.read(0, _CHUNK)
                if data:
                    connection.sendall(data)
                else:
                    sources.remove(0)
                    connection.shutdown(socket.SHUT_WR)
            if connection.fileno() in readable:
                data = connection.recv(_CHUNK)
                if not data:
                    return
                _write(1, data)
    except (BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return
    finally:
        connection.close()
