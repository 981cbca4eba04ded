"""Asynchronous work for synchronous programs: an event loop in a thread that keeps no program from ending."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

_Returned = TypeVar("_Returned")


class _Here:
    """What this process has of it; a forked one has nothing, for threads are not forked."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.portal: BlockingPortal | None = None


_here = _Here()
os.register_at_fork(after_in_child=_here.__init__)  # type: ignore[misc]


def portal() -> BlockingPortal:
    """Return this process's portal. Its thread is a daemon: a program that closes nothing still ends."""
    with _here.lock:
        if _here.portal is None:
            started: Future[BlockingPortal] = Future()
            threading.Thread(target=anyio.run, args=(_serve, started), name="mlgym-portal", daemon=True).start()
            _here.portal = started.result()
        return _here.portal


def call(function: Callable[..., Awaitable[_Returned]], *arguments: Any) -> _Returned:
    """Call an asynchronous function in the portal's loop and return what it returns; its errors are raised here."""
    return portal().call(function, *arguments)


def soon(function: Callable[[], object]) -> None:
    """Call a quick function in the portal's loop, without waiting; from any thread, finalizers included."""
    there = _here.portal
    if there is None:
        return
    try:
        there.start_task_soon(_called, function)
    except RuntimeError:  # this is the loop's own thread, or the loop has ended
        with contextlib.suppress(RuntimeError):
            function()


async def _called(function: Callable[[], object]) -> None:
    function()


async def _serve(started: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as made:
        started.set_result(made)
        await made.sleep_until_stopped()
