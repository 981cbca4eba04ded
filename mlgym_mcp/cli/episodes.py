"""``mlgym-mcp episodes``: what was played."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mlgym_mcp.cli.output import JsonOption, console, number, plain_errors, print_json
from mlgym_mcp.records.episodes import EpisodeSummary, episode_folders, events, find_episode, summarize

app = typer.Typer(help="Look at the episodes on this machine.", no_args_is_help=True)


def _facts(summary: EpisodeSummary) -> dict[str, Any]:
    return {**dataclasses.asdict(summary), "folder": str(summary.folder), "value": summary.value}


@app.command(name="list", epilog="Example: mlgym-mcp episodes list --task fashion_mnist --json")
def list_(
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    limit: Annotated[int, typer.Option(help="How many, the newest.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List episodes, the newest last."""
    with plain_errors():
        summaries = [summarize(folder) for folder in episode_folders()]
    shown = [s for s in summaries if task is None or s.task == task][-limit:]
    if as_json:
        print_json([_facts(s) for s in shown])
        return
    if not shown:
        console.print("No episodes yet. 'make demo' or 'mlgym-mcp serve TASK' makes one.")
        return
    table = Table("episode", "task", "calls", "best validation", "score", "baseline", "outcome")
    for s in shown:
        lower = s.score is not None and not s.score.get("higher_is_better", True)
        best = (min if lower else max)(s.validations, default=None)
        colour = {"scored": "green", "live": "cyan"}.get(s.outcome, "yellow")
        table.add_row(
            s.id,
            f"{s.task}/{s.preset}",
            str(s.calls),
            number(best),
            number(s.value),
            number(s.baseline),
            f"[{colour}]{s.outcome}[/{colour}]{' (damaged)' if s.damage else ''}",
        )
    console.print(table)


@app.command(epilog="Example: mlgym-mcp episodes show last")
def show(
    episode: Annotated[str, typer.Argument(help="Its name, a unique beginning of it, a folder, or 'last'.")],
    as_json: JsonOption = False,
) -> None:
    """Show one episode: its facts and every tool call with the beginning of its result."""
    with plain_errors():
        folder = find_episode(episode)
        summary = summarize(folder)
        if as_json:
            print_json({**_facts(summary), "events": [dataclasses.asdict(e) for e in events(folder)]})
            return
        _show(summary)


def _show(summary: EpisodeSummary) -> None:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(summary.started))
    console.print(f"[bold]{summary.id}[/bold]  {summary.task}/{summary.preset} seed {summary.seed}")
    console.print(f"started {started}, {summary.seconds:.1f} s, sandbox {summary.sandbox}, folder {summary.folder}")
    calls: dict[int, Any] = {}
    begin = summary.started
    for event in events(summary.folder):
        stamp = f"{event.t - begin:8.1f} s"
        if event.type == "call":
            calls[event.seq] = event
        elif event.type == "result":
            call = calls.pop(event["call"], None)
            if call is not None:
                arguments = ", ".join(f"{k}={_short(v)}" for k, v in call["arguments"].items())
                console.print(f"[dim]{stamp}[/dim] [bold]{call['tool']}[/bold]({escape(arguments)})", highlight=False)
                text = event.get("text") or event.get("error") or event.get("refused") or "(cancelled)"
                console.print(f"           {escape(_short(text, 160))}", style="dim", highlight=False)
        elif event.type == "score":
            words = f"{event['primary']} = {number(event['metrics'].get(event['primary']))}" if event["valid"] else ""
            console.print(f"[dim]{stamp}[/dim] [green]{event['kind']}[/green] {words or escape(str(event['reason']))}")
        elif event.type == "end":
            console.print(f"[dim]{stamp}[/dim] [bold]{event['outcome']}[/bold]: {escape(str(event['reason']))}")
    if summary.damage:
        console.print(f"[red]{escape(summary.damage)}[/red]")
    if summary.value is not None:
        console.print(f"Final score [bold]{number(summary.value, 6)}[/bold], baseline {number(summary.baseline)}.")


def _short(value: Any, limit: int = 100) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
