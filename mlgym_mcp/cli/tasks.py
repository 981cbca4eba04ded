"""``mlgym-mcp tasks``: what can be attempted, its data, and the proof that it holds."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import anyio
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mlgym_mcp.catalog import Catalog, Prepared, Task, find_prepared, prepare, state
from mlgym_mcp.cli.output import JsonOption, console, errors, number, plain_errors, print_json
from mlgym_mcp.session.proof import Finding, prove

app = typer.Typer(help="List, show, prepare and check tasks.", no_args_is_help=True)

TaskArgument = Annotated[str, typer.Argument(help="The task's id.")]
PresetOption = Annotated[str, typer.Option(help="Its size: mini or full.")]


@app.command(name="list", epilog="Example: mlgym-mcp tasks list --json")
def list_(as_json: JsonOption = False) -> None:
    """List all tasks with their metric, baseline and whether their data is prepared."""
    with plain_errors():
        catalog = Catalog.default()
        tasks = catalog.tasks()
        states = {(task.id, name): state(task, name) for task in tasks for name in task.spec.presets}
    if as_json:
        found = [{**task.summary(), "data": {n: states[task.id, n] for n in task.spec.presets}} for task in tasks]
        print_json(found)
    else:
        table = Table("task", "metric", "baseline", "reference", "submission", "data")
        for task in tasks:
            metric = task.spec.primary_metric
            arrow = "↑" if metric.direction == "max" else "↓"
            for name, preset in task.spec.presets.items():
                table.add_row(
                    f"{task.id}/{name}",
                    f"{metric.name} {arrow}",
                    number(preset.baseline.value(metric.name)),
                    number(preset.solution.value(metric.name)),
                    task.spec.submission.kind,
                    states[task.id, name],
                )
        console.print(table)
    for broken in catalog.broken().values():
        errors.print(f"[red]{escape(str(broken))}[/red]", highlight=False)


@app.command(epilog="Example: mlgym-mcp tasks show house_price")
def show(task: TaskArgument, preset: PresetOption = "mini", as_json: JsonOption = False) -> None:
    """Show a task as an agent gets it: instruction, metric, budget, files, how to submit."""
    with plain_errors():
        found = Catalog.default().get(task)
        chosen = found.preset(preset)
        instruction = found.instruction(preset)
    if as_json:
        print_json({**found.summary(), "instruction": instruction, "spec": found.spec.model_dump(mode="json")})
        return
    metric = found.spec.primary_metric
    console.print(f"[bold]{found.spec.task.title}[/bold] ({found.id} {found.spec.task.version}, preset {preset})")
    console.print(escape(instruction), highlight=False)
    console.print(f"metric      {metric.name}, {'higher' if metric.direction == 'max' else 'lower'} is better")
    console.print(f"baseline    {number(chosen.baseline.value(metric.name))} (sd {number(chosen.baseline.sd)})")
    console.print(f"reference   {number(chosen.solution.value(metric.name))}")
    if chosen.reference is not None:
        paper = chosen.reference
        verdict = "comparable" if paper.comparable else "not comparable"
        console.print(
            f"paper       baseline {number(paper.paper_baseline)}, best {number(paper.paper_best)}: {verdict}"
        )
        if paper.note:
            console.print(f"            {escape(paper.note)}", highlight=False)
    console.print(f"starter     {', '.join(found.starter())}", highlight=False)
    console.print(f"data        {state(found, preset)}; {escape(found.spec.task.provenance)}", highlight=False)
    console.print(f"licence     {escape(found.spec.task.licence)}", highlight=False)
    console.print(f"submission  {escape(found.how_to_submit())}", highlight=False)


@app.command(name="prepare", epilog="Example: mlgym-mcp tasks prepare fashion_mnist --preset full")
def prepare_(task: TaskArgument, preset: PresetOption = "mini") -> None:
    """Fetch, check and lay out a task's data. Does nothing if that was done before."""
    with plain_errors():
        found = Catalog.default().get(task)
        if find_prepared(found, preset) is not None:
            console.print(f"The data of {task}/{preset} is ready.")
            return
        made = anyio.run(_prepared, found, preset)
    console.print(f"Prepared {task}/{preset}: {', '.join(made.public_files())} (digest {made.digest[:12]}).")


async def _prepared(task: Task, preset: str) -> Prepared:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(f"{task.id}/{preset}", total=1.0)

        def say(fraction: float, text: str) -> None:
            progress.update(bar, completed=fraction, description=escape(text[:60]))

        return await prepare(task, preset, progress=say)


@app.command(epilog="Examples: 'mlgym-mcp tasks check house_price'; 'mlgym-mcp tasks check --all --sandbox docker'")
def check(
    task: Annotated[str | None, typer.Argument(help="The task's id.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Check all tasks.")] = False,
    preset: PresetOption = "mini",
    sandbox: Annotated[str, typer.Option(help="auto, docker, bubblewrap or process.")] = "auto",
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Allow --sandbox process.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove a task: baseline, reference, perfect and hostile submissions, and what the sandbox can see."""
    with plain_errors():
        catalog = Catalog.default()
        if every == (task is not None):
            raise ValueError("name one task, or pass --all")
        wanted = (
            [task] if task is not None else [name for name in catalog.ids() if preset in catalog.get(name).spec.presets]
        )
        results = {name: anyio.run(_proof, catalog, name, preset, sandbox, unsafe, as_json) for name in wanted}
    if as_json:
        print_json({name: [dataclasses.asdict(finding) for finding in found] for name, found in results.items()})
    failed = [f"{name}: {finding.what}" for name, found in results.items() for finding in found if not finding.ok]
    if failed:
        errors.print(f"[red]{len(failed)} not proved:[/red] {'; '.join(failed)}", highlight=False)
        raise typer.Exit(1)


async def _proof(catalog: Catalog, name: str, preset: str, sandbox: str, unsafe: bool, quiet: bool) -> list[Finding]:
    table = Table("", "what", "found", title=f"{name}/{preset}", title_justify="left")
    findings = []
    with console.status(f"{name}: preparing") as status:
        async for finding in prove(catalog, name, preset, sandbox=sandbox, unsafe=unsafe):
            findings.append(finding)
            status.update(f"{name}: {finding.what}")
            mark = "[green]ok[/green]" if finding.ok else "[red]FAILED[/red]"
            table.add_row(mark, finding.what, escape(finding.detail))
    if not quiet:
        console.print(table)
    return findings
