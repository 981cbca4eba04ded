"""The GPUs of this machine: whole devices, or the slices (MIG) of those that are cut up. No library is needed.

NVIDIA's are asked for through NVML where its Python package (nvidia-ml-py) is installed, else from ``nvidia-smi``;
AMD's are read from the kernel (``/sys/class/kfd``). Which of them sandboxes may have can be narrowed with
``MLGYM_GPUS``: ``none``, or UUIDs and numbers with commas between them.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

CONTROL: Final = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
"""Device nodes that every user of any NVIDIA device needs."""
ALLOWED: Final = "MLGYM_GPUS"
MIB: Final = 1 << 20
_SMI_S = 30.0
_QUERY = "uuid,name,memory.total,mig.mode.current"
_PROFILE = re.compile(r"(\d+)gb", re.IGNORECASE)
_SLICE = re.compile(r"\s+MIG\s+(\S+)\s.*\(UUID:\s*(MIG-[^)\s]+)\)")
_WHOLE = re.compile(r"GPU\s+\d+:.*\(UUID:\s*(GPU-[^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One thing that can be handed to a sandbox.

    Attributes:
        id: its UUID (``GPU-...``, ``MIG-...``), or the name of its render node for AMD (``renderD128``).
        name: the model, for people.
        memory_mb: its memory, MiB.
        number: the device's place in the list of devices, counted from 0.
        part_of: the UUID of the device that it is a slice of; ``None`` for a whole one.
        nodes: the device nodes that make it usable, besides those in ``CONTROL``; empty if not known.
    """

    id: str
    name: str
    memory_mb: int
    number: int = 0
    part_of: str | None = None
    nodes: tuple[str, ...] = ()

    @property
    def nvidia(self) -> bool:
        """Whether it is NVIDIA's."""
        return is_nvidia(self.id)

    @property
    def memory_gb(self) -> float:
        """Its memory in units of 10^9 bytes, the way it is sold: a part of each is not reported, so MiB mislead."""
        return self.memory_mb * MIB / 1e9


@dataclass(frozen=True, slots=True)
class Inventory:
    """What was found, by what means, and, when nothing was, why and what to do."""

    gpus: tuple[Gpu, ...] = ()
    source: str = "nothing"
    problem: str | None = None


def is_nvidia(gpu: str) -> bool:
    """Whether an id is that of an NVIDIA device or slice."""
    return gpu.startswith(("GPU-", "MIG-"))


def discover(environ: Mapping[str, str] | None = None, *, root: Path = Path("/")) -> Inventory:
    """Look for GPUs; blocks, for a second where ``nvidia-smi`` has to be run.

    Args:
        environ: where ``MLGYM_GPUS`` and ``PATH`` are read; default: the process's environment.
        root: where ``/proc``, ``/sys`` and ``/dev`` are.
    """
    environ = os.environ if environ is None else environ
    allowed = environ.get(ALLOWED, "all").strip()
    if allowed == "none":
        return Inventory(problem=f"{ALLOWED}=none keeps sandboxes from all GPUs; unset it to allow them")
    found = _by_nvml(root)
    if not found.gpus and (smi := shutil.which("nvidia-smi", path=environ.get("PATH"))):
        found = _by_smi(smi, root)
    if not found.gpus:
        amd = _by_kfd(root)
        found = amd if amd.gpus else found
    if not found.gpus:
        missing = "this machine has no GPU that can be seen (no nvidia-smi, no /dev/kfd); install its driver"
        return replace(found, problem=found.problem or missing)
    return _narrow(found, allowed)


def _narrow(found: Inventory, allowed: str) -> Inventory:
    if allowed in ("", "all"):
        return found
    wanted = {word.strip() for word in allowed.split(",")}
    gpus = tuple(gpu for gpu in found.gpus if wanted & {gpu.id, str(gpu.number), gpu.part_of})
    problem = None if gpus else f"{ALLOWED}={allowed} names none of {', '.join(gpu.id for gpu in found.gpus)}"
    return replace(found, gpus=gpus, problem=problem)


def read_smi(query: str, listing: str, minors: Mapping[str, int]) -> tuple[Gpu, ...]:
    """Return the GPUs that ``nvidia-smi`` told of.

    A device that is cut up cannot be used as a whole any more: its slices take its place.

    Args:
        query: the answer to ``--query-gpu=uuid,name,memory.total,mig.mode.current``, CSV without header and units.
        listing: the answer to ``-L``.
        minors: which ``/dev/nvidia<minor>`` a UUID is, as far as is known.
    """
    slices: dict[str, list[tuple[str, str]]] = {}
    parent = ""
    for line in listing.splitlines():
        if whole := _WHOLE.match(line):
            parent = whole[1]
        elif part := _SLICE.match(line):
            slices.setdefault(parent, []).append((part[2], part[1]))
    gpus: list[Gpu] = []
    for number, line in enumerate(filter(str.strip, query.splitlines())):
        words = [word.strip() for word in line.split(",")]
        if len(words) != 4 or not words[0].startswith("GPU-"):
            continue  # a word about a driver that does not fit, or a device that has fallen off the bus
        uuid, name, memory, mig = words
        if mig.lower() == "enabled":
            gpus += [
                # Its own node is no use without those of the slice, whose numbers are not told: `nodes` stays empty.
                Gpu(part, f"{name} {profile}", _profile_mb(profile), number, part_of=uuid)
                for part, profile in slices.get(uuid, ())
            ]
        elif memory.isdigit():
            nodes = (f"/dev/nvidia{minors[uuid]}",) if uuid in minors else ()
            gpus.append(Gpu(uuid, name, int(memory), number, nodes=nodes))
    return tuple(gpus)


def _profile_mb(profile: str) -> int:
    """The memory of a slice by its profile's name, ``1g.5gb``."""
    found = _PROFILE.search(profile)
    return int(int(found[1]) * 1e9 / MIB) if found else 0


def smi_commands(smi: str) -> tuple[list[str], list[str]]:
    """Return the two commands whose answers ``read_smi`` reads."""
    return [smi, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"], [smi, "-L"]


def _by_smi(smi: str, root: Path) -> Inventory:
    try:
        query, listing = (
            subprocess.run(command, capture_output=True, text=True, timeout=_SMI_S, check=False)
            for command in smi_commands(smi)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Inventory(source="nvidia-smi", problem=f"nvidia-smi cannot be run ({error}); mend the NVIDIA driver")
    gpus = read_smi(query.stdout, listing.stdout, _minors(root))
    if gpus:
        return Inventory(gpus, "nvidia-smi")
    said = (query.stdout + query.stderr).strip().splitlines()
    why = said[0][:200] if said else f"exit code {query.returncode}"
    return Inventory(source="nvidia-smi", problem=f"nvidia-smi tells of no usable GPU ({why}); mend the NVIDIA driver")


def _minors(root: Path) -> dict[str, int]:
    """Which ``/dev/nvidia<minor>`` each UUID is."""
    found: dict[str, int] = {}
    for path in (root / "proc/driver/nvidia/gpus").glob("*/information"):
        try:
            lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
            found[lines["GPU UUID"].strip()] = int(lines["Device Minor"])
        except (OSError, KeyError, ValueError):
            continue
    return found


def _by_nvml(root: Path) -> Inventory:
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return Inventory()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Inventory(source="NVML", problem=f"NVML cannot be used ({error}); mend the NVIDIA driver")
    try:
        gpus: list[Gpu] = []
        caps = _caps(root)
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                gpus += _nvml_device(nvml, number, caps)
            except nvml.NVMLError:
                continue  # one that has fallen off the bus must not hide the others
        return Inventory(tuple(gpus), "NVML", None if gpus else "NVML tells of no usable GPU; mend the NVIDIA driver")
    finally:
        nvml.nvmlShutdown()


def _nvml_device(nvml: Any, number: int, caps: Mapping[str, int]) -> list[Gpu]:
    device = nvml.nvmlDeviceGetHandleByIndex(number)
    uuid, name = _text(nvml.nvmlDeviceGetUUID(device)), _text(nvml.nvmlDeviceGetName(device))
    minor = nvml.nvmlDeviceGetMinorNumber(device)
    node = f"/dev/nvidia{minor}"
    try:
        cut_up = bool(nvml.nvmlDeviceGetMigMode(device)[0])
    except nvml.NVMLError:
        cut_up = False  # most models cannot be
    if not cut_up:
        return [Gpu(uuid, name, nvml.nvmlDeviceGetMemoryInfo(device).total // MIB, number, nodes=(node,))]
    slices: list[Gpu] = []
    for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, place)
        except nvml.NVMLError:
            continue  # an empty place
        instance = f"gpu{minor}/gi{nvml.nvmlDeviceGetGpuInstanceId(part)}"
        keys = (f"{instance}/access", f"{instance}/ci{nvml.nvmlDeviceGetComputeInstanceId(part)}/access")
        nodes = (node, *(f"/dev/nvidia-caps/nvidia-cap{caps[key]}" for key in keys if key in caps))
        slices.append(
            Gpu(
                _text(nvml.nvmlDeviceGetUUID(part)),
                _text(nvml.nvmlDeviceGetName(part)),
                nvml.nvmlDeviceGetMemoryInfo(part).total // MIB,
                number,
                part_of=uuid,
                nodes=nodes if len(nodes) == 3 else (),
            )
        )
    return slices


def _caps(root: Path) -> dict[str, int]:
    """The numbers of the nodes that open a slice: ``gpu0/gi7/ci0/access 67``."""
    try:
        lines = (root / "proc/driver/nvidia-caps/mig-minors").read_text().split("\n")
        return {key: int(number) for key, number in (line.split() for line in lines if line.strip())}
    except (OSError, ValueError):
        return {}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _by_kfd(root: Path) -> Inventory:
    """AMD's: the kernel lists processors with and without SIMD units; the latter are CPUs."""
    gpus: list[Gpu] = []
    nodes = (root / "sys/class/kfd/kfd/topology/nodes").glob("*/properties")
    for path in sorted(nodes, key=lambda path: (len(path.parent.name), path.parent.name)):
        try:
            facts = dict(line.split(None, 1) for line in path.read_text().splitlines() if " " in line)
            if int(facts.get("simd_count", 0)) == 0:
                continue
            render = f"renderD{int(facts['drm_render_minor'])}"
            memory = int((root / f"sys/class/drm/{render}/device/mem_info_vram_total").read_text()) // MIB
            name = (path.parent / "name").read_text().strip()
        except (OSError, KeyError, ValueError):
            continue
        gpus.append(Gpu(render, f"AMD {name}", memory, len(gpus), nodes=("/dev/kfd", f"/dev/dri/{render}")))
    return Inventory(tuple(gpus), "kfd") if gpus else Inventory()
