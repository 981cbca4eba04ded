"""What the documents say is what is recorded."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_of_tasks_is_what_their_files_record() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "update-docs.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_are_shown_exist(document: Path) -> None:
    from typer.main import get_command

    from mlgym_mcp.cli.app import app

    known = get_command(app)
    for line in re.findall(r"mlgym-mcp ((?:[a-z][a-z_-]* ?)+)", document.read_text()):
        group = known
        for word in line.split():
            commands = getattr(group, "commands", None)
            if commands is None:
                break
            assert word in commands, f"mlgym-mcp {line}"
            group = commands[word]


def test_the_make_targets_that_are_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        assert set(re.findall(r"(?:`|^)make ([a-z]+)", document.read_text(), re.MULTILINE)) <= targets, document.name


def block(document: str, language: str) -> str:
    """Return a document's only block in a language."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / document).read_text(), re.DOTALL)
    return str(text)


def test_the_systemd_unit_that_is_shown_is_one_and_starts_a_server_that_its_options_allow(tmp_path: Path) -> None:
    import configparser
    import shlex

    from typer.main import get_command

    from mlgym_mcp.cli.app import app
    from mlgym_mcp.cli.http_server import HttpOptions, parse_address

    text = block("operating.md", "ini")
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text.replace("\\\n", ""))
    assert set(unit) == {"DEFAULT", "Unit", "Service", "Install"}
    assert unit["Service"]["KillMode"] == "process", "sandboxes outlive the server"
    program, *arguments = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/mlgym-mcp")
    with get_command(app).make_context("mlgym-mcp", arguments[:1], resilient_parsing=True) as context:
        given = get_command(app).commands["serve"].make_context("serve", arguments[1:], parent=context).params  # type: ignore[attr-defined]
    options = HttpOptions(
        *parse_address(given["http"]), allowed=given["allow_host"], public_url=given["public_url"], behind_proxy=True
    )
    options.check()
    assert given["behind_proxy"]
    if (verify := shutil.which("systemd-analyze")) is not None:
        file = tmp_path / "mlgym-mcp.service"
        file.write_text(text.replace(program, shutil.which("true") or "/bin/true"))
        done = subprocess.run([verify, "verify", str(file)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "mlgym-mcp.service" not in done.stderr


def test_the_proxy_configuration_that_is_shown_passes_streams_and_names_and_is_nginxs(tmp_path: Path) -> None:
    text = block("operating.md", "nginx")
    lines = [line.strip() for line in text.splitlines()]
    assert text.count("{") == text.count("}")
    assert all(not line or line.endswith((";", "{", "}")) for line in lines)
    for needed in ("proxy_buffering off;", "proxy_http_version 1.1;", "proxy_set_header Host $host;"):
        assert needed in lines
    if (nginx := shutil.which("nginx")) is not None:
        paths = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
        own = text.replace("listen 443 ssl;", "listen 127.0.0.1:18443;")
        file = tmp_path / "nginx.conf"
        file.write_text(
            f"pid {tmp_path}/pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; {paths}\n{own}}}\n"
        )
        command = [nginx, "-t", "-p", str(tmp_path), "-c", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_request_that_is_shown_is_one_that_the_control_api_takes() -> None:
    import json

    from mlgym_mcp.api import SessionRequest

    (body,) = re.findall(r"-d '(\{.*\})'", (ROOT / "docs" / "operating.md").read_text())
    wanted = SessionRequest.model_validate(json.loads(body))
    assert wanted.idempotency_key


def test_every_request_of_the_control_api_is_told() -> None:
    from fastapi import FastAPI

    from mlgym_mcp.serving.control.api import guarded, open_to_all

    app = FastAPI()
    app.include_router(guarded)
    app.include_router(open_to_all)
    text = (ROOT / "docs" / "operating.md").read_text()
    for path in app.openapi()["paths"]:
        assert re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), path) in text, path
