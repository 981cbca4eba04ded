"""What ``doctor`` says of the Docker backend."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import docker
import docker.errors

from mlgym_sandbox.backends.docker_engine import EngineInfo, explain, inspect_image
from mlgym_sandbox.backends.docker_gpus import requests as gpu_requests
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.images import RECIPES
from mlgym_sandbox.spec import Check, Limits, SandboxSpec

if TYPE_CHECKING:
    from mlgym_sandbox.backends.docker import DockerBackend

TRIAL_S: Final = 60.0
_TRIAL: Final = Limits(cpus=1, memory_mb=256, pids=32, storage_mb=8, tmp_mb=8, output_mb=1)


def no_image(image: str) -> str:
    """Say that an image is missing, and how to make it."""
    return f"the Docker engine has no image {image!r}; make it: {_make(image)}"


def _make(image: str) -> str:
    name = image.removesuffix(":latest")
    if name not in RECIPES:
        return f"docker pull {image}, or load it into the engine"
    return (
        f"mlgym-mcp images build {name} (with no registry: add --from-debian, "
        "or --from-host when the engine is on this machine)"
    )


async def probe(backend: DockerBackend) -> Sequence[Check]:
    """Look at what the backend needs, by trying it."""
    try:
        info = await backend.engine.info()
    except SandboxError as error:
        return (Check("docker", False, str(error), "sudo apt-get install docker.io, or install Docker Desktop"),)
    checks = [_engine_check(info, backend.engine.url), _limits_check(info)]
    images = await _images(backend)
    checks.append(
        Check(
            "docker images",
            bool(images),
            f"here: {', '.join(images)}" if images else f"none of {', '.join(RECIPES)} is here",
            None if images else _make("mlgym-light"),
        )
    )
    if images:
        checks += [await _gpu_check(backend, images[0]), await _trial(backend, images[0])]
    else:
        checks.append(Check("docker", False, "no image to make a sandbox of", _make("mlgym-light")))
    return tuple(checks)


def _engine_check(info: EngineInfo, url: str) -> Check:
    linux = info.system.startswith("linux/")
    return Check(
        "docker engine",
        linux,
        f"{info.version} on {info.system} at {url}, {info.cpus} CPUs, {info.memory_bytes >> 30} GiB",
        None if linux else "switch the engine to Linux containers",
    )


def _limits_check(info: EngineInfo) -> Check:
    missing = [name for name, there in (("memory", info.memory_limit), ("pids", info.pids_limit)) if not there]
    return Check(
        "docker limits",
        not missing,
        f"not enforced: {', '.join(missing)}" if missing else f"memory and pids, cgroup v{info.cgroup_version}",
        "run the engine as root, or rootless on a machine with cgroup v2 delegation" if missing else None,
    )


async def _images(backend: DockerBackend) -> list[str]:
    def work(client: docker.APIClient) -> list[str]:
        there = []
        for name in RECIPES:
            try:
                inspect_image(client, name)
            except docker.errors.ImageNotFound:
                continue
            there.append(name)
        return there

    return await backend.engine.call(work)


async def _gpu_check(backend: DockerBackend, image: str) -> Check:
    """Start a container with all GPUs: no engine tells reliably whether it could."""

    def work(client: docker.APIClient) -> str | None:
        container = client.create_container(
            image,
            entrypoint=["sh", "-c", "ls /dev/nvidiactl /dev/dxg"],
            command=[],
            labels={"mlgym": "1", "mlgym.role": "ask"},
            host_config=client.create_host_config(network_mode="none", device_requests=gpu_requests(["all"])),
        )["Id"]
        try:
            client.start(container)
            client.wait(container, timeout=30)
            seen = client.logs(container, stdout=True, stderr=False)
            return None if seen.strip() else "the engine takes the request, but no device appears in the container"
        except docker.errors.APIError as error:
            return explain(error)
        finally:
            client.remove_container(container, force=True, v=True)

    try:
        problem = await backend.engine.call(work, deadline_s=TRIAL_S)
    except (SandboxError, docker.errors.APIError) as error:
        problem = str(error)
    if problem is None:
        return Check("docker gpus", True, "the engine hands in GPUs")
    if backend.engine.address.local and not await anyio.to_thread.run_sync(Path("/dev/nvidiactl").exists):
        return Check("docker gpus", True, "none on this machine; CPU tasks work")
    return Check("docker gpus", False, problem, "install the NVIDIA Container Toolkit and restart the engine")


async def _trial(backend: DockerBackend, image: str) -> Check:
    name = f"probe-{secrets.token_hex(4)}"
    begun = time.monotonic()
    try:
        with anyio.fail_after(TRIAL_S):
            sandbox = await backend.create(SandboxSpec(name=name, image=image, limits=_TRIAL, ttl_s=TRIAL_S))
            try:
                job = await sandbox.wait((await sandbox.start("true", timeout_s=10)).id, 15)
            finally:
                with anyio.CancelScope(shield=True), anyio.move_on_after(30):
                    await sandbox.close()
    except (SandboxError, TimeoutError) as error:
        return Check("docker", False, f"a sandbox could not be made: {error or 'out of time'}", None)
    worked = job.exit_code == 0
    return Check("docker", worked, f"a sandbox of {image} ran `true` ({time.monotonic() - begun:.2f} s in all)")
