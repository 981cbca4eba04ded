"""Sandboxes made before they are asked for: what one may cost to start is paid while nobody waits.

A pooled sandbox has run nothing, belongs to nobody and carries the label ``mlgym.pooled``. Handed out, it gets the
labels and the environment of who asked, keeps its own name, and is from then on a sandbox like any other: found by
its new labels, attached to by its name, and never given back.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from mlgym_sandbox.backends.base import Backend, Found
from mlgym_sandbox.errors import SandboxError
from mlgym_sandbox.sandbox import Sandbox
from mlgym_sandbox.spec import Check, SandboxSpec

LABEL: Final = "mlgym.pooled"
KINDS: Final = 4
"""Of so many kinds of sandbox, those asked for last, some are kept ready."""
OLDEST_S: Final = 3600.0
"""One that waited longer is replaced: its image may have been made anew since."""
_PAUSE_S = 0.25
"""A new one is begun so long after one was handed out: the first commands in that one come first."""
_RETRY_S = (5.0, 300.0)
_HAND_OUT_S = 5.0
_NOTHING = bytes(1024)
"""A tar archive with nothing in it."""
_CLOSE_S = 30.0

logger = logging.getLogger(__name__)


def _no_labels() -> Mapping[str, str]:
    return {}


@dataclass(slots=True)
class _Ready:
    sandbox: Sandbox
    made: float


@dataclass(eq=False, slots=True)
class _Kind:
    """Sandboxes that are alike but for name, labels and environment."""

    backend: Backend
    spec: SandboxSpec
    ready: deque[_Ready] = field(default_factory=deque)
    retry_s: float = 0.0
    not_before: float = 0.0


class WarmPool:
    """Keeps sandboxes ready of the kinds that were asked for last.

    Args:
        size: how many of each kind; 0 keeps none.
        kinds: of how many kinds; the one not asked for the longest goes first.
        labels: what every pooled sandbox carries besides ``mlgym.pooled``, so that the next server knows whose
            it was.
    """

    def __init__(self, size: int, *, kinds: int = KINDS, labels: Callable[[], Mapping[str, str]] = _no_labels) -> None:
        if size < 0:
            raise ValueError(f"the size of the warm pool must not be negative, got {size}")
        self.size = size
        self._most_kinds = kinds
        self._labels = labels
        self._kinds: OrderedDict[object, _Kind] = OrderedDict()
        self._changed = anyio.Event()
        self._gone: list[Sandbox] = []
        self._running = False

    @property
    def ready(self) -> int:
        """How many wait to be handed out."""
        return sum(len(kind.ready) for kind in self._kinds.values())

    def over(self, backend: Backend) -> Backend:
        """Return the same backend, but for ``create``, which looks into the pool first."""
        return PooledBackend(backend, self) if self.size else backend

    async def run(self) -> None:
        """Fill the pool until cancelled; then it is emptied: returns when all that waited in it is removed."""
        if not self.size:
            return
        self._running = True
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._look_after)
                tasks.start_soon(self._remove_gone)
                await self._fill()
        finally:
            self._running = False
            with anyio.CancelScope(shield=True):
                while self._kinds:
                    self._give_up(next(iter(self._kinds)))
                async with anyio.create_task_group() as tasks:
                    for sandbox in self._gone:
                        tasks.start_soon(_close, sandbox)
                self._gone.clear()

    async def take(self, backend: Backend, spec: SandboxSpec) -> Sandbox | None:
        """Return a ready sandbox as ``spec`` says, with its labels and environment; ``None`` if there is none.

        Asked for once, a kind is kept ready from then on. Those with GPUs are not: a GPU must not wait.
        """
        if spec.gpus or not self._running:
            return None
        key = (backend, spec.environment, spec.image, spec.limits, spec.mounts, spec.network, spec.ttl_s)
        kind = self._kinds.get(key)
        if kind is None:
            while len(self._kinds) >= self._most_kinds:
                self._give_up(next(iter(self._kinds)))
            kind = self._kinds[key] = _Kind(backend, replace(spec, env={}, labels={}))
        self._kinds.move_to_end(key)
        while kind.ready:
            sandbox = kind.ready.popleft().sandbox
            self._wake()
            handed_out = False
            try:
                with anyio.fail_after(_HAND_OUT_S):
                    await sandbox.set_environment(spec.env)  # also tells whether it still answers
                    await backend.relabel(sandbox.name, spec.labels)
                handed_out = True
                return sandbox
            except (SandboxError, TimeoutError, OSError) as error:
                logger.warning("the pooled sandbox %s was lost: %s", sandbox.name, error)
            finally:
                if not handed_out:
                    self._drop(sandbox)
        self._wake()
        return None

    # ------------------------------------------------------------------ behind it

    async def _fill(self) -> None:
        """Make what is missing, one after another, of the kind asked for last first."""
        while True:
            changed = self._changed
            now = anyio.current_time()
            missing = [kind for kind in reversed(self._kinds.values()) if len(kind.ready) < self.size]
            due = [kind for kind in missing if kind.not_before <= now]
            if not due:
                wait_s = min((kind.not_before for kind in missing), default=now + OLDEST_S) - now
                with anyio.move_on_after(wait_s):
                    await changed.wait()
                    await anyio.sleep(_PAUSE_S)
                continue
            await self._make(due[0])

    async def _make(self, kind: _Kind) -> None:
        name = f"mlgym-warm-{secrets.token_hex(8)}"
        labels = {**self._labels(), "mlgym": "1", LABEL: "1"}
        try:
            sandbox = await kind.backend.create(replace(kind.spec, name=name, labels=labels))
            await self._rehearse(sandbox)
        except (SandboxError, OSError) as error:
            kind.retry_s = min(max(_RETRY_S[0], 2 * kind.retry_s), _RETRY_S[1])
            kind.not_before = anyio.current_time() + kind.retry_s
            logger.warning("no sandbox for the warm pool; next try in %g s: %s", kind.retry_s, error)
            return
        kind.retry_s = 0.0
        if kind in self._kinds.values():
            kind.ready.append(_Ready(sandbox, anyio.current_time()))
        else:  # nobody wants its kind any more
            self._drop(sandbox)

    async def _rehearse(self, sandbox: Sandbox) -> None:
        """Have the runner load what it needs for the first files it is given: that takes longer than all the rest."""
        try:
            await sandbox.untar(_NOTHING)
        except BaseException:
            self._drop(sandbox)
            raise

    async def _look_after(self) -> None:
        """Speak to those that wait, or they would end themselves; replace those that are lost or old."""
        while True:
            shortest = min((kind.spec.ttl_s for kind in self._kinds.values()), default=240.0)
            await anyio.sleep(min(60.0, shortest / 4))
            for kind in tuple(self._kinds.values()):
                for ready in tuple(kind.ready):
                    try:
                        old = anyio.current_time() - ready.made > OLDEST_S
                        await ready.sandbox.ping(_HAND_OUT_S)
                    except SandboxError:
                        old = True
                    if old and ready in kind.ready:  # not handed out meanwhile
                        kind.ready.remove(ready)
                        self._drop(ready.sandbox)

    async def _remove_gone(self) -> None:
        while True:
            changed = self._changed
            for sandbox in tuple(self._gone):
                if await _close(sandbox):
                    self._gone.remove(sandbox)
            with anyio.move_on_after(_RETRY_S[0] if self._gone else None):  # an engine may be away just now
                await changed.wait()

    def _give_up(self, key: object) -> None:
        for ready in self._kinds.pop(key).ready:
            self._drop(ready.sandbox)

    def _drop(self, sandbox: Sandbox) -> None:
        self._gone.append(sandbox)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


async def _close(sandbox: Sandbox) -> bool:
    """Remove a sandbox; whether that went well."""
    with anyio.move_on_after(_CLOSE_S, shield=True):
        try:
            await sandbox.close()
            return True
        except (SandboxError, OSError) as error:
            logger.warning("the pooled sandbox %s could not be removed: %s", sandbox.name, error)
    return False


def unpooled(backend: Backend) -> Backend:
    """Return the backend itself, without a pool before it."""
    return backend.inner if isinstance(backend, PooledBackend) else backend


class PooledBackend(Backend):
    """A backend whose sandboxes may have been made before they are asked for."""

    def __init__(self, inner: Backend, pool: WarmPool) -> None:
        self.inner = inner
        self.name = inner.name
        self._pool = pool

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Take one from the pool, else make one. See ``Backend.create``; a pooled one has a name of its own."""
        return await self._pool.take(self.inner, spec) or await self.inner.create(spec)

    async def probe(self) -> Sequence[Check]:
        """As the backend itself. See ``Backend.probe``."""
        return await self.inner.probe()

    async def find(self, labels: Mapping[str, str]) -> Sequence[Found]:
        """As the backend itself. See ``Backend.find``."""
        return await self.inner.find(labels)

    async def relabel(self, name: str, labels: Mapping[str, str]) -> None:
        """As the backend itself. See ``Backend.relabel``."""
        await self.inner.relabel(name, labels)

    async def attach(self, name: str) -> Sandbox:
        """As the backend itself. See ``Backend.attach``."""
        return await self.inner.attach(name)

    async def remove(self, name: str) -> None:
        """As the backend itself. See ``Backend.remove``."""
        await self.inner.remove(name)
