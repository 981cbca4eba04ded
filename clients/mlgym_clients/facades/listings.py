"""What there is to attempt, as both standards list it: a split for each size of tasks, and its tasks in order."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mlgym_clients.facades.episodes import Episodes, RefusedError
from mlgym_clients.facades.guard import body_of

ENVIRONMENT = "mlgym"
_KINDS = {"mini": "train"}
"""Of splits; others are for the test of what was trained on the small ones."""


class Listings:
    """The routes that list."""

    def __init__(self, episodes: Episodes) -> None:
        self._episodes = episodes

    def routes(self) -> list[Route]:
        """Return them."""
        named = [
            Route(f"{before}/{name}", function, methods=[method])
            for before in ("", "/{environment}")
            for name, function, method in (
                ("splits", self.splits, "GET"),
                ("tasks", self.all_tasks, "POST"),
                ("num_tasks", self.count, "POST"),
                ("task", self.one, "POST"),
                ("task_range", self.some, "POST"),
            )
        ]
        return [Route("/list_environments", self.environments), *named]

    async def environments(self, request: Request) -> JSONResponse:
        """Say how the one environment is called."""
        return JSONResponse([ENVIRONMENT])

    async def splits(self, request: Request) -> JSONResponse:
        """List the sizes of tasks."""
        check_environment(request)
        tasks = await self._listed()
        names = {preset for task in tasks for preset in task["presets"]}
        ordered = sorted(names, key=lambda name: (name not in _KINDS, name))
        return JSONResponse([{"name": name, "type": _KINDS.get(name, "test")} for name in ordered])

    async def all_tasks(self, request: Request) -> JSONResponse:
        """List the tasks of a size."""
        check_environment(request)
        return JSONResponse(
            {"tasks": await self.tasks_of((await body_of(request)).get("split")), "env_name": ENVIRONMENT}
        )

    async def count(self, request: Request) -> JSONResponse:
        """Say how many there are."""
        check_environment(request)
        return JSONResponse({"num_tasks": len(await self.tasks_of((await body_of(request)).get("split")))})

    async def one(self, request: Request) -> JSONResponse:
        """Return one, by its place."""
        check_environment(request)
        given = await body_of(request)
        task = await self.task_at(given.get("split"), given.get("index"))
        return JSONResponse({"task": task, "env_name": ENVIRONMENT})

    async def some(self, request: Request) -> JSONResponse:
        """Return those from one place to before another."""
        check_environment(request)
        given = await body_of(request)
        start, stop = given.get("start"), given.get("stop")
        if not all(place is None or isinstance(place, int) for place in (start, stop)):
            raise HTTPException(400, "Invalid index range")
        return JSONResponse({"tasks": (await self.tasks_of(given.get("split")))[start:stop], "env_name": ENVIRONMENT})

    async def task_at(self, split: Any, index: Any) -> dict[str, Any]:
        """Return a task by its place.

        Raises:
            HTTPException: there is none.
        """
        tasks = await self.tasks_of(split)
        if not isinstance(index, int) or not 0 <= index < len(tasks):
            raise HTTPException(400, "Invalid index")
        return tasks[index]

    async def tasks_of(self, split: Any) -> list[dict[str, Any]]:
        """Return the tasks of a size, as a session is asked for.

        Raises:
            HTTPException: there is no such size.
        """
        if not isinstance(split, str):
            raise HTTPException(400, "Invalid split")
        found = [
            {"task": task["id"], "preset": split, "title": task["title"]}
            for task in await self._listed()
            if split in task["presets"]
        ]
        if not found:
            raise HTTPException(400, "Invalid split")
        return found

    async def _listed(self) -> list[dict[str, Any]]:
        try:
            return [task.model_dump(mode="json") for task in await self._episodes.tasks()]
        except RefusedError as exc:
            raise HTTPException(503, str(exc)) from exc


def check_environment(request: Request) -> None:
    """Refuse another environment's name.

    Raises:
        HTTPException: it is another's.
    """
    name = request.path_params.get("environment", ENVIRONMENT)
    if name.lower() != ENVIRONMENT:
        raise HTTPException(404, f"unknown environment {name[:100]!r}")
