"""Volumes: the workspace of one sandbox, and read-only data shared by all that mount the same content.

Data reaches the engine by its API and not by a bind mount, so that a remote engine works like a local one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.to_thread
import docker
import docker.errors

from mlgym_sandbox.backends.docker_engine import Engine, explain
from mlgym_sandbox.backends.tree_digest import TreeFile, digest, tar_stream, walk
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.home import home
from mlgym_sandbox.spec import Mount, inodes

FILL_S: Final = 1800.0
"""How long one filling may take; after that another server may begin again."""
MIB: Final = 1 << 20
READY: Final = "-ready"


@dataclass(frozen=True, slots=True)
class Workspace:
    """The volume at /workspace; ``enforced`` when the engine itself stops it from growing."""

    name: str
    enforced: bool


class Volumes:
    """Makes and removes volumes on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._quota: bool | None = None

    async def make_workspace(self, name: str, size_mb: int, *, in_memory: bool, labels: Mapping[str, str]) -> Workspace:
        """Make the workspace volume, owned by the agent.

        A volume in memory has a hard size. On disk the size is hard only where the engine's storage has
        project quotas (xfs with pquota); elsewhere the runner watches.
        """
        if in_memory:
            options = f"size={size_mb}m,nr_inodes={inodes(size_mb)},uid=1000,gid=1000,mode=0755,nosuid,nodev"
            await self._create(name, labels, {"type": "tmpfs", "device": "tmpfs", "o": options})
            return Workspace(name, enforced=True)
        if self._quota is not False:
            try:
                await self._create(name, labels, {"size": f"{size_mb}m"})
            except docker.errors.APIError:
                self._quota = False
            else:
                self._quota = True
                return Workspace(name, enforced=True)
        await self._create(name, labels, {})
        return Workspace(name, enforced=False)

    async def _create(self, name: str, labels: Mapping[str, str], options: Mapping[str, str]) -> None:
        await self._engine.call(
            lambda client: client.create_volume(name, "local", dict(options), dict(labels)),
            undo=lambda client: client.remove_volume(name, force=True),
        )

    async def remove(self, name: str) -> None:
        """Remove a volume. No error if there is none."""

        def work(client: docker.APIClient) -> None:
            try:
                client.remove_volume(name)
            except docker.errors.NotFound:
                pass

        await self._engine.call(work)

    async def ensure_data(self, mount: Mount, image: str) -> str:
        """Return the volume that holds the content of a mount's source, filling it first if need be.

        ``image`` may be any image of the engine: filling needs a container, which is never started.

        Raises:
            SandboxError: the source cannot be shown, or the engine could not take it.
        """
        files = await anyio.to_thread.run_sync(walk, mount.source)
        cache = home("run", "docker", "digests")
        whole = await anyio.to_thread.run_sync(digest, mount.source, files, cache, abandon_on_cancel=True)
        name = f"mlgym-data-{whole[:40]}"
        give_up = time.monotonic() + FILL_S
        while not await self.holds_data(name):
            if time.monotonic() > give_up:
                raise SandboxError(f"waited {FILL_S:g} s for another server to copy {mount.source} to the engine")
            if not await self._fill(name, files, image):
                await anyio.sleep(0.2)  # another is at it
        return name

    async def holds_data(self, name: str) -> bool:
        """Whether a data volume is there and was not made by the engine as an empty stand-in."""
        return await self._exists(name) and await self._exists(name + READY)

    async def _exists(self, name: str) -> bool:
        def work(client: docker.APIClient) -> bool:
            try:
                about = client.inspect_volume(name)
            except docker.errors.NotFound:
                return False
            return (about.get("Labels") or {}).get("mlgym") == "1"

        return await self._engine.call(work)

    async def _fill(self, name: str, files: tuple[TreeFile, ...], image: str) -> bool:
        """Fill a volume unless another is doing so; return whether it is filled now.

        A container's name is unique on its engine, which makes it the lock: whoever creates the container
        fills. One that outlived its time belongs to a server that died.
        """
        filler = _Filler(name, image, token=secrets.token_hex(8))
        try:
            await self._engine.call(filler.lock, undo=filler.discard)
            if await self.holds_data(name):  # filled by another between our look and our lock
                return True
            await self._engine.call(
                lambda client: client.put_archive(filler.container, "/", tar_stream(files, "volume")),
                deadline_s=FILL_S,
            )
            if not await self._exists(name):
                return False  # removed under us and made again by the engine, without our label: begin again
            await self._create(name + READY, {"mlgym": "1", "mlgym.role": "ready"}, {})
        except docker.errors.APIError as error:
            if error.status_code == 409:
                await self._engine.call(filler.discard_if_expired)
                return False
            raise SandboxError(f"the Docker engine could not take a copy of the data: {explain(error)}") from error
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(30):
                await self._engine.call(filler.discard)
        return True

    async def prune(self) -> int:
        """Remove the data volumes that no container uses; return how many. They are filled again when needed."""

        def work(client: docker.APIClient) -> int:
            removed = 0
            found = client.volumes(filters={"label": "mlgym.role=data"})["Volumes"] or []
            for volume in found:
                name = str(volume["Name"])
                if client.containers(all=True, filters={"volume": name}):
                    continue
                try:
                    # The mark first: without it the volume is never used, whatever happens next.
                    _remove_volume(client, name + READY)
                    _remove_volume(client, name)
                except docker.errors.APIError:
                    continue  # somebody began to use it: it is filled anew over the old content
                removed += 1
            return removed

        return await self._engine.call(work, deadline_s=120)


class _Filler:
    """One attempt to fill a data volume, by the calls it makes."""

    def __init__(self, volume: str, image: str, token: str) -> None:
        self.volume = volume
        self.container = f"{volume}-fill"
        self._image = image
        self._token = token

    def lock(self, client: docker.APIClient) -> None:
        """Create the container that is the lock. Raises the engine's 409 when another holds it."""
        try:
            client.inspect_volume(self.volume)
        except docker.errors.NotFound:
            _remove_volume(client, self.volume + READY)  # a mark without its volume marks nothing
            client.create_volume(self.volume, "local", {}, {"mlgym": "1", "mlgym.role": "data"})
        mount = docker.types.Mount("/volume", self.volume, type="volume", no_copy=True)
        client.create_container(
            self._image,
            command=["true"],
            name=self.container,
            labels={
                "mlgym": "1",
                "mlgym.role": "fill",
                "mlgym.token": self._token,
                "mlgym.expires": str(int(time.time() + FILL_S)),
            },
            host_config=client.create_host_config(network_mode="none", mounts=[mount]),
        )

    def discard(self, client: docker.APIClient) -> None:
        """Let go of the lock if it is ours, and of the volume if it was left unfinished."""
        labels = self._labels(client)
        if labels is None or labels.get("mlgym.token") != self._token:
            return
        self._remove(client)

    def discard_if_expired(self, client: docker.APIClient) -> None:
        """Break the lock of a server that died."""
        labels = self._labels(client)
        if labels is not None and float(labels.get("mlgym.expires", "0")) < time.time():
            self._remove(client)

    def _labels(self, client: docker.APIClient) -> dict[str, str] | None:
        try:
            return dict(client.inspect_container(self.container)["Config"].get("Labels") or {})
        except docker.errors.NotFound:
            return None

    def _remove(self, client: docker.APIClient) -> None:
        try:
            client.inspect_volume(self.volume + READY)
        except docker.errors.NotFound:
            unfinished = True
        else:
            unfinished = False
        _remove_container(client, self.container)
        if unfinished:
            try:
                _remove_volume(client, self.volume)
            except docker.errors.APIError:
                pass  # another began to fill it


def _remove_container(client: docker.APIClient, name: str) -> None:
    try:
        client.remove_container(name, force=True, v=True)
    except docker.errors.NotFound:
        pass


def _remove_volume(client: docker.APIClient, name: str) -> None:
    try:
        client.remove_volume(name)
    except docker.errors.NotFound:
        pass
