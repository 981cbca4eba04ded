"""What ``task.toml`` files record, as a table for documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mlgym_mcp.catalog import Preset, Task
from mlgym_mcp.catalog.spec import Measured
from mlgym_mcp.cli.output import markdown_rows, number

COLUMNS = (
    "task",
    "what",
    "metric",
    "preset",
    "data",
    "baseline (sd; CPU s)",
    "reference (sd; CPU s)",
    "standard error of a score",
    "best possible",
    "paper: baseline / best",
)


def markdown_table(tasks: Iterable[Task]) -> str:
    """Return a Markdown table of all presets of tasks, as they are recorded (not as measured in this world)."""
    return markdown_rows(COLUMNS, (row for task in tasks for row in _rows(task)))


def _rows(task: Task) -> Iterator[tuple[str, ...]]:
    metric = task.spec.primary_metric
    better = "higher" if metric.direction == "max" else "lower"
    head = (f"`{task.id}`", task.spec.task.summary.rstrip("."), f"{metric.name}, {better} is better")
    for name, preset in task.spec.presets.items():
        yield (
            *head,
            f"`{name}`",
            preset.data.about or preset.data.kind,
            _measured(preset.baseline, metric.name),
            _measured(preset.solution, metric.name),
            f"{number(preset.baseline.se, 2)} / {number(preset.solution.se, 2)}",
            number(task.spec.of(name).primary_metric.optimal),
            _paper(preset),
        )
        head = ("", "", "")


def _measured(measured: Measured, metric: str) -> str:
    value = measured.value(metric)
    if value is None:
        return "not measured"
    return f"{number(value)} ({number(measured.sd, 2)}; {number(measured.seconds, 3)})"


def _paper(preset: Preset) -> str:
    paper = preset.reference
    if paper is None or (paper.paper_baseline is None and paper.paper_best is None):
        return "-"
    verdict = "comparable" if paper.comparable else "not comparable"
    return f"{number(paper.paper_baseline)} / {number(paper.paper_best)}, {verdict}. {paper.note}".strip()
