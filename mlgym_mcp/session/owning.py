"""A task group for context managers that own tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc


@asynccontextmanager
async def owned_tasks() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Yield a task group; what the body raises leaves as itself, not wrapped in an ExceptionGroup.

    The tasks are cancelled when the body ends, in whatever way.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as exc:  # noqa: BLE001 - raised again below, outside the group
            failure = exc
        finally:
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
