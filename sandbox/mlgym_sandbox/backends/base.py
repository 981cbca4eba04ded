"""The interface of a backend. See ``mlgym_sandbox.sandbox.Sandbox`` for what it hands out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlgym_sandbox.sandbox import Sandbox
    from mlgym_sandbox.spec import Check, SandboxSpec


@dataclass(frozen=True, slots=True)
class Found:
    """A sandbox of an earlier or another server that still exists."""

    name: str
    labels: Mapping[str, str]
    running: bool


class Backend(ABC):
    """A way to run sandboxes on this machine or an engine.

    A backend is cheap to make and holds no sandbox: those it created outlive it and are found again by
    label. All methods are safe to call concurrently, bound their own waits, and clean up when cancelled.
    """

    name: str

    @abstractmethod
    async def probe(self) -> Sequence[Check]:
        """Look at what this backend needs, by trying it; the last check says whether it works as a whole."""

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Make and start a sandbox; returns connected, with its runner answering.

        Raises:
            BackendUnavailableError: something the backend needs is missing.
            SandboxError: it could not be started; nothing is left behind.
        """

    @abstractmethod
    async def find(self, labels: Mapping[str, str]) -> Sequence[Found]:
        """All sandboxes of this backend that carry all of these labels, dead or alive."""

    @abstractmethod
    async def relabel(self, name: str, labels: Mapping[str, str]) -> None:
        """Give a sandbox other labels: from now on ``find`` knows it by these and by no others.

        An engine that fixes a container's labels when it is made goes on showing the first ones in its own
        lists; what counts is remembered on this machine, beside the sandbox's secret.

        Raises:
            SandboxLostError: there is none of that name, or nothing is remembered of it here.
        """

    @abstractmethod
    async def attach(self, name: str) -> Sandbox:
        """Connect again to a running sandbox, whoever made it: jobs and their output are still there.

        Raises:
            SandboxLostError: there is none of that name, or it no longer answers.
        """

    @abstractmethod
    async def remove(self, name: str) -> None:
        """Kill a sandbox and remove all that it left (container, volumes, cgroup, mounts). No error if gone."""
