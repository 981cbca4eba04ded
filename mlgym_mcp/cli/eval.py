"""``mlgym-mcp eval``: agents play tasks, many times, and every result is kept; goes on after any interruption."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from rich.markup import escape

from mlgym_mcp.catalog import Catalog, TaskError
from mlgym_mcp.cli.output import JsonOption, console, errors, plain_errors, print_json
from mlgym_mcp.records.attempts import plain_reason

if TYPE_CHECKING:
    from mlgym_clients.agents.agent import Agent
    from mlgym_clients.sweep.attempt import Attempt, Needs
    from mlgym_clients.sweep.engine import Engine
    from mlgym_clients.sweep.running import Summary
    from mlgym_clients.sweep.spec import SweepSpec

EXAMPLES = """Examples:

  mlgym-mcp eval monday.toml

  mlgym-mcp eval --tasks house_price,three_sat --agents baseline,random --seeds 3

  mlgym-mcp eval --resume sweeps/monday-20260301-101500

  mlgym-mcp eval monday.toml --server https://mlgym.example --token-file admin-token

  mlgym-mcp eval monday.toml --engine ray --ray-address 10.0.0.1:6379
"""
_SPARE = 8
"""Sessions that a server of the sweep's own may have besides: those that just end."""
_INCOMPLETE = 3
"""The exit status when attempts are left without a result."""


def evaluate(
    sweep: Annotated[
        Path | None, typer.Argument(metavar="SWEEP.toml", help="What to sweep; options below change it.")
    ] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks, with commas between them; or 'all'.")] = None,
    preset: Annotated[str | None, typer.Option(help="Sizes, with commas between them. Default: mini.")] = None,
    agents: Annotated[
        str | None, typer.Option(help="Agents that need no options: baseline, reference, random; with commas.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="How many seeds, or which: 5, or 1,4,9.")] = None,
    budget: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of each session, e.g. calls=40. Repeatable.")
    ] = None,
    max_sessions: Annotated[int | None, typer.Option(min=1, help="Attempts at a time.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the sweep. Default: the file's name.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A new folder for the results. Default: sweeps/NAME-TIME.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with the sweep of this folder.")] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="A server that runs. Default: one of the sweep's own.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Holds that server's admin token. Default: $MLGYM_ADMIN_TOKEN, or this home's.")
    ] = None,
    sandbox: Annotated[
        str | None, typer.Option(help="auto, docker, bubblewrap, or process (isolates nothing).")
    ] = None,
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Own server: allow --sandbox process.")] = False,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    ray_address: Annotated[str, typer.Option(help="Engine ray: HOST:PORT of the cluster's head.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", help="Say only what goes wrong, and the end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Let agents play tasks and keep what comes of it; interrupted, it goes on with --resume.

    Ctrl-C once lets what is played come to its end, twice stops. The exit status is 3 if attempts are left.
    """
    with plain_errors():
        from mlgym_clients.sweep.engine import EngineError
        from mlgym_clients.sweep.live import Show
        from mlgym_clients.sweep.spec import SweepError, make_sweep, read_sweep

        if engine not in ("local", "ray"):
            raise SweepError(f"there is no engine {engine!r}; there are: local, ray")
        if engine == "ray" and server is not None:
            raise SweepError("--server is for the engine local: with ray each node has a server of its own")
        changes: dict[str, Any] = {
            "name": name,
            "tasks": None if tasks is None else "all" if tasks == "all" else _listed(tasks),
            "presets": None if preset is None else _listed(preset),
            "agents": None if agents is None else {each: {"agent": each} for each in _listed(agents)},
            "seeds": None if seeds is None else _numbers(seeds),
            "budget": None if budget is None else _limits(budget),
            "sandbox": sandbox,
            "max_sessions": max_sessions,
        }
        changes = {key: value for key, value in changes.items() if value is not None}
        spec = None
        if resume is not None:
            if sweep is not None or out is not None or changes.keys() - {"max_sessions"}:
                raise SweepError("--resume goes on with a sweep as it was begun: only --max-sessions can be changed")
        else:
            given: dict[str, Any] = (
                {} if sweep is None else read_sweep(sweep).model_dump(mode="json", exclude_none=True)
            )
            if sweep is None and not {"tasks", "agents"} <= changes.keys():
                raise SweepError("say what to sweep: a file, or at least --tasks and --agents; or --resume DIR")
            if "budget" in changes:
                changes["budget"] = {**given.get("budget", {}), **changes["budget"]}
            spec = make_sweep({**given, **changes}, "sweep" if sweep is None else str(sweep))
        path = resume or out or Path("sweeps") / f"{spec.name if spec else ''}-{time.strftime('%Y%m%d-%H%M%S')}"
        show = Show(errors if as_json else console, quiet=quiet or as_json)
        place = _Place(path.absolute(), engine, ray_address, server, token_file, unsafe)
        try:
            summary = anyio.run(_run, path.absolute(), spec, max_sessions, place, show)
        except EngineError as exc:
            raise SweepError(str(exc)) from exc
    _tell(summary, path, as_json)
    if not summary.complete:
        raise typer.Exit(_INCOMPLETE)


async def _run(path: Path, spec: SweepSpec | None, max_sessions: int | None, place: _Place, show: Any) -> Summary:
    from mlgym_clients.sweep.sweeping import Surroundings, begin_sweep, resume_sweep

    around = Surroundings(
        make_engine=place.make_engine,
        watcher=show,
        show=show.live,
        digests=place.digests,
        needs=place.needs,
    )
    if spec is None:
        return await resume_sweep(path, around, max_sessions=max_sessions)
    return await begin_sweep(path, spec, around)


class _Place:
    """Where a sweep runs, as the options say."""

    def __init__(
        self, path: Path, engine: str, ray_address: str, server: str | None, token_file: Path | None, unsafe: bool
    ) -> None:
        self._path = path
        self._engine = engine
        self._ray_address = ray_address
        self._server = server
        self._token_file = token_file
        self._unsafe = unsafe
        self._catalog: Catalog | None = None
        if server is None:
            try:
                self._catalog = Catalog.default()
            except TaskError:
                self._catalog = None  # the server will say what is wrong with them

    def make_engine(self, spec: SweepSpec, agents: Mapping[str, Agent], sweep: str) -> Engine:
        """Return the engine."""
        arguments = [] if spec.sandbox is None else ["--sandbox", spec.sandbox]
        arguments += ["--unsafe"] if self._unsafe else []
        if spec.max_sessions is not None:
            arguments += ["--max-sessions", str(spec.max_sessions + _SPARE)]
        if self._engine == "ray":
            from mlgym_clients.sweep.ray_engine import RayEngine

            return RayEngine(spec.agents, self._ray_address, sweep, arguments)
        from mlgym_clients.sweep.local import Elsewhere, LocalEngine, Own

        if self._server is None:
            return LocalEngine(agents, Own(self._path, arguments))
        return LocalEngine(agents, Elsewhere(self._server, _token(self._token_file)))

    def digests(self, tasks: Iterable[str]) -> dict[str, str]:
        """Return the digests of tasks' folders, unless the server has other folders."""
        if self._catalog is None:
            return {}
        return {task: _digest(self._catalog.get(task).folder) for task in tasks}

    def needs(self, attempt: Attempt) -> Needs:
        """Return what the attempt's preset asks for."""
        from mlgym_clients.sweep.attempt import Needs

        if self._catalog is None:
            return Needs()
        try:
            preset = self._catalog.get(attempt.task).preset(attempt.preset)
        except TaskError:
            return Needs()
        return Needs(preset.cpus, preset.memory_mb, preset.gpus)


def _digest(folder: Path) -> str:
    """Return a digest of a task: of all files of its folder, with their names."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            name = path.relative_to(folder).as_posix()
            whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _token(file: Path | None) -> str:
    from mlgym_sandbox.home import home

    own = home() / "admin.token"
    if file is None and (given := os.environ.get("MLGYM_ADMIN_TOKEN")):
        return given.strip()
    if file is None and not own.exists():
        raise LookupError("--server wants its admin token: --token-file FILE, or $MLGYM_ADMIN_TOKEN")
    return (file or own).read_text("utf-8").strip()


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> int | list[int]:
    try:
        numbers = [int(part) for part in _listed(text)]
    except ValueError:
        raise ValueError(f"--seeds wants a number, or numbers with commas between them, not {text!r}") from None
    return numbers if "," in text else numbers[0]


def _limits(given: Iterable[str]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for text in given:
        key, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"--budget wants NAME=VALUE, for example calls=40, not {text!r}") from None
        limits[key.strip()] = int(number) if number.is_integer() else number
    return limits


def _tell(summary: Summary, path: Path, as_json: bool) -> None:
    if as_json:
        lines = path / "attempts.jsonl"
        results = [json.loads(line) for line in lines.read_text("utf-8").splitlines()] if lines.exists() else []
        given_up = [{"attempt": given.attempt.id, "reason": given.reason} for given in summary.given_up]
        counts = {name: getattr(summary, name) for name in ("total", "finished", "now", "found", "losses", "ended")}
        print_json({"folder": str(path), **counts, "given_up": given_up, "attempts": results})
        return
    say = console.print
    say(f"[bold]{summary.finished}[/] of {summary.total} attempts have a result.", highlight=False)
    if summary.found:
        say(f"{summary.found} of them had finished before they were interrupted.", highlight=False)
    if summary.losses:
        say(f"{summary.losses} tries were lost to infrastructure; they count for nobody.", highlight=False)
    for given in summary.given_up[:10]:
        say(f"  [red]given up[/] {given.attempt.id}: {escape(plain_reason(given.reason))}", highlight=False)
    if summary.problem:
        errors.print(f"[red]mlgym-mcp:[/red] {escape(plain_reason(summary.problem))}", highlight=False)
    if not summary.complete:
        say(f"Go on with: mlgym-mcp eval --resume {path}", highlight=False, markup=False)
    if summary.finished:
        say(f"Look at it with: mlgym-mcp report {path}", highlight=False, markup=False)


__all__ = ["EXAMPLES", "evaluate"]
