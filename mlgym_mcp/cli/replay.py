"""``mlgym-mcp replay``: plays a recorded episode again and says whether the same came of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mlgym_mcp.cli.output import JsonOption, console, errors, plain_errors, print_json
from mlgym_mcp.cli.replay_server import ReplayServer, SandboxOption, ServerOption, TokenOption, UnsafeOption
from mlgym_mcp.records.episodes import find_episode

if TYPE_CHECKING:
    from mlgym_clients.replay.comparing import Comparison, Level
    from mlgym_clients.replay.recording import Recording, Step
    from mlgym_clients.replay.replayer import Compared
    from mlgym_clients.replay.verdict import Verdict

EXAMPLES = """Examples:

  mlgym-mcp replay last

  mlgym-mcp replay sweeps/monday/episodes/20260301-101500-house_price-1f2e3d4c --json

  mlgym-mcp replay last --server https://mlgym.example --token-file admin-token
"""
DIFFERENT = 3
"""The exit status when the replay came out different."""
_WORDS = {
    "exact": "[green]exact[/green]",
    "noise": "[green]within noise[/green]",
    "different": "[red]different[/red]",
    "skipped": "[yellow]not compared[/yellow]",
}


def replay(
    episode: Annotated[str, typer.Argument(help="Its name, a unique beginning of it, a folder, or 'last'.")],
    server: ServerOption = None,
    token_file: TokenOption = None,
    sandbox: SandboxOption = None,
    unsafe: UnsafeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make an episode's tool calls again in a fresh session, and compare outputs and scores.

    Each comes out exactly the same, the same within noise, or different. The exit status is 3 if anything is different.
    """
    with plain_errors():
        from mlgym_clients.replay.recording import read_recording

        recording = read_recording(find_episode(episode))
        place = ReplayServer(server, token_file, sandbox, unsafe)
        verdict = anyio.run(_played, recording, place)
        if as_json:
            print_json(verdict.as_json())
        else:
            _show(verdict)
    if verdict.level == "different":
        raise typer.Exit(DIFFERENT)


async def _played(recording: Recording, place: ReplayServer) -> Verdict:
    from mlgym_clients.agents.calling import ServerLostError
    from mlgym_clients.replay.playing import replay as play
    from mlgym_clients.sweep.control import ControlError

    with _Bar(len(recording.made)) as bar:
        try:
            async with place.use() as control:
                return await play(
                    recording,
                    control,
                    sandbox=place.sandbox if place.url is not None else None,
                    episodes=place.episodes,
                    on_begin=bar.begin,
                    on_end=bar.end,
                )
        except (ServerLostError, ControlError) as exc:
            raise OSError(str(exc)) from exc


class _Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)
        self._task = self._progress.add_task("preparing the session", total=total)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, step: Step) -> None:
        """Show what is called."""
        self._progress.update(self._task, description=escape(_call(step, 60)))

    def end(self, compared: Compared) -> None:
        """Count a call."""
        if not compared.step.skipped:
            self._progress.advance(self._task)


def _call(step: Step, limit: int) -> str:
    arguments = ", ".join(_short(value) for value in step.arguments.values())
    text = f"{step.tool}({arguments})"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _short(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else json.dumps(value, default=str)).split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _show(verdict: Verdict) -> None:
    counts = verdict.counts()
    told = ", ".join(f"{counts[level]} {word}" for level, word in _PLAIN.items() if counts[level])
    console.print(f"[bold]{escape(verdict.recording.folder.name)}[/bold]: {_WORDS[verdict.level]}", highlight=False)
    console.print(f"{len(verdict.compared)} calls: {told or 'none'}; {verdict.seconds:.1f} s", highlight=False)
    _line("outcome", verdict.outcome)
    _line("final score", verdict.score)
    for each in verdict.compared:
        if each.step.score is not None:
            _line(each.step.tool, each.comparison)
    for note in verdict.notes:
        console.print(f"[yellow]{escape(note)}[/yellow]", highlight=False)
    if (first := verdict.first) is not None:
        console.print(f"\nThe first difference: {escape(_call(first.step, 200))}", highlight=False)
        console.print(f"  {escape(first.comparison.reason)}", highlight=False)
        if first.comparison.diff:
            shown = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in first.comparison.diff)
            console.print(escape(shown), style="dim", highlight=False)
    console.print(f"Look at the replay with: mlgym-mcp episodes show {escape(verdict.episode)}", highlight=False)


_PLAIN: dict[Level, str] = {
    "exact": "exact",
    "noise": "within noise",
    "different": "different",
    "skipped": "not compared",
}


def _line(what: str, comparison: Comparison) -> None:
    reason = f" ({escape(comparison.reason)})" if comparison.reason else ""
    console.print(f"{what}: {_WORDS[comparison.level]}{reason}", highlight=False)
