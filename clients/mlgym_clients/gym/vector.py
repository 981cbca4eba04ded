"""Several episodes at a time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from mlgym_clients.gym.env import MLGymEnv
from mlgym_clients.rl.servers import OwnServer, given


class VectorMLGymEnv(AsyncVectorEnv):
    """An ``AsyncVectorEnv`` with the settings that texts need, and a server for all of its environments.

    Args:
        count: how many.
        server: URL of a server; default as for ``MLGymEnv``, but all environments share one.
        token: its admin token, or the file that holds it.
        autoreset_mode: when an environment whose episode is over is reset.
        arguments: those of ``MLGymEnv``.
    """

    def __init__(
        self,
        count: int,
        *,
        server: str | None = None,
        token: str | Path | None = None,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        **arguments: Any,
    ) -> None:
        address = given(server, token)
        self._own = None if address.url else OwnServer(tuple(arguments.pop("serve", ())))
        if self._own is not None:
            address = self._own.address
        make = partial(MLGymEnv, server=address.url, token=address.token, **{"on_loss": "truncate"} | arguments)
        try:
            super().__init__([make] * count, shared_memory=False, context="spawn", autoreset_mode=autoreset_mode)
        except BaseException:
            self._stop()
            raise

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End the sessions, the processes, and the server if it is its own."""
        try:
            super().close_extras(timeout, terminate)
        finally:
            self._stop()

    def _stop(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            own.stop()


def make_vector(num_envs: int, task: str, preset: str = "mini", **arguments: Any) -> VectorMLGymEnv:
    """Make environments of one task that work at the same time, each in a process of its own.

    Args:
        num_envs: how many.
        task: which task.
        preset: its size.
        arguments: those of ``MLGymEnv``; ``on_loss`` is ``"truncate"`` unless it is given.
    """
    return VectorMLGymEnv(num_envs, task=task, preset=preset, **arguments)
