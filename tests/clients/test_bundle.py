"""What is handed to others: the Claude Desktop bundle, the registry's entry, the server's own image."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp import Client, StdioServerParameters

from mlgym_mcp import __version__
from tests.conformance.conftest import Node, node
from tests.serving.conftest import light, own_home, text_of

__all__ = ["light", "node", "own_home"]  # fixtures

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "clients" / "desktop" / "manifest.json"
MCPB = "node_modules/@anthropic-ai/mcpb/dist/cli/cli.js"
FACTS = Path(__file__).with_name("registry_facts.json")
WHEEL = {
    "mlgym_mcp": "mlgym_mcp",
    "sandbox/mlgym_sandbox": "mlgym_sandbox",
    "clients/mlgym_clients": "mlgym_clients",
    "sandbox/images": "mlgym_sandbox/images",
    "tasks": "mlgym_mcp/_tasks",
}
"""Folders of a checkout, and what they are in the wheel."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, packed from this checkout."""
    return pack(tmp_path_factory.mktemp("dist"))


def pack(folder: Path) -> Path:
    command = [sys.executable, str(ROOT / "clients" / "desktop" / "build.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def manifest() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(MANIFEST.read_text())
    return read


def test_all_say_the_same_version() -> None:
    registry = json.loads((ROOT / "server.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = {package["version"] for package in registry["packages"]}
    assert {manifest()["version"], registry["version"], project["version"], *packages} == {__version__}
    assert manifest()["license"] == project["license"]


@pytest.mark.anyio
async def test_the_official_tool_takes_the_bundle(bundle: Path, node: Node, tmp_path: Path) -> None:
    checked = await node.run(MCPB, "validate", str(MANIFEST))
    assert checked.code == 0, checked.out + checked.err
    unpacked = await node.run(MCPB, "unpack", str(bundle), str(tmp_path / "there"))
    assert unpacked.code == 0, unpacked.out + unpacked.err
    assert {path.name for path in (tmp_path / "there").iterdir()} == set(zipfile.ZipFile(bundle).namelist())
    broken = tmp_path / "manifest.json"
    broken.write_text(json.dumps({**manifest(), "server": {"type": "uv"}}))
    assert (await node.run(MCPB, "validate", str(broken))).code != 0, "it does look"


def test_the_bundle_is_the_same_for_the_same_checkout_and_holds_nothing_of_this_machine(
    bundle: Path, tmp_path: Path
) -> None:
    assert pack(tmp_path).read_bytes() == bundle.read_bytes()
    with zipfile.ZipFile(bundle) as packed:
        project = tomllib.loads(packed.read("pyproject.toml").decode())
        wheel = project["tool"]["uv"]["sources"]["mlgym-mcp"]["path"]
        assert {*packed.namelist()} == {*("LICENSE", "icon.png", "manifest.json", "pyproject.toml", "server.py", wheel)}
        assert any(pin.startswith("mcp==2.") for pin in project["tool"]["uv"]["constraint-dependencies"])
        assert str(Path.home()).encode() not in packed.read("pyproject.toml") + packed.read("server.py")


@pytest.mark.anyio
async def test_what_was_unpacked_is_a_server_with_its_tasks_and_the_tools_that_were_told(
    bundle: Path, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, packages = tmp_path / "there", tmp_path / "packages"
    zipfile.ZipFile(bundle).extractall(there)
    (wheel,) = there.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(packages)  # what uv does with it; the dependencies are those of this environment
    told = manifest()["server"]["mcp_config"]
    settings = {key: str(value["default"]) for key, value in manifest()["user_config"].items()}
    arguments = [re.sub(r"\$\{user_config\.(\w+)\}", lambda m: settings[m[1]], word) for word in told["args"]]
    assert arguments[:4] == ["run", "--directory", "${__dirname}", manifest()["server"]["entry_point"]]
    environment = {"PYTHONPATH": str(packages), "MLGYM_HOME": str(own_home)}
    program = StdioServerParameters(
        command=sys.executable, args=arguments[3:], cwd=str(there), env=environment | told["env"]
    )
    async with Client(program) as client:
        assert [t.name for t in (await client.list_tools()).tools] == [t["name"] for t in manifest()["tools"]]
        assert [p.name for p in (await client.list_prompts()).prompts] == [p["name"] for p in manifest()["prompts"]]
        listed = await text_of(client, "list_tasks")
        assert "fashion_mnist" in listed
        assert "toy" not in listed
    monkeypatch.setenv("PYTHONPATH", str(packages))
    which = [sys.executable, "-c", "import mlgym_mcp, mlgym_sandbox; print(mlgym_mcp.__file__, mlgym_sandbox.__file__)"]
    done = subprocess.run(which, capture_output=True, text=True, check=True, cwd=there)
    assert all(path.startswith(str(packages)) for path in done.stdout.split()), "the bundle's, not the checkout's"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["", "mini", "auto"], "serve --session claude-desktop --sandbox auto"),
        (["toy", "", ""], "serve toy --preset mini --sandbox auto"),
        (["${user_config.task}", "${user_config.preset}", "docker"], "serve --session claude-desktop --sandbox docker"),
        (["--unsafe", "mini", "auto"], None),
    ],
)
def test_settings_become_a_command_line_and_never_options(settings: list[str], expected: str | None) -> None:
    code = f"import server; print(*server.arguments({settings!r}))"
    folder = MANIFEST.parent
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, cwd=folder, check=False)
    assert (done.stdout.strip() or None) == expected, done.stderr
    assert expected is not None or "'--unsafe' is no task" in done.stderr


def test_the_registrys_entry_keeps_the_registrys_rules() -> None:
    rules = json.loads(FACTS.read_text())
    entry = json.loads((ROOT / "server.json").read_text())
    jsonschema.validate(entry, rules)
    for wrong in (
        {**entry, "name": "mlgym-mcp"},
        {**entry, "description": "x" * 101},
        {**entry, "version": "latest"},
        {**entry, "packages": [{**entry["packages"][0], "fileSha256": "x"}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, rules)


def test_the_package_on_pypi_says_which_entry_is_its_own() -> None:
    entry = json.loads((ROOT / "server.json").read_text())
    assert f"mcp-name: {entry['name']} " in (ROOT / "README.md").read_text()


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def test_the_image_is_built_of_what_its_context_holds_and_that_is_enough_for_a_wheel(tmp_path: Path) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions():
        if word != "COPY" or rest.startswith("--from="):
            continue
        *sources, target = rest.split()
        for source in sources:
            assert any(source == a or source.startswith(a + "/") for a in allowed), f"{source} is ignored"
            if target == "/wheels/":
                assert (ROOT / source).exists(), source
            elif (ROOT / source).is_dir():
                there = tmp_path / "src" / target
                shutil.copytree(ROOT / source, there, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (tmp_path / "src").mkdir(exist_ok=True)
                shutil.copy(ROOT / source, tmp_path / "src")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path / "src", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert fnmatch.filter(names, "mlgym_mcp/_tasks/*/task.toml")
    assert "mlgym_sandbox/images/Dockerfile.cpu" in names
    for source, target in WHEEL.items():  # pages, templates, graders and starters are no Python packages' modules
        inside = [path.relative_to(ROOT / source).as_posix() for path in (ROOT / source).rglob("*") if path.is_file()]
        missing = [name for name in inside if "__pycache__" not in name and f"{target}/{name}" not in names]
        assert not missing


def test_the_image_runs_as_nobody_special_and_starts_a_server_that_its_options_allow() -> None:
    from typer.main import get_command

    from mlgym_mcp.cli.app import app
    from mlgym_mcp.cli.http_server import HttpOptions, parse_address

    facts = dict(instructions())
    assert facts["USER"] == "mlgym"
    assert (
        facts["LABEL"]
        == f"io.modelcontextprotocol.server.name={json.loads((ROOT / 'server.json').read_text())['name']}"
    )
    assert json.loads(facts["ENTRYPOINT"]) == ["mlgym-mcp"]
    command, *arguments = json.loads(facts["CMD"])
    serve = get_command(app).commands[command]  # type: ignore[attr-defined]
    given = serve.make_context("serve", arguments).params
    options = HttpOptions(*parse_address(given["http"]), allowed=given["allow_host"])
    options.check()
    assert "127.0.0.1:*" in options.security().allowed_hosts, "its own health check may ask"
    compile(json.loads(facts["HEALTHCHECK"].partition("CMD ")[2])[2], "health", "exec")
