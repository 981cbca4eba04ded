"""Leases of this machine's GPUs: waiting in line, locks against other servers, and those of servers that died.

A lease is known three times, and each covers what the others cannot: in this process, for the order; by a lock on
a file, which the kernel drops when the server dies; and by the label ``mlgym.gpus`` of the sandbox, which outlives
the server and says what is still in use.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

import anyio
import anyio.to_thread

from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.gpu_allotment import Allotment, Request
from mlgym_sandbox.gpus import Gpu, Inventory, discover
from mlgym_sandbox.home import home

LABEL: Final = "mlgym.gpus"
"""The label of a sandbox that holds GPUs: their ids, with commas between them."""
LOOK_AGAIN_S: Final = 1.0
"""How often those who wait look at what other servers have given back."""


async def look_here() -> Inventory:
    """Look for the GPUs of this machine."""
    return await anyio.to_thread.run_sync(discover)


async def _nothing() -> Mapping[str, str]:
    return {}


class Leases:
    """All GPUs of one machine.

    Args:
        look: finds the GPUs; asked again until it finds some.
        in_use: which GPUs living sandboxes hold, by their labels, and for whom: id -> owner.
        folder: where the locks are; default: ``run/gpus``.
        machine: what names another machine than this one; part of the locks' names.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[Inventory]] = look_here,
        *,
        in_use: Callable[[], Awaitable[Mapping[str, str]]] = _nothing,
        folder: Path | None = None,
        machine: str = "",
        look_again_s: float = LOOK_AGAIN_S,
    ) -> None:
        self._look = look
        self._in_use = in_use
        self._folder = folder
        self._prefix = f"{quote(machine, safe='')}-" if machine else ""
        self._look_again_s = look_again_s
        self._allotment: Allotment | None = None
        self._locks: dict[str, int] = {}
        self._one_at_a_time = anyio.Lock()
        self._changed = anyio.Event()

    @property
    def owners(self) -> Mapping[str, str]:
        """The owner of each GPU that this server has lent."""
        return {} if self._allotment is None else self._allotment.owners

    @property
    def waiting(self) -> int:
        """How many wait."""
        return 0 if self._allotment is None else len(self._allotment.queue)

    async def check(self, count: int, memory_gb: float = 0.0) -> None:
        """Say at once what can never be had here.

        Raises:
            BackendUnavailableError: this machine has not so many GPUs of that size, or none.
        """
        (await self._known()).check(count, memory_gb)

    async def acquire(
        self,
        owner: str,
        count: int,
        memory_gb: float = 0.0,
        *,
        timeout_s: float,
        waiting: Callable[[int], None] = lambda place: None,
    ) -> tuple[Gpu, ...]:
        """Wait for GPUs and return them; they are the owner's until ``release``.

        Args:
            owner: who; can have one lease at a time.
            count: how many, all at once.
            memory_gb: what each must have, in 10^9 bytes.
            timeout_s: how long to wait.
            waiting: told the place in the queue, counted from 1, whenever it changes.

        Raises:
            BackendUnavailableError: this machine has not so many GPUs of that size.
            SandboxError: none became free in time.
            ValueError: the owner has a lease, or waits for one.
        """
        allotment = await self._known()
        request = allotment.ask(owner, count, memory_gb)
        kept, place = False, 0
        try:
            with anyio.move_on_after(timeout_s):
                while True:
                    changed = self._changed
                    await self._grant(allotment)
                    if request.gpus:
                        break
                    if allotment.place(request) != place:
                        place = allotment.place(request)
                        waiting(place)
                    with anyio.move_on_after(self._look_again_s):
                        await changed.wait()
            if not request.gpus:
                raise SandboxError(_too_late(request, place, timeout_s))
            kept = True
            return request.gpus
        finally:
            if not kept:
                self._withdraw(allotment, request)

    def release(self, owner: str) -> None:
        """Give back all that an owner has, once its sandbox is gone. No error if that is nothing."""
        if self._allotment is not None:
            self._unlock(self._allotment.release(owner))
            self._wake()

    async def adopt(self, owner: str, label: str) -> tuple[str, ...]:
        """Take over the lease of a living sandbox that an earlier server made, and return the ids.

        Args:
            owner: who has it.
            label: its label ``mlgym.gpus``.

        Raises:
            SandboxError: another has one of its GPUs, here or in another server.
        """
        allotment = await self._known()
        gpus = tuple(filter(None, label.split(",")))
        taken: set[str] = set()
        had = owner in allotment.owners.values()
        try:
            allotment.hold(owner, gpus)
            for gpu in gpus:
                if gpu not in self._locks:
                    if not self._lock(gpu):
                        raise ValueError(f"the GPU {gpu} is held by another server")
                    taken.add(gpu)
        except ValueError as error:
            self._unlock(taken)
            if not had:
                allotment.release(owner)
            raise SandboxError(f"the sandbox's GPUs cannot be taken over: {error}") from None
        return gpus

    async def _known(self) -> Allotment:
        if self._allotment is not None:
            return self._allotment
        found = Allotment(await self._look())
        if self._allotment is None and found.free:  # another may have looked meanwhile
            self._allotment = found
        return self._allotment or found

    async def _grant(self, allotment: Allotment) -> None:
        """Give what can be given to whoever is first; one round at a time."""
        async with self._one_at_a_time:
            if not allotment.queue or not allotment.free:
                return
            used = await self._in_use()
            # From here on nothing waits: what is found free is given before anybody else can look.
            living = set(allotment.owners.values())
            elsewhere = {gpu for gpu, owner in used.items() if owner not in living}
            locked = {gpu for gpu in allotment.free - elsewhere if self._lock(gpu)}
            granted = allotment.grant(allotment.free - locked)
            self._unlock(locked & allotment.free)
        if granted:
            self._wake()

    def _withdraw(self, allotment: Allotment, request: Request) -> None:
        allotment.withdraw(request)
        self._unlock({gpu.id for gpu in request.gpus})
        self._wake()

    def _wake(self) -> None:
        """Let all who wait look again."""
        self._changed.set()
        self._changed = anyio.Event()

    def _lock(self, gpu: str) -> bool:
        """Take the lock of a GPU; whether nobody had it. The kernel drops it when this process ends."""
        folder = self._folder or home("run", "gpus")
        path = folder / f"{self._prefix}{quote(gpu, safe='')}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._locks[gpu] = descriptor
        return True

    def _unlock(self, gpus: Iterable[str]) -> None:
        for gpu in gpus:
            if (descriptor := self._locks.pop(gpu, None)) is not None:
                os.close(descriptor)


def _too_late(request: Request, place: int, timeout_s: float) -> str:
    what = "no GPU" if request.count == 1 else f"no {request.count} GPUs at once"
    return (
        f"{what} became free within {timeout_s:g} s (last at place {place} of the queue); "
        "end a session that holds some, or try again later"
    )
