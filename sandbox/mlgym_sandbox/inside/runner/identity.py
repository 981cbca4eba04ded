"""Who the runner is and who the commands are."""

from __future__ import annotations

import os


class Identity:
    """The agent's uid and gid; ``with identity:`` borrows them (the effective ones) for a moment.

    With the effective uid changed the kernel checks files and signals as for the agent, whatever
    capabilities the runner has; the real and saved uid stay, so the agent cannot signal the runner.
    """

    def __init__(self, uid: int | None, gid: int | None) -> None:
        self.uid, self.gid = uid, gid
        self.own_uid, self.own_gid = os.geteuid(), os.getegid()
        self.depth = 0
        if uid is not None:
            os.setgroups([])

    def __enter__(self) -> None:
        self.depth += 1
        if self.uid is not None and self.depth == 1:
            os.setegid(self.gid if self.gid is not None else self.uid)
            os.seteuid(self.uid)

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if self.uid is not None and self.depth == 0:
            os.seteuid(self.own_uid)
            os.setegid(self.own_gid)

    def become(self) -> None:
        """Turn this (forked) process into the agent for good."""
        if self.uid is not None:
            gid = self.gid if self.gid is not None else self.uid
            os.setresgid(gid, gid, gid)
            os.setresuid(self.uid, self.uid, self.uid)
