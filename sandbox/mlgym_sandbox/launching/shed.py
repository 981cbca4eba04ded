"""Runs inside, before the runner's own first line: throws away what bubblewrap had to leave.

bubblewrap cannot cut the bounding set of a process that came with its user namespace. With ``CAP_SETPCAP`` we
can, and drop that too. Imported as part of the runner's program, see ``inside.bundle``.
"""

import os
import sys

from mlgym_sandbox.inside.runner.native import libc

_KEPT = (5, 6, 7)  # CAP_KILL, CAP_SETGID, CAP_SETUID
_CAPBSET_DROP, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
_VERSION = 0x20080522


def _shed() -> None:
    for capability in range(64):
        if capability not in _KEPT:
            libc("prctl", _CAPBSET_DROP, capability, 0, 0, 0)  # fails for numbers that the kernel does not know
    libc("prctl", _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    mask = sum(1 << capability for capability in _KEPT)
    # Effective, permitted, inheritable; low and high halves.
    sets = b"".join(half.to_bytes(4, sys.byteorder) for half in (mask, mask, 0, 0, 0, 0))
    if libc("capset", _VERSION.to_bytes(4, sys.byteorder) + bytes(4), sets) != 0:
        raise OSError("the runner's capabilities could not be dropped")


if os.getpid() == 1 and os.getuid() == 0:  # never on import elsewhere
    _shed()
