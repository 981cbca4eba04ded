"""``mlgym-mcp tasks check``: the proof of tasks, as a table a person can read."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import anyio
import typer
from rich.markup import escape
from rich.table import Table

from mlgym_mcp.catalog import Catalog, TaskError
from mlgym_mcp.cli.output import JsonOption, console, errors, markdown_rows, number, plain_errors, print_json
from mlgym_mcp.session.errors import SessionError
from mlgym_sandbox.errors import SandboxError

if TYPE_CHECKING:
    from mlgym_mcp.session.proof import Finding


@dataclass(frozen=True, slots=True)
class Proof:
    """The findings on one task, and the wall seconds they took."""

    task: str
    findings: list[Finding]
    seconds: float

    def failed(self) -> list[Finding]:
        """What does not hold."""
        return [finding for finding in self.findings if not finding.ok]

    def row(self) -> tuple[str, ...]:
        """One line of the summary."""
        by_name = {finding.what: finding for finding in self.findings}
        hostile = [finding for finding in self.findings if finding.what.startswith("hostile")]
        better = by_name.get("reference is clearly better")
        perfect = by_name.get("perfect submission is optimal")
        hidden = by_name.get("no hidden byte is visible")
        base = by_name.get("baseline scores as recorded")
        return (
            self.task,
            _reached(base),
            _reached(by_name.get("reference scores as recorded")),
            "-" if better is None else f"{better.numbers.get('standard_errors', 0):.0f} SE",
            "-" if perfect is None else _word(perfect),
            "-" if hidden is None else "none seen" if hidden.ok else "SEEN",
            f"{sum(finding.ok for finding in hostile)} of {len(hostile)}",
            "-" if base is None or not base.numbers else f"{base.numbers['memory_mb']:.0f} MB",
            "-" if base is None or not base.numbers else f"{base.numbers['grading_s']:.1f} s",
            f"{self.seconds:.0f} s",
        )


COLUMNS = (
    "task",
    "baseline; CPU s",
    "reference; CPU s",
    "better by",
    "perfect",
    "hidden bytes",
    "hostile held",
    "memory",
    "grading",
    "proof",
)


def check(
    task: Annotated[str | None, typer.Argument(help="The task's id.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Check all tasks.")] = False,
    preset: Annotated[str, typer.Option(help="Its size: mini or full.")] = "mini",
    sandbox: Annotated[str, typer.Option(help="auto, docker, bubblewrap or process.")] = "auto",
    unsafe: Annotated[bool, typer.Option("--unsafe", help="Allow --sandbox process.")] = False,
    reference: Annotated[bool, typer.Option(help="Play the reference solutions, which may take minutes.")] = True,
    jobs: Annotated[int, typer.Option(min=1, help="With --all: how many tasks at once.")] = 1,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the summary as Markdown.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove a task: baseline, reference, perfect and hostile submissions, and what the sandbox can see."""
    with plain_errors():
        catalog = Catalog.default()
        if every == (task is not None):
            raise ValueError("name one task, or pass --all")
        wanted = [task] if task is not None else [t.id for t in catalog.tasks() if preset in t.spec.presets]
        run = _Run(catalog, preset, sandbox, unsafe, reference, quiet=as_json or markdown)
        proofs = anyio.run(run.all, wanted, jobs)
    if as_json:
        print_json({proof.task: [dataclasses.asdict(finding) for finding in proof.findings] for proof in proofs})
    elif markdown:
        typer.echo(markdown_rows(COLUMNS, (proof.row() for proof in proofs)))
    else:
        _print(proofs, whole=task is not None)
    failed = [f"{proof.task}: {finding.what}" for proof in proofs for finding in proof.failed()]
    failed += [str(error) for error in catalog.broken().values()] if every else []
    if failed:
        errors.print(f"[red]{len(failed)} not proved:[/red] {escape('; '.join(failed))}", highlight=False)
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Run:
    """What one call of ``check`` asked for."""

    catalog: Catalog
    preset: str
    sandbox: str
    unsafe: bool
    reference: bool
    quiet: bool

    async def all(self, tasks: list[str], jobs: int) -> list[Proof]:
        """Prove tasks, several at once; in the order in which they were named."""
        waiting, proofs = deque(tasks), {}

        async def work() -> None:
            while waiting:
                name = waiting.popleft()
                proofs[name] = await self.one(name)
                failed = proofs[name].failed()
                words = f"{len(failed)} FAILED" if failed else "proved"
                errors.print(f"{name}/{self.preset}: {words} in {proofs[name].seconds:.0f} s", highlight=False)

        async with anyio.create_task_group() as group:
            for _ in range(min(jobs, len(tasks))):
                group.start_soon(work)
        return [proofs[name] for name in tasks]

    async def one(self, name: str) -> Proof:
        """Prove one task; what stops the proof is a finding, too."""
        from mlgym_mcp.session.proof import Finding, prove

        begin, findings = time.monotonic(), []
        try:
            async for finding in prove(
                self.catalog,
                name,
                self.preset,
                sandbox=self.sandbox,
                unsafe=self.unsafe,
                reference=self.reference,
            ):
                findings.append(finding)
                if not (self.quiet or finding.ok):
                    errors.print(f"{name}: [red]FAILED[/red] {finding.what}: {escape(finding.detail)}", highlight=False)
        except (TaskError, SandboxError, SessionError, OSError) as error:
            findings.append(Finding("the proof can be carried out", ok=False, detail=str(error)))
        return Proof(name, findings, time.monotonic() - begin)


def _print(proofs: list[Proof], *, whole: bool) -> None:
    for proof in proofs:
        table = Table("", "what", "found", title=proof.task, title_justify="left")
        for finding in proof.findings:
            if whole or not finding.ok:
                mark = "[green]ok[/green]" if finding.ok else "[red]FAILED[/red]"
                table.add_row(mark, finding.what, escape(finding.detail))
        if table.row_count:
            console.print(table)
    summary = Table(*COLUMNS)
    for proof in proofs:
        summary.add_row(*proof.row())
    console.print(summary)


def _reached(finding: Finding | None) -> str:
    if finding is None:
        return "-"
    if not finding.numbers:
        return "no score"
    numbers = finding.numbers
    wrong = "" if finding.ok else " (not as recorded)"
    return f"{number(numbers['value'])} ± {number(numbers['se'], 2)}; {numbers['cpu_s']:.0f}{wrong}"


def _word(finding: Finding) -> str:
    return "yes" if finding.ok else "NO"
