"""``mlgym-mcp config``: each client's own file, as the client reads it."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from typer.testing import CliRunner

from mlgym_mcp.cli.app import app
from mlgym_mcp.connecting.clients import CLIENTS
from tests.serving.conftest import light, own_home

__all__ = ["light", "own_home"]  # fixtures

ADDRESS = "http://127.0.0.1:8000/mcp"
VARIABLES = (
    "XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME", "COPILOT_HOME", "MLGYM_HOME", "MLGYM_TASKS", "XDG_DATA_HOME",
)  # fmt: skip


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user and a project with no configuration at all."""
    (tmp_path / "user").mkdir()
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path / "project")
    for name in (*VARIABLES, "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*arguments: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, ["config", *arguments])
    assert done.exit_code == status, f"{arguments}: {done.output}{done.exception!r}"
    return " ".join(done.stderr.split()) if status else done.stdout


def write(client: str, *options: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(run(client, *options, "--write", "--json"))
    return told


def entry_of(told: dict[str, Any], name: str = "mlgym") -> dict[str, Any]:
    text = Path(told["file"]).read_text()
    value = tomllib.loads(text) if told["format"] == "toml" else json.loads(text)
    found: dict[str, Any] = value[CLIENTS[told["client"]].key][name]
    return found


@pytest.mark.parametrize(
    ("client", "scope", "file"),
    [
        ("claude-desktop", "user", "user/.config/Claude/claude_desktop_config.json"),
        ("claude-code", "user", "user/.claude.json"),
        ("claude-code", "project", "project/.mcp.json"),
        ("cursor", "user", "user/.cursor/mcp.json"),
        ("cursor", "project", "project/.cursor/mcp.json"),
        ("vscode", "user", "user/.config/Code/User/mcp.json"),
        ("vscode", "project", "project/.vscode/mcp.json"),
        ("windsurf", "user", "user/.codeium/windsurf/mcp_config.json"),
        ("zed", "user", "user/.config/zed/settings.json"),
        ("zed", "project", "project/.zed/settings.json"),
        ("codex", "user", "user/.codex/config.toml"),
        ("codex", "project", "project/.codex/config.toml"),
        ("gemini-cli", "user", "user/.gemini/settings.json"),
        ("gemini-cli", "project", "project/.gemini/settings.json"),
        ("opencode", "user", "user/.config/opencode/opencode.json"),
        ("opencode", "project", "project/opencode.json"),
        ("copilot-cli", "user", "user/.copilot/mcp-config.json"),
        ("copilot-cli", "project", "project/.github/mcp.json"),
    ],
)
def test_each_client_gets_a_command_that_is_there_in_the_file_that_it_reads(
    machine: Path, client: str, scope: str, file: str
) -> None:
    told = write(client, "--task", "fashion_mnist", "--scope", scope)
    assert told["file"] == str(machine / file)
    entry = entry_of(told)
    command = entry["command"] if client == "opencode" else [entry["command"], *entry["args"]]
    assert os.access(command[0], os.X_OK)
    assert Path(command[0]).is_absolute()
    assert command[-2:] == ["serve", "fashion_mnist"]
    again = write(client, "--task", "fashion_mnist", "--scope", scope)
    assert (told["written"], again["written"], again["backup"]) == (True, False, None)
    (found,) = (row for row in json.loads(run("--list", "--json")) if row["file"] == told["file"])
    assert found["configured"]


@pytest.mark.parametrize(
    ("client", "wanted"),
    [
        ("claude-code", {"type": "http", "url": ADDRESS, "headers": {"Authorization": "Bearer ${MLGYM_TOKEN}"}}),
        ("cursor", {"url": ADDRESS, "headers": {"Authorization": "Bearer ${env:MLGYM_TOKEN}"}}),
        ("vscode", {"type": "http", "url": ADDRESS, "headers": {"Authorization": "Bearer ${input:MLGYM_TOKEN}"}}),
        ("windsurf", {"serverUrl": ADDRESS, "headers": {"Authorization": "Bearer ${env:MLGYM_TOKEN}"}}),
        ("codex", {"url": ADDRESS, "bearer_token_env_var": "MLGYM_TOKEN", "tool_timeout_sec": 3600}),
        ("gemini-cli", {"httpUrl": ADDRESS, "headers": {"Authorization": "Bearer ${MLGYM_TOKEN}"}}),
        ("opencode", {"type": "remote", "url": ADDRESS, "headers": {"Authorization": "Bearer {env:MLGYM_TOKEN}"}}),
        ("copilot-cli", {"type": "http", "url": ADDRESS, "headers": {"Authorization": "Bearer ${MLGYM_TOKEN}"}}),
    ],
)
def test_a_running_servers_token_stays_out_of_the_file_and_off_the_screen(
    machine: Path, client: str, wanted: dict[str, Any]
) -> None:
    (machine / "token").write_text("s3cret-token\n")
    options = ("--http", ADDRESS, "--token-file", str(machine / "token"))
    told = write(client, *options)
    assert wanted.items() <= entry_of(told).items()
    assert "s3cret" not in Path(told["file"]).read_text() + json.dumps(told) + run(client, *options)
    assert "token" in told["notes"][0]
    assert CliRunner().invoke(app, ["config", client, *options, "--plain-token"]).exit_code == 1


def test_a_token_is_written_in_plain_only_when_asked_for_and_readable_by_its_user_alone(machine: Path) -> None:
    (machine / "token").write_text("s3cret-token\n")
    options = ("--http", ADDRESS, "--token-file", str(machine / "token"), "--scope", "project")
    told = write("zed", *options, "--plain-token")
    assert entry_of(told)["headers"] == {"Authorization": "Bearer s3cret-token"}
    assert Path(told["file"]).stat().st_mode & 0o777 == 0o600
    assert "s3cret" not in json.dumps(told)
    assert "s3cret" not in run("codex", *options, "--plain-token", "--write")
    assert "Bearer s3cret-token" in (machine / "project" / ".codex" / "config.toml").read_text()


@pytest.mark.parametrize("client", ["claude-desktop", "zed"])
def test_a_client_that_cannot_keep_a_token_gets_a_command_that_reads_it(machine: Path, client: str) -> None:
    Path("token").write_text("s3cret-token\n")
    told = write(client, "--http", ADDRESS, "--token-file", "token")
    assert entry_of(told)["args"][-4:] == ["bridge", ADDRESS, "--token-file", str(machine / "project" / "token")]
    assert "reads it from" in told["notes"][0]
    assert "s3cret" not in Path(told["file"]).read_text()
    assert json.loads(run("claude-desktop", "--http", ADDRESS))["mcpServers"]["mlgym"]["args"][-2:] == [
        "bridge",
        ADDRESS,
    ]
    assert json.loads(run("zed", "--http", ADDRESS))["context_servers"]["mlgym"]["url"] == ADDRESS


def test_what_is_printed_is_what_the_client_reads_and_changes_nothing(machine: Path) -> None:
    assert json.loads(run("generic"))["mcpServers"]["mlgym"]["args"][-1] == "serve"
    assert tomllib.loads(run("codex", "--name", "gym"))["mcp_servers"]["gym"]["startup_timeout_sec"] == 60
    assert not list((machine / "user").iterdir())


def test_comments_and_other_servers_stay_and_what_it_was_is_kept(machine: Path) -> None:
    file = machine / "user" / ".config" / "zed" / "settings.json"
    file.parent.mkdir(parents=True)
    before = '// mine\n{\n  "context_servers": {\n    "other": {"command": "x"}, // keep\n  },\n}\n'
    file.write_text(before)
    told = write("zed", "--session", "mine")
    after = file.read_text()
    assert after.startswith(before.rpartition("\n  },")[0])
    assert '"--session",' in after
    assert Path(told["backup"]).read_text() == before
    assert "already" not in str(told["notes"])
    assert "There was a server called other already: the copy still has it." in write("zed", "--name", "other")["notes"]


def test_opencode_gets_it_into_the_file_that_its_user_has(machine: Path) -> None:
    folder = machine / "user" / ".config" / "opencode"
    folder.mkdir(parents=True)
    mine = folder / "opencode.jsonc"
    mine.write_text('{\n  // mine\n  "mcp": {"other": {"type": "local", "command": ["x"], "enabled": false}},\n}\n')
    told = write("opencode", "--task", "fashion_mnist")
    assert told["file"] == str(mine)
    assert '"other": {"type": "local", "command": ["x"], "enabled": false}' in mine.read_text()
    assert "// mine" in mine.read_text()
    (folder / "opencode.json").write_text("{}")
    assert write("opencode", "--task", "fashion_mnist")["file"] == str(folder / "opencode.json"), (
        "as opencode itself does"
    )


def test_places_that_are_set_here_travel_to_a_client_that_starts_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLGYM_HOME", "data")
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/engine.sock")
    entry = json.loads(run("generic"))["mcpServers"]["mlgym"]
    assert entry["env"] == {"DOCKER_HOST": "unix:///run/engine.sock", "MLGYM_HOME": f"{Path.cwd()}/data"}


@pytest.mark.anyio
@pytest.mark.usefixtures("own_home")
async def test_what_is_written_starts_the_server_without_any_environment(machine: Path) -> None:
    told = write("claude-desktop", "--task", "toy")
    entry = entry_of(told)
    with_nothing = StdioServerParameters(command=entry["command"], args=entry["args"], env=entry["env"])
    async with Client(with_nothing) as client:
        listed = await client.list_tools()
        assert {"get_task", "submit"} <= {tool.name for tool in listed.tools}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name a client; there are: claude-desktop, claude-code"),
        (("emacs",), "there is no client 'emacs'"),
        (("cursor", "--task", "fashion_mnits"), "did you mean 'fashion_mnist'"),
        (("cursor", "--task", "fashion_mnist", "--preset", "huge"), "has no preset 'huge'"),
        (("cursor", "--task", "fashion_mnist", "--desk"), "not both"),
        (("cursor", "--preset", "full"), "--preset belongs to one task"),
        (("cursor", "--http", ADDRESS, "--task", "fashion_mnist"), "the server at the URL decides"),
        (("cursor", "--http", "127.0.0.1:8000"), "is no URL"),
        (("cursor", "--http", "http://127.0.0.1:8000"), "names no endpoint"),
        (("cursor", "--http", "http://me:pw@127.0.0.1/mcp"), "use --token-file"),
        (("cursor", "--http", "http://a/mcp\n"), "is no URL"),
        (("cursor", "--token-file", "t"), "--http URL"),
        (("cursor", "--http", ADDRESS, "--token-file", "/nowhere"), "No such file"),
        (("cursor", "--http", ADDRESS, "--token-file", "empty"), "holds no token"),
        (("cursor", "--http", ADDRESS, "--token-file", "t", "--token-variable", "A B"), "no name of an environment"),
        (("cursor", "--name", "a b"), "cannot name a server"),
        (("cursor", "--session", "--http"), "cannot name a session"),
        (
            ("claude-desktop", "--http", ADDRESS, "--token-file", "t", "--plain-token", "--write"),
            "leave --plain-token out",
        ),
        (("claude-desktop", "--scope", "project"), "has no file for a project"),
        (("generic", "--write"), "name it with --file"),
        (("cursor", "--write", "--file", "broken.json"), "broken.json is not JSON, and was left as it is: line 1"),
        (("codex", "--write", "--file", "broken.json"), "broken.json is not TOML, and was left as it is"),
        (("cursor", "--write", "--file", "read-only.json"), "is read-only"),
        (("cursor", "--write", "--file", "wrong.json"), '"mcpServers" is a list, not an object'),
        (("cursor", "--write", "--file", "."), "is not a file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_nothing_is_lost(arguments: tuple[str, ...], told: str) -> None:
    contents = {"t": "tok", "empty": "", "broken.json": '{"mine": 1', "read-only.json": "{}", "wrong.json": ""}
    contents["wrong.json"] = '{"mcpServers": ["mine"]}'
    for name, text in contents.items():
        Path(name).write_text(text)
    Path("read-only.json").chmod(0o444)
    assert told in run(*arguments, status=1)
    assert {path.name: path.read_text() for path in Path.cwd().iterdir()} == contents


def test_the_list_says_what_is_configured_and_what_is_broken(machine: Path) -> None:
    write("cursor")
    (machine / "user" / ".claude.json").write_text("{")
    rows = {(row["client"], row["scope"]): row for row in json.loads(run("--list", "--json"))}
    assert rows["cursor", "user"]["configured"]
    assert not rows["cursor", "project"]["exists"]
    assert "is not JSON: line 1" in rows["claude-code", "user"]["problem"]
    assert "it is not JSON" in " ".join(run("--list").split())
