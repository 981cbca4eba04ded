"""``mlgym-mcp report`` as a person or a program uses it."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlgym_mcp.cli.app import app
from tests.records.written import lines, put_lines, write_episode


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLGYM_HOME", str(tmp_path / "home"))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    root = tmp_path / "sweep"
    for i, (agent, value) in enumerate((("good", 0.9), ("good", 0.8), ("fair", 0.6))):
        name = f"e{i}"
        write_episode(root / "episodes", name, submitted=value, seed=i, agent=agent, sweep="s", attempt=i)
    write_episode(root / "episodes", "bad", submitted=None, outcome="invalid_submission", agent="fair", seed=8)
    write_episode(root / "episodes", "lost", submitted=None, outcome="infrastructure_error", agent="good", seed=9)
    ledger = [{"episode": f"e{i}", "tokens_in": 1000, "tokens_out": 100, "cost_usd": 0.25} for i in range(3)]
    (root / "attempts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ledger))
    return root


def run(*arguments: object, status: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(app, ["report", *map(str, arguments)], env={"COLUMNS": "140"})
    assert done.exit_code == status, done.output
    return done.stdout, done.stderr


def test_a_sweep_is_reported_in_tables(sweep: Path) -> None:
    shown, _ = run(sweep)
    assert "4 attempts count." in shown
    assert "Left out: 1 ended by an infrastructure error." in shown
    good = next(line.split() for line in shown.splitlines() if line.split()[:1] == ["good"])
    assert good[:3] == ["good", "1/1", "2/2"]
    assert good[-1] == "$0.50"
    assert "accuracy, higher is better; baseline 0.5; best submission here 0.9" in shown
    assert "invalid_submission (shape)" in shown


def test_everything_is_written_and_the_json_stays_alone_on_stdout(sweep: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    page = tmp_path / "report.html"
    shown, told = run(sweep, "--json", "--csv", out, "--plots", out, "--html", page)
    assert [m["method"] for m in json.loads(shown)["methods"]] == ["good", "fair"]
    assert page.read_text().startswith("<!doctype html>")
    assert (out / "aup.png").is_file()
    with (out / "attempts.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5
    assert f"Wrote {page}" in told


def test_the_papers_methods_are_shown_with_what_is_wrong_in_them() -> None:
    shown, _ = run("--published")
    assert "0 attempts count." in shown
    assert "All values of the printed AUP table are reproduced to three decimals." in shown
    assert "Captioning 0.473 is the mean of random numbers" in shown
    assert any(line.split() == ["gpt-o1", "1.423", "1.444", "1", "1"] for line in shown.splitlines())


def test_damage_is_told_and_the_rest_is_reported(sweep: Path) -> None:
    folder = sweep / "episodes" / "e0"
    content = lines(folder)
    put_lines(folder, [*content[:3], b"\x00\n", *content[4:]])
    (sweep / "attempts.jsonl").write_text("no json\n")
    shown, _ = run(sweep)
    assert "4 attempts count." in shown
    assert "2 damaged lines left out (4, 5)" in shown
    assert "attempts.jsonl: 1 line could not be read" in shown


def test_names_of_agents_do_not_speak_to_the_terminal(tmp_path: Path) -> None:
    write_episode(tmp_path / "s", "e", agent="[red]\x1b]0;owned\x07[/red]")
    shown, _ = run(tmp_path / "s")
    assert "\x1b" not in shown
    assert "[red]" in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing"], "there is no folder missing"),
        (["empty"], "there are no episodes below empty"),
        (["sweep", "--task", "tpy"], "nobody played 'tpy'; there are: toy"),
        (["sweep", "--html", "no/such/folder/report.html"], "No such file or directory"),
        (["sweep", "--csv", "sweep/attempts.jsonl"], "File exists"),
    ],
)
def test_mistakes_are_told_in_one_line(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(sweep.parent)
    Path("empty").mkdir()
    _, told = run(*arguments, status=1)
    assert expected in " ".join(told.split())
    assert "Traceback" not in told


def test_the_help_shows_examples() -> None:
    shown, _ = run("--help")
    assert "mlgym-mcp report sweeps/monday --html report.html" in " ".join(shown.split())
    assert os.environ["MLGYM_HOME"] not in shown
