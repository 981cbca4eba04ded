"""``mlgym-mcp view``: what it refuses, before it serves anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlgym_mcp.cli.app import app


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--host", "0.0.0.0"], "give a token with --token-file and name the hosts"),
        (["--host", "0.0.0.0", "--allow-host", "lab.example"], "give a token"),
        (["--host", "lab.example", "--token-file", "{good}"], "name the hosts"),
        (["--token-file", "{short}"], "is not usable"),
        (["--token-file", "{missing}"], "No such file"),
        (["{missing}", "--port", "0"], "there is no folder"),
    ],
)
def test_what_would_be_open_to_everybody_or_show_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.setenv("MLGYM_HOME", str(tmp_path / "home"))
    names = {name: str(tmp_path / name) for name in ("good", "short", "missing")}
    (tmp_path / "good").write_text("a-token-of-some-length")
    (tmp_path / "short").write_text("short")
    done = CliRunner().invoke(app, ["view", *(a.format(**names) for a in arguments)])
    assert done.exit_code == 1
    assert expected in " ".join(done.stderr.split())
