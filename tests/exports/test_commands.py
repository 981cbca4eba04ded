"""``mlgym-mcp replay`` and ``mlgym-mcp export`` as a person or a program uses them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner

from mlgym_clients.agents.registry import make_agent
from mlgym_mcp.cli.app import app
from mlgym_mcp.serving.auth import load_admin_token
from tests.exports.episodes import PLANTED, write_hostile, write_messages
from tests.records.written import write_episode
from tests.serving.conftest import episode_folder, light, own_home, playing, running_host
from tests.toy import CSV

__all__ = ["light", "own_home"]  # fixtures

RANDOM = "od -An -N8 -tx8 /dev/urandom"
SAME = [
    {"tool": "shell", "arguments": {"command": "echo hello"}},
    {"tool": "write_file", "arguments": {"path": "submission.csv", "content": CSV}},
    {"tool": "submit", "until_done": True},
]
CHANGING = [SAME[0], {"tool": "shell", "arguments": {"command": RANDOM}}, *SAME[1:]]


def run(*arguments: object, status: int = 0) -> tuple[str, str]:
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "140"})
    assert done.exit_code == status, (done.output, done.exception)
    return done.stdout, done.stderr


def play(scripts: list[list[dict[str, Any]]]) -> list[Path]:
    """Play scripts and return their episodes."""

    async def played() -> list[Path]:
        folders = []
        async with running_host() as host:
            for script in scripts:
                async with playing(host, metadata={"agent": "scripted"}) as (client, session):
                    result = await make_agent("scripted", script=script).play(client)
                    assert result.stop == "submitted", result.detail
                    await session.wait_ended()
                    folders.append(episode_folder(session))
        return folders

    return anyio.run(played)


def test_episodes_are_replayed_and_only_what_comes_again_becomes_training_data(own_home: Path, tmp_path: Path) -> None:
    same, changing = play([SAME, CHANGING])
    broken = own_home / "episodes" / "20990101-000000-toy-00000000"
    shutil.copytree(same, broken)
    (broken / "events.jsonl").write_bytes((broken / "events.jsonl").read_bytes().replace(b"hello", b"jello"))

    shown, _ = run("replay", same.name)
    assert "3 calls: " in shown
    assert "different" not in shown
    assert "final score: exact" in shown
    shown, _ = run("replay", changing, status=3)
    assert "The first difference: shell(od -An -N8 -tx8 /dev/urandom)" in shown
    assert "--- recorded" in shown
    assert "final score: exact" in shown
    _, told = run("replay", broken, status=1)
    assert "damaged at event" in " ".join(told.split())

    out = tmp_path / "train.jsonl"
    options = ("--to", "openai", "--out", out, "--curate", "--json", "--jobs", 2)
    facts = json.loads(run("export", own_home / "episodes", *options)[0])
    assert set(facts["exported"]) == {same.name, changing.name}
    assert facts["dropped"] == {"it cannot be replayed": 1, "it was nobody's attempt": 2}
    assert len(out.read_text().splitlines()) == 2
    episodes = (same, changing, broken)
    facts = json.loads(run("export", changing, broken, *options, "--curate-by", "outputs")[0])
    assert facts["exported"] == []
    assert facts["dropped"] == {"it cannot be replayed": 1, "an output came out different": 1}
    facts = json.loads(run("export", changing, *options, "--curate-by", "steps")[0])
    assert (facts["exported"], facts["cut"]) == ([changing.name], 1)
    (line,) = map(json.loads, out.read_text().splitlines())
    calls = [c["function"] for m in line["messages"] for c in m.get("tool_calls", [])]
    assert [json.loads(c["arguments"])["command"] for c in calls if c["name"] == "shell"] == ["echo hello"]
    assert {tool["function"]["name"] for tool in line["tools"]} >= {"shell", "validate", "submit"}
    shown, _ = run("export", *episodes, "--to", "csv", "--out", tmp_path / "t")
    assert "3 episodes exported, 0 left out." in shown
    assert "damaged line" in shown


def test_a_server_that_runs_is_used_where_one_is_named(own_home: Path, tmp_path: Path) -> None:
    (same,) = play([SAME])
    token = tmp_path / "token"
    token.write_text(load_admin_token().value)

    async def served() -> tuple[int, str]:
        async with running_host() as host:
            options = ["replay", str(same), "--server", host.base_url, "--token-file", str(token), "--json"]
            done = await anyio.to_thread.run_sync(lambda: CliRunner().invoke(app, options))
            return done.exit_code, done.stdout

    status, shown = anyio.run(served)
    assert status == 0
    assert json.loads(shown)["reproduced"] is True
    _, told = run("replay", same, "--server", "http://127.0.0.1:9", "--token-file", tmp_path / "none", status=1)
    assert "No such file" in told


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    monkeypatch.setenv("MLGYM_HOME", str(place))
    place.mkdir()
    return place


def test_what_the_machine_keeps_secret_is_in_no_export(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "admin.token").write_text("planted-admin-token\n")
    monkeypatch.setenv("SOME_API_KEY", "planted-by-environment")
    sweep = tmp_path / "sweep"
    folder = write_hostile(sweep / "episodes")
    write_messages(sweep / "messages" / "a.1" / "messages.jsonl")
    row = {"episode": folder.name, "messages": "messages/a.1/messages.jsonl"}
    (sweep / "attempts.jsonl").write_text(json.dumps(row) + "\n")
    for form, out in (("openai", "a.jsonl"), ("otel", "b.jsonl"), ("atif", "c"), ("csv", "d")):
        shown, told = run("export", sweep, "--to", form, "--out", tmp_path / "out" / out)
        assert "1 episode exported, 0 left out." in shown
        assert "Secrets taken out: " in shown
        assert "Wrote" in told
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 2 + 1 + 1 + 4
    for path in files:
        content = path.read_text()
        assert not [secret for secret in PLANTED if secret in content], path
    assert '"messages": "the agent\'s"' in (tmp_path / "out" / "a.about.jsonl").read_text()


def test_proofs_and_replays_are_nobodys_attempts_unless_they_are_named(home: Path, tmp_path: Path) -> None:
    root = tmp_path / "episodes"
    write_episode(root, "attempt")
    proof = write_episode(root, "proof", purpose="tasks check")
    write_episode(root, "replay", purpose="replay")
    facts = json.loads(run("export", root, "--to", "atif", "--out", tmp_path / "out", "--json")[0])
    assert facts["exported"] == ["attempt"]
    assert facts["dropped"] == {"it was nobody's attempt": 2}
    facts = json.loads(run("export", proof, "--to", "atif", "--out", tmp_path / "out", "--json")[0])
    assert facts["exported"] == ["proof"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay", "nothing"], "there is no episode 'nothing'"),
        (["export", "nothing", "--to", "csv", "--out", "x"], "there is no episode 'nothing'"),
        (["export", "empty", "--to", "csv", "--out", "x"], "there are no episodes below empty"),
        (["export", "e", "--to", "csv", "--out", "e/events.jsonl"], "File exists"),
        (["export", "e", "--to", "otel", "--out", "http://127.0.0.1:9"], "does not answer"),
        (["export", "e", "--to", "openai", "--out", "e"], "Is a directory"),
        (["replay", "e", "--server", "http://127.0.0.1:9"], "--server wants its admin token"),
    ],
)
def test_mistakes_are_told_in_one_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLGYM_ADMIN_TOKEN", raising=False)
    Path("empty").mkdir()
    write_episode(tmp_path, "e")
    _, told = run(*arguments, status=1)
    assert words in " ".join(told.split())
    assert "Traceback" not in told


def test_an_unknown_format_is_told_with_those_there_are(home: Path) -> None:
    _, told = run("export", "e", "--to", "parquet", "--out", "x", status=2)
    assert "'inspect', 'openai', 'atif', 'otel', 'csv'" in " ".join(told.replace("│", " ").split())


def test_without_its_library_inspects_logs_say_what_to_install(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = write_episode(tmp_path, "e")
    _, told = run("export", folder, "--to", "inspect", "--out", tmp_path / "logs", status=1)
    assert "pip install 'mlgym-mcp[inspect]'" in " ".join(told.split())
