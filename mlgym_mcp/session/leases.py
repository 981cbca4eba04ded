"""GPUs of sessions: what a preset asks for is leased before the sandbox is made, and given back when it is gone."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from mlgym_sandbox.backends.base import Backend
from mlgym_sandbox.errors import BackendUnavailableError, SandboxError
from mlgym_sandbox.gpu_leases import LABEL, Leases, look_here
from mlgym_sandbox.gpus import Inventory
from mlgym_sandbox.pool import unpooled

if TYPE_CHECKING:
    from mlgym_mcp.catalog.spec import Preset
    from mlgym_mcp.session.session import Session

WAIT_S = 3600.0
"""How long a session waits for GPUs before it ends."""

logger = logging.getLogger(__name__)


class GpuDesk:
    """Leases GPUs to sessions; each machine that sandboxes run on has its own.

    Args:
        backends: the backends in use now: what living sandboxes hold is looked up there.
        wait_s: how long a session waits.
        look: finds the GPUs of this machine.
    """

    def __init__(
        self,
        backends: Callable[[], Collection[Backend]],
        *,
        wait_s: float = WAIT_S,
        look: Callable[[], Awaitable[Inventory]] = look_here,
    ) -> None:
        self._backends = backends
        self._wait_s = wait_s
        self._look = look
        self._machines: dict[str, Leases] = {}

    @property
    def owners(self) -> Mapping[str, str]:
        """The session of each GPU that is leased, on all machines."""
        return {gpu: owner for leases in self._machines.values() for gpu, owner in leases.owners.items()}

    @property
    def waiting(self) -> int:
        """How many sessions wait for GPUs."""
        return sum(leases.waiting for leases in self._machines.values())

    async def check(self, backend: Backend, preset: Preset) -> None:
        """Refuse at once what the machine can never give.

        Raises:
            BackendUnavailableError: it has not so many GPUs of that size, or this backend hands in none.
        """
        if preset.gpus:
            await self._leases(backend, preset.image).check(preset.gpus, preset.gpu_memory_gb)

    async def lease(self, session: Session, say: Callable[[str], None]) -> tuple[str, ...]:
        """Wait for the GPUs that a session's preset asks for; they are its own until ``release``.

        Args:
            session: who asks.
            say: told the place in the queue, in words, while it waits.

        Raises:
            BackendUnavailableError: as ``check``.
            SandboxError: they did not become free in time.
        """
        preset = session.preset
        if not preset.gpus:
            return ()

        def waiting(place: int) -> None:
            what = "a GPU" if preset.gpus == 1 else f"{preset.gpus} GPUs"
            say(f"waiting for {what} (place {place} in the queue)")

        leases = self._leases(session.backend, preset.image)
        gpus = await leases.acquire(
            session.id, preset.gpus, preset.gpu_memory_gb, timeout_s=self._wait_s, waiting=waiting
        )
        logger.info("session %s leases %s", session.episode.id, ", ".join(gpu.id for gpu in gpus))
        return tuple(gpu.id for gpu in gpus)

    async def adopt(self, session: Session) -> tuple[str, ...]:
        """Take over the lease of a session that an earlier server began, as its sandbox's label tells it.

        Raises:
            SandboxError: another session has one of its GPUs, or the backend does not answer.
        """
        if not session.preset.gpus:
            return ()
        leases = self._leases(session.backend, session.preset.image)
        for found in await session.backend.find({"mlgym.session": session.id}):
            if (label := found.labels.get(LABEL)) is not None:
                return await leases.adopt(session.id, label)
        return ()

    def release(self, session: Session) -> None:
        """Give back all that a session has, once its sandbox is gone. No error if that is nothing."""
        for leases in self._machines.values():
            leases.release(session.id)

    def _leases(self, backend: Backend, image: str) -> Leases:
        """Return the leases of the machine on which a backend's sandboxes run."""
        backend = unpooled(backend)
        if backend.name == "process":
            raise BackendUnavailableError("the process backend hands in no GPUs; use docker or bubblewrap for them")
        machine = machine_of(backend)
        if machine not in self._machines:
            look = partial(_look_elsewhere, backend, image) if machine else self._look

            async def in_use() -> Mapping[str, str]:
                return await self._in_use(machine)

            self._machines[machine] = Leases(look, in_use=in_use, machine=machine)
        return self._machines[machine]

    async def _in_use(self, machine: str) -> Mapping[str, str]:
        """The GPUs of a machine's living sandboxes, whoever made them, by their labels: id -> session."""
        used: dict[str, str] = {}
        for backend in self._backends():
            if backend.name == "process" or machine_of(unpooled(backend)) != machine:
                continue
            try:
                for found in await backend.find({}):
                    if found.running and (label := found.labels.get(LABEL)):
                        used |= dict.fromkeys(label.split(","), found.labels.get("mlgym.session", found.name))
            except SandboxError as error:
                logger.warning("the %s backend does not say which GPUs are in use: %s", backend.name, error)
        return used


def machine_of(backend: Backend) -> str:
    """Return what names the machine that a backend's sandboxes run on; empty for this one."""
    if backend.name != "docker":
        return ""
    from mlgym_sandbox.backends.docker import DockerBackend

    assert isinstance(backend, DockerBackend)
    return "" if backend.engine.address.local else backend.engine.url


async def _look_elsewhere(backend: Backend, image: str) -> Inventory:
    from mlgym_sandbox.backends import docker_gpus
    from mlgym_sandbox.backends.docker import DockerBackend

    assert isinstance(backend, DockerBackend)
    return await docker_gpus.inventory(backend, image)


def labels_of(gpus: tuple[str, ...]) -> dict[str, str]:
    """Return the label by which a later server knows what a sandbox holds; none for a sandbox without GPUs."""
    return {LABEL: ",".join(gpus)} if gpus else {}
