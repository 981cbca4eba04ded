"""The demonstration: a scripted agent plays Fashion-MNIST over stdio, from nothing to a score.

python -m mlgym_clients.demo [--sandbox NAME]
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mlgym_clients.agents.scripted import Result, ScriptedAgent, Step
from mlgym_mcp.records.episodes import episode_folders, summarize

TASK = "fashion_mnist"
COMMAND = [sys.executable, "-m", "mlgym_mcp.cli.entry", "serve", TASK]

PAPER = (0.7835, 0.945)
"""Test accuracy of the published baseline and of the best published model (arXiv 2502.14499)."""

TRAIN = '''\
"""A two-layer network on pixels and their neighbourhood averages, with images shifted by a pixel."""
import os
import numpy as np
from scipy.ndimage import uniform_filter
from sklearn.neural_network import MLPClassifier

DATA, EPOCHS = os.environ.get("DATA_DIR", "/data"), 12
rng = np.random.default_rng(int(os.environ.get("MLGYM_SEED", "0")))
images, labels = np.load(f"{DATA}/train_images.npy"), np.load(f"{DATA}/train_labels.npy")
unknown = np.load(f"{DATA}/test_images.npy")


def features(x):
    x = x.astype(np.float32) / 255.0
    return np.hstack([x.reshape(len(x), -1), uniform_filter(x, (0, 5, 5))[:, ::2, ::2].reshape(len(x), -1)])


def shifted(x):
    down, right = rng.integers(-1, 2, 2)
    return np.roll(x, (down, right), (1, 2))[:, :, :: rng.choice([1, -1])]


held = len(images) // 10
model = MLPClassifier((256, 128), learning_rate_init=1e-3, batch_size=128, random_state=int(rng.integers(1 << 30)))
for epoch in range(1, EPOCHS + 1):
    known = features(shifted(images[held:]) if epoch < EPOCHS - 2 else images[held:])
    order = rng.permutation(len(known))
    model.partial_fit(known[order], labels[held:][order], classes=np.arange(10))
    accuracy = model.score(features(images[:held]), labels[:held])
    print(f"epoch {epoch}/{EPOCHS} loss {model.loss_:.3f} held-out accuracy {accuracy:.3f}", flush=True)
with open("submission.csv", "w") as file:
    file.write("id,label\\n")
    file.writelines(f"{i},{label}\\n" for i, label in enumerate(model.predict(features(unknown))))
'''

SCRIPT = [
    Step("get_task", say="reads the task"),
    Step("list_files", {"path": "/data", "depth": 1}, say="looks at the data"),
    Step("read_file", {"path": "baseline.py", "limit": 20}, say="reads the baseline"),
    Step("shell", {"command": "python -u baseline.py"}, say="trains the baseline", until_done=True),
    Step("validate", say="asks for its hidden validation score"),
    Step("note_write", {"text": "The baseline trains in seconds; next: a wider network with shifted images."}),
    Step("write_file", {"path": "train.py", "content": TRAIN}, say="writes a program of its own"),
    Step("shell", {"command": "python -u train.py"}, say="trains it", until_done=True),
    Step("validate", say="asks for the validation score"),
    Step("submit", say="submits"),
]

_FRACTION = re.compile(r"(\d+)/(\d+)")


class Show:
    """Prints the episode as it happens: a line per tool call, a bar while something trains."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[last]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._bar: Any = None
        self._begun = 0.0

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        """Move the bar by what the server reports: the training's own last line."""
        if self._bar is None or not message:
            return
        update: dict[str, Any] = {"last": escape(message[:50])}
        if (found := _FRACTION.search(message)) is not None:
            update |= {"completed": int(found[1]), "total": int(found[2])}
        self._progress.update(self._bar, **update)

    def before(self, step: Step) -> None:
        """Show that a call has begun."""
        self._begun = time.monotonic()
        if self._console.is_terminal:
            self._progress.start()
            self._bar = self._progress.add_task(step.say or step.tool, total=None, last="")

    def after(self, step: Step, result: Result) -> None:
        """Print the finished call as one line."""
        if self._bar is not None:
            self._progress.remove_task(self._bar)
            self._bar = None
            self._progress.stop()
        seconds = time.monotonic() - self._begun
        mark = "[red]✗[/red]" if result.is_error else "[green]✓[/green]"
        arguments = ", ".join(_short(value) for value in step.arguments.values())
        call = f"{step.tool}({arguments})"
        words = escape(_outcome(step, result))
        self._console.print(f"{mark} {seconds:6.1f} s  {escape(call):<42} {words}", highlight=False, soft_wrap=True)


def _outcome(step: Step, result: Result) -> str:
    """Return what a person wants to know of a result, in a line."""
    if result.is_error:
        return result.text
    if step.tool == "get_task":
        metric = result.structured["metric"]
        return f"{result.structured['title']}: {metric['name']}, baseline {metric['baseline']}"
    if step.tool in ("validate", "submit"):
        return str(result.structured["message"])
    lines = [line for line in result.text.strip().splitlines() if line]
    if step.tool == "shell" and len(lines) > 1:
        return f"{lines[-2]} {lines[-1]}"[:110]
    if step.tool in ("read_file", "list_files"):
        return f"{len(lines)} lines"
    return lines[0][:110] if lines else ""


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 24 else f"{text[:21]}..."


async def play(console: Console, sandbox: str) -> int:
    """Play the episode; returns the exit status."""
    began = time.monotonic()
    session = f"demo-{time.time_ns()}"
    arguments = [*COMMAND[1:], "--session", session, "--sandbox", sandbox]
    show = Show(console)
    console.print("[bold]A scripted agent plays Fashion-MNIST (preset mini) over MCP.[/bold]")
    console.print(f"Server: mlgym-mcp serve {TASK} --sandbox {sandbox}, on stdio", style="dim", highlight=False)
    async with Client(StdioServerParameters(command=COMMAND[0], args=arguments, env=dict(os.environ))) as client:
        console.print(f"Connected, protocol {client.protocol_version}.", style="dim", highlight=False)
        agent = ScriptedAgent(client, on_progress=show.progress)
        with console.status("waiting for the sandbox"):
            while (status := await agent.step(Step("status"))).structured.get("state") == "preparing":
                await anyio.sleep(0.2)
        if status.structured.get("state") != "ready":
            console.print(f"[red]{escape(status.text)}[/red]")
            return 1
        results = await agent.play(SCRIPT, before=show.before, after=show.after)
    final = results[-1].structured
    folder = _folder(session)
    console.print()
    shown = [
        f"[bold green]Test accuracy {final['score']:.4f}[/bold green] ± {final['standard_error']:g}",
        f"  baseline of this preset   {final['baseline']:.4f}  ({final['against_baseline']})",
        f"  paper, all 60,000 images  {PAPER[0]:.4f} baseline, {PAPER[1]:.4f} best of its models",
        "[dim]  (mini trains on 12,000 of them, so these are not comparable)[/dim]",
        f"[dim]{time.monotonic() - began:.0f} s in all[/dim]",
    ]
    if folder is not None:
        shown += [f"Episode: {folder}", f"[dim]Look at it: mlgym-mcp episodes show {folder.name}[/dim]"]
    for line in shown:
        console.print(line, highlight=False, soft_wrap=True)
    return 0 if final["valid"] else 1


def _folder(session: str) -> Path | None:
    """Find the episode that was just played."""
    for folder in reversed(episode_folders()):
        if summarize(folder).metadata.get("session") == session:
            return folder
    return None


def main() -> None:
    """Play the demonstration."""
    parser = argparse.ArgumentParser(description="A scripted agent plays Fashion-MNIST over MCP.")
    parser.add_argument("--sandbox", default="auto", help="auto, bubblewrap or docker")
    arguments = parser.parse_args()
    console = Console()
    try:
        raise SystemExit(anyio.run(play, console, arguments.sandbox))
    except RuntimeError as exc:
        console.print(f"[red]The demonstration failed:[/red] {escape(str(exc))}")
        raise SystemExit(1) from exc


if __name__ == "__main__":
    main()
