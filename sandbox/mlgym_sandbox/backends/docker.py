"""Sandboxes as containers of a Docker engine, here or elsewhere; podman's service works too.

A container's first process is the runner, as root with three capabilities; commands are uid 1000 with none. It
is spoken to over the container's attached stdin and stdout, so nothing is mounted, published or installed, and
an engine on another machine works like one here.

Where podman differs: rootless on cgroup v1 it ignores all limits (``probe`` says so); it ignores requests for
GPUs, so their presence is looked at from inside.
"""

from __future__ import annotations

import json
import secrets
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import anyio
import anyio.to_thread
import docker
import docker.errors

from mlgym_sandbox import environment, host_image, inside
from mlgym_sandbox.backends import docker_gpus, docker_probe, docker_state
from mlgym_sandbox.backends.base import Backend, Found
from mlgym_sandbox.backends.docker_container import (
    Bind,
    Plan,
    container_options,
    share_memory,
    thread_environment,
)
from mlgym_sandbox.backends.docker_engine import Engine, EngineInfo, explain, inspect_image
from mlgym_sandbox.backends.docker_stream import AttachStream, attach
from mlgym_sandbox.backends.docker_volumes import MIB, Volumes
from mlgym_sandbox.errors import BackendUnavailableError, SandboxError, SandboxLostError
from mlgym_sandbox.sandbox import Sandbox
from mlgym_sandbox.spec import DATA, WORKSPACE, Check, SandboxSpec

PREFIX: Final = "mlgym-"
START_S: Final = 60.0
HANDSHAKE_S: Final = 30.0
CLEANUP_S: Final = 30.0
DIAGNOSIS_S: Final = 10.0
_NOT_PASSED_ON: Final = ("HOSTNAME", "HOME", "NVIDIA_VISIBLE_DEVICES")


class DockerBackend(Backend):
    """Sandboxes on a Docker engine.

    Args:
        host: the engine's address; by default the one that ``DOCKER_HOST`` or the docker command's current
            context names.
        environ: where ``DOCKER_HOST`` and its TLS variables are read; default: the process's environment.
    """

    name = "docker"

    def __init__(self, host: str | None = None, environ: Mapping[str, str] | None = None) -> None:
        self.engine = Engine(host, environ)
        self.volumes = Volumes(self.engine)
        self._starting: anyio.CapacityLimiter | None = None
        self._streams: weakref.WeakValueDictionary[str, AttachStream] = weakref.WeakValueDictionary()

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Make a container and connect to its runner. See ``Backend.create``."""
        info = await self.engine.info()
        if self._starting is None:
            # An engine gains nothing from more starts at once, and each would only take longer.
            self._starting = anyio.CapacityLimiter(2 * info.cpus)
        async with self._starting:
            volume = f"{PREFIX}{spec.name}-{secrets.token_hex(4)}"
            try:
                return await self._start(await self._plan(spec, volume, info))
            except BaseException as error:
                await self._discard(spec.name, volume)
                if isinstance(error, docker.errors.APIError):
                    raise _translate(error, spec) from error
                raise

    async def _plan(self, spec: SandboxSpec, volume: str, info: EngineInfo) -> Plan:
        """Look at the image, make the volumes, and settle the container's options."""
        try:
            image = await self.engine.call(lambda client: inspect_image(client, spec.image))
        except docker.errors.ImageNotFound as error:
            raise BackendUnavailableError(docker_probe.no_image(spec.image)) from error
        config: dict[str, Any] = image.get("Config") or {}
        labels: dict[str, str] = config.get("Labels") or {}
        binds: tuple[Bind, ...] = ()
        if labels.get(host_image.HOST_LABEL) == "1":
            name = labels.get(host_image.ENVIRONMENT_LABEL, environment.BARE)
            pairs = await anyio.to_thread.run_sync(host_image.binds, name)
            binds = tuple(Bind(source, target) for source, target in pairs)
        data = {mount.target: await self.volumes.ensure_data(mount, spec.image) for mount in spec.mounts}
        memory = share_memory(spec.limits)
        workspace = await self.volumes.make_workspace(
            volume,
            spec.limits.storage_mb,
            in_memory=memory.workspace_in_memory,
            labels={"mlgym": "1", "mlgym.role": "workspace", "mlgym.sandbox": spec.name},
        )
        cpus = min(spec.limits.cpus, float(info.cpus))
        image_env = dict(word.split("=", 1) for word in config.get("Env") or () if "=" in word)
        runner = inside.runner_config(
            transport="stdio",
            agent_uid=1000,
            ttl_s=spec.ttl_s,
            read_only=[DATA, *data],
            env={
                **{key: value for key, value in image_env.items() if key not in _NOT_PASSED_ON},
                **thread_environment(cpus),
                "USER": "agent",
                "DATA_DIR": DATA,
                **spec.env,
            },
            output_bytes=spec.limits.output_mb * MIB,
            storage_bytes=None if workspace.enforced else spec.limits.storage_mb * MIB,
            disk_paths=[WORKSPACE],  # /tmp is in memory, with a hard size
            nofile=spec.limits.open_files,
            fsize_bytes=None if workspace.enforced else spec.limits.storage_mb * MIB,
        )
        source = await anyio.to_thread.run_sync(inside.runner_source)
        return Plan(spec, memory, workspace.name, data, binds, runner, source, cpus, info.runtimes, info.cdi)

    async def _start(self, plan: Plan) -> Sandbox:
        spec, container = plan.spec, PREFIX + plan.spec.name

        def make(client: docker.APIClient) -> str:
            return str(client.create_container(name=container, **container_options(client, plan))["Id"])

        def unmake(client: docker.APIClient) -> None:
            _remove_container(client, container)
            _remove_volume(client, plan.workspace)

        identity = await self.engine.call(make, deadline_s=START_S, undo=unmake)
        for volume in plan.data.values():
            if not await self.volumes.holds_data(volume):
                raise SandboxError(f"the data volume {volume} was removed while the sandbox was made; try again")
        state = docker_state.State(secrets.token_bytes(docker_state.MAGIC_BYTES), identity)
        await anyio.to_thread.run_sync(docker_state.save, spec.name, state)
        stream = await self._attach_stream(identity)
        try:
            await self.engine.call(lambda client: client.start(identity), deadline_s=START_S)
            sandbox = await self._open(spec.name, stream, state)
            if spec.gpus:
                await docker_gpus.check(sandbox, spec.gpus)
        except BaseException:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await stream.aclose()
            raise
        return sandbox

    async def _attach_stream(self, container: str) -> AttachStream:
        try:
            with anyio.fail_after(HANDSHAKE_S):
                return await attach(self.engine.address, container)
        except TimeoutError as error:
            raise SandboxError(f"the Docker engine at {self.engine.url} did not attach in {HANDSHAKE_S:g} s") from error
        except OSError as error:
            raise BackendUnavailableError(f"the Docker engine at {self.engine.url} does not answer: {error}") from error

    async def _open(self, name: str, stream: AttachStream, state: docker_state.State) -> Sandbox:
        async def explain() -> str:
            why = await self.why_lost(name)
            last = stream.stderr.strip().rpartition("\n")[2]
            return f"{why}; its last words: {last[:300]}" if last else why

        stream.explain = explain
        # The engine feeds all that are attached at the pace of the slowest: one that nobody reads stops them all.
        if (earlier := self._streams.get(name)) is not None:
            await earlier.aclose()
        self._streams[name] = stream
        return await Sandbox.connect(
            name, stream, state.magic, remove=partial(self.remove, name), timeout_s=HANDSHAKE_S
        )

    async def _discard(self, name: str, volume: str) -> None:
        """Remove what a failed or cancelled ``create`` made; what another made under that name stays."""
        container = PREFIX + name

        def work(client: docker.APIClient) -> bool:
            ours = False
            try:
                mounts = client.inspect_container(container).get("Mounts") or []
                ours = any(mount.get("Name") == volume for mount in mounts)
            except docker.errors.NotFound:
                pass
            if ours:
                _remove_container(client, container)
            _remove_volume(client, volume)
            return ours

        with anyio.CancelScope(shield=True), anyio.move_on_after(CLEANUP_S):
            try:
                if await self.engine.call(work):
                    await anyio.to_thread.run_sync(docker_state.forget, name)
            except (SandboxError, docker.errors.APIError):
                pass  # the error that brought us here is the one to report; labels let a later sweep find the rest

    async def find(self, labels: Mapping[str, str]) -> Sequence[Found]:
        """All sandboxes on this engine with these labels. See ``Backend.find``."""

        def work(client: docker.APIClient) -> list[Found]:
            listed = client.containers(all=True, filters={"label": ["mlgym=1", "mlgym.role=sandbox"]})
            return [_found(container) for container in listed]

        return tuple(found for found in await self.engine.call(work) if labels.items() <= found.labels.items())

    async def relabel(self, name: str, labels: Mapping[str, str]) -> None:
        """Remember other labels, beside the sandbox's secret. See ``Backend.relabel``."""
        if not await anyio.to_thread.run_sync(docker_state.relabel, name, labels):
            raise SandboxLostError(f"nothing is known here of a sandbox {name!r}")

    async def attach(self, name: str) -> Sandbox:
        """Connect again to a sandbox whose state file is on this machine. See ``Backend.attach``."""
        about = await self._inspect(name)
        if about is None:
            raise SandboxLostError(f"there is no sandbox {name!r} on the Docker engine at {self.engine.url}")
        if not about["State"].get("Running"):
            raise SandboxLostError(_epitaph(about["State"]))
        state = await anyio.to_thread.run_sync(docker_state.load, name)
        if state is None or state.container != about["Id"]:
            raise SandboxLostError(
                f"the sandbox {name!r} runs, but its secret is not in {docker_state.folder()}: another user or "
                "data folder (MLGYM_HOME) made it; only that one can attach"
            )
        return await self._open(name, await self._attach_stream(state.container), state)

    async def remove(self, name: str) -> None:
        """Kill a sandbox and remove its container, workspace and state. See ``Backend.remove``."""

        def work(client: docker.APIClient) -> None:
            _remove_container(client, PREFIX + name)
            wanted = ["mlgym.role=workspace", f"mlgym.sandbox={name}"]
            for volume in client.volumes(filters={"label": wanted})["Volumes"] or []:
                _remove_volume(client, str(volume["Name"]))

        try:
            await self.engine.call(work, deadline_s=CLEANUP_S)
        except docker.errors.APIError as error:
            raise SandboxError(f"the Docker engine could not remove the sandbox {name!r}: {explain(error)}") from error
        await anyio.to_thread.run_sync(docker_state.forget, name)

    async def prune(self) -> int:
        """Remove copies of data that no sandbox uses any more; return how many. They are made again when needed."""
        return await self.volumes.prune()

    async def probe(self) -> Sequence[Check]:
        """Look for an engine, its limits, images and GPUs, and make a sandbox. See ``Backend.probe``."""
        return await docker_probe.probe(self)

    async def aclose(self) -> None:
        """Close idle connections to the engine; sandboxes stay."""
        await self.engine.aclose()

    async def why_lost(self, name: str) -> str:
        """Say in one sentence why a connection to a sandbox ended."""
        try:
            with anyio.fail_after(DIAGNOSIS_S):
                # The stream ends a little before the engine has noted the container's end.
                for _ in range(10):
                    about = await self._inspect(name)
                    if about is None:
                        return "the sandbox is gone: its container was removed from outside"
                    if not about["State"].get("Running"):
                        return _epitaph(about["State"])
                    await anyio.sleep(0.15)
        except SandboxError as error:
            return f"the connection to the sandbox broke: {error}"
        except TimeoutError:
            return f"the connection to the sandbox broke, and the Docker engine at {self.engine.url} does not answer"
        return "the connection to the sandbox broke, but it runs on: attach to it again"

    async def _inspect(self, name: str) -> dict[str, Any] | None:
        def work(client: docker.APIClient) -> dict[str, Any] | None:
            try:
                return dict(client.inspect_container(PREFIX + name))
            except docker.errors.NotFound:
                return None

        try:
            return await self.engine.call(work)
        except docker.errors.APIError as error:
            raise SandboxError(f"the Docker engine could not tell of the sandbox {name!r}: {explain(error)}") from error


def _found(container: Mapping[str, Any]) -> Found:
    """A listed container by the labels that count: those remembered here, else its own."""
    name = str(container["Labels"]["mlgym.sandbox"])
    state = docker_state.load(name)
    if state is not None and state.container == container["Id"] and state.labels is not None:
        labels = dict(state.labels)
    else:
        labels = json.loads(container["Labels"].get("mlgym.labels", "{}"))
    return Found(name, labels, running=container["State"] == "running")


def _remove_container(client: docker.APIClient, name: str) -> None:
    try:
        client.remove_container(name, force=True, v=True)
    except docker.errors.NotFound:
        pass
    except docker.errors.APIError as error:
        if error.status_code != 409 or "already in progress" not in explain(error):
            raise


def _remove_volume(client: docker.APIClient, name: str) -> None:
    try:
        client.remove_volume(name)
    except docker.errors.NotFound:
        pass


def _epitaph(state: Mapping[str, Any]) -> str:
    """How a container ended, in one sentence."""
    if state.get("Status") == "created":
        return "the sandbox's container was never started; remove it"
    code, words = state.get("ExitCode"), str(state.get("Error") or "")
    if state.get("OOMKilled") and code == 137:
        return "the sandbox ended: the kernel killed it for lack of memory (exit code 137)"
    if code == 137:
        return "the sandbox ended: it was killed from outside, or its engine stopped (exit code 137)"
    return f"the sandbox ended with exit code {code}" + (f": {words}" if words else "")


def _translate(error: docker.errors.APIError, spec: SandboxSpec) -> SandboxError:
    """Turn what an engine says when it cannot create or start into a sentence of ours."""
    words = explain(error)
    lower = words.lower()
    if isinstance(error, docker.errors.ImageNotFound) or "no such image" in lower:
        return BackendUnavailableError(docker_probe.no_image(spec.image))
    if (refusal := docker_gpus.refusal(spec.gpus, words)) is not None:
        return BackendUnavailableError(refusal)
    if error.status_code == 409 and "already in use" in lower:
        return SandboxError(
            f"there is already a sandbox {spec.name!r} on the Docker engine; remove it or choose another name"
        )
    if "no space left" in lower:
        return SandboxError("the Docker engine's disk is full; free some space (docker system df shows what takes it)")
    if "python3" in lower and "not found" in lower:
        return BackendUnavailableError(f"the image {spec.image!r} has no python3; a sandbox needs Python 3.9 or newer")
    return SandboxError(f"the Docker engine could not start the sandbox: {words}")
