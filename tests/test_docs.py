"""What the documents say is what is recorded."""

from __future__ import annotations

import re
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
    for line in re.findall(r"mlgym-mcp ((?:[a-z_-]+ ?)+)", document.read_text()):
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
