"""``mlgym-mcp export``: episodes for other programs, and as training data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import anyio
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mlgym_mcp.cli.output import JsonOption, console, errors, plain_errors, print_json
from mlgym_mcp.cli.replay_server import ReplayServer, SandboxOption, ServerOption, TokenOption, UnsafeOption
from mlgym_mcp.records.episodes import find_episode
from mlgym_mcp.records.exports.formats import FORMATS, Curated, Tally, trajectories
from mlgym_mcp.records.exports.messages import messages_in_sweeps
from mlgym_mcp.records.exports.otel import send_otel
from mlgym_mcp.records.exports.redaction import Redactor, secrets_of
from mlgym_mcp.records.index import find
from mlgym_mcp.records.report import NOBODYS
from mlgym_mcp.records.salvage import Damage, is_journal, salvage
from mlgym_mcp.session.journal import FILE_NAME
from mlgym_sandbox.home import home

if TYPE_CHECKING:
    from mlgym_clients.replay.verdict import Verdict
    from mlgym_clients.sweep.control import Control

EXAMPLES = """Examples:

  mlgym-mcp export --to inspect sweeps/monday --out logs

  mlgym-mcp export --to openai sweeps/monday --out train.jsonl --curate

  mlgym-mcp export --to otel last --out http://127.0.0.1:4318

  mlgym-mcp export --to csv last --out tables
"""
_MANY = 20


class To(StrEnum):
    """The formats."""

    INSPECT = "inspect"
    OPENAI = "openai"
    ATIF = "atif"
    OTEL = "otel"
    CSV = "csv"


class By(StrEnum):
    """What has to come again for an episode to be kept."""

    OUTCOME = "outcome"
    OUTPUTS = "outputs"
    STEPS = "steps"


def export(
    episodes: Annotated[
        list[str],
        typer.Argument(metavar="EPISODES...", help="Episodes (name, folder, 'last'), or folders with episodes below."),
    ],
    to: Annotated[To, typer.Option(help="The format.", show_default=False)],
    out: Annotated[
        str,
        typer.Option(metavar="PATH", help="A file for openai and otel, else a folder; otel: also a collector's URL."),
    ],
    curate: Annotated[
        bool, typer.Option("--curate", help="Replay each episode, and keep only what comes again.")
    ] = False,
    curate_by: Annotated[
        By,
        typer.Option(
            help="outcome: end and scores come again; outputs: all outputs, too; steps: keeps the calls before the "
            "first that differs."
        ),
    ] = By.OUTCOME,
    jobs: Annotated[int, typer.Option(min=1, help="With --curate: how many replays at a time.")] = 1,
    server: ServerOption = None,
    token_file: TokenOption = None,
    sandbox: SandboxOption = None,
    unsafe: UnsafeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write episodes for other programs: Inspect logs, chat JSONL, ATIF, OpenTelemetry spans, CSV tables.

    Secrets are taken out, and nothing that was hidden from the agent is in it.
    """
    with plain_errors():
        folders, messages, tally = _found(episodes)
        redactor = Redactor([*secrets_of(os.environ), *_admin_token()])
        curation = None
        if curate:
            place = ReplayServer(server, token_file, sandbox, unsafe)
            curation = anyio.run(_curated, folders, place, curate_by, jobs, tally)
        given = trajectories(
            folders,
            tally,
            redactor,
            messages=messages,
            tools=_tools(),
            curated=None if curation is None else curation.kept,
        )
        if to is To.OTEL and out.startswith(("http://", "https://")):
            send_otel(given, out, _otel_headers(os.environ))
            files = [out]
        else:
            files = [str(path) for path in FORMATS[to](given, Path(out))]
        if not tally.exported and to is not To.CSV:
            errors.print("Nothing was exported.", highlight=False)
        if as_json:
            print_json(_facts(tally, files, curation))
        else:
            _show(tally, files, curation)


def _found(named: Iterable[str]) -> tuple[list[Path], Mapping[str, Path], Tally]:
    """Return the episodes, where agents' messages are, and what was left out so far."""
    tally = Tally()
    folders: dict[Path, None] = {}
    ledgers: list[Path] = []
    for name in named:
        path = Path(name)
        if path.is_dir() and not is_journal(path / FILE_NAME):
            found = find([path])
            tally.problems += found.problems
            ledgers += found.ledgers
            for folder, _, _ in found.journals:
                if _purpose(folder) in NOBODYS:
                    tally.dropped["it was nobody's attempt"] += 1
                else:
                    folders[folder] = None
        else:
            folders[find_episode(name).resolve()] = None
    if not folders and not tally.dropped:
        raise LookupError(f"there are no episodes below {', '.join(named)}")
    return list(folders), messages_in_sweeps(ledgers), tally


def _purpose(folder: Path) -> str:
    try:
        first = next(salvage(folder, {"session"}, Damage()), None)
    except OSError:
        return ""
    metadata = first.fields.get("metadata") if first is not None else None
    return str(metadata.get("purpose") or "") if isinstance(metadata, dict) else ""


def _admin_token() -> list[str]:
    try:
        return [(home() / "admin.token").read_text("utf-8", "replace").strip()]
    except OSError:
        return []


def _tools() -> list[Mapping[str, Any]]:
    """Return the tools' definitions of this version."""
    from mlgym_mcp.serving.wrapping import MCP_TOOLS

    return [{"name": t.name, "description": t.description or "", "parameters": t.parameters} for t in MCP_TOOLS]


def _otel_headers(environ: Mapping[str, str]) -> dict[str, str]:
    names = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
    given = next((environ[name] for name in names if environ.get(name)), "")
    pairs = (part.partition("=") for part in given.split(",") if "=" in part)
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs}


@dataclass(slots=True)
class _Curation:
    """What replays left of each episode, and how each came out."""

    by: By
    kept: dict[Path, Curated] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)


async def _curated(folders: Sequence[Path], place: ReplayServer, by: By, jobs: int, tally: Tally) -> _Curation:
    """Replay all episodes, some at a time."""
    curation = _Curation(by)
    waiting = list(reversed(folders))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        bar = progress.add_task("replaying", total=len(folders))
        async with place.use() as control:
            failures: list[Exception] = []

            async def work() -> None:
                while waiting and not failures:
                    folder = waiting.pop()
                    try:
                        curation.kept[folder] = kept = await _one(folder, control, place, by, curation, tally)
                    except Exception as exc:  # noqa: BLE001 - raised below, not in a group
                        failures.append(exc)
                        return
                    progress.update(bar, advance=1, description=escape(f"{folder.name}: {kept.dropped or 'kept'}"))

            async with anyio.create_task_group() as tasks:
                for _ in range(min(jobs, len(folders))):
                    tasks.start_soon(work)
            if failures:
                raise failures[0]
    return curation


async def _one(
    folder: Path, control: Control, place: ReplayServer, by: By, curation: _Curation, tally: Tally
) -> Curated:
    from mlgym_clients.agents.calling import ServerLostError
    from mlgym_clients.replay.playing import replay
    from mlgym_clients.replay.recording import read_recording
    from mlgym_clients.sweep.control import ControlError

    try:
        recording = read_recording(folder)
        sandbox = place.sandbox if place.url is not None else None
        verdict = await replay(recording, control, sandbox=sandbox, episodes=place.episodes)
    except ControlError as exc:
        if exc.status == 401:
            raise OSError(str(exc)) from exc
        why = "it cannot be replayed"
        told = str(exc)
    except ServerLostError as exc:
        why, told = "its replay was lost", str(exc)
    except ValueError as exc:
        why, told = "it cannot be replayed", str(exc)
    else:
        kept = curated_by(verdict, by)
        result = {"episode": folder.name, "level": verdict.level, "reproduced": verdict.reproduced}
        curation.results.append(result | {"dropped": kept.dropped, "before": kept.before, "why": verdict.why_not()})
        return kept
    tally.problems.append(f"{folder.name}: {told}")
    curation.results.append({"episode": folder.name, "dropped": why, "why": told})
    return Curated(why)


def curated_by(verdict: Verdict, by: By) -> Curated:
    """Return what a replay leaves of an episode."""
    first = verdict.first
    if by is By.STEPS and first is not None:
        return Curated(before=first.step.seq)
    if not verdict.reproduced:
        if verdict.outcome.level == "skipped":
            return Curated("it has no outcome that could come again")
        if verdict.outcome.level == "different":
            return Curated("it ended another way")
        return Curated("a score came out different")
    if by is By.OUTPUTS and verdict.outputs == "different":
        return Curated("an output came out different")
    return Curated()


def _facts(tally: Tally, files: Sequence[str], curation: _Curation | None) -> dict[str, Any]:
    return {
        "files": list(files),
        "exported": tally.exported,
        "cut": tally.cut,
        "dropped": dict(tally.dropped),
        "redacted": tally.redacted,
        "problems": tally.problems,
        "curation": None if curation is None else {"by": curation.by, "episodes": curation.results},
    }


def _show(tally: Tally, files: Sequence[str], curation: _Curation | None) -> None:
    dropped = tally.dropped.total()
    count = len(tally.exported)
    words = f"episode{'s'[: count != 1]} exported"
    console.print(f"[bold]{count}[/bold] {words}, {dropped} left out.", highlight=False)
    for why, count in tally.dropped.most_common():
        console.print(f"  {count}: {escape(why)}", highlight=False)
    if tally.cut:
        console.print(f"Of {tally.cut} only the beginning was kept.", highlight=False)
    if curation is not None:
        for result in curation.results:
            if result["dropped"] and result["why"]:
                console.print(f"  {escape(result['episode'])}: {escape(result['why'])}", style="dim", highlight=False)
    if tally.redacted:
        console.print(f"Secrets taken out: {tally.redacted}.", highlight=False)
    for problem in tally.problems[:_MANY]:
        console.print(f"[yellow]{escape(problem)}[/yellow]", highlight=False)
    for file in files[:_MANY]:
        errors.print(f"Wrote {escape(file)}", highlight=False)
    if len(files) > _MANY:
        errors.print(f"and {len(files) - _MANY} more files", highlight=False)
