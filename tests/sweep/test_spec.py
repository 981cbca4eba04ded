"""What a sweep file may say, and what is answered to what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlgym_clients.sweep.attempt import Attempt, Order
from mlgym_clients.sweep.spec import SweepError, SweepSpec, make_sweep, read_sweep
from mlgym_mcp.api import PresetView, TaskSummary

PRESET = PresetView(environment="light", gpus=0, steps=1, session_s=1, data="none", baseline=None, solution=None)


def task(name: str, *presets: str) -> TaskSummary:
    return TaskSummary(
        id=name,
        title=name,
        version="1.0.0",
        family="tabular",
        summary="",
        tags=[],
        metric="accuracy",
        direction="max",
        submission="predictions",
        presets=dict.fromkeys(presets or ("mini",), PRESET),
    )


THERE = [task("toy"), task("house_price", "mini", "full"), task("blotto", "mini", "full")]


def written(folder: Path, text: str) -> Path:
    path = folder / "monday.toml"
    path.write_text(text)
    return path


def test_a_file_says_tasks_agents_and_seeds_and_is_named_like_itself(tmp_path: Path) -> None:
    text = 'tasks = ["toy", "blotto"]\nseeds = 2\n[agents.base]\nagent = "baseline"\n[agents.any]\nagent = "random"\n'
    spec = read_sweep(written(tmp_path, text))
    attempts = list(spec.attempts(THERE))
    assert (spec.name, spec.presets, spec.seeds) == ("monday", ["mini"], [0, 1])
    assert len({attempt.id for attempt in attempts}) == len(attempts) == 8
    assert [attempt.seed for attempt in attempts] == [0] * 4 + [1] * 4
    assert attempts == list(spec.attempts(THERE)), "the same attempts each time"
    assert sorted(spec.make_agents()) == ["any", "base"]


def test_all_tasks_are_those_that_have_the_presets() -> None:
    spec = make_sweep({"tasks": "all", "presets": ["full"], "agents": {"b": {"agent": "baseline"}}})
    assert [attempt.task for attempt in spec.attempts(THERE)] == ["blotto", "house_price"]


def test_a_script_is_looked_for_beside_the_sweep_file_and_kept_with_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "play.json").write_text('[{"tool": "submit"}]')
    path = written(tmp_path, 'tasks = "all"\n[agents.s]\nagent = "scripted"\nscript = "play.json"\n')
    monkeypatch.chdir("/")
    spec = read_sweep(path)
    (tmp_path / "play.json").write_text("[]")
    assert spec.make_agents()["s"].describe()["script"] == [{"tool": "submit"}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tasks = [", "Unclosed array|Invalid value|nvalid"),
        ('task = ["toy"]\n[agents.a]\nagent = "random"', "unknown key 'task', did you mean 'tasks'"),
        ('tasks = ["toy"]', "the key 'agents' is missing"),
        ('tasks = []\n[agents.a]\nagent = "random"', "at least one"),
        ('tasks = ["toy", "toy"]\n[agents.a]\nagent = "random"', "stands there twice"),
        ('tasks = "some"\n[agents.a]\nagent = "random"', "tasks"),
        ('tasks = ["toy"]\n[agents.a]\nscript = []', "the key 'agents.a.agent' is missing"),
        ('tasks = ["toy"]\n[agents."../a"]\nagent = "random"', "pattern"),
        ('tasks = ["toy"]\nseeds = 0\n[agents.a]\nagent = "random"', "a number of seeds is between"),
        ('tasks = ["toy"]\nseeds = [-1]\n[agents.a]\nagent = "random"', "seeds.0"),
        (
            'tasks = ["toy"]\nseeds = 100000\n[agents]\na = {agent = "random"}\nb = {agent = "random"}',
            "more than 100000",
        ),
        ('tasks = ["toy"]\nbudget = {call = 3}\n[agents.a]\nagent = "random"', "did you mean 'calls'"),
        ('tasks = ["toy"]\nbudget = {calls = -3}\n[agents.a]\nagent = "random"', "budget.calls"),
        ('tasks = ["toy"]\nschema_version = 2\n[agents.a]\nagent = "random"', "schema_version"),
        ('tasks = ["toy"]\nname = "a/b"\n[agents.a]\nagent = "random"', "name"),
        ('tasks = ["toy"]\nmax_sessions = 0\n[agents.a]\nagent = "random"', "max_sessions"),
    ],
)
def test_a_bad_file_is_refused_with_the_place_and_what_fits(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SweepError, match=told) as caught:
        read_sweep(written(tmp_path, text))
    assert "monday.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("agent", "told"),
    [
        ({"agent": "randon"}, "agents.a: there is no agent 'randon', did you mean 'random'"),
        ({"agent": "random", "callz": 3}, "agents.a: random: unknown option 'callz', did you mean 'calls'"),
        ({"agent": "random", "name": "x"}, "unknown option 'name'"),
        ({"agent": "scripted"}, "the option 'script' is missing"),
        ({"agent": "scripted", "script": "/nowhere.json"}, "nowhere"),
        ({"agent": "llm", "model": "openai:x", "api_key": "sk-1"}, "api_key_env"),
    ],
)
def test_an_agent_that_cannot_be_made_is_told_before_anything_begins(agent: dict[str, object], told: str) -> None:
    spec = make_sweep({"tasks": ["toy"], "agents": {"a": agent}})
    with pytest.raises(SweepError, match=told):
        spec.make_agents()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tasks": ["hose_price"]}, "no task 'hose_price', did you mean 'house_price'"),
        ({"tasks": ["toy"], "presets": ["full"]}, "the task toy has no preset 'full'; it has: mini"),
        ({"tasks": "all", "presets": ["huge"]}, "no task has the presets huge"),
    ],
)
def test_a_task_or_preset_that_is_not_there_is_told(given: dict[str, object], told: str) -> None:
    spec = make_sweep({**given, "agents": {"a": {"agent": "random"}}})
    with pytest.raises(SweepError, match=told):
        list(spec.attempts(THERE))


def test_a_manifest_holds_a_sweep_as_it_was(tmp_path: Path) -> None:
    spec = make_sweep(
        {"tasks": "all", "seeds": 3, "budget": {"calls": 7}, "agents": {"a": {"agent": "random", "calls": 2}}}
    )
    assert make_sweep(spec.model_dump(mode="json", exclude_none=True)) == spec
    assert isinstance(spec, SweepSpec)
    assert spec.budget.given() == {"calls": 7}


def test_each_try_of_an_attempt_has_a_key_that_servers_take() -> None:
    attempt = Attempt("t" * 90, "mini", "a" * 40, 2**62)
    keys = {Order(attempt, number, "s" * 47).key for number in (1, 2)}
    assert len(keys) == 2
    assert all(len(key) <= 200 for key in keys)
    assert Order(Attempt("toy", "mini", "a", 1), 1, "s-1").key == "s-1:toy.mini.a.1#1"
