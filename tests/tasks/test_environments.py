"""The environments of the reinforcement-learning tasks play by the rules that their instructions tell.

The rules themselves need NumPy: ``environment_rules.py`` is run by the light environment's Python.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlgym_mcp.catalog import Task
from tests.catalog.conftest import ROOT, light_python  # noqa: F401 - fixture

RULES = Path(__file__).with_name("environment_rules.py")


@pytest.fixture(scope="session")
def verdicts(light_python: Path) -> Any:  # noqa: F811
    """What is wrong with each of the rules, by name."""
    done = subprocess.run([str(light_python), str(RULES)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("rule", re.findall(r"^@rule\ndef (\w+)", RULES.read_text(), re.MULTILINE))
def test_environments(rule: str, verdicts: Any) -> None:
    assert verdicts[rule] is None, verdicts[rule]


@pytest.mark.parametrize("name", ["breakout", "mountain_car", "metamaze"])
def test_all_three_tasks_start_with_the_shared_trainer(name: str) -> None:
    starter = Task.load(ROOT / "tasks" / name).starter()
    assert starter["ppo.py"] == ROOT / "tasks" / "shared" / "ppo.py"
    assert set(starter) == {"baseline.py", f"{name}.py", "policy.py", "ppo.py"}
