"""Who has which GPU: the rules alone, with no waiting, no files and no engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from mlgym_sandbox.errors import BackendUnavailableError
from mlgym_sandbox.gpus import Gpu, Inventory


@dataclass(eq=False, slots=True)
class Request:
    """Somebody's wish for GPUs; ``gpus`` is set once it is granted."""

    owner: str
    count: int
    memory_gb: float
    gpus: tuple[Gpu, ...] = field(default=())


class Allotment:
    """Hands out GPUs, each to one owner, several at once or none.

    First come, first served. A later request is granted before an earlier one only when it takes nothing that
    the earlier could use, so nobody waits longer for it, and a request for many is not starved by ones for few.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._gpus = {gpu.id: gpu for gpu in inventory.gpus}
        self._owners: dict[str, str] = {}
        self._queue: list[Request] = []

    @property
    def owners(self) -> Mapping[str, str]:
        """The owner of each GPU that has one."""
        return dict(self._owners)

    @property
    def free(self) -> frozenset[str]:
        """The GPUs that nobody here has."""
        return frozenset(self._gpus.keys() - self._owners.keys())

    @property
    def queue(self) -> Sequence[Request]:
        """Those who wait, first come first."""
        return tuple(self._queue)

    def fitting(self, count: int, memory_gb: float) -> list[Gpu]:
        """Return all GPUs that a request could be given, the smallest first.

        Slices are for those who want one: CUDA opens one slice in a process, never two.
        """
        found = [
            gpu for gpu in self._gpus.values() if gpu.memory_gb >= memory_gb and (count == 1 or gpu.part_of is None)
        ]
        return sorted(found, key=lambda gpu: (gpu.memory_mb, gpu.number, gpu.id))

    def check(self, count: int, memory_gb: float = 0.0) -> None:
        """Say at once what can never be granted.

        Raises:
            ValueError: no positive number.
            BackendUnavailableError: this machine has not so many GPUs of that size.
        """
        if count < 1:
            raise ValueError(f"the number of GPUs must be positive, got {count!r}")
        if len(self.fitting(count, memory_gb)) >= count:
            return
        wanted = _words(count, memory_gb)
        if not self._gpus:
            raise BackendUnavailableError(
                f"{wanted} needed, but {self._inventory.problem or 'this machine has none'}; "
                "or choose a preset that needs none (mini)"
            )
        have = ", ".join(f"{gpu.name} with {gpu.memory_gb:.1f} GB" for gpu in self._gpus.values())
        slices = " (only whole devices can be used together)" if count > 1 and self._slices else ""
        raise BackendUnavailableError(
            f"{wanted} needed, but this machine has only {have}{slices}; choose a smaller preset, or another machine"
        )

    @property
    def _slices(self) -> bool:
        return any(gpu.part_of is not None for gpu in self._gpus.values())

    def ask(self, owner: str, count: int, memory_gb: float = 0.0) -> Request:
        """Queue up; ``grant`` decides.

        Raises:
            ValueError: the owner has or waits for some already: two who wait for more could wait forever.
            BackendUnavailableError: it could never be granted.
        """
        self.check(count, memory_gb)
        if owner in self._owners.values() or any(request.owner == owner for request in self._queue):
            raise ValueError(f"{owner} has or waits for GPUs already")
        request = Request(owner, count, memory_gb)
        self._queue.append(request)
        return request

    def grant(self, unusable: Set[str] = frozenset()) -> list[Request]:
        """Give what can be given, and return to whom.

        Args:
            unusable: GPUs that are nobody's here, but somebody's elsewhere.
        """
        granted: list[Request] = []
        kept: set[str] = set()
        for request in tuple(self._queue):
            fitting = self.fitting(request.count, request.memory_gb)
            free = [gpu for gpu in fitting if gpu.id not in self._owners and gpu.id not in kept | unusable]
            if len(free) < request.count:
                kept |= {gpu.id for gpu in fitting}
                continue
            request.gpus = tuple(free[: request.count])
            self._owners |= dict.fromkeys((gpu.id for gpu in request.gpus), request.owner)
            self._queue.remove(request)
            granted.append(request)
        return granted

    def place(self, request: Request) -> int:
        """Return how many are before a request, itself included; 0 when it waits no longer."""
        return self._queue.index(request) + 1 if request in self._queue else 0

    def withdraw(self, request: Request) -> None:
        """Take a request back, granted or not."""
        if request in self._queue:
            self._queue.remove(request)
        elif request.gpus:
            self.release(request.owner)

    def release(self, owner: str) -> frozenset[str]:
        """Take back all that an owner has; returns it. No error if that is nothing."""
        gone = frozenset(gpu for gpu, who in self._owners.items() if who == owner)
        for gpu in gone:
            del self._owners[gpu]
        return gone

    def hold(self, owner: str, gpus: Iterable[str]) -> None:
        """Note that somebody has GPUs since before this server began, known to it or not.

        Raises:
            ValueError: another has one of them.
        """
        wanted = tuple(gpus)
        for gpu in wanted:
            if self._owners.get(gpu, owner) != owner:
                raise ValueError(f"the GPU {gpu} belongs to {self._owners[gpu]}, not to {owner}")
        self._owners |= dict.fromkeys(wanted, owner)


def _words(count: int, memory_gb: float) -> str:
    size = f" with at least {memory_gb:g} GB" if memory_gb else ""
    if count == 1:
        return f"a GPU{size} is"
    return f"{count} GPUs{size}{' each' if size else ''} are"
