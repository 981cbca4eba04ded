"""Runs a program that reaches nothing but some ports of loopback: for clients of others that like to phone home.

A network namespace hides all networks, this machine's loopback too, but no unix sockets. So each port gets one, in a
folder; this file, run as a program in the namespace, listens on the same ports there, hands every connection on to the
port's socket, and becomes the program. Standard library only: it is started with nothing else.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

Connect = Callable[[], socket.socket]
_LOOK_S = 0.2


@contextmanager
def cut_off(command: Sequence[str], ports: Sequence[int], folder: Path) -> Iterator[list[str]]:
    """Yield the command line that runs a command where only these ports of 127.0.0.1 are, while they are handed on.

    Args:
        command: what is to be run.
        ports: what it may reach.
        folder: an empty one, of a short name.
    """
    ways = {_listening_at(folder / str(port)): _to_port(port) for port in ports}
    done = threading.Event()
    thread = threading.Thread(target=_hand_on, args=(ways, done.is_set))
    thread.start()
    try:
        bwrap = ["bwrap", "--dev-bind", "/", "/", "--unshare-net", "--die-with-parent", "--"]
        yield [*bwrap, sys.executable, "-I", __file__, str(folder), *command]
    finally:
        done.set()
        thread.join()
        for listener in ways:
            listener.close()


def _listening_at(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    return listener


def _to_port(port: int) -> Connect:
    return lambda: socket.create_connection(("127.0.0.1", port))


def _to_socket(path: Path) -> Connect:
    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        return connection

    return connect


def _hand_on(ways: Mapping[socket.socket, Connect], over: Callable[[], bool]) -> None:
    """Pass on whatever comes in at the listeners until it is over; connections end when both their ends do."""
    while not over():
        for listener in select.select(list(ways), [], [], _LOOK_S)[0]:
            caller, _ = listener.accept()
            threading.Thread(target=_join, args=(caller, ways[listener]), daemon=True).start()


def _join(caller: socket.socket, connect: Connect) -> None:
    with caller, suppress(OSError), connect() as called:
        back = threading.Thread(target=_pump, args=(called, caller), daemon=True)
        back.start()
        _pump(caller, called)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def main() -> None:
    """Inside: listen on the ports that the folder's sockets are named for, and become the command."""
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    ways = {socket.create_server(("127.0.0.1", int(path.name))): _to_socket(path) for path in folder.iterdir()}
    parent = os.getpid()
    if os.fork():
        os.execvp(command[0], command)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # whoever reads what the command prints must see its end
        os.dup2(nothing, descriptor)
    _hand_on(ways, lambda: os.getppid() != parent)
    os._exit(0)


if __name__ == "__main__":
    main()
