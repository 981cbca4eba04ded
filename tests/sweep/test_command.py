"""What the command takes and what it refuses, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlgym_mcp.cli.app import app

FILE = 'tasks = ["toy"]\nseeds = 2\n[agents.a]\nagent = "random"\n'


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLGYM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLGYM_ADMIN_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.toml").write_text(FILE)
    (tmp_path / "bad.toml").write_text(FILE + "colour = 1\n[colours]\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "say what to sweep"),
        (["--tasks", "toy"], "say what to sweep"),
        (["nowhere.toml"], "nowhere.toml"),
        (["bad.toml"], "unknown key 'colours'"),
        (["sweep.toml", "--agents", "rondom"], "did you mean 'random'"),
        (["sweep.toml", "--seeds", "x"], "--seeds wants a number"),
        (["sweep.toml", "--budget", "calls"], "--budget wants NAME=VALUE"),
        (["sweep.toml", "--budget", "call=3"], "did you mean 'calls'"),
        (["sweep.toml", "--engine", "slurm"], "there is no engine 'slurm'"),
        (["sweep.toml", "--engine", "ray", "--server", "http://127.0.0.1:1"], "--server is for the engine local"),
        (["sweep.toml", "--server", "http://127.0.0.1:1"], "--server wants its admin token"),
        (["--resume", "nowhere"], "there is no folder"),
        (["--resume", ".", "--tasks", "toy"], "as it was begun"),
        (["--resume", "."], "holds no manifest.json"),
        (["sweep.toml", "--out", "."], "is not empty"),
    ],
)
def test_what_cannot_be_swept_is_told_in_a_sentence(arguments: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["eval", *arguments], env={"COLUMNS": "300"})
    assert done.exit_code == 1, done.output
    assert told in done.output.replace("\n", " ")
    assert not Path("sweeps").exists()
