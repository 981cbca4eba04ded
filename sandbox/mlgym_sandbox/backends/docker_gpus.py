"""GPUs in containers: how they are asked for, whether they came, and which an engine elsewhere has."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread
import docker
import docker.errors
from docker.types import DeviceRequest

from mlgym_sandbox.backends.docker_engine import explain
from mlgym_sandbox.errors import BackendUnavailableError
from mlgym_sandbox.gpus import Inventory, discover, is_nvidia, read_smi, smi_commands

if TYPE_CHECKING:
    from mlgym_sandbox.backends.docker import DockerBackend
    from mlgym_sandbox.sandbox import Sandbox

RUNTIME: Final = "nvidia"
"""The name of NVIDIA's runtime in an engine's configuration."""
TOOLKIT: Final = (
    "install the NVIDIA Container Toolkit on its machine, run `nvidia-ctk runtime configure --runtime=docker` "
    "and restart the engine"
)
_LOOK_S = 60
_BETWEEN = "--- listing"


def options(gpus: Sequence[str], runtimes: Set[str], cdi: Set[str] | None) -> dict[str, Any]:
    """Return the host options that hand in exactly these GPUs.

    AMD's are plain device nodes. NVIDIA's go through NVIDIA's runtime where the engine is configured with it, by
    their CDI names where it knows all of them, and else are asked for and may be refused at the start.
    """
    if not gpus:
        return {}
    if not is_nvidia(gpus[0]):
        nodes = ["/dev/kfd", *(f"/dev/dri/{gpu}" for gpu in gpus)]
        return {"devices": [f"{node}:{node}:rw" for node in nodes]}
    names = [f"nvidia.com/gpu={gpu}" for gpu in gpus]
    if RUNTIME not in runtimes and cdi is not None and cdi >= set(names):
        return {"device_requests": [DeviceRequest(driver="cdi", device_ids=names)]}
    return {"device_requests": requests(gpus)}


def requests(gpus: Sequence[str]) -> list[DeviceRequest]:
    """Ask for exactly these NVIDIA devices; a count would always be the first ones."""
    return [DeviceRequest(device_ids=list(gpus), capabilities=[["gpu", "utility", "compute"]])]


def refusal(gpus: Sequence[str], words: str) -> str | None:
    """Turn an engine's refusal into a sentence of ours; ``None`` when it is not about GPUs."""
    lower = words.lower()
    if not gpus:
        return None
    if not is_nvidia(gpus[0]):
        if "custom device" not in lower:
            return None
        return (
            f"the Docker engine cannot hand in AMD GPUs ({words}); install the amdgpu driver (ROCm) on its machine, "
            "or choose a preset without GPUs"
        )
    if not any(word in lower for word in ("device driver", "nvidia", "cdi", "runtime")):
        return None
    return f"the Docker engine cannot hand in GPUs ({words}); {TOOLKIT}, or choose a preset without GPUs"


async def check(sandbox: Sandbox, gpus: Sequence[str]) -> None:
    """Look from inside: some engines (podman) take a request for GPUs and ignore it, others hand in all.

    Raises:
        BackendUnavailableError: the devices in the sandbox are not those asked for.
    """
    if not is_nvidia(gpus[0]):
        nodes = ["/dev/kfd", *(f"/dev/dri/{gpu}" for gpu in gpus)]
        if (await _ran(sandbox, " && ".join(f"test -r {node} -a -w {node}" for node in nodes)))[0] != 0:
            raise BackendUnavailableError(
                "the GPU's device nodes cannot be used by a sandbox's commands; on the engine's machine let every user "
                'open them: a udev rule with MODE="0666" for /dev/kfd and /dev/dri/renderD*'
            )
        return
    _, said = await _ran(sandbox, "ls -d /dev/nvidiactl /dev/dxg /dev/nvidia[0-9]* 2>/dev/null")
    nodes = said.split()
    if "/dev/dxg" in nodes:
        return  # Windows shows all its GPUs as one node
    if "/dev/nvidiactl" not in nodes:
        raise BackendUnavailableError(
            "the Docker engine took the request for GPUs, but none is in the sandbox; podman ignores such requests "
            "unless CDI is set up (nvidia-ctk cdi generate); with Docker, check that `nvidia-smi` works on its machine"
        )
    seen = [node for node in nodes if node.removeprefix("/dev/nvidia").isdigit()]
    if all(gpu.startswith("GPU-") for gpu in gpus) and len(seen) != len(gpus):
        raise BackendUnavailableError(
            f"the Docker engine was asked for {len(gpus)} GPU(s), but {len(seen)} are in the sandbox, which other "
            f"sandboxes may be using; {TOOLKIT}"
        )


async def _ran(sandbox: Sandbox, command: str) -> tuple[int | None, str]:
    job, output = await sandbox.run(command, wait_s=30, timeout_s=20)
    return job.exit_code, output.data.decode(errors="replace")


async def inventory(backend: DockerBackend, image: str) -> Inventory:
    """Return the GPUs of the engine's machine: this one, or another, that only a container can look at.

    Args:
        backend: the engine.
        image: any image that is there, to look from in a container.

    Raises:
        SandboxError: the engine does not answer.
    """
    if backend.engine.address.local:
        return await anyio.to_thread.run_sync(discover)
    query, listing = (" ".join(command) for command in smi_commands("nvidia-smi"))

    def look(client: docker.APIClient) -> str:
        container = client.create_container(
            image,
            entrypoint=["sh", "-c", f"{query}; echo '{_BETWEEN}'; {listing}"],
            command=[],
            labels={"mlgym": "1", "mlgym.role": "ask"},
            host_config=client.create_host_config(network_mode="none", device_requests=requests(["all"])),
        )["Id"]
        try:
            client.start(container)
            client.wait(container, timeout=_LOOK_S // 2)
            return bytes(client.logs(container, stdout=True, stderr=False)).decode(errors="replace")
        finally:
            client.remove_container(container, force=True, v=True)

    try:
        said = await backend.engine.call(look, deadline_s=_LOOK_S)
    except docker.errors.APIError as error:
        return Inventory(problem=refusal(["GPU-"], explain(error)) or explain(error))
    told, _, listed = said.partition(_BETWEEN)
    gpus = read_smi(told, listed, {})
    problem = None if gpus else f"the Docker engine at {backend.engine.url} hands in no GPU; {TOOLKIT}"
    return Inventory(gpus, "a container", problem)
