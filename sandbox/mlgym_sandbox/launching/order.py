"""What the launcher is told: one value, sent as bytes."""

from __future__ import annotations

import marshal

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing alone would double the launcher's start
    from collections.abc import Mapping, Sequence
    from typing import Any, Literal, TypedDict

LISTENER = 3
"""Descriptor of the listening socket in the runner."""
OOM_COUNTER = 4
"""Descriptor of the cgroup's file with the ``oom_kill`` line in the runner, when there is one."""
STAGE = "/tmp"  # noqa: S108 - a private mount over it; bubblewrap itself needs that folder, so it is there
PIDS = "pids"
"""File in the sandbox's folder: pid and start time of bubblewrap, pid and start time of the first process inside."""
LOG = "log"
"""File in the sandbox's folder: what bubblewrap and the runner had to complain about."""

if TYPE_CHECKING:
    Users = Literal["mapped", "subuids", "single"]

    class Order(TypedDict):
        """One sandbox to start, or one folder to empty.

        In ``arguments`` a word ``@name@`` stands for the path of a source, or the descriptor of a memory file, of
        that name.

        Attributes:
            action: ``start`` a sandbox, or ``erase`` the contents of ``folder`` as root of the namespace.
            folder: the sandbox's folder.
            users: who is who: two mapped host uids (as root), own uid and a subordinate one, or only one's own.
            uids: the uid map; inside, outside, count.
            gids: the gid map.
            newuidmap: path of the program for ``subuids``.
            newgidmap: its sister.
            entrances: files to write a pid to, to bring it under the limits.
            oom_counter: path of the counter; ``scope`` for the one of the scope that systemd has put us in.
            rlimits: resource number and limit.
            image: an ext4 image to mount as the source ``workspace``.
            sources: paths on the machine to show inside.
            memory_folders: name and mount options of file systems in memory to make, shown like sources.
            owners: source name and the uid inside that is to own that folder.
            memory_files: small files that never touch a disk.
            listener: the descriptor of the listening socket, here.
            bwrap: path of bubblewrap.
            arguments: its arguments.
            command: what to run inside.
        """

        action: Literal["start", "erase"]
        folder: str
        users: Users
        uids: Sequence[tuple[int, int, int]]
        gids: Sequence[tuple[int, int, int]]
        newuidmap: str | None
        newgidmap: str | None
        entrances: Sequence[str]
        oom_counter: str | None
        rlimits: Mapping[int, int]
        image: str | None
        sources: Mapping[str, str]
        memory_folders: Mapping[str, str]
        owners: Mapping[str, int]
        memory_files: Mapping[str, bytes]
        listener: int
        bwrap: str
        arguments: Sequence[str]
        command: Sequence[str]


def encode(order: Order) -> bytes:
    """Return the order as bytes for a launcher run by this same interpreter."""
    return marshal.dumps(_plain(order))


def decode(data: bytes) -> Order:
    """Return the order. Not JSON: importing that would take as long as all the rest of a launch."""
    order: Order = marshal.loads(data)  # noqa: S302 - from our own server, over a pipe
    return order


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    return value
