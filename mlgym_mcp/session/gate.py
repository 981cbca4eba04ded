"""Who may run beside whom: the order of concurrent tool calls in one session."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import anyio

Mode = Literal["shared", "ordered", "exclusive"]


@dataclass(eq=False, slots=True)
class _Waiter:
    mode: Mode
    admitted: anyio.Event = field(default_factory=anyio.Event)


class Gate:
    """Admits calls by three rules.

    - ``shared``: reads run together with everything but an exclusive call.
    - ``ordered``: calls that change something run one after another, in the order in which they came.
    - ``exclusive``: waits for all that is in flight and runs alone; calls that come later wait behind it.

    A call that is cancelled while it waits leaves no trace.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Waiter] = deque()
        self._shared = 0
        self._ordered = False
        self._exclusive = False

    @property
    def waiting(self) -> int:
        """How many calls wait for admission."""
        return len(self._waiting)

    @asynccontextmanager
    async def hold(self, mode: Mode) -> AsyncIterator[None]:
        """Wait for admission, run the body, let the next ones in."""
        waiter = _Waiter(mode)
        self._waiting.append(waiter)
        self._admit()
        try:
            await waiter.admitted.wait()
        except BaseException:
            if waiter.admitted.is_set():
                self._release(mode)
            else:
                self._waiting.remove(waiter)
                self._admit()
            raise
        try:
            yield
        finally:
            self._release(mode)

    def _release(self, mode: Mode) -> None:
        if mode == "shared":
            self._shared -= 1
        elif mode == "ordered":
            self._ordered = False
        else:
            self._exclusive = False
        self._admit()

    def _admit(self) -> None:
        ordered_before = self._ordered
        for waiter in list(self._waiting):
            if self._exclusive:
                return
            if waiter.mode == "exclusive":
                if self._shared == 0 and not self._ordered:
                    self._exclusive = True
                    self._waiting.remove(waiter)
                    waiter.admitted.set()
                return  # nobody overtakes an exclusive call
            if waiter.mode == "ordered":
                if ordered_before:
                    continue
                self._ordered = ordered_before = True
            else:
                self._shared += 1
            self._waiting.remove(waiter)
            waiter.admitted.set()
