"""What Inspect finds of us by our entry point: each task as ``mlgym_mcp/TASK``, and the sandbox ``mlgym``."""

from __future__ import annotations

from typing import Any

from inspect_ai import Task, task

from mlgym_clients.inspect.sandbox import MLGymSandbox
from mlgym_clients.inspect.tasks import attempts_at, better_than_baseline, final_score, researcher, session_server
from mlgym_mcp.catalog import Catalog, TaskError

__all__ = ["MLGymSandbox", "attempt", "better_than_baseline", "final_score", "researcher", "session_server"]


def _register(name: str) -> None:
    """Make a task of the catalog one of Inspect's."""

    @task(name=name)
    def made(
        preset: str = "mini",
        seeds: int | list[int] = 1,
        budget: dict[str, Any] | None = None,
        server: str | None = None,
        sandbox: str | None = None,
    ) -> Task:
        return attempts_at(
            name,
            preset=preset,
            seeds=seeds,
            budget=budget,
            server=server,
            sandbox=sandbox,
            version=Catalog.default().get(name).spec.task.version,
        )


@task
def attempt(
    task: str,
    preset: str = "mini",
    seeds: int | list[int] = 1,
    budget: dict[str, Any] | None = None,
    server: str | None = None,
    sandbox: str | None = None,
) -> Task:
    """Attempt any task that the server has, also one that is not in this installation's catalog."""
    return attempts_at(task, preset=preset, seeds=seeds, budget=budget, server=server, sandbox=sandbox)


try:
    for _name in Catalog.default().ids():
        _register(_name)
except TaskError:
    pass  # no folder of tasks: there is still the sandbox, and what another server has
