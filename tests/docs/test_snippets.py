"""Every block in the documents: run where that takes less than a second, else taken apart and held against the code.

What is not run here says why: a table below names what runs its like, or the document has a comment before the block,
``<!-- not run: REASON -->``.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from mlgym_mcp.cli.app import app
from mlgym_mcp.connecting import jsonc
from tests.docs.blocks import ROOT, SHELL, Block, blocks
from tests.records.written import write_episode

BLOCKS = blocks()
ELSEWHERE = {
    "serve": "tests/cli/test_commands.py",
    "view": "tests/cli/test_view.py",
    "eval": "tests/sweep/test_command.py",
    "report": "tests/cli/test_report.py",
    "replay": "tests/exports/test_commands.py",
    "export": "tests/exports/test_commands.py",
    "images": "tests/sandbox/test_images.py",
    "tasks prepare": "tests/cli/test_commands.py",
    "tasks check": "tests/cli/test_tasks.py",
    "doctor": "tests/cli/test_commands.py",
    "bridge": "tests/connecting/test_bridge.py",
    "config": "tests/cli/test_config.py",
}
"""Commands that serve, wait for agents, need an engine or take long, and where their like is run."""
RUN = ("config", "episodes list", "episodes show", "report", "tasks list", "tasks show", "tasks new")
OTHERS = {
    ".": "switches to the environment",
    "claude": "tests/frameworks runs it with its own options",
    "codex": "tests/frameworks runs it with its own options",
    "curl": "its address is looked up",
    "docker": "an engine and a registry; what it is to run is looked at",
    "export": "sets a variable",
    "install": "wants root",
    "make": "its target is looked up",
    "openssl": "makes a secret",
    "pip": "wants a registry; the extra is looked up",
    "python": "the module or file is looked up",
    "ray": "makes a cluster: tests/sweep/ray_nodes.py",
    "systemctl": "wants systemd",
    "tar": "wants a server's home",
    "useradd": "wants root",
}
"""Programs that are not ours, and what is done about them."""


def commands() -> list[tuple[Block, list[str]]]:
    """Every command line of every block, in words; of ``a | b`` and ``a && b`` both."""
    found: list[tuple[Block, list[str]]] = []
    for block in BLOCKS:
        for line in block.commands() if block.language in SHELL else ():
            words: list[str] = []
            given = iter([*shlex.split(line), ";"])
            for word in given:
                if word == ">":
                    next(given)
                elif word in ("|", "&&", ";"):
                    found.append((block, words))
                    words = []
                elif words or not re.fullmatch(r"[A-Z_]+=\S*", word):
                    words.append(word)
    return [(block, words) for block, words in found if words]


WRONG_USAGE = typer.BadParameter.__mro__[1]
COMMANDS = commands()


def ours(words: Sequence[str]) -> list[str] | None:
    """The arguments of our own command, also where another program is to run it."""
    for at, word in enumerate(words):
        if word.rpartition("/")[2] == "mlgym-mcp" and (at == 0 or words[:2] == ["docker", "exec"] or words[0] == "uvx"):
            return list(words[at + 1 :])
    return None


OURS = {" ".join(words): words for _, found in COMMANDS if (words := ours(found))}


def is_run(words: Sequence[str]) -> bool:
    return " ".join(words).startswith(RUN) and not {"--token-file", "--html", "--plots"} & set(words)


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """What the command line makes of it; an unknown command or option, or a missing argument, raises."""
    command: Any = get_command(app)
    context = typer.Context(command, info_name="mlgym-mcp")
    rest = list(words)
    while hasattr(command, "commands"):
        name = rest.pop(0)
        command = command.commands[name]
        context = typer.Context(command, parent=context, info_name=name)
    command.parse_args(context, rest)
    return dict(context.params)


@pytest.mark.parametrize("words", OURS.values(), ids=OURS)
def test_a_command_of_ours_is_one_that_the_command_line_takes(words: list[str]) -> None:
    given = parsed(words)
    known = {path.parent.name for path in (ROOT / "tasks").glob("*/task.toml")} | {"my_task", None}
    if words[:2] != ["tasks", "new"]:
        assert given.get("task") in known or not isinstance(given["task"], str)
    if not is_run(words):
        prefix = next((name for name in ELSEWHERE if " ".join(words).startswith(name)), None)
        assert prefix is not None, "run it here, or say where its like is run"
        assert prefix.split()[-1] in (ROOT / ELSEWHERE[prefix]).read_text(), "nothing runs it there"


@pytest.mark.parametrize("line", ["tasks lost", "serve toy --no-such", "replay", "serve --calls many", "eval a b"])
def test_a_command_that_is_wrong_would_be_noticed(line: str) -> None:
    with pytest.raises((WRONG_USAGE, KeyError)):
        parsed(line.split())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody's folder with what the documents speak of in it."""
    for name, value in {"HOME": tmp_path / "user", "MLGYM_HOME": tmp_path / "home"}.items():
        value.mkdir()
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("MLGYM_TASKS", raising=False)
    here = tmp_path / "here"
    for folder in (tmp_path / "home" / "episodes", here / "sweeps/monday", here / "sweeps/monday-20260301-101500"):
        write_episode(folder, "20260301-101500-house_price-0a1b2c3d", task="house_price", agent="baseline", sweep="s")
    for folder in ("a", "b"):
        write_episode(here / folder, f"20260301-101500-three_sat-{folder}", task="three_sat", agent="baseline")
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize(
    "words", [w for w in OURS.values() if is_run(w)], ids=[c for c, w in OURS.items() if is_run(w)]
)
@pytest.mark.usefixtures("place")
def test_a_command_of_ours_that_takes_no_time_does_what_it_says(words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    assert done.output.strip()


@pytest.mark.parametrize("program", sorted({words[0].rpartition("/")[2] for _, words in COMMANDS}))
def test_a_program_that_is_not_ours_is_one_that_is_known(program: str) -> None:
    marked = {id(block) for block, words in COMMANDS if words[0].rpartition("/")[2] == program and not block.reason}
    assert program == "mlgym-mcp" or program in OTHERS or not marked, (
        f"{program}: say in OTHERS what is done about it, or before the block: <!-- not run: REASON -->"
    )


def look_at_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words[1:]) <= set(targets)


def look_at_curl(words: list[str]) -> None:
    (address,) = (word for word in words if word.startswith("http"))
    known = (ROOT / "docs" / "api.md").read_text()
    assert re.search(rf"^### \w+ {re.escape('/' + address.split('/', 3)[3])}$", known, re.MULTILINE)


def look_at_python(words: list[str]) -> None:
    what = words[1:] if words[1:2] != ["-m"] else words[2:]
    if words[1] == "-m":
        assert importlib.util.find_spec(what[0].replace("/", "."))
    else:
        assert (ROOT / what[0]).exists(), what[0]
    for word in what[1:]:
        assert not word.startswith("tests/") or (ROOT / word).exists(), word


def look_at_pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        if found := re.fullmatch(r"mlgym-mcp\[([\w,]+)\]", word):
            assert set(found[1].split(",")) <= set(project["optional-dependencies"])


LOOK: dict[str, Callable[[list[str]], None]] = {
    "make": look_at_make,
    "curl": look_at_curl,
    "python": look_at_python,
    "pip": look_at_pip,
}
LOOKED_AT = [(str(b), w) for b, w in COMMANDS if w[0].rpartition("/")[2] in LOOK and not b.reason]


@pytest.mark.parametrize(("where", "words"), LOOKED_AT, ids=[f"{where} {' '.join(w)}" for where, w in LOOKED_AT])
def test_what_other_programs_are_told_is_there(where: str, words: list[str]) -> None:
    LOOK[words[0].rpartition("/")[2]](words)


def names_of(module: str) -> set[str]:
    """What can be imported from a module of ours, by its text: some load for seconds."""
    found = importlib.util.find_spec(module)
    assert found is not None, module
    assert found.origin is not None, module
    names: set[str] = set()
    for node in ast.walk(ast.parse(Path(found.origin).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def look_at_python_block(text: str) -> None:
    tree = compile(text, "block", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mlgym_"):
            assert {name.name for name in node.names} <= names_of(str(node.module)), ast.unparse(node)
        elif isinstance(node, ast.Import):
            for name in node.names:
                assert not name.name.startswith("mlgym_") or importlib.util.find_spec(name.name)


def look_at_json(text: str) -> None:
    root = jsonc.parse(text)
    assert root is not None
    value = root.value
    servers = value.get("mcpServers", {}) if isinstance(value, dict) else {}
    for entry in servers.values():
        if str(entry.get("command", "")).endswith("mlgym-mcp"):
            parsed(entry["args"])


def look_at_shell(text: str) -> None:
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def look_at_toctree(text: str) -> None:
    for line in text.splitlines():
        assert not line or line.startswith(":") or (ROOT / "docs" / f"{line}.md").exists(), line


LANGUAGES: dict[str, Callable[[str], object]] = {
    "python": look_at_python_block,
    "json": look_at_json,
    "jsonc": look_at_json,
    "toml": tomllib.loads,
    "sh": look_at_shell,
    "bash": look_at_shell,
    "{toctree}": look_at_toctree,
}
ELSEWHERE_BY_LANGUAGE = {"ini": "the_systemd_unit_that_is_shown", "nginx": "the_proxy_configuration_that_is_shown"}
WITH_LANGUAGE = [block for block in BLOCKS if block.language]


@pytest.mark.parametrize("block", WITH_LANGUAGE, ids=map(str, WITH_LANGUAGE))
def test_a_block_is_what_it_says_it_is(block: Block) -> None:
    if block.language in ELSEWHERE_BY_LANGUAGE:
        assert f"def test_{ELSEWHERE_BY_LANGUAGE[block.language]}" in (ROOT / "tests" / "test_docs.py").read_text()
        return
    assert block.language in LANGUAGES or block.reason, f"nothing looks at {block.language} in {block}"
    LANGUAGES.get(block.language, str)(block.text)


def test_no_block_is_left_out() -> None:
    for block in BLOCKS:
        text = block.document.read_text()
        assert text.count("```") % 2 == 0, block.document
    count = sum(text.count("```") // 2 for text in (b.read_text() for b in {block.document for block in BLOCKS}))
    assert len(BLOCKS) == count


def test_the_control_apis_document_is_what_the_server_answers_to() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "update-api-docs.py"))
    text = (ROOT / "docs" / "api.md").read_text()
    assert script["updated"](text) == text, "python scripts/update-api-docs.py"
