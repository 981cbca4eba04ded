"""Inspect, in an environment of its own, evaluates our tasks, and tasks of others in our sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mlgym_mcp.session.journal import read_journal
from mlgym_sandbox import environment
from tests.frameworks import matrix
from tests.frameworks.environments import python_of
from tests.frameworks.playing import version_of
from tests.serving.conftest import light, make_home
from tests.toy import CSV, make_toy

__all__ = ["light"]  # fixture

pytestmark = [
    pytest.mark.bubblewrap,
    pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap"),
]

ROOT = Path(__file__).parents[2]


def install(folder: Path) -> None:
    """Make what an editable installation leaves among an environment's packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    about = folder / f"mlgym_mcp-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\nName: mlgym-mcp\nVersion: {project['version']}\n")
    points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["inspect_ai"].items())
    (about / "entry_points.txt").write_text(f"[inspect_ai]\n{points}")
    (about / "direct_url.json").write_text(json.dumps({"url": ROOT.as_uri(), "dir_info": {"editable": True}}))


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory, light: environment.Environment) -> dict[str, str]:
    """The environment of Inspect's programs: a home with nothing in it, the toy task, and us installed."""
    place = tmp_path_factory.mktemp("inspect")
    make_home(place / "home", light)
    install(place / "packages")
    path = [place / "packages", ROOT, ROOT / "sandbox", ROOT / "clients"]
    given = {
        "MLGYM_HOME": str(place / "home"),
        "MLGYM_TASKS": str(make_toy(place / "tasks")),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "INSPECT_LOG_LEVEL": "error",
    }
    return {name: value for name, value in os.environ.items() if name != "MLGYM_SERVER"} | given


@pytest.fixture(scope="module")
def evaluations(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the program says of them."""
    logs = tmp_path_factory.mktemp("logs")
    command = [str(python_of("inspect_task")), "-m", "tests.inspect.program", "evaluations", str(logs), "bubblewrap"]
    ran = subprocess.run(command, cwd=logs, env=variables, capture_output=True, text=True, timeout=110, check=False)
    assert ran.returncode == 0, ran.stderr[-6000:]
    told: dict[str, dict[str, Any]] = json.loads(ran.stdout)
    return told


def test_a_task_of_the_catalog_is_one_of_inspects_and_its_score_is_the_sessions(
    evaluations: dict[str, dict[str, Any]], variables: dict[str, str]
) -> None:
    told = evaluations["good"]
    assert (told["status"], told["task"], told["version"]) == ("success", "mlgym_mcp/toy", "1.0.0")
    assert told["tools"] == ["get_task", "write_file", "shell", "validate", "submit"]
    assert "Guess, in preset mini." in told["texts"][0]
    assert told["texts"][2].startswith("41\n")
    assert told["texts"][2].count("a") > 18_000, "Inspect cuts at 16 KiB, unless it is told that the server has cut"
    facts = told["facts"]["final_score"]
    assert (facts["kind"], facts["outcome"], facts["metric"], facts["baseline"]) == (
        "submit",
        "scored",
        "accuracy",
        0.5,
    )
    assert facts["higher_is_better"] is True
    assert f"accuracy {told['values']['final_score']}" in told["texts"][-1]
    assert told["metrics"] == ["mean", "stderr", "accuracy", "stderr"]
    assert told["values"]["better_than_baseline"] == "I", "not by two standard errors"
    folder = Path(variables["MLGYM_HOME"]) / "episodes" / facts["episode"]
    eras = {event.fields["era"] for event in read_journal(folder) if event.type == "call"}
    version = version_of("inspect")
    matrix.record("Inspect (tasks mlgym_mcp/...)", "HTTP", ", ".join(eras), "scored: 5 calls", version=version)


def test_its_page_shows_results_as_they_read_files_as_code_and_changes_as_changes(
    evaluations: dict[str, dict[str, Any]],
) -> None:
    views = evaluations["own agent"]["views"]
    assert views["get_task"][2] == "Markdown"
    assert {name for name, (*_, drawn) in views.items() if drawn == "text"} == views.keys() - {"get_task"}
    title, shown, _ = views["write_file"]
    assert title == "write_file submission.csv"
    assert shown == f"```csv\n{CSV}\n```\n"
    title, shown, _ = views["edit_file"]
    assert title == "edit_file start.py"
    assert shown == "````diff\n-print\n+# ```\n+print\n````\n", "what the model writes does not end the fence"


def test_what_the_model_does_not_submit_is_graded_at_the_end(evaluations: dict[str, dict[str, Any]]) -> None:
    told = evaluations["forgets to submit"]
    assert (told["tools"], told["facts"]["final_score"]["kind"]) == (["write_file"], "autosubmit")
    assert told["values"]["final_score"] == told["facts"]["final_score"]["score"]


def test_a_model_that_does_nothing_is_told_to_go_on_and_has_no_score_rather_than_zero(
    evaluations: dict[str, dict[str, Any]],
) -> None:
    told = evaluations["does nothing"]
    assert told["status"] == "success"
    assert told["values"] == {"final_score": None, "better_than_baseline": "I"}
    assert told["facts"]["final_score"]["outcome"] == "abandoned"
    assert told["explanations"]["final_score"].startswith("The model stopped without submitting anything")


def test_any_task_of_a_server_is_attempted_with_seeds_and_a_budget(evaluations: dict[str, dict[str, Any]]) -> None:
    told = evaluations["any task"]
    assert (told["task"], told["samples"]) == ("mlgym_mcp/attempt", ["seed-3", "seed-4"])
    assert "budget of 1 tool calls is spent" in told["texts"][1]
    assert told["facts"]["final_score"]["kind"] == "submit"


def test_a_solver_of_ones_own_plays_with_the_sessions_tools(evaluations: dict[str, dict[str, Any]]) -> None:
    assert evaluations["own agent"]["facts"]["final_score"]["kind"] == "submit"


def test_an_agent_is_given_some_of_the_sessions_tools(evaluations: dict[str, dict[str, Any]]) -> None:
    told = evaluations["some of the tools"]
    assert told["offered"] == ["edit_file", "read_file", "write_file"]
    assert told["facts"]["final_score"]["kind"] == "autosubmit"


def test_what_the_server_refuses_is_the_samples_error_in_its_words(evaluations: dict[str, dict[str, Any]]) -> None:
    told = evaluations["no such preset"]
    assert told["status"] == "error"
    assert "the task toy has no preset 'huge'; it has: mini" in told["error"]


def test_tools_of_other_tasks_run_in_our_sandbox(evaluations: dict[str, dict[str, Any]]) -> None:
    told = evaluations["our sandbox"]
    assert told["values"] == {"includes": "C"}
    assert told["texts"][0] == "5050\n1000\n"
