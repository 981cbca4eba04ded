"""The pages: episodes, one episode, its jobs and files, standings. They read what is on disk, never a live session."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from mlgym_mcp.records.leaderboard import figures_of
from mlgym_mcp.records.plots import MissingExtraError, scores_name
from mlgym_mcp.records.reading import read_attempt
from mlgym_mcp.records.report import Report
from mlgym_mcp.records.tables import aup_table, board_table, failures_table, left_out_lines, standings_table
from mlgym_mcp.web.chart import score_chart
from mlgym_mcp.web.following import follow
from mlgym_mcp.web.guard import BYTES_POLICY, LOOPBACK, PLOTS_POLICY, Guard
from mlgym_mcp.web.jobs import read_jobs
from mlgym_mcp.web.kinds import kind_of, text_of
from mlgym_mcp.web.pages import Pages
from mlgym_mcp.web.past_files import MissingFileError, blob_of, content_of, files_of, snapshots_of
from mlgym_mcp.web.shelf import FILTERS, Shelf
from mlgym_mcp.web.standings import Standings
from mlgym_mcp.web.text import folded
from mlgym_mcp.web.timeline import PAGE, read_timeline, scored_snapshots

AT_A_TIME = 100
"""Episodes on one page of the list."""
_MOST_FOLLOWED = 64
_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


class Viewer:
    """The application's answers.

    Args:
        shelf: the episodes.
        stopping: whether the server is about to stop, so that streams end.
    """

    def __init__(self, shelf: Shelf, stopping: Callable[[], bool]) -> None:
        self._shelf = shelf
        self._stopping = stopping
        self._pages = Pages()
        self._standings = Standings(shelf)
        self._reading = anyio.CapacityLimiter(4)
        self._followed = 0

    def routes(self) -> list[Route]:
        """Return all routes."""
        one = "/episodes/{key}"
        return [
            Route("/", self.episodes),
            Route("/login", self.login),
            Route("/report", self.report),
            Route("/report/pictures/{name}", self.picture),
            Route(one, self.episode),
            Route(f"{one}/follow", self.follow),
            Route(f"{one}/jobs", self.jobs),
            Route(f"{one}/jobs/{{job}}", self.job),
            Route(f"{one}/files", self.snapshots),
            Route(f"{one}/files/{{name}}", self.files),
            Route(f"{one}/files/{{name}}/{{number:int}}", self.file),
            Route(f"{one}/files/{{name}}/{{number:int}}/raw", self.raw),
            Route(f"{one}/blobs/{{digest}}", self.blob),
            Route("/static/{name}", self.static),
        ]

    async def episodes(self, request: Request) -> Response:
        """List episodes, filtered."""
        wanted = {name: request.query_params.get(name, "") for name in FILTERS}
        text = request.query_params.get("text", "")[:200]
        number = _number(request, "page", 1)
        found = await self._shelf.page(wanted, text, AT_A_TIME, (number - 1) * AT_A_TIME)
        return self._pages.page(
            request,
            "episodes.html.j2",
            found=found,
            wanted=wanted,
            text=text,
            number=number,
            pages=max(1, -(-found.count // AT_A_TIME)),
            first=(number - 1) * AT_A_TIME + 1,
            address=partial(_address, wanted | {"text": text}),
        )

    async def login(self, request: Request) -> Response:
        """Ask for the token."""
        return self._pages.page(request, "login.html.j2", wrong="wrong" in request.query_params)

    async def episode(self, request: Request) -> Response:
        """Show one episode."""
        key, folder = await self._folder(request)
        attempt = await self._read(read_attempt, folder)
        first = _number(request, "from", 0)
        timeline = await self._read(read_timeline, folder, first)
        return self._pages.page(
            request,
            "episode.html.j2",
            key=key,
            attempt=attempt,
            timeline=timeline,
            chart=self._chart(attempt),
            first=first,
            most=PAGE,
            following=not timeline.ended and first + PAGE >= timeline.count,
        )

    async def follow(self, request: Request) -> Response:
        """Send the entries of a live episode as they come, as pieces of the page."""
        key, folder = await self._folder(request)
        known = request.headers.get("last-event-id", request.query_params.get("after", "-1"))
        try:
            after = int(known)
        except ValueError:
            raise HTTPException(400, "that is no number of an event") from None
        if self._followed >= _MOST_FOLLOWED:
            raise HTTPException(503, "too many pages follow sessions: close some")
        return StreamingResponse(self._stream(request, key, folder, after), media_type="text/event-stream")

    async def jobs(self, request: Request) -> Response:
        """List an episode's jobs."""
        key, folder = await self._folder(request)
        return self._pages.page(request, "jobs.html.j2", key=key, jobs=await self._read(read_jobs, folder))

    async def job(self, request: Request) -> Response:
        """Show what was seen of one job's output."""
        key, folder = await self._folder(request)
        name = request.path_params["job"]
        found = await self._read(read_jobs, folder, name)
        if not found:
            raise HTTPException(404, "there is no such job in the journal")
        timeline = await self._read(read_timeline, folder, 0, 0)
        return self._pages.page(
            request, "job.html.j2", key=key, job=found[0], last=timeline.last, following=not timeline.ended
        )

    async def snapshots(self, request: Request) -> Response:
        """List an episode's snapshots."""
        key, folder = await self._folder(request)
        found, problems = await self._read(snapshots_of, folder)
        scores = await self._read(scored_snapshots, folder)
        return self._pages.page(
            request, "snapshots.html.j2", key=key, snapshots=found, problems=problems, scores=scores
        )

    async def files(self, request: Request) -> Response:
        """List a snapshot's files."""
        key, folder = await self._folder(request)
        name = request.path_params["name"]
        found = await self._read(files_of, folder, name)
        return self._pages.page(request, "files.html.j2", key=key, name=name, files=found)

    async def file(self, request: Request) -> Response:
        """Show a file of a snapshot: text or picture."""
        key, folder = await self._folder(request)
        name, number = request.path_params["name"], request.path_params["number"]
        found, data = await self._read(content_of, folder, name, number)
        kind = kind_of(data)
        shown = folded(text_of(data), 1_000_000, 1_000_000) if kind.startswith("text/") else None
        return self._pages.page(
            request, "file.html.j2", key=key, name=name, file=found, shown=shown, picture=kind.startswith("image/")
        )

    async def raw(self, request: Request) -> Response:
        """Give a file of a snapshot out as it is, as something that no browser runs."""
        _, folder = await self._folder(request)
        name, number = request.path_params["name"], request.path_params["number"]
        _, data = await self._read(content_of, folder, name, number)
        return _bytes(data)

    async def blob(self, request: Request) -> Response:
        """Give out a long argument."""
        _, folder = await self._folder(request)
        data = await self._read(blob_of, folder, request.path_params["digest"])
        return _bytes(data, "text/plain; charset=utf-8")

    async def report(self, request: Request) -> Response:
        """Show the standings of a sweep, a task, or all."""
        wanted = {name: request.query_params.get(name, "") for name in ("sweep", "task")}
        made, pictures = await self._standings.report(wanted)
        choices = (await self._shelf.page({}, "", 1, 0)).choices
        return self._pages.page(
            request,
            "report.html.j2",
            policy=PLOTS_POLICY,
            report=made,
            wanted=wanted,
            choices=choices,
            left_out=left_out_lines(made.left_out),
            boards=[(board, board_table(board), scores_name(board)) for board in made.boards],
            **_tables(made),
            pictures=set(pictures),
            address=partial(_address, wanted),
        )

    async def picture(self, request: Request) -> Response:
        """Give a plot of the standings, to stand in their page."""
        wanted = {name: request.query_params.get(name, "") for name in ("sweep", "task")}
        try:
            found = await self._standings.picture(wanted, request.path_params["name"])
        except MissingExtraError as exc:
            raise HTTPException(501, str(exc)) from exc
        if found is None:
            raise HTTPException(404, "there is no such picture")
        return HTMLResponse(str(found), headers={"Content-Security-Policy": BYTES_POLICY})

    async def static(self, request: Request) -> Response:
        """Give out the style sheet, the script, the icon."""
        name: str = request.path_params["name"]
        kind = _TYPES.get(name.rpartition(".")[2])
        path = resources.files(__package__) / "static" / name
        if kind is None or not name.replace(".", "").isalnum() or not path.is_file():
            raise HTTPException(404, "there is no such file")
        return Response(path.read_bytes(), media_type=kind)

    async def problem(self, request: Request, exc: Exception) -> Response:
        """Show what cannot be shown."""
        status = exc.status_code if isinstance(exc, HTTPException) else 404
        told = exc.detail if isinstance(exc, HTTPException) else str(exc)
        return self._pages.page(request, "problem.html.j2", status=status, code=status, told=told)

    async def _folder(self, request: Request) -> tuple[str, Path]:
        key = request.path_params["key"]
        folder = await self._shelf.folder(key)
        if folder is None:
            raise HTTPException(404, "there is no such episode")
        return key, folder

    async def _read(self, work: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await anyio.to_thread.run_sync(work, *arguments, limiter=self._reading)
        except OSError as exc:
            raise HTTPException(404, f"the episode cannot be read: {exc.strerror or exc}") from exc

    def _chart(self, attempt: Any) -> Any:
        return score_chart(attempt, figures_of(self._standings.catalog, attempt.task, attempt.preset).reference)

    async def _stream(self, request: Request, key: str, folder: Path, after: int) -> AsyncIterator[str]:
        self._followed += 1
        try:
            yield "retry: 1000\n\n"
            async for found in follow(folder, after, self._stopping):
                if found is None:
                    yield ": nothing new\n\n"
                    continue
                line, entry = found
                told = {
                    "entry": f"e{entry.seq}",
                    "html": self._pages.text(request.scope, "entry.html.j2", key=key, entry=entry),
                    "job": entry.job,
                }
                if line.type == "score":
                    with contextlib.suppress(HTTPException):  # the journal was taken away
                        told["chart"] = str(self._chart(await self._read(read_attempt, folder)))
                yield f"id: {line.seq}\nevent: {'end' if line.type == 'end' else 'entry'}\ndata: {json.dumps(told)}\n\n"
        finally:
            self._followed -= 1


def make_app(
    shelf: Shelf,
    *,
    token: str | None = None,
    hosts: Sequence[str] | None = LOOPBACK,
    stopping: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """Return the application.

    Args:
        shelf: the episodes to show.
        token: what browsers must give; ``None``: nothing, for a loopback address only.
        hosts: names by which it may be called; ``None``: somebody else has looked at that.
        stopping: whether the server is about to stop.
    """
    viewer = Viewer(shelf, stopping)
    handlers: dict[Any, Any] = {HTTPException: viewer.problem, MissingFileError: viewer.problem}
    return Guard(Starlette(routes=viewer.routes(), exception_handlers=handlers), token, hosts)


def _tables(made: Report) -> dict[str, Any]:
    return {
        "standings": standings_table(made),
        "aup": aup_table(made.profiles),
        "failures": failures_table(made.attempts),
    }


def _bytes(data: bytes, kind: str | None = None) -> Response:
    kind = kind or kind_of(data)
    headers = {"Content-Security-Policy": BYTES_POLICY}
    if kind == "application/octet-stream":
        headers["Content-Disposition"] = "attachment"
    return Response(data, media_type=kind, headers=headers)


def _number(request: Request, name: str, least: int) -> int:
    given = request.query_params.get(name, "")
    return max(least, int(given)) if given.isascii() and given.isdigit() and len(given) < 10 else least


def _address(values: dict[str, str], **more: Any) -> str:
    """Return the query of an address: what is wanted, with something changed."""
    every = {name: str(value) for name, value in {**values, **more}.items() if value not in ("", None)}
    return "?" + urlencode(every, errors="replace")
