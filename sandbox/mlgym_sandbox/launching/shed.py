"""Runs inside, before the runner's own first line: throws away what bubblewrap had to leave.

bubblewrap cannot cut the bounding set of a process that came with its user namespace. With ``CAP_SETPCAP`` we
can, and drop that too. Its text is put in front of the runner's; keep it free of names that could clash.
"""

import ctypes as _ctypes
import os as _os
import struct as _struct

_KEPT = (5, 6, 7)  # CAP_KILL, CAP_SETGID, CAP_SETUID
_CAPBSET_DROP, _CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
_VERSION = 0x20080522


def _shed() -> None:
    libc = _ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        if capability not in _KEPT:
            libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0)  # fails for numbers that the kernel does not know
    libc.prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    mask = sum(1 << capability for capability in _KEPT)
    sets = _struct.pack("=6I", mask, mask, 0, 0, 0, 0)  # effective, permitted, inheritable; low and high halves
    if libc.capset(_struct.pack("=Ii", _VERSION, 0), sets) != 0:
        raise OSError(_ctypes.get_errno(), "capset")


if __name__ == "__main__" and _os.getpid() == 1 and _os.getuid() == 0:  # never on import
    _shed()
