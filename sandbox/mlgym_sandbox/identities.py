"""Who is who in a bubblewrap sandbox: which users of this machine its runner and its commands are.

Two users wherever possible: the runner is 0 inside and the commands are 1000, so that no command can signal,
trace or imitate the runner. As root both are unused high numbers, new for each sandbox. An ordinary user needs
a subordinate uid (``/etc/subuid``) and ``newuidmap``; without them both are the user's own.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlgym_sandbox.launching.order import Users

RUNNER = 0
AGENT = 1000

_FIRST_UNUSED = 0x70000000
_LAST_UNUSED = 0x7FFFFFFF
"""The range above all that distributions and container tools hand out."""
_FEWEST = 1000

Map = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Identities:
    """The users of one sandbox.

    Attributes:
        users: how they come to be.
        uids: the uid map of its user namespace; inside, outside, count. Empty when bubblewrap makes it.
        gids: the gid map.
        newuidmap: program that writes the maps for an ordinary user.
        newgidmap: its sister.
    """

    users: Users
    uids: Map = ()
    gids: Map = ()
    newuidmap: str | None = None
    newgidmap: str | None = None

    @property
    def split(self) -> bool:
        """Whether the runner is another user than the commands."""
        return self.users != "single"


SINGLE = Identities("single")


def of_root() -> Identities | None:
    """Return two host uids that nobody uses; ``None`` when this process is not root, or has too few uids."""
    if os.geteuid() != 0:
        return None
    uid, gid = _pick("uid"), _pick("gid")
    if uid is None or gid is None:
        return None
    return Identities("mapped", _two(uid, uid + 1), _two(gid, gid + 1))


def of_user() -> Identities | str:
    """Return a split of the user's own and subordinate uids, or a sentence that says what is missing."""
    programs = shutil.which("newuidmap"), shutil.which("newgidmap")
    if None in programs:
        return "newuidmap is missing"
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()} has no name in the user database"
    uid = _subordinate(Path("/etc/subuid"), name)
    gid = _subordinate(Path("/etc/subgid"), name)
    if uid is None or gid is None:
        return f"{name} has no range in /etc/{'subuid' if uid is None else 'subgid'}"
    return Identities("subuids", _two(uid, os.geteuid()), _two(gid, os.getegid()), *programs)


def _two(runner: int, agent: int) -> Map:
    return ((RUNNER, runner, 1), (AGENT, agent, 1))


def _pick(kind: str) -> int | None:
    """Two neighbouring numbers, high up in what this process itself has."""
    lines = [tuple(map(int, line.split())) for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
    first, _outside, count = max(lines)
    if count < _FEWEST:
        return None
    low, high = first + count // 2, first + count - 1
    if high >= _LAST_UNUSED:
        low, high = _FIRST_UNUSED, _LAST_UNUSED
    return low + 2 * secrets.randbelow((high - low) // 2)


def _subordinate(file: Path, name: str) -> int | None:
    """The first number of the first range that a user has."""
    try:
        text = file.read_text()
    except OSError:
        return None
    for line in text.splitlines():
        who, _, rest = line.strip().partition(":")
        first, _, count = rest.partition(":")
        if who in (name, str(os.geteuid())) and first.isdigit() and count.isdigit() and int(count) > 0:
            return int(first)
    return None
