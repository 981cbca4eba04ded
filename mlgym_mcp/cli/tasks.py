"""``mlgym-mcp tasks``: what can be attempted, its data, and the proof that it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mlgym_mcp.catalog import Catalog, Prepared, Task, find_prepared, prepare, state
from mlgym_mcp.catalog.making import KINDS, TaskKind, make_task
from mlgym_mcp.catalog.measured import baseline, find_measured
from mlgym_mcp.catalog.trust import trusted
from mlgym_mcp.cli.output import JsonOption, console, errors, number, plain_errors, print_json
from mlgym_mcp.cli.proofs import check
from mlgym_mcp.cli.task_table import markdown_table

app = typer.Typer(help="List, show, prepare, measure, check and make tasks.", no_args_is_help=True)
app.command(epilog="Examples: 'mlgym-mcp tasks check house_price'; 'mlgym-mcp tasks check --all --jobs 2'")(check)

TaskArgument = Annotated[str, typer.Argument(help="The task's id.")]
PresetOption = Annotated[str, typer.Option(help="Its size: mini or full.")]
SandboxOption = Annotated[str, typer.Option(help="auto, docker or bubblewrap.")]


@app.command(name="list", epilog="Examples: 'mlgym-mcp tasks list'; 'mlgym-mcp tasks list --json'")
def list_(
    as_json: JsonOption = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print what is recorded of them, for a document.")
    ] = False,
) -> None:
    """List all tasks with their metric, baseline and whether their data is prepared."""
    with plain_errors():
        catalog = Catalog.default()
        tasks = catalog.tasks()
        if markdown:
            typer.echo(markdown_table(tasks))
            return
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
                    number(baseline(task, name).value(metric.name)),
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
        reached = baseline(found, preset)
        instruction = found.instruction(preset, reached)
    if as_json:
        print_json({**found.summary(), "instruction": instruction, "spec": found.spec.model_dump(mode="json")})
        return
    metric = found.spec.primary_metric
    console.print(f"[bold]{found.spec.task.title}[/bold] ({found.id} {found.spec.task.version}, preset {preset})")
    console.print(escape(instruction), highlight=False)
    console.print(f"metric      {metric.name}, {'higher' if metric.direction == 'max' else 'lower'} is better")
    console.print(f"baseline    {number(reached.value(metric.name))} (sd {number(reached.sd)}; {reached.measured})")
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


@app.command(
    name="prepare",
    epilog="Examples: 'mlgym-mcp tasks prepare fashion_mnist --preset full'; 'mlgym-mcp tasks prepare mnli --measure'",
)
def prepare_(
    task: TaskArgument,
    preset: PresetOption = "mini",
    measure: Annotated[
        bool, typer.Option("--measure", help="Play the baseline afterwards, so that its score is of this world.")
    ] = False,
    sandbox: SandboxOption = "auto",
) -> None:
    """Fetch, check and lay out a task's data. Does nothing if that was done before."""
    with plain_errors():
        found = Catalog.default().get(task)
        if find_prepared(found, preset) is not None:
            console.print(f"The data of {task}/{preset} is ready.")
        else:
            made = anyio.run(_prepared, found, preset)
            console.print(f"Prepared {task}/{preset}: {', '.join(made.public_files())} (digest {made.digest[:12]}).")
            for name in found.preset(preset).data.sources:
                if (record := trusted(found.lock.source(name))) is not None:
                    console.print(f"{record.sentence}.", highlight=False)
        if measure and find_measured(found, preset) is None:
            _measure(task, preset, sandbox)


@app.command(epilog="Example: mlgym-mcp tasks measure house_price")
def measure(task: TaskArgument, preset: PresetOption = "mini", sandbox: SandboxOption = "auto") -> None:
    """Play the baseline in this installation's secret world; from then on it is what agents here have to beat."""
    with plain_errors():
        _measure(task, preset, sandbox)


def _measure(task: str, preset: str, sandbox: str) -> None:
    from mlgym_mcp.session.registry import SessionRegistry
    from mlgym_mcp.session.solutions import measure_baseline

    catalog = Catalog.default()
    found = catalog.get(task)
    metric = found.spec.primary_metric.name
    recorded = found.preset(preset).baseline.value(metric)

    async def play() -> None:
        registry = SessionRegistry(catalog, sandbox=sandbox)
        async with registry.run():
            with console.status(f"{task}/{preset}: playing the baseline"):
                here = await measure_baseline(registry, found, preset)
        console.print(
            f"Baseline of {task}/{preset} in this world: {metric} {here.metrics[metric]:.4f} "
            f"± {here.se.get(metric, 0.0):.4f} in {here.seconds:.0f} CPU s (recorded: {number(recorded)}).",
            highlight=False,
        )

    anyio.run(play)


@app.command(epilog="Examples: 'mlgym-mcp tasks new my_task --kind predictions'; then 'mlgym-mcp tasks check my_task'")
def new(
    task: Annotated[str, typer.Argument(help="The new task's id: lower case, digits and underscores.")],
    kind: Annotated[TaskKind, typer.Option(help=f"What is submitted: {', '.join(KINDS)}.")] = "predictions",
    folder: Annotated[Path, typer.Option(help="Where the task's folder is made.")] = Path(),
) -> None:
    """Make a task that works, to start from: data from a secret world, a baseline, a reference, a grader."""
    with plain_errors():
        made = make_task(task, kind, folder)
    console.print(f"Made {made}: {', '.join(sorted(p.name for p in made.iterdir()))}", highlight=False)
    console.print(f"Prove it:  MLGYM_TASKS={made.parent.resolve()} mlgym-mcp tasks check {task}", highlight=False)
    console.print("Then read docs/authoring.md, change it, and prove it again.")


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
