"""GPUs in bubblewrap sandboxes: the device nodes of those that are lent, and no others."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from mlgym_sandbox.errors import BackendUnavailableError
from mlgym_sandbox.gpus import CONTROL, Gpu, discover, is_nvidia

DRIVER: Final = Path("/usr/local/nvidia")
_EVERYONE = stat.S_IROTH | stat.S_IWOTH


def nodes(gpus: Sequence[str], known: Sequence[Gpu] | None = None) -> tuple[str, ...]:
    """Return the device nodes that a sandbox with these GPUs sees; blocks.

    Args:
        gpus: their ids.
        known: the machine's; default: looked for now.

    Raises:
        BackendUnavailableError: one is not there, or its nodes are not known or not open to every user.
    """
    if not gpus:
        return ()
    found = {gpu.id: gpu for gpu in (discover().gpus if known is None else known)}
    shown: list[str] = []
    for name in gpus:
        gpu = found.get(name)
        if gpu is None:
            raise BackendUnavailableError(
                f"this machine has no GPU {name} (any more); `nvidia-smi -L` lists those it has"
            )
        if not gpu.nodes:
            raise BackendUnavailableError(
                f"which device nodes open the GPU {name} cannot be told; install nvidia-ml-py beside the server "
                "(pip install nvidia-ml-py), or use the docker backend"
            )
        shown += gpu.nodes
    if any(map(is_nvidia, gpus)):
        if not (set(CONTROL[:2]) <= {node for node in CONTROL if Path(node).exists()}):
            raise BackendUnavailableError(
                f"{' and '.join(CONTROL[:2])} are needed for a GPU; make them: sudo nvidia-modprobe -u -c=0"
            )
        shown += [node for node in CONTROL if Path(node).exists()]
    shown = list(dict.fromkeys(shown))
    for node in shown:
        _check_open(node)
    return tuple(shown)


def driver() -> str | None:
    """Return the driver's own folder where it has one (machines that are containers); else it is part of ``/usr``."""
    return str(DRIVER) if DRIVER.is_dir() else None


def environment(gpus: Sequence[str]) -> Mapping[str, str]:
    """Return what tells programs which GPUs are theirs: those of others would be counted, and then not open."""
    if not gpus or not is_nvidia(gpus[0]):
        return {}
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    return visible | ({"LD_LIBRARY_PATH": f"{DRIVER}/lib64:{DRIVER}/lib"} if driver() else {})


def _check_open(node: str) -> None:
    try:
        mode = Path(node).stat().st_mode
    except OSError as error:
        raise BackendUnavailableError(f"the GPU's device node {node} is not usable: {error.strerror}") from error
    # The commands run as a user of their own, who is in no group.
    if mode & _EVERYONE != _EVERYONE:
        raise BackendUnavailableError(
            f"the GPU's device node {node} is not open to every user, and a sandbox's commands run as one of their "
            f'own; open it with a udev rule (MODE="0666"), or once: sudo chmod a+rw {node}'
        )
