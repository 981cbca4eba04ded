"""What the runner lays upon itself at its beginning, and all commands inherit."""

from __future__ import annotations

import os
import resource

from mlgym_sandbox.inside.runner.native import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mlgym_sandbox.inside.runner.wire import Header

PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 4, 36, 38


def confine(config: Header) -> None:
    """Set limits, give up new privileges, and let nobody look into this process."""
    if config["kill"] != "everyone":
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_DUMPABLE, 0)
    os.umask(0o022)
    wanted = {
        resource.RLIMIT_NOFILE: config["nofile"],
        resource.RLIMIT_NPROC: config["nproc"],
        resource.RLIMIT_FSIZE: config["fsize_bytes"],
        resource.RLIMIT_CORE: 0,
    }
    for what, value in wanted.items():
        if value is not None:
            hard = resource.getrlimit(what)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(what, (value, value))


def prctl(option: int, value: int) -> None:
    libc("prctl", option, value, 0, 0, 0)
